"""`tinyzo doctor`: what each check says of a sound machine and of a broken one. No timings."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from broken import path_with
from broken import tinyzo as command
from folders import SHAPES, random_tensors, write_model, write_tensors
from tiny import EngineOf

import tinyzo
from tinyzo.cli import main
from tinyzo.engine.numpy_engine import NumpyEngine, NumpyView
from tinyzo.engine.select import choose_engine
from tinyzo.engine.terms import Probe
from tinyzo.models.opt import Config as OptConfig
from tinyzo.models.roberta import Config as RobertaConfig
from tinyzo.runs import doctor

pytest.importorskip("numba", reason="the checks compare two engines")

from tinyzo.engine.numba import engine as numba_engine
from tinyzo.engine.numba import files, objects, products, roofline
from tinyzo.engine.numba.engine import NumbaEngine

WAYS = ["f32 fma", *(f"bf16 {way}" for way in products.ways())]
OF_NUMBA = ["kernels", "memory", *WAYS]
NAMES = ["python", "numpy", *doctor.PACKAGES, "cpu", "engine", "kernels", "matmul", "noise"]
NAMES += ["memory", *WAYS]
ENGINES = {"numba": NumbaEngine(1, bf16=False), "numpy": NumpyEngine()}
BESIDE = ["numpy"]  # what may be there beside Numba's
if find_spec("onnxruntime"):
    BESIDE.append("onnx")
    ENGINES["onnx"] = choose_engine("onnx", 1)
HERE = ["numba", *BESIDE]
Z = [f"z {name}" for name in HERE]
FAMILIES = pytest.mark.parametrize("family", ["roberta", "opt"])


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("ANDROID_ROOT", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "TINYZO_NO_NUMBA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def untried(request, monkeypatch):
    """No package is imported in a process of its own, which takes seconds, but in some tests."""
    if "tried" not in request.fixturenames:
        monkeypatch.setattr(doctor, "try_apart", lambda statement: "")


@pytest.fixture
def tried():
    """For a test that does try."""


@pytest.fixture
def quick(monkeypatch):
    """Everything but the measuring, which takes a second."""
    for name in ("matmul", "noise", "roofline"):
        monkeypatch.setattr(doctor, name, lambda *_: iter(()))


@pytest.fixture
def unmeasured(monkeypatch):
    for module in (doctor, roofline):
        monkeypatch.setattr(module, "timeit", lambda task, number: 1.0)


def by_name(checks):
    found = {check["name"]: check for check in checks}
    for check in found.values():
        assert check.keys() == {"name", "ok", "value", "hint"}
        assert [type(v) for v in check.values()] == [str, bool, str, str]
        assert check["value"] and "\n" not in check["value"] + check["hint"]
        assert check["ok"] or check["hint"]
    return found


def environment():
    parts = [doctor.python(), doctor.numpy_build(), *map(doctor.package, doctor.PACKAGES)]
    return by_name(itertools.chain(*parts, doctor.cpu()))


def broken_model(directory, family="roberta", **spoilt):
    """A model folder, some tensors of which hold a value that is given, in one place."""
    write_model(directory, family)
    size = len(json.loads((directory / "vocab.json").read_text()))
    tensors = random_tensors(family, **SHAPES[family], vocab_size=size)
    for name, value in spoilt.items():
        next(t for n, t in tensors.items() if n.endswith(name)).flat[-1] = value
    write_tensors(directory / "model.safetensors", tensors)
    return directory


# --- the command ---


def test_json_of_a_sound_machine(tmp_path, capsys):
    """On a folder: every check in its place, and a document as the last line."""
    assert main(["doctor", str(write_model(tmp_path / "model")), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    assert document.keys() == {"ok", "checks"} and document["ok"] is True
    found = by_name(document["checks"])
    engine = choose_engine("auto").name
    assert engine == "numba"
    assert list(found) == [*NAMES, *Z, "checkpoint", "tokenizer"]
    pattern = r"numba, threads: \d+ of our own, no threading layer; .*: tile of \d+ x \d+"
    assert re.fullmatch(pattern, found["engine"]["value"]) and not found["engine"]["hint"]
    assert re.fullmatch(r"numba [\d.]+ GF/s, NumPy alone [\d.]+", found["matmul"]["value"])
    assert re.fullmatch(r"numba [\d.]+ ns an element", found["noise"]["value"])
    assert not found["matmul"]["hint"]
    pattern = r"read [\d.]+ GB/s, copy [\d.]+, fold [\d.]+ with its noise; threads: \d+"
    assert re.fullmatch(pattern, found["memory"]["value"])
    for name in WAYS:
        pattern = r"linear \d+ GF/s, \d+% of its peak; \d+ of one thread at most(; chosen)?"
        if name in ("bf16 amx", "bf16 bfmmla"):
            pattern = r"linear \d+ GF/s(; chosen)?"
        assert re.fullmatch(pattern, found[name]["value"])
    chosen = [name for name in WAYS if found[name]["value"].endswith("; chosen")]
    assert chosen == ["f32 fma", f"bf16 {NumbaEngine().way}"]


def test_lines_of_a_sound_machine(capsys, quick):
    """Without a folder it is the shipped RoBERTa; a check is a line, its hint under it."""
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    checks = [line for line in output.splitlines() if not line.startswith(" ")]
    assert {line[:4] for line in checks} == {"ok  "}
    assert {line[18] for line in checks} == {" "} and " " not in {line[19] for line in checks}
    pattern = rf"\nok  {Z[-1]:14} [0-9a-f]{{16}}\nok  checkpoint     .*roberta-tiny: "
    assert re.search(pattern, output)


def test_a_broken_checkpoint(tmp_path, capsys, quick):
    path = broken_model(tmp_path / "model", **{"lm_head.bias": np.nan})
    assert main(["doctor", str(path)]) == 1
    output = capsys.readouterr().out
    assert re.search(r"\nBAD checkpoint     .*\n {19}hint: .*not finite: lm_head\.bias\n", output)
    assert main(["doctor", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    bad = [check["name"] for check in document["checks"] if not check["ok"]]
    assert document["ok"] is False and bad == ["checkpoint"]


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_what_is_no_model(tmp_path, capsys, monkeypatch, quick, where):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", where]) == 1
    output = capsys.readouterr().out
    assert "no such folder" in output or "none of model.safetensors" in output
    assert re.search(r"\nBAD checkpoint     (?!CheckpointError).*\n {19}hint: .", output)
    assert "ok  z numba" in output


def test_numba_is_not_imported_before_it_is_asked_for():
    program = "import sys, tinyzo.cli; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- the environment ---


def test_versions():
    found = environment()
    assert found["python"]["value"].startswith(sys.version.split()[0])
    assert found["numpy"]["value"].startswith(f"{np.__version__}, BLAS ")
    assert re.match(r"\d+\.\d", found["numba"]["value"]) and not found["numba"]["hint"]
    assert all(check["ok"] for check in found.values())


@pytest.mark.parametrize("android", [False, True])
def test_missing_packages(monkeypatch, android):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    if android:
        monkeypatch.setenv("ANDROID_ROOT", "/system")
    found = environment()
    assert {found[name]["value"] for name in doctor.PACKAGES} == {"missing"}
    assert all(check["ok"] for check in found.values())
    how = doctor.TERMUX if android else "pip install"
    assert found["numba"]["hint"] == f"the NumPy engine computes; {how} numba"
    assert found["tokenizers"]["hint"] == f"our own BPE makes the same ids; {how} tokenizers"
    assert found["tqdm"]["hint"] == f"finetune shows no bar; {how} tqdm"


def test_packages_that_are_there(tried):
    for name in doctor.PACKAGES:
        (check,) = doctor.package(name)
        assert not check["value"].startswith("missing") or not find_spec(name)
        assert " is broken" not in check["value"]


@pytest.mark.parametrize("name", doctor.PACKAGES)
def test_a_package_that_breaks(tmp_path, monkeypatch, tried, name):
    """In a process of its own, which may be killed: a package is not imported here."""
    code = "import os; os.kill(os.getpid(), 11)" if name == "numba" else "raise SystemError('bad')"
    monkeypatch.setattr(sys, "path", path_with(tmp_path, name, code))
    (check,) = doctor.package(name)
    how = "killed by signal 11" if name == "numba" else "SystemError: bad"
    assert check["ok"] and check["value"].endswith(f" is broken: {how}")
    assert check["hint"].endswith(f"; pip install --force-reinstall {name}")


def test_where_no_package_can_be_tried(monkeypatch):
    def refuse(statement):
        raise OSError("no process can be had")

    monkeypatch.setattr(doctor, "try_apart", refuse)
    (check,) = doctor.package("numba")
    assert re.match(r"\d+\.\d", check["value"]) and check["ok"]


def test_doctor_of_a_broken_machine(tmp_path):
    """Everything that may break is broken, and the doctor lives."""
    path = tmp_path / "path"
    for name in doctor.PACKAGES:
        path_with(path, name, 'raise SystemError("bad magic")')
    done = command("doctor", write_model(tmp_path / "model"), path=[str(path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" is broken: SystemError: bad magic") == len(doctor.PACKAGES)
    assert "hint: numba cannot be used (SystemError: bad magic): pip" in done.stdout
    assert re.search(r"\nok  checkpoint   .*numpy agree to 0.0e\+00", done.stdout)
    assert done.stderr.startswith("tinyzo: tokenizers cannot be used") or not done.stderr


def test_android_by_its_platform(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.sys, "platform", "android")
    assert "--only-binary :all: --no-deps numba" in environment()["numba"]["hint"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vendor_id : x\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: B\n", "A CPU @ 2 GHz"),
        ("processor\t: 0\nHardware\t: Some Phone\n", "Some Phone"),
        ("processor\t: 0\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_cpu(monkeypatch, tmp_path, text, name):
    monkeypatch.setattr(doctor, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert environment()["cpu"]["value"].startswith(f"{name}, ")


def test_numpy_built_without_blas(monkeypatch):
    monkeypatch.setattr(doctor.np, "show_config", lambda mode: {})
    assert "BLAS none, vectors none" in environment()["numpy"]["value"]


# --- engines ---


def test_without_numba(monkeypatch, tmp_path, unmeasured):
    monkeypatch.setattr(doctor, "why_no_numba", lambda: "none is here: pip install numba")
    found = by_name(doctor.examine(write_model(tmp_path / "model")))
    assert list(found) == [
        *(n for n in NAMES if n not in OF_NUMBA),
        *Z[1:],
        "checkpoint",
        "tokenizer",
    ]
    assert found["engine"]["value"] == "numpy" and "pip install numba" in found["engine"]["hint"]
    assert found["noise"]["value"].startswith("numpy ")
    assert all(check["ok"] for check in found.values())


@pytest.mark.parametrize("name", ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"])
def test_what_slows_numpy(monkeypatch, unmeasured, name):
    monkeypatch.setenv(name, "1")
    check = by_name(doctor.matmul({"numpy": NumpyEngine()}))["matmul"]
    assert check["ok"] and check["hint"] == f"NumPy is slower with {name}: unset it"


def test_bits_of_z(monkeypatch):
    z = tinyzo.noise(12, "w", (150_000,))
    assert hashlib.sha256(z).hexdigest() == doctor.Z_SHA256
    for name, engine in ENGINES.items():
        (check,) = doctor.z(name, engine)
        assert check["ok"] and check["name"] == f"z {name}"

    class OneUlp(NumpyEngine):
        def fold(self, weights, name, raw, start):
            super().fold(weights, name, raw, start)
            raw[-1] = np.nextafter(raw[-1], np.float32(9))

    class OtherKey(NumpyEngine):
        def view(self, weights, probes):
            return super().view(weights, [Probe(seed + 1, scale) for seed, scale in probes])

    for engine in (OneUlp(), OtherKey()):
        (check,) = doctor.z("numba", engine)
        assert not check["ok"] and check["hint"] == f"not {doctor.Z_SHA256[:16]}: report this"


def test_an_engine_that_fails_is_a_finding(monkeypatch, tmp_path, unmeasured):
    class Failing(NumpyEngine):
        name = "failing"

        def view(self, weights, probes):
            raise RuntimeError("LLVM ERROR:\nnot this CPU")

    engines = {"failing": Failing(), "numpy": NumpyEngine()}
    monkeypatch.setattr(doctor, "engines_here", lambda: (engines, ""))
    found = by_name(doctor.examine(write_model(tmp_path / "model")))
    for name in ("matmul", "checkpoint"):
        assert found[name]["value"] == "RuntimeError: LLVM ERROR:"
        assert (found[name]["ok"], found[name]["hint"]) == (False, "report this")
    assert found["z numpy"]["ok"] and found["noise"]["ok"]  # the rest is still looked at


CHECKS = (
    *("python", "numpy_build", "package", "cpu", "fastest"),
    *("kernels", "matmul", "noise", "roofline", "z"),
)


@pytest.mark.parametrize("broken", [*CHECKS, "checkpoint", "vocabulary"])
def test_a_check_that_fails_is_a_finding(monkeypatch, tmp_path, unmeasured, broken):
    """Whichever it is, and whatever it raises; all others are made."""

    def fails(*_):
        raise SystemError("bad\nmagic")

    monkeypatch.setattr(doctor, broken, fails)
    found = by_name(doctor.examine(write_model(tmp_path / "model")))
    read = ["tokenizer"] if broken != "checkpoint" else []
    names = [n for n in NAMES if n not in ("memory", *WAYS)] + ["roofline"]
    names = names if broken == "roofline" else NAMES
    assert list(found) == [*names, *Z, "checkpoint", *read]
    failed = [check for check in found.values() if not check["ok"]]
    assert len(failed) == {"package": len(doctor.PACKAGES), "z": len(Z)}.get(broken, 1)
    said = {(each["value"], each["hint"]) for each in failed}
    assert said == {("SystemError: bad", "report this")}


def test_an_engine_that_cannot_be_made(monkeypatch):
    def fails(**_):
        raise MemoryError("no room")

    monkeypatch.setattr(numba_engine, "NumbaEngine", fails)
    engines, why_not = doctor.engines_here()
    assert list(engines) == BESIDE and why_not == "MemoryError: no room"


def test_an_import_that_kills_is_not_tried_here(monkeypatch):
    monkeypatch.setattr(doctor, "try_apart", lambda statement: "killed by signal 11")
    monkeypatch.setattr(doctor, "why_no_numba", lambda: pytest.fail("it imports Numba"))
    engines, why_not = doctor.engines_here()
    assert list(engines) == ["numpy"]  # nor is ONNX Runtime
    assert why_not == "the import of numba is killed by signal 11: set TINYZO_NO_NUMBA=1"
    monkeypatch.setenv("TINYZO_NO_NUMBA", "1")
    monkeypatch.setattr(doctor, "why_no_numba", lambda: "not wanted")
    assert doctor.engines_here()[1] == "not wanted"


def test_onnx_runtime_that_is_missing_or_broken(monkeypatch, tmp_path, quick):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert doctor.onnx_here() is None
    hint = environment()["onnxruntime"]["hint"]
    assert hint == "there is no --engine onnx; pip install onnxruntime"
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    monkeypatch.setattr(doctor, "try_apart", lambda statement: "killed by signal 4")
    monkeypatch.setattr(doctor, "choose_engine", lambda name: pytest.fail("it imports it"))
    assert doctor.onnx_here() is None
    assert environment()["onnxruntime"]["value"].endswith(" is broken: killed by signal 4")
    monkeypatch.setattr(doctor, "engines_here", lambda: ({"numpy": NumpyEngine()}, "none"))
    found = by_name(doctor.examine(write_model(tmp_path / "model")))["engine onnx"]
    assert (found["ok"], found["value"]) == (True, "killed by signal 4")
    assert found["hint"] == "pip install --upgrade --force-reinstall onnxruntime"


@pytest.mark.parametrize(
    ("reason", "said"),
    [("", "called without Numba"), ("this is no Linux", "called by Numba (this is no Linux)")],
)
def test_who_calls_the_kernels(monkeypatch, reason, said):
    monkeypatch.setattr(objects, "why_numba", lambda: reason)
    (check,) = doctor.kernels()
    assert check["value"].endswith(f"; {said}")


def test_a_folder_that_keeps_no_kernels(monkeypatch):
    (check,) = doctor.kernels()
    assert check["value"].startswith("in /") and check["ok"] and not check["hint"]
    choice = (None, "/a: Permission denied")
    monkeypatch.setattr(files, "choose_folder", lambda: choice)
    (check,) = doctor.kernels()
    assert check["ok"] and check["value"].startswith("compiled anew by each process; called ")
    assert check["hint"] == f"{choice[1]}: set NUMBA_CACHE_DIR to a folder that can be written"


# --- the checkpoint ---


@FAMILIES
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_engines_agree(tmp_path, quick, family, dtype):
    path = write_model(tmp_path / "model", family, dtype)
    check = by_name(doctor.examine(path))["checkpoint"]
    value = (
        re.escape(f"{path}: {' and '.join(HERE)} agree to ") + r"\d\.\de[-+]\d\d of max \|logit\|"
    )
    assert check["ok"] and re.fullmatch(value, check["value"]) and not check["hint"]


def test_bfloat16_is_not_multiplied_as_such():
    """Where the CPU can, the engine does, and then differs by the rounding of activations."""

    engines, why_not = doctor.engines_here()
    assert list(engines) == HERE and engines["numba"].bf16 is False
    assert why_not == ""


@FAMILIES
def test_a_model_of_few_positions(tmp_path, monkeypatch, family):
    monkeypatch.setattr(doctor, "IDS", range(100))
    path = write_model(tmp_path / "model", family)
    assert by_name(doctor.checkpoint(ENGINES, path))["checkpoint"]["ok"]


@FAMILIES
def test_an_engine_that_computes_wrongly(tmp_path, family):
    class Wrong(NumpyView):
        def norm(self, name, x, ln_eps):
            return super().norm(name, x, ln_eps) * np.float32(1 + 1e-4 * (x > 0))

    path = write_model(tmp_path / "model", family)
    check = by_name(doctor.checkpoint({"wrong": EngineOf(Wrong), "numpy": NumpyEngine()}, path))[
        "checkpoint"
    ]
    assert not check["ok"] and check["hint"] == "agreement to 2e-05 is due; not finite: none"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["word_embeddings.weight", "0.output.dense.weight"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the command ignores them
def test_weights_that_are_not_finite(tmp_path, name, value):
    path = broken_model(tmp_path / "model", **{name: value})
    check = by_name(doctor.checkpoint(ENGINES, path))["checkpoint"]
    assert not check["ok"] and check["hint"].endswith(name)


def test_an_unused_row_that_is_not_finite(tmp_path):
    """The logits are right, and the checkpoint is still broken."""
    path = broken_model(tmp_path / "model", **{"position_embeddings.weight": np.nan})
    check = by_name(doctor.checkpoint(ENGINES, path))["checkpoint"]
    assert not check["ok"] and "position_embeddings.weight" in check["hint"]
    assert "nan" not in check["value"]


def test_at_most_three_names(tmp_path):
    names = "query.weight", "key.weight", "value.weight", "query.bias"
    path = broken_model(tmp_path / "model", **dict.fromkeys(names, np.nan))
    check = by_name(doctor.checkpoint(ENGINES, path))["checkpoint"]
    assert check["hint"].count("roberta.encoder") == 3


@FAMILIES
def test_a_token_table_of_zeros(tmp_path, family):
    """As an export that failed leaves it; the engines agree on that, of course."""
    table = {"roberta": "word_embeddings.weight", "opt": "embed_tokens.weight"}[family]
    path = broken_model(tmp_path / "model", family)
    size = len(json.loads((path / "vocab.json").read_text()))
    tensors = random_tensors(family, **SHAPES[family], vocab_size=size)
    next(t for n, t in tensors.items() if n.endswith(table))[:] = 0
    write_tensors(path / "model.safetensors", tensors)
    check = by_name(doctor.checkpoint(ENGINES, path))["checkpoint"]
    assert not check["ok"] and check["hint"].endswith(
        f"{table} is all zeros: download the weights again"
    )


# --- the tokenizer ---


@FAMILIES
def test_a_tokenizer_that_fits(tmp_path, family):
    path = write_model(tmp_path / "model", family)
    size = tinyzo.load(path).config.vocab_size
    check = by_name(doctor.checkpoint(ENGINES, path))["tokenizer"]
    assert check["ok"] and not check["hint"]
    assert re.fullmatch(rf"{size} items, by \w+; the model has {size} rows", check["value"])


def test_the_tokenizer_of_another_model(tmp_path):
    path = write_model(tmp_path / "model")
    ids = json.loads((path / "vocab.json").read_text())
    (path / "vocab.json").write_text(json.dumps(ids | {"Ġanother": len(ids)}))
    check = by_name(doctor.checkpoint(ENGINES, path))["tokenizer"]
    assert not check["ok"] and check["value"].startswith(f"{len(ids) + 1} items")
    assert check["hint"].startswith(f"ids from {len(ids)} on have no row: copy the tokenizer")
    (path / "vocab.json").unlink()
    check = by_name(doctor.checkpoint(ENGINES, path))["tokenizer"]
    assert not check["ok"] and check["value"] == f"{path / 'vocab.json'}: No such file or directory"


# --- known checkpoints ---


def test_the_table_of_known_checkpoints():
    assert {known.name: (known.method, known.near) for known in doctor.PUBLISHED} == {
        "roberta-base": ("logits", 1e-4), "opt-350m": ("hidden", 5e-5),
    }  # fmt: skip
    for known in doctor.PUBLISHED:
        family, vocabulary, *_ = known.shape
        config = {"roberta": RobertaConfig, "opt": OptConfig}[family]()
        assert config.vocab_size == vocabulary > max(doctor.IDS)
        assert len(known.values) == 9


@FAMILIES
def test_a_known_checkpoint(tmp_path, monkeypatch, family):
    """A table made for a tiny model; the values come from another way to the same numbers."""
    path, method = write_model(tmp_path / family, family), {"roberta": "logits", "opt": "hidden"}
    model = tinyzo.load(path, engine="numpy")
    ids = [i % model.config.vocab_size for i in doctor.IDS]
    values = getattr(model, method[family])([ids])[0][:3, :3].ravel().tolist()
    shape = [family, model.config.vocab_size, 16, 2, 2]
    found = {}
    for name, offset in (("near", 9e-5), ("far", 2e-4)):
        published = [*values[:8], values[8] + offset]
        known = doctor.Published(name, shape, method[family], 1e-4, published)
        monkeypatch.setattr(doctor, "PUBLISHED", [known])
        found |= by_name(doctor.checkpoint(ENGINES, path))
    assert found["near"]["ok"] and not found["near"]["hint"]
    assert found["near"]["value"].startswith(f"{method[family]} within 9.0e-05 of the published")
    assert found["far"]["ok"]  # a tuned model has the same shape
    assert found["far"]["hint"].startswith("beyond 0.0001: not the published weights")


@pytest.mark.parametrize("place", range(5))
def test_another_shape_is_not_compared(tmp_path, monkeypatch, place):
    path = write_model(tmp_path / "model")
    shape = ["roberta", tinyzo.load(path).config.vocab_size, 16, 2, 2]
    known = doctor.Published("known", list(shape), "logits", 1e-4, [0.0] * 9)
    monkeypatch.setattr(doctor, "PUBLISHED", [known])
    assert "known" in by_name(doctor.checkpoint(ENGINES, path))
    known.shape[place] = "opt" if place == 0 else shape[place] + 1
    assert list(by_name(doctor.checkpoint(ENGINES, path))) == ["checkpoint", "tokenizer"]
