"""The way in which bfloat16 is multiplied: what a CPU offers, what is measured, what is kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import ENGINES

if "numba" not in ENGINES:
    pytest.skip("it is about the numba engine", allow_module_level=True)

from llvmlite.binding import llvm_version_info

from tinyzo.engine.numba import amx, files, objects, products
from tinyzo.engine.numba import engine as numba_engine
from tinyzo.engine.numba.engine import NumbaEngine, product_table
from tinyzo.engine.numba.sizes import FLOATS, MATRIX, PAIRS
from tinyzo.errors import ConfigError

TESTS = Path(__file__).parents[1]
BUILD = objects.build()
INTEL = BUILD._replace(bf16="avx512bf16", matrix="amx")
ARM = BUILD._replace(bf16="bfdot", matrix="bfmmla")


@pytest.fixture(autouse=True)
def nothing_is_known():
    cached = (products.ways, products.may_use_amx, numba_engine.product_rates, products.say_once)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


@pytest.fixture
def system(monkeypatch):
    """Linux on x86-64 as a list: what it is asked; it answers with what stands at the end."""
    asked = [0]

    class Library:
        def __init__(self, name):
            assert name is None

        def syscall(self, *numbers):
            asked.insert(0, numbers)
            return asked[-1]

    monkeypatch.setattr(products.sys, "platform", "linux")
    monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(products.ctypes, "CDLL", Library)
    return asked


# -- what is offered -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "offered"),
    [
        (BUILD._replace(bf16="", matrix=""), {"float32": FLOATS}),
        (INTEL._replace(matrix=""), {"float32": FLOATS, "dpbf16ps": PAIRS}),
        (INTEL, {"float32": FLOATS, "dpbf16ps": PAIRS, "amx": MATRIX}),
        (ARM, {"float32": FLOATS, "bfdot": PAIRS, "bfmmla": MATRIX}),
    ],
)
def test_the_ways_are_those_of_the_cpu(monkeypatch, system, tile, offered):
    monkeypatch.setattr(objects, "build", lambda: tile)
    assert products.ways() == offered
    assert {way: products.kind(way) for way in offered} == offered


def test_a_process_asks_once_for_amx(system):
    assert products.may_use_amx() and products.may_use_amx()
    assert system == [(158, 0x1023, 18), 0]


def test_where_the_system_refuses_amx_another_way_is_taken(monkeypatch, system):
    system[-1] = -1
    monkeypatch.setattr(objects, "build", lambda: INTEL)
    assert list(products.ways()) == ["float32", "dpbf16ps"]
    with pytest.raises(ConfigError, match="bfloat16 by amx cannot be had here") as found:
        NumbaEngine(1, bf16="amx")
    assert found.value.hint == "take float32, dpbf16ps"
    assert NumbaEngine(1, bf16="dpbf16ps").way == "dpbf16ps"


@pytest.mark.parametrize(("name", "machine"), [("darwin", "x86_64"), ("linux", "aarch64")])
def test_another_system_is_not_asked(monkeypatch, system, name, machine):
    monkeypatch.setattr(products.sys, "platform", name)
    monkeypatch.setattr(products.platform, "machine", lambda: machine)
    assert not products.may_use_amx() and system == [0]


# -- the choice ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "way", "rounded"),
    [
        ({"float32": 100.0}, "float32", "shifts"),
        ({"float32": 160.0, "dpbf16ps": 90.0}, "float32", "dpbf16ps"),
        ({"float32": 160.0, "dpbf16ps": 175.0}, "float32", "dpbf16ps"),
        ({"float32": 160.0, "dpbf16ps": 177.0}, "dpbf16ps", "dpbf16ps"),
        ({"float32": 160.0, "dpbf16ps": 300.0, "amx": 900.0}, "amx", "amx"),
        ({"float32": 20.0, "bfdot": 70.0, "bfmmla": 60.0}, "bfdot", "bfdot"),
    ],
)
def test_an_instruction_has_to_be_clearly_faster_than_float32(rates, way, rounded):
    assert (products.choose(rates), products.choose_rounded(rates)) == (way, rounded)
    table = products.table(rates)
    assert [row.name for row in table if row.is_chosen] == [way]
    assert [row.gigaflops for row in table] == sorted(rates.values(), reverse=True)


def test_an_engine_takes_the_way_it_is_told(monkeypatch):
    plain = BUILD._replace(bf16="", matrix="")
    monkeypatch.setattr(objects, "build", lambda: plain)
    monkeypatch.setattr(numba_engine, "product_rates", lambda: {"float32": 1.0, "amx": 5.0})
    ways = {None: "amx", True: "amx", False: "float32", "float32": "float32", "shifts": "shifts"}
    for given, way in ways.items():
        engine = NumbaEngine(1, bf16=given)
        assert engine.way == way and engine.bf16 == (way != "float32")


def test_the_rates_of_this_machine():
    rates = numba_engine.product_rates()
    assert rates.keys() == products.ways().keys() and all(rate > 0 for rate in rates.values())
    assert product_table() == products.table(rates)
    assert NumbaEngine(1).way == products.choose(rates)


# -- what is kept ----------------------------------------------------------------------------


class Measurements:
    """Measurements of which each gives other rates: 101, 102, ... made: the ways of each"""

    def __init__(self):
        self.made: list[list[str]] = []

    def rates(self):
        return products.find_rates(self.measure)

    def measure(self, ways):
        self.made.append(list(ways))
        return dict.fromkeys(ways, 100.0 + len(self.made))


@pytest.fixture
def measured(monkeypatch, system, tmp_path):
    """The measurements that were made, of a CPU with AMX whose kernels' folder is here."""
    monkeypatch.setattr(files, "folders", lambda: [tmp_path])
    monkeypatch.setattr(files, "choose_folder", lambda: (tmp_path, ""))
    monkeypatch.setattr(objects, "build", lambda: INTEL)
    return Measurements()


def test_a_machine_is_measured_once(measured, system):
    first = measured.rates()
    assert measured.rates() == first == {"float32": 101, "dpbf16ps": 101, "amx": 101}
    system[-1] = -1  # and where this process may not use all that was measured
    products.may_use_amx.cache_clear()
    products.ways.cache_clear()
    assert measured.rates() == {"float32": 101, "dpbf16ps": 101}
    assert measured.made == [["float32", "dpbf16ps", "amx"]]


def test_what_lacks_a_way_is_measured_anew(measured, system, tmp_path):
    files.write(tmp_path / products.FILE, b'{"float32": 7.0}')
    assert measured.rates()["amx"] == 101
    assert measured.rates()["float32"] == 101 and len(measured.made) == 1


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 32 + b'{"float32": 9e9}'])
def test_a_damaged_file_is_measured_anew_and_replaced(measured, tmp_path, content):
    (tmp_path / products.FILE).write_bytes(content)
    assert measured.rates()["float32"] == 101
    assert measured.rates()["float32"] == 101 and len(measured.made) == 1


def test_another_users_file_is_not_believed(measured, tmp_path, monkeypatch):
    rates = b'{"float32": 7.0, "dpbf16ps": 9.0, "amx": 9e9}'
    files.write(tmp_path / products.FILE, rates)
    monkeypatch.setattr(files, "trusted_owners", set)
    assert measured.rates()["amx"] == 101


def test_a_plan_counts_no_rounded_tokens_where_float32_is_known_to_be_fastest(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "folders", lambda: [tmp_path])
    assert products.may_round()
    for rates, expected in (
        (b'{"float32": 7.0, "amx": 7.1}', False),
        (b'{"float32": 7, "amx": 9}', True),
    ):
        files.write(tmp_path / products.FILE, rates)
        assert products.may_round() is expected


def test_where_nothing_can_be_kept_each_process_measures(measured, monkeypatch):
    monkeypatch.setattr(files, "choose_folder", lambda: (None, "read-only"))
    assert [measured.rates()["amx"] for _ in range(2)] == [101, 102]


def test_a_full_disk_is_said(measured, tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    assert measured.rates()["amx"] == 101
    assert f"{tmp_path} cannot keep rates" in capsys.readouterr().err


# -- instructions ----------------------------------------------------------------------------


@pytest.mark.exhaustive  # it compiles the engine with a model of the instruction in it
@pytest.mark.parametrize("which", ["amx", "bfmmla"])
def test_every_edge_of_products_by_a_model_of_the_instruction(which):
    """The engine's kernels, compiled with the model: of a CPU that has it, see test_numba.py."""
    tests = [str(TESTS / "engine" / "test_numba.py"), "-k", f"test_linear_of_any_size and {which}"]
    command = [
        sys.executable,
        str(TESTS / "matrix_models.py"),
        which,
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    found = subprocess.run(command + tests, cwd=TESTS.parent, capture_output=True, text=True)
    assert found.returncode == 0 and " passed" in found.stdout, found.stdout + found.stderr
    assert "skipped" not in found.stdout


AMX = """
import numba
from numba import boolean as b, float32, int64 as i
from tinyzo.engine.numba import amx
f = float32[::1]
@numba.njit((f, i, i, i, f, i, i, i, f, i, i, b, f))
def run(x, x_at, count, depth, w, w_at, columns, steps, out, at, stride, first, edge):
    amx.begin()
    amx.multiply_rows(x, x_at, count, depth, w, w_at, columns, steps, out, at, stride, first, edge)
    amx.end()
(assembly,) = run.inspect_asm().values()
words = assembly.split()
print(*(words.count(name) for name in ("ldtilecfg", "tilerelease")))
print(*(name in words for name in ("tilezero", "tileloadd", "tdpbf16ps", "tilestored")))
"""


@pytest.mark.skipif(llvm_version_info[0] < 20, reason="LLVM is older than 20")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM here compiles for x86 only")
def test_amx_is_its_instructions():
    """Compiled, not run: tiles are configured once and released once, whatever is between."""
    features = "+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+amx-tile,+amx-bf16"
    environment = {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": features}
    found = subprocess.run(
        [sys.executable, "-c", AMX], env=os.environ | environment, capture_output=True, text=True
    )
    assert found.stdout == "1 1\nTrue True True True\n", found.stderr


def test_the_tiles_are_all_of_16_rows_of_64_bytes():
    content = np.frombuffer(amx.configuration(), np.uint8)
    assert content.size == 64 and content[0] == 1 and not content[1:16].any()
    assert content[16:48].view("<u2").tolist() == 8 * [64] + 8 * [0]
    assert content[48:].tolist() == 8 * [16] + 8 * [0]
