"""`tinyzo doctor`: the environment, its speed, and whether a checkpoint computes what it should.

A report is a list of checks. One that could be better has a hint and is ok all the same; one that
is needed and broken is not ok. The reference values are in doctor.toml.
"""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit
from typing import NamedTuple, TypedDict

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine
from tinyzo.engine.select import choose_engine, may_have_numba, why_no_numba
from tinyzo.engine.terms import Probe
from tinyzo.engine.weights import Weights
from tinyzo.errors import TinyzoError
from tinyzo.models.model import Model, load
from tinyzo.packages import KILLED, in_a_line, try_apart
from tinyzo.parsing import own_toml

CPUINFO = Path("/proc/cpuinfo")
TERMUX = "pkg, or the Termux User Repository's wheels: pip install --only-binary :all: --no-deps"
# The packages beside NumPy, and what is the case without each.
PACKAGES = {
    "tqdm": "finetune shows no bar",
    "numba": "the NumPy engine computes",
    "llvmlite": "no Numba",
    "tokenizers": "our own BPE makes the same ids",
    "matplotlib": "no loss.png is drawn",
    "safetensors": "nothing is missed: tinyzo reads and writes by itself",
    "onnxruntime": "there is no --engine onnx",
}
MODULES = {"matplotlib": "matplotlib.backends.backend_agg"}  # what is imported, if not the name
USES_ONNX = "from tinyzo.engine.onnx.runtime import check_runtime; check_runtime()"
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # variables that make NumPy's BLAS slower
NEAR = 2e-5  # engines must agree on logits up to this share of the largest


class Published(NamedTuple):
    """The published result of a checkpoint of this shape on IDS.

    shape:  family, vocabulary, width, layers, heads
    method: "logits" or "hidden" of Model
    values: the first 3 numbers of the first 3 tokens of its result
    near:   how far each may be from them
    """

    name: str
    shape: list[str | int]
    method: str
    near: float
    values: list[float]


REFERENCE = own_toml("runs/doctor.toml")
Z_SHA256: str = REFERENCE["z_sha256"]
IDS: list[int] = REFERENCE["ids"]
PUBLISHED = [Published(**row) for row in REFERENCE["published"]]

Engines = dict[str, Engine]  # by name: the one that "auto" is, and then the others


class Check(TypedDict):
    """One finding. hint: what to do, or "" where nothing is to be done."""

    name: str
    ok: bool
    value: str
    hint: str


def check(
    name: str,
    value: str,
    good: bool = True,
    hint: str = "",
    minor: bool = False,
) -> Check:
    """One check.

    hint:  what to do, unless it is good
    minor: it is ok even if it is not good
    """
    if good:
        hint = ""
    return {"name": name, "ok": good or minor, "value": value, "hint": hint}


def examine(path: Path) -> Iterator[Check]:
    """All checks, as they are made.

    path: a model's folder
    """
    engines, why_not = engines_here()
    yield from guarded("python", python)
    yield from guarded("numpy", numpy_build)
    for name in PACKAGES:
        yield from guarded(name, package, name)
    yield from guarded("cpu", cpu)
    yield from guarded("engine", fastest, engines, why_not)
    if "onnx" not in engines and find_spec("onnxruntime"):
        yield from guarded("engine onnx", unusable_onnx)
    if "numba" in engines:
        yield from guarded("kernels", kernels)
    yield from guarded("matmul", matmul, engines)
    yield from guarded("noise", noise, engines)
    if "numba" in engines:
        yield from guarded("roofline", roofline)
    for name, engine in engines.items():
        yield from guarded(f"z {name}", z, name, engine)
    yield from guarded("checkpoint", checkpoint, engines, path)


def guarded(name: str, checks: Callable[..., Iterable[Check]], *given: object) -> Iterator[Check]:
    """The checks that a function makes. An error of any kind is a finding, and no end."""
    try:
        yield from checks(*given)
    except TinyzoError as error:
        yield check(name, error.message, False, error.hint)
    except Exception as error:
        yield check(name, in_a_line(error), False, "report this")


def engines_here() -> tuple[Engines, str]:
    """Every engine that this machine has, and why Numba's is not one of them, or ""."""
    numba, why_not = numba_here()
    found = (numba, NumpyEngine(), onnx_here())
    return {engine.name: engine for engine in found if engine}, why_not


def numba_here() -> tuple[Engine | None, str]:
    """Numba's engine, or why there is none.

    It widens bfloat16 before it multiplies: products in bfloat16 are rounded, and the engines would
    not agree.
    """
    failed = tried("import tinyzo.engine.numba.engine") if may_have_numba() else ""
    if failed.startswith(KILLED):  # as this process would be
        return None, f"the import of numba is {failed}: set TINYZO_NO_NUMBA=1"
    why_not = why_no_numba()
    if why_not:
        return None, why_not
    try:
        from tinyzo.engine.numba.engine import NumbaEngine

        return NumbaEngine(bf16=False), ""
    except Exception as error:
        return None, in_a_line(error)


def onnx_here() -> Engine | None:
    """ONNX Runtime's engine, if it can be had."""
    if not find_spec("onnxruntime") or tried(USES_ONNX):
        return None
    return choose_engine("onnx")


def tried(statement: str) -> str:
    """Why a statement fails in another process; "" where it does not, or none can be had."""
    with suppress(OSError):
        return try_apart(statement)
    return ""


# -- the environment


def python() -> Iterator[Check]:
    """Python's version, the system and the machine."""
    yield check("python", f"{platform.python_version()}, {sys.platform} {platform.machine()}")


def numpy_build() -> Iterator[Check]:
    """NumPy's version, and the BLAS and the vectors that it was built with."""
    config = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {}).get("name", "none")
    vectors = config.get("SIMD Extensions", {}).get("found", ["none"])
    yield check("numpy", f"{np.__version__}, BLAS {blas}, vectors {' '.join(vectors)}")


def package(name: str) -> Iterator[Check]:
    """The version of a package that can be imported; or how to get it, and what is without it."""
    is_android = sys.platform == "android" or "ANDROID_ROOT" in os.environ
    install = TERMUX if is_android else "pip install"
    if not find_spec(name):
        yield check(name, "missing", False, f"{PACKAGES[name]}; {install} {name}", minor=True)
        return
    failed = tried(f"import {MODULES.get(name, name)}")
    found = next((each.version for each in metadata.distributions(name=name)), "unknown version")
    value = f"{found} is broken: {failed}" if failed else found
    hint = f"{PACKAGES[name]}; {install} --force-reinstall {name}"
    yield check(name, value, not failed, hint, minor=True)


def cpu() -> Iterator[Check]:
    """The CPU, and how many cores it has."""
    yield check("cpu", f"{cpu_model()}, {os.cpu_count()} cores")


def cpu_model() -> str:
    """The CPU's name, as Linux has it."""
    about = CPUINFO.read_text() if CPUINFO.exists() else ""
    found = re.search(r"^(?:model name|Hardware)\s*: (.+)", about, re.M)
    return found[1] if found else "unknown"


# -- engines


def fastest(engines: Engines, why_not: str) -> Iterator[Check]:
    """Which engine computes, and what it was made for."""
    engine = next(iter(engines.values()))
    is_numba = engine.name == "numba"
    about = numba_build(engine) if is_numba else engine.name
    yield check("engine", about, is_numba, why_not, minor=True)


def unusable_onnx() -> Iterator[Check]:
    """Why an ONNX Runtime that is there cannot be used: it may be broken, or too old."""
    failed = tried(USES_ONNX)
    if failed:
        hint = "pip install --upgrade --force-reinstall onnxruntime"
        yield check("engine onnx", failed, False, hint, minor=True)


def kernels() -> Iterator[Check]:
    """Where compiled kernels are kept, and who calls them."""
    from tinyzo.engine.numba.files import choose_folder
    from tinyzo.engine.numba.objects import why_numba

    folder, why_not = choose_folder()
    hint = f"{why_not}: set NUMBA_CACHE_DIR to a folder that can be written"
    value = f"in {folder}" if folder else "compiled anew by each process"
    reason = why_numba()
    value += f"; called by Numba ({reason})" if reason else "; called without Numba"
    yield check("kernels", value, folder is not None, hint, minor=True)


def matmul(engines: Engines) -> Iterator[Check]:
    """The fastest engine's products next to NumPy's."""
    engine = next(iter(engines.values()))
    x = np.ones((1, 512, 1024), np.float32)
    w = np.ones((1024, 1024), np.float32)
    theta = Weights({"w.weight": w}, engine).view()
    ours, numpys = seconds_of(lambda: theta.linear("w", x), lambda: x @ w.T)
    billions = 2 * x.size * len(w) / 1e9
    rates = f"{engine.name} {billions / ours:.1f} GF/s, NumPy alone {billions / numpys:.1f}"
    slowing = " ".join(name for name in SLOWING if name in os.environ)
    hint = f"NumPy is slower with {slowing}: unset it"
    yield check("matmul", rates, not slowing, hint, minor=True)


def noise(engines: Engines) -> Iterator[Check]:
    """The time that the fastest engine takes to make z and add it."""
    engine = next(iter(engines.values()))
    weights = Weights({"w": np.zeros((1024, 4096), np.float32)}, engine)
    (seconds,) = seconds_of(lambda: weights.add([(1, 1e-6)]))
    nanoseconds = 1e9 * seconds / weights.elements(["w"])
    yield check("noise", f"{engine.name} {nanoseconds:.2f} ns an element")


def roofline() -> Iterator[Check]:
    """What memory gives and what each way to multiply can do, with what our kernels reach of it."""
    from tinyzo.engine.numba import roofline
    from tinyzo.engine.numba.engine import NumbaEngine

    engine = NumbaEngine()
    memory = roofline.bandwidth(engine)
    fold = roofline.fold(engine)
    value = f"read {memory.read:.1f} GB/s, copy {memory.copy:.1f}, fold {fold:.1f} with its noise"
    yield check("memory", f"{value}; threads: {engine.threads}")
    for way in roofline.ways():
        value = f"linear {way.reached:.0f} GF/s"
        if way.peak:
            share = way.reached / way.peak
            value += f", {share:.0%} of its peak; {way.one:.0f} of one thread at most"
        yield check(way.name, value + ("; chosen" if way.is_chosen else ""))


def numba_build(engine: Engine) -> str:
    """The threads and the vector instructions of the numba engine on this machine."""
    from tinyzo.engine.numba.objects import build

    made = build()
    vectors = " ".join(made.features) or "no vectors known"
    tile = f"tile of {made.rows} x {made.width}"
    threads = getattr(engine, "threads", 1)
    return f"numba, threads: {threads} of our own, no threading layer; {vectors}: {tile}"


def seconds_of(*tasks: Callable[[], object]) -> list[float]:
    """The seconds that each task takes: the best of six turns."""
    rounds = [[timeit(task, number=1) for task in tasks] for _ in range(6)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def z(name: str, engine: Engine) -> Iterator[Check]:
    """Whether an engine makes noise(12, "w", (150_000,)) to the frozen bits, as it adds z and in a
    pass."""
    weights = Weights({"w": np.zeros((150_000, 1), np.float32)}, engine)
    one = np.ones((1, 1, 1), np.float32)
    in_pass = np.asarray(weights.view([Probe(12, 1.0)]).scores("w", one))  # 1 (0 + z)
    weights.add([(12, 1.0)])
    every = [hashlib.sha256(z.tobytes()).hexdigest() for z in (weights.read("w"), in_pass)]
    wrong = [found for found in every if found != Z_SHA256]
    hint = f"not {Z_SHA256[:16]}: report this"
    yield check(f"z {name}", (wrong or every)[0][:16], not wrong, hint)


# -- the checkpoint


def checkpoint(engines: Engines, path: Path) -> Iterator[Check]:
    """Whether the weights are sound, the engines agree on logits, and these are as published, and
    whether the tokenizer fits."""
    model = load(path, engine="numpy")
    weights = model.weights
    config = model.config
    names = weights.names()
    models = [on_engine(engine, model, path) for engine in engines.values()]
    ids = [i % config.vocab_size for i in IDS][: config.max_length]
    gap = largest_gap([each.logits([ids])[0] for each in models])
    bad = [name for name in names if not np.isfinite(weights.read(name)).all()]
    is_blank = not weights.read(model.architecture.TOKENS).any()
    value = f"{path}: {' and '.join(engines)} agree to {gap:.1e} of max |logit|"
    hint = f"agreement to {NEAR:g} is due; not finite: {', '.join(bad[:3]) or 'none'}"
    if is_blank:
        hint = f"{model.architecture.TOKENS} is all zeros: download the weights again"
    yield check("checkpoint", value, gap < NEAR and not bad and not is_blank, hint)
    yield from guarded("tokenizer", vocabulary, model)
    yield from published(models[0], ids)


def on_engine(engine: Engine, model: Model, path: Path) -> Model:
    """The same model on another engine. ONNX Runtime reads quantised matrices in their file."""
    if engine.name == "onnx":
        model = load(path, engine="onnx")
    weights = type(model.weights)(model.weights.store, engine)
    weights.adapter_scale = model.weights.adapter_scale
    return Model(model.family, model.config, weights, model.directory)


def largest_gap(logits: Sequence[Array]) -> float:
    """The largest distance of any logit from the first engine's, as a share of the largest."""
    every = np.stack(logits)
    gaps = np.abs(every - every[0])
    return float(gaps.max() / (np.abs(every).max() or 1))


def vocabulary(model: Model) -> Iterator[Check]:
    """Whether the model has an embedding for each id of its tokenizer."""
    tokenizer = model.tokenizer
    size = model.config.vocab_size
    value = f"{tokenizer.vocab_size} items, by {tokenizer.backend}; the model has {size} rows"
    hint = f"ids from {size} on have no row: copy the tokenizer of this model again"
    yield check("tokenizer", value, tokenizer.vocab_size <= size, hint)


def published(model: Model, ids: list[int]) -> Iterator[Check]:
    """Whether a model gives the published result of a checkpoint of its shape, if there is one."""
    c = model.config
    sizes = [c.vocab_size, c.hidden_size, c.num_hidden_layers, c.num_attention_heads]
    shape = [model.family, *sizes]
    methods = {"logits": model.logits, "hidden": model.hidden}
    for known in PUBLISHED:
        if known.shape == shape:
            (found,) = methods[known.method]([ids])
            gap = float(np.abs(found[:3, :3].ravel() - known.values).max())
            value = f"{known.method} within {gap:.1e} of the published"
            why = "not the published weights (tuned ones?), or computed wrongly"
            hint = f"beyond {known.near}: {why}"
            yield check(known.name, value, gap <= known.near, hint, minor=True)
