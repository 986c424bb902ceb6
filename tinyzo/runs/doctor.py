"""`tinyzo doctor`: the environment, its speed, and whether a checkpoint computes what it should.

A report is a list of checks. One that could be better has a hint and is ok all the same; one that
is needed and broken is not ok. The reference values are in doctor.toml.
"""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from timeit import timeit
from typing import NamedTuple, TypedDict

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import Engine
from tinyzo.engine.select import choose_engine, why_no_numba
from tinyzo.engine.weights import Weights
from tinyzo.errors import TinyzoError
from tinyzo.models.model import Model, load
from tinyzo.parsing import read_toml

CPUINFO = Path("/proc/cpuinfo")
TERMUX = "pkg, or the Termux User Repository's wheels: pip install --only-binary :all: --no-deps"
# The packages beside NumPy, and what is the case without each.
PACKAGES = {
    "tqdm": "finetune needs it",
    "numba": "the NumPy engine computes",
    "llvmlite": "no Numba",
    "tokenizers": "our own BPE makes the same ids",
    "matplotlib": "no loss.png is drawn",
    "safetensors": "nothing is missed: tinyzo reads and writes by itself",
}
NEEDED = ("tqdm",)
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


REFERENCE = read_toml(Path(__file__).with_suffix(".toml"))
Z_SHA256: str = REFERENCE["z_sha256"]
IDS: list[int] = REFERENCE["ids"]
PUBLISHED = [Published(**row) for row in REFERENCE["published"]]

Engines = dict[str, Engine]  # by name, the fastest first


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
    """All checks, as they are made. One that fails with an error has the error for its result.

    path: a model's folder
    """
    engines = engines_here()
    parts = {
        "environment": environment(),
        "speed": speed(engines),
        "z": z(engines),
        "checkpoint": checkpoint(engines, path),
    }
    for name, checks in parts.items():
        try:
            yield from checks
        except Exception as error:  # of any kind: it is the finding
            if isinstance(error, TinyzoError):
                yield check(name, error.message, False, error.hint)
            else:
                yield check(name, repr(error), False, "report this")


def engines_here() -> Engines:
    """Every engine that this machine has: Numba's, if it is installed, and NumPy's.

    Numba's widens bfloat16 before it multiplies: products in bfloat16 are rounded, and the engines
    would not agree.
    """
    fastest = choose_engine("auto")
    if fastest.name == "numba":
        from tinyzo.engine.numba.engine import NumbaEngine

        fastest = NumbaEngine(bf16=False)
    return {fastest.name: fastest, "numpy": NumpyEngine()}


# -- the environment


def environment() -> Iterator[Check]:
    """Python, NumPy with its BLAS and vectors, the packages beside them, and the CPU."""
    yield check("python", f"{platform.python_version()}, {sys.platform} {platform.machine()}")
    yield check("numpy", numpy_build())
    for name in PACKAGES:
        yield package(name)
    yield check("cpu", f"{cpu_model()}, {os.cpu_count()} cores")


def numpy_build() -> str:
    """NumPy's version, and what it was built with."""
    config = np.show_config(mode="dicts")
    libraries = config.get("Build Dependencies", {})
    blas = libraries.get("blas", {}).get("name", "none")
    vectors = config.get("SIMD Extensions", {}).get("found", ["none"])
    return f"{np.__version__}, BLAS {blas}, vectors {' '.join(vectors)}"


def package(name: str) -> Check:
    """The version of a package; or how to get it, and what is the case without it."""
    versions = [found.version for found in metadata.distributions(name=name)]
    if versions:
        return check(name, versions[0])
    is_android = sys.platform == "android" or "ANDROID_ROOT" in os.environ
    install = TERMUX if is_android else "pip install"
    hint = f"{PACKAGES[name]}; {install} {name}"
    return check(name, "missing", False, hint, minor=name not in NEEDED)


def cpu_model() -> str:
    """The CPU's name, as Linux has it."""
    about = CPUINFO.read_text() if CPUINFO.exists() else ""
    found = re.search(r"^(?:model name|Hardware)\s*: (.+)", about, re.M)
    return found[1] if found else "unknown"


# -- engines


def speed(engines: Engines) -> Iterator[Check]:
    """The fastest engine, its products next to NumPy's, and its noise."""
    engine = next(iter(engines.values()))
    is_numba = engine.name == "numba"
    about = numba_build(engine) if is_numba else engine.name
    yield check("engine", about, is_numba, why_no_numba(), minor=True)

    x = np.ones((1, 512, 1024), np.float32)
    w = np.ones((1024, 1024), np.float32)
    theta = Weights({"w.weight": w}, engine).view()
    large = Weights({"w": np.zeros((1024, 4096), np.float32)}, engine)
    ours, numpys, noise = seconds_of(
        lambda: theta.linear("w", x),
        lambda: x @ w.T,
        lambda: large.add([(1, 1e-6)]),
    )
    billions = 2 * x.size * len(w) / 1e9
    rates = f"{engine.name} {billions / ours:.1f} GF/s, NumPy alone {billions / numpys:.1f}"
    slowing = " ".join(name for name in SLOWING if name in os.environ)
    hint = f"NumPy is slower with {slowing}: unset it"
    yield check("matmul", rates, not slowing, hint, minor=True)
    nanoseconds = 1e9 * noise / large.elements(["w"])
    yield check("noise", f"{engine.name} {nanoseconds:.2f} ns an element")


def numba_build(engine: Engine) -> str:
    """The threads and the vector instructions of the numba engine on this machine."""
    from tinyzo.engine.numba.vectors import FEATURES, TILE, cpu_features

    has = [feature for feature in FEATURES if feature in cpu_features()]
    vectors = " ".join(has) or "no vectors known"
    threads = getattr(engine, "threads", 1)
    return f"numba, threads: {threads} of our own, no threading layer; {vectors}: {TILE}"


def seconds_of(*tasks: Callable[[], object]) -> list[float]:
    """The seconds that each task takes: the best of six turns."""
    rounds = [[timeit(task, number=1) for task in tasks] for _ in range(6)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def z(engines: Engines) -> Iterator[Check]:
    """Whether each engine makes noise(12, "w", (150_000,)) to the frozen bits."""
    for name, engine in engines.items():
        zeros = np.zeros(150_000, np.float32)
        weights = Weights({"w": zeros}, engine)
        weights.add([(12, 1.0)])
        found = hashlib.sha256(weights.read("w").tobytes()).hexdigest()
        hint = f"not {Z_SHA256[:16]}: report this"
        yield check(f"z {name}", found[:16], found == Z_SHA256, hint)


# -- the checkpoint


def checkpoint(engines: Engines, path: Path) -> Iterator[Check]:
    """Whether the weights are finite, the engines agree on logits, and these are as published."""
    model = load(path, engine="numpy")
    weights = model.weights
    config = model.config
    tensors = {name: weights.stored(name) for name in weights.names()}
    models = []
    for engine in engines.values():
        same = Weights(tensors, engine)
        models.append(Model(model.family, config, same, path))
    ids = [i % config.vocab_size for i in IDS][: config.max_length]
    gap = largest_gap([each.logits([ids])[0] for each in models])
    bad = [name for name in tensors if not np.isfinite(weights.read(name)).all()]
    value = f"{path}: {' and '.join(engines)} agree to {gap:.1e} of max |logit|"
    hint = f"agreement to {NEAR:g} is due; not finite: {', '.join(bad[:3]) or 'none'}"
    yield check("checkpoint", value, gap < NEAR and not bad, hint)
    yield from published(models[0], ids)


def largest_gap(logits: Sequence[Array]) -> float:
    """The largest distance of any logit from the first engine's, as a share of the largest."""
    every = np.stack(logits)
    gaps = np.abs(every - every[0])
    return float(gaps.max() / np.abs(every).max())


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
