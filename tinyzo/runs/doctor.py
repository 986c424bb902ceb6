"""`tinyzo doctor`: the environment, its speed, and whether a checkpoint computes what it should.

A report is a row of checks, {"name", "ok", "value", "hint"}. What could be better has a hint; what
is needed and broken has one and is not ok.
"""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from timeit import timeit

import numpy as np

from tinyzo.engine.select import choose_engine, why_no_numba
from tinyzo.engine.weights import Weights
from tinyzo.models.model import Model, load
from tinyzo.parsing import read_toml

CPUINFO = Path("/proc/cpuinfo")
TERMUX = "pkg, or the Termux User Repository's wheels: pip install --only-binary :all: --no-deps"
FACTS = read_toml(Path(__file__).with_suffix(".toml"))


def check(name: str, value: str, good: object = True, hint: str = "", minor: bool = False) -> dict:
    """One check. hint: what to do unless it is good. minor: ok even then."""
    return {"name": name, "ok": bool(good or minor), "value": value, "hint": "" if good else hint}


def examine(path: Path) -> Iterator[dict]:
    """All checks, as they are made; path: a model folder. What fails in one is its result."""
    fastest = choose_engine("auto")
    views = {engine.name: engine for engine in (fastest, choose_engine("numpy"))}
    if "numba" in views:  # products of bfloat16 as such are rounded, and would not agree
        views["numba"] = type(views["numba"])(bf16=False)
    for part in (environment(), speed(views), z(views), checkpoint(views, path)):
        try:
            yield from part
        except Exception as error:  # Numba's, LLVM's, a file's or ours: it is what ails
            yield check(part.__name__, repr(error), False, getattr(error, "hint", "report this"))


def environment() -> Iterator[dict]:
    """Python, NumPy with its BLAS and vectors, the packages beside them, and the CPU."""
    yield check("python", f"{platform.python_version()}, {sys.platform} {platform.machine()}")
    config = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {}).get("name", "none")
    simd = config.get("SIMD Extensions", {}).get("found", ["none"])
    yield check("numpy", f"{np.__version__}, BLAS {blas}, vectors {' '.join(simd)}")
    pip = TERMUX if sys.platform == "android" or "ANDROID_ROOT" in os.environ else "pip install"
    for name, without in FACTS["packages"].items():
        version = next((d.version for d in metadata.distributions(name=name)), "")
        yield check(name, version or "missing", version, f"{without}; {pip} {name}", name != "tqdm")
    about = CPUINFO.read_text() if CPUINFO.exists() else ""
    model = re.search(r"^(?:model name|Hardware)\s*: (.+)", about, re.M)
    yield check("cpu", f"{model[1] if model else 'unknown'}, {os.cpu_count()} cores")


def speed(views: dict) -> Iterator[dict]:
    """The fastest engine, its products next to NumPy's, its noise: the best of six, by turns."""
    (name, view), *_ = views.items()
    how = ""
    if name == "numba":
        from tinyzo.engine.numba.vectors import FEATURES, TILE, cpu_features

        has = " ".join(f for f in FEATURES if f in cpu_features()) or "no vectors known"
        how = f", threads: {view.threads} of our own, no threading layer; {has}: {TILE}"
    yield check("engine", name + how, how, why_no_numba(), minor=True)
    x, w = np.ones((1, 512, 1024), np.float32), np.ones((1024, 1024), np.float32)
    theta = Weights({"w.weight": w}, view).view()
    add = Weights({"w": np.zeros((1024, 4096), np.float32)}, view).add
    tasks = (lambda: theta.linear("w", x), lambda: x @ w.T, lambda: add([(1, 1e-6)]))
    ours, blas, adding = np.min([[timeit(t, number=1) for t in tasks] for _ in range(6)], axis=0)
    rates = f"{name} {2**30 / 1e9 / ours:.1f} GF/s, NumPy alone {2**30 / 1e9 / blas:.1f}"
    slow = " ".join(n for n in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if n in os.environ)
    yield check("matmul", rates, not slow, f"NumPy is slower with {slow}: unset it", minor=True)
    yield check("noise", f"{name} {1e9 / 2**22 * adding:.2f} ns an element")


def z(views: dict) -> Iterator[dict]:
    """Whether each engine makes noise(12, "w", (150_000,)) to the frozen bits."""
    for name, view in views.items():
        weights = Weights({"w": np.zeros(150_000, np.float32)}, view)
        weights.add([(12, 1.0)])
        found, frozen = hashlib.sha256(weights.read("w")).hexdigest(), FACTS["z_sha256"]
        yield check(f"z {name}", found[:16], found == frozen, f"not {frozen[:16]}: report this")


def checkpoint(views: dict, path: Path) -> Iterator[dict]:
    """Whether its weights are finite, engines agree on its logits, and it is as published."""
    model = load(path, engine="numpy")
    family, c, weights = model.family, model.config, model.weights
    tensors = {name: weights.stored(name) for name in weights.names()}
    models = [Model(family, c, Weights(tensors, v), path) for v in views.values()]
    ids = [[i % c.vocab_size for i in FACTS["ids"]][: c.max_length]]
    logits = np.stack([model.logits(ids)[0] for model in models])
    gap = np.abs(logits - logits[0]).max() / np.abs(logits).max()
    bad = [name for name in tensors if not np.isfinite(weights.read(name)).all()]
    yield check("checkpoint", f"{path}: {' and '.join(views)} agree to {gap:.1e} of max |logit|",
                gap < 2e-5 and not bad, f"2e-5 is due; not finite: {', '.join(bad[:3]) or 'none'}")
    shape = [family, c.vocab_size, c.hidden_size, c.num_hidden_layers, c.num_attention_heads]
    for known in (known for known in FACTS["published"] if known["shape"] == shape):
        name, method, near = known["name"], known["method"], known["near"]
        gap = np.abs(getattr(models[0], method)(ids)[0][:3, :3].ravel() - known["values"]).max()
        hint = f"beyond {near}: not the published weights (tuned ones?), or computed wrongly"
        yield check(name, f"{method} within {gap:.1e} of the published", gap <= near, hint, True)
