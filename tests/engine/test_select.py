"""Which engine computes where Numba is missing, broken, or told not to compile."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from broken import BREAKS, ROOT, path_with, starts_another, tinyzo
from folders import write_model, write_reviews

from tinyzo.engine import select
from tinyzo.engine.select import choose_engine, engine_here, why_no_numba
from tinyzo.errors import ConfigError

WAY_OUT = "pip install --force-reinstall numba, or set TINYZO_NO_NUMBA=1"
CHOICES = """if True:
    import sys; sys.path[:] = {path!r}
    from tinyzo.engine.select import choose_engine, may_have_numba
    assert may_have_numba()
    print(choose_engine("auto").name, choose_engine("auto").name, choose_engine("numpy").name)
    choose_engine("numba")
"""

# llvmlite is imported first, so without it there would be another reason.
has_llvmlite = pytest.mark.skipif(not find_spec("llvmlite"), reason="Numba alone is to be broken")


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Nothing is known of Numba, before a test and after it."""
    monkeypatch.delenv("TINYZO_NO_NUMBA", raising=False)
    select._why_broken.cache_clear()
    select.say_once.cache_clear()
    yield
    select._why_broken.cache_clear()


@starts_another
@has_llvmlite
@pytest.mark.parametrize("code", BREAKS)
def test_a_broken_numba_is_said_once_and_numpy_computes(tmp_path, code):
    program = CHOICES.format(path=path_with(tmp_path, "numba", code))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["numpy"] * 3
    reason = f"numba cannot be used ({BREAKS[code]}): {WAY_OUT}"
    first, *_, found, hint = done.stderr.splitlines()
    assert first == f"tinyzo: engine numpy, the slow one, since {reason}"
    assert done.stderr.count("the slow one") == 1
    assert found == "tinyzo.errors.ConfigError: engine 'numba' cannot be had here"
    assert hint == f"  hint: {reason}; or take --engine numpy"


@starts_another
@has_llvmlite
def test_commands_with_a_broken_numba(tmp_path):
    path = path_with(tmp_path / "path", "numba", 'raise SystemError("bad magic")')
    model = write_model(tmp_path / "model")
    predicted = tinyzo("predict", "--model", model, "--task", "sst2", "a text", path=path)
    assert predicted.returncode == 0 and predicted.stdout
    (line,) = predicted.stderr.splitlines()
    assert line.endswith(f"numba cannot be used (SystemError: bad magic): {WAY_OUT}")
    assert tinyzo("--version", path=path).stderr == ""


@starts_another
@has_llvmlite
def test_a_budget_leads_to_the_engine_that_is_there(tmp_path):
    """And not to a run that names an engine which nobody asked for."""
    path = path_with(tmp_path / "path", "numba", 'raise SystemError("bad magic")')
    model = write_model(tmp_path / "model")
    data = write_reviews(tmp_path / "data")
    options = ["--model", model, "--task", "reviews", "--data", data, "--output", tmp_path / "run"]
    budget = ["--steps", "1", "--memory-budget", "400MB"]
    tuned = tinyzo("finetune", *options, *budget, path=path)
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stderr.count("SystemError: bad magic") == 1
    assert "memory plan: numpy" in tuned.stderr
    assert 'engine = "numpy"' in (tmp_path / "run" / "run.toml").read_text()


MISSING = """if True:
    import sys
    sys.modules["numba"] = None  # what makes `import` raise
    from tinyzo.engine.select import choose_engine, may_have_numba, why_no_numba
    assert not may_have_numba()
    print(choose_engine("auto").name, why_no_numba())
    choose_engine("numba")
"""


@starts_another
def test_a_missing_numba_is_done_without_in_silence():
    done = subprocess.run(
        [sys.executable, "-c", MISSING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    name, reason = done.stdout.split(maxsplit=1)
    assert name == "numpy"
    way_out = "pip install numba (Termux: its User Repository has a wheel)"
    assert reason == f"Numba is not installed: {way_out}\n"
    assert "the slow one" not in done.stderr
    assert done.stderr.endswith(f"  hint: {reason.strip()}; or take --engine numpy\n")


def test_numba_that_is_not_wanted(monkeypatch, capsys):
    monkeypatch.setenv("TINYZO_NO_NUMBA", "1")
    assert why_no_numba() == "TINYZO_NO_NUMBA is set: unset it"
    assert choose_engine("auto").name == "numpy"
    with pytest.raises(ConfigError, match=r"cannot be had here\n.*NO_NUMBA is set: unset it; or"):
        choose_engine("numba")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TINYZO_NO_NUMBA", "false")
    with monkeypatch.context() as patch:
        patch.setattr(select, "_why_broken", lambda: "")
        assert (why_no_numba(), engine_here("auto"), engine_here("numba")) == ("", "numba", "numba")


def test_an_unknown_engine():
    with pytest.raises(ConfigError, match="engine 'cuda'"):
        choose_engine("cuda")


@starts_another
def test_numba_that_may_not_compile(tmp_path):
    pytest.importorskip("numba", reason="it is about Numba's own variable")
    model = write_model(tmp_path / "model")
    arguments = ["predict", "--model", model, "--task", "sst2", "a text"]
    predicted = tinyzo(*arguments, NUMBA_DISABLE_JIT="1")
    assert predicted.returncode == 0 and predicted.stdout
    reason = "NUMBA_DISABLE_JIT is set: unset it"
    assert predicted.stderr == f"tinyzo: engine numpy, the slow one, since {reason}\n"
    arguments = ["finetune", "--steps", "1", "--engine", "numba", "--output", tmp_path / "run"]
    tuned = tinyzo(*arguments, NUMBA_DISABLE_JIT="1")
    assert tuned.returncode == 1 and not (tmp_path / "run").exists()
    assert tuned.stderr.endswith(f"  hint: {reason}; or take --engine numpy\n")
