"""Fine-tunes as files: the bytes of replay, sums, and every file and name that is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from disturbed import Killed, die_at
from folders import finetune, write_model, write_reviews
from tiny import by_default

import tinyzo
from tinyzo.errors import CheckpointError, RunError, UsageError
from tinyzo.runs import fine_tune_file, share
from tinyzo.runs.fine_tune import base_name
from tinyzo.runs.fine_tune_file import DIGEST, START, Contents, pack, parse, read, stretches
from tinyzo.runs.journal import Journal
from tinyzo.runs.named import open_tuned, split
from tinyzo.runs.run import Run
from tinyzo.runs.snapshots import tuned_model

RUNS = {
    "mezo": ("--weight-decay", "0.5"),
    "guard": ("--lr", "3", "--guard", "1", "--steps", "12"),
    "adamezo": ("--method", "adamezo", "--lr", "1e-5", "--window", "3"),
    "fzoo": ("--method", "fzoo", "--queries", "3", "--dtype", "bf16"),
    "p-rge": ("--method", "p-rge", "--queries", "2"),
    "prefix": ("--train", "prefix"),
    "sparse-mezo": ("--method", "sparse-mezo"),
    "momentum": ("--method", "momentum", "--window", "3", "--guard", "1", "--steps", "12"),
    "lozo": ("--method", "lozo", "--window", "2"),
    "label-words": ("--train", "label-words"),
    "zo-act": ("--method", "zo-act"),
    "zo-head": ("--method", "zo-head"),
    "zo-fit": ("--method", "zo-fit"),
    "rms": ("--method", "rms", "--train", "lora", "--window", "2"),
    "int8": ("--base-dtype", "int8", "--train", "lora-fa"),
}
CORE = ("mezo", "guard", "adamezo", "zo-act", "zo-head")
BASE = "roberta"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_model(home / BASE)
    write_model(home / "opt", "opt")
    write_reviews(home / "data", 8, 4, 4)
    return home


@pytest.fixture(scope="module")
def made(home):
    """Runs and their files by name, each made once: (run, file)."""
    found = {}

    def make(name: str, *more: str) -> tuple[Path, Path]:
        key = " ".join((name, *more))
        if key not in found:
            run = home / f"run-{len(found)}"
            options = ("--seed", "3", "--lr", "1e-2", "--engine", "numpy", *RUNS.get(name, ()))
            assert finetune(home / BASE, home / "data", run, *options, *more) == 0
            file = home / f"{len(found)}.tinyzo"
            found[key] = (run, tinyzo.share(run, file))
        return found[key]

    return make


def theta(model) -> dict[str, np.ndarray]:
    return {name: model.weights.read(name) for name in model.weights.names()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


# -- the same as the run -----------------------------------------------------------------------


@pytest.mark.parametrize("name", by_default(list(zip(CORE)), zip(RUNS)))
def test_a_file_is_what_the_run_is(home, made, tmp_path, name):
    run, file = made(name)
    expected = theta(tuned_model(Run.open(run)))
    result = Run.open(run).result
    moved = shutil.move(run, tmp_path / "gone")
    named = f"{home / BASE}+{file}"
    for residency in ("resident", "streamed"):
        assert same(theta(tinyzo.load(named, "numpy", residency)), expected)
    for given in ({"model": named}, {"model": file, "base": home / BASE}):
        scored = tinyzo.evaluate(**given, data=home / "data", engine="numpy")
        assert (scored.accuracy, scored.loss) == (result["accuracy"], result["loss"])
    zero_shot = tinyzo.evaluate(named, data=home / "data", zero_shot=True, engine="numpy")
    assert zero_shot.loss == result["loss_zero_shot"]
    shutil.move(moved, run)
    assert read(file).head["seeds"] is False


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RUNS)
def test_every_engine_gives_the_same_bytes(home, made, name):
    _, file = made(name)
    named = f"{home / BASE}+{file}"
    one, other = (theta(tinyzo.load(named, engine)) for engine in ("numpy", "auto"))
    assert same(one, other)


def test_only_the_way_to_the_step_is_shared(made):
    run, file = made("guard")
    contents = read(file)
    way = Run.open(run).way(None)
    assert contents.numbers == [number for number, _ in way]
    assert len(contents.terms) == len(way) < 12


def test_a_file_has_the_scores_of_its_step(made):
    run, file = made("mezo")
    scores = read(file).head["scores"]
    best = Run.open(run).best_step()
    for name in ("dev", "test"):
        event = Run.open(run).evaluations(name)[best]
        assert scores[name] == {key: event[key] for key in ("examples", "accuracy", "loss")}
    assert best > 0 and scores["test_zero_shot"]["loss"] == Run.open(run).result["loss_zero_shot"]


def test_replay_writes_the_same_folder(home, made, tmp_path):
    run, file = made("mezo")
    one = tinyzo.replay(run, tmp_path / "one")
    two = tinyzo.replay(f"{home / BASE}+{file}", tmp_path / "two")
    weights = [(path / "model.safetensors").read_bytes() for path in (one, two)]
    assert weights[0] == weights[1]


def test_another_step_and_an_unfinished_run(home, tmp_path):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        die_at(patch, Journal, "append", 5, after=True)
        finetune(home / BASE, home / "data", run, "--engine", "numpy")
    best = tinyzo.share(run, tmp_path / "best.tinyzo")
    assert read(best).head["steps"] in ([], [[1, 2]], [[1, 4]])
    fifth = tinyzo.share(run, tmp_path / "fifth.tinyzo", step=5)
    found = theta(tinyzo.load(f"{home / BASE}+{fifth}"))
    assert same(found, theta(tuned_model(Run.open(run), 5)))
    none = tinyzo.share(run, tmp_path / "none.tinyzo", step=0)
    assert same(theta(tinyzo.load(f"{home / BASE}+{none}")), theta(tinyzo.load(home / BASE)))


def test_seeds_that_follow_no_rule_are_stored(home, made, tmp_path, monkeypatch):
    run, file = made("adamezo")
    monkeypatch.setattr(share, "seeds_of", lambda numbers, method: np.zeros((6, 4), np.uint64))
    stored = tinyzo.share(run, tmp_path / "stored.tinyzo")
    monkeypatch.undo()
    assert read(stored).seeds is not None and read(file).seeds is None
    one, other = (theta(tinyzo.load(f"{home / BASE}+{each}")) for each in (file, stored))
    assert same(one, other)


def test_the_data_are_those_of_the_run(home, made):
    _, file = made("mezo")
    with pytest.raises(RunError, match="do not ship"):
        tinyzo.evaluate(f"{home / BASE}+{file}")
    label = tinyzo.predict(f"{home / BASE}+{file}", ["No 1"])[0].label
    assert label in ("great", "terrible")


def test_ten_thousand_steps_are_a_small_file(made):
    contents = read(made("mezo")[1])
    steps = 10_000
    random = np.random.default_rng(0)
    head = contents.head | {"steps": [[1, steps]]}
    decays = np.zeros(steps)
    data = pack(Contents(head, contents.factors, decays, None, random.standard_normal((steps, 1))))
    assert len(data) < 82_000
    head["steps"] = [[1, 3], [7, steps + 3]]
    seeds = random.integers(0, 1 << 53, (steps, 1)).astype(np.uint64)
    whole = Contents(
        head, contents.factors, decays + 0.5, seeds, contents.terms[:1].repeat(steps, 0)
    )
    assert len(pack(whole)) < 600_000
    again = parse(pack(whole), Path("it"))
    assert np.array_equal(again.seeds, seeds) and np.array_equal(again.decays, whole.decays)
    assert again.numbers[:5] == [0, 1, 2, 6, 7]


def test_stretches():
    assert stretches([]) == []
    assert stretches([0, 1, 4, 5, 9]) == [[1, 2], [5, 6], [10, 10]]


# -- sums --------------------------------------------------------------------------------------

SUMS = {
    "full": ((), ("--seed", "4")),
    "adamezo": (RUNS["adamezo"], (*RUNS["adamezo"], "--seed", "4")),
    "lora-fa": (("--train", "lora-fa"), ("--train", "lora-fa", "--data-seed", "7")),
    "momentum": (("--method", "momentum"), ("--update", "sign", "--seed", "5")),
}


@pytest.mark.parametrize("name", by_default([("full",)], zip(SUMS)))
def test_a_sum_is_what_it_says(home, made, name):
    files = [made("", *options)[1] for options in SUMS[name]]
    base = theta(tuned_model(open_tuned(f"{home / BASE}+{files[0]}"), 0))
    one, two = (theta(tinyzo.load(f"{home / BASE}+{file}")) for file in files)
    a, b = 0.75, -1.5
    both = f"{home / BASE}+{files[0]}@{a}+{files[1]}@{b}"
    for residency in ("resident", "streamed"):
        found = theta(tinyzo.load(both, residency=residency))
        for key, start in base.items():
            expected = start + a * (one[key] - start) + b * (two[key] - start)
            assert np.allclose(found[key], expected, rtol=0, atol=2e-6)
    assert any(abs(found[key] - base[key]).max() > 1e-4 for key in base)
    alone = f"{home / BASE}+{files[0]}@1"
    assert same(theta(tinyzo.load(alone)), one)


def test_adamezo_is_scaled_by_its_rate(home, made):
    _, file = made("adamezo")
    alone = open_tuned(f"{home / BASE}+{file}")
    half = open_tuned(f"{home / BASE}+{file}@0.5")
    for whole, scaled in zip(alone.parts[0].steps(), half.parts[0].steps(), strict=True):
        *own, (seed, rate) = whole.step.terms
        assert scaled.step.terms == (*own, (seed, 0.5 * rate))


def test_sixteen_bit_weights_are_rounded_once(home, made):
    _, file = made("", "--dtype", "bf16")
    (taken,) = open_tuned(f"{home / BASE}+{file}@0.5").way(None)
    assert len(taken.step.terms) == len(read(file).terms)


NO_SUMS = [
    ("mezo", "", "decay takes from all"),
    ("sparse-mezo", "", "z is 0 where theta is large"),
    ("lozo", "", "windows are counted in steps"),
    ("", "zo-act", "its train is lora-act, and that of .* full"),
    ("p-rge", "p-rge --seed 9", "its seed is 9, and that of .* 3"),
    ("", "adamezo", "adamezo's terms are moments"),
    ("", "fzoo", "its z is rademacher"),
    ("zo-act", "zo-act --data-seed 7", "begin along other directions"),
]


@pytest.mark.parametrize(("one", "two", "why"), NO_SUMS)
def test_what_is_no_sum_is_refused(home, made, one, two, why):
    files = []
    for each in (one, two):
        name, *more = (
            each.split() if each.split()[:1] in [[n] for n in RUNS] else ("", *each.split())
        )
        files.append(made(name, *more)[1])
    with pytest.raises(RunError, match=f"is no part of a sum: .*{why}"):
        open_tuned(f"{home / BASE}+{files[0]}+{files[1]}")
    assert open_tuned(f"{home / BASE}+{files[0]}").way(None)


# -- names -------------------------------------------------------------------------------------


def test_paths_with_a_plus_are_themselves(home, made, tmp_path, monkeypatch):
    _, file = made("mezo")
    folder = shutil.copytree(home / BASE, tmp_path / "c++" / "a+b")
    plus = shutil.copy(file, tmp_path / "c++" / "one+two.tinyzo")
    odd = shutil.copy(file, tmp_path / "c++" / "any+name@2")
    for name in (plus, odd):
        assert split(f"{folder}+{name}") == (str(folder), [(Path(name), 1.0)])
        assert split(str(name)) == ("", [(Path(name), 1.0)])
    assert split(f"{folder}+{plus}@-0.5+{odd}") == (
        str(folder),
        [(Path(plus), -0.5), (Path(odd), 1.0)],
    )
    assert split(str(folder)) == (str(folder), [])
    (tmp_path / f"x+{file.name}").mkdir()
    assert split(str(tmp_path / f"x+{file.name}"))[1] == []
    monkeypatch.chdir(tmp_path / "c++")
    shutil.copy(file, "two.tinyzo")
    assert split("a+b+one+two.tinyzo@2") == ("a+b", [(Path("one+two.tinyzo"), 2.0)])
    assert split("one+two.tinyzo") == ("", [(Path("one+two.tinyzo"), 1.0)])
    assert split("no-such+model") == ("no-such+model", [])
    assert theta(tinyzo.load(f"{folder}+{plus}"))


def test_what_a_file_calls_its_base():
    assert base_name("roberta-tiny") == "roberta-tiny"
    assert base_name("facebook/opt-125m") == "facebook/opt-125m"
    assert base_name("/home/me/My models/opt-1.3b (v2)") == "opt-1.3b-v2"
    assert base_name("/") == base_name("/..") == "model"


def test_a_base_that_is_another_is_refused(home, made, tmp_path):
    run, file = made("mezo")
    sha = Run.open(run).about["base"][:12]
    for named in (f"{home / 'opt'}+{file}",):
        with pytest.raises(
            RunError, match=rf"needs its base \(roberta, SHA-256 {sha}\), and .*opt"
        ):
            tinyzo.load(named)
    with pytest.raises(RunError, match=rf"needs its base \(roberta, SHA-256 {sha}\), which is not"):
        tinyzo.load(file)
    with pytest.raises(UsageError, match="before the fine-tune"):
        tinyzo.load(f"{home / BASE}+{file}", base=home / BASE)
    with pytest.raises(UsageError, match="is a run"):
        tinyzo.load(f"{run}+{file}")
    with pytest.raises(RunError, match=r"missing.tinyzo: No such file"):
        tinyzo.load(f"{home / BASE}+{tmp_path / 'missing.tinyzo'}")
    with pytest.raises(UsageError, match="the run's dtype is auto"):
        tinyzo.load(f"{home / BASE}+{file}", dtype="bf16")
    with pytest.raises(UsageError, match="is a fine-tune"):
        tinyzo.finetune(tmp_path / "run", model=f"{home / BASE}+{file}")
    with pytest.raises(RunError, match="no step 2"):
        tinyzo.replay(f"{home / BASE}+{file}", tmp_path / "new", step=2)


# -- sharing that is refused -------------------------------------------------------------------


def test_what_cannot_be_shared_leaves_nothing(home, made, tmp_path, monkeypatch):
    run, file = made("mezo")
    before = file.read_bytes()
    with pytest.raises(RunError, match="there is something of that name"):
        tinyzo.share(run, file)
    with pytest.raises(RunError, match="there is something of that name"):
        tinyzo.share(run, "/dev/null")
    assert file.read_bytes() == before
    with pytest.raises(RunError, match="not a run"):
        tinyzo.share(home / BASE, tmp_path / "a.tinyzo")
    with pytest.raises(RunError, match="no step 99"):
        tinyzo.share(run, tmp_path / "a.tinyzo", step=99)
    (tmp_path / "a file").write_text("")
    with pytest.raises(RunError, match="Not a directory"):
        tinyzo.share(run, tmp_path / "a file" / "a.tinyzo")

    def full(file, partial, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tinyzo.system.put_in_place", full)
    with pytest.raises(RunError, match="No space left") as caught:
        tinyzo.share(run, tmp_path / "a.tinyzo")
    assert "make room on the disk, or name another --output; the file needs" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_run_by_gradients_has_no_terms(home, tmp_path):
    options = ("--method", "sgd", "--steps", "2")
    assert finetune(home / BASE, home / "data", tmp_path / "run", *options) == 0
    with pytest.raises(RunError, match="--method sgd steps by gradients"):
        tinyzo.share(tmp_path / "run", tmp_path / "a.tinyzo")


# -- files that are refused --------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    """A file with a right SHA-256 over what it says."""
    return data + hashlib.sha256(data).digest()


def with_head(data: bytes, **changes: object) -> bytes:
    """The same file with another head; a value of None takes a field out."""
    magic, version, size = START.unpack_from(data)
    rest = data[START.size + size : -DIGEST]
    head = json.loads(data[START.size : START.size + size]) | changes
    text = json.dumps({k: v for k, v in head.items() if v is not None}).encode()
    return sealed(START.pack(magic, version, len(text)) + text + rest)


def test_a_damaged_file_is_refused_at_every_byte(made):
    data = made("mezo")[1].read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        for damaged in (data[:place], bytes(flipped)):
            with pytest.raises(RunError):
                parse(damaged, Path("it"))


HEADS = [
    ({"base": None}, "its head has no base"),
    ({"more": 1}, "an unknown field 'more'"),
    ({"base": "../../etc"}, "base = '../../etc'"),
    ({"name": "../../etc/passwd"}, "name = "),
    ({"name": "."}, "name = "),
    ({"name": "a\x1b[2J"}, r"name = 'a\\x1b"),
    ({"family": "gpt"}, "family = 'gpt'"),
    ({"steps": [[1, 1 << 40]]}, "steps = "),
    ({"steps": [[1, (1 << 32) - 1]]}, "bytes follow its head"),
    ({"steps": [[2, 1]]}, "steps = "),
    ({"steps": [[1, 3], [3, 6]]}, "steps = "),
    ({"steps": [1, 6]}, "steps = "),
    ({"terms": 0}, "terms = 0"),
    ({"terms": 1 << 60}, "terms = "),
    ({"terms": True}, "terms = True"),
    ({"seeds": True}, "bytes follow its head"),
    ({"factors": -4}, "factors = -4"),
    ({"factors": 4}, "bytes follow its head"),
    ({"z": "rounding"}, "z = 'rounding'"),
    ({"z_format": 2}, "its z is of format 2"),
    ({"scores": {"dev": {"loss": float("inf")}}}, "scores = "),
    ({"scores": {"\x1b": {}}}, "scores = "),
    ({"scores": {"dev": [1]}}, "scores = "),
]


@pytest.mark.parametrize(("changes", "message"), HEADS)
def test_an_impossible_head_is_refused(made, changes, message):
    data = with_head(made("mezo")[1].read_bytes(), **changes)
    with pytest.raises(RunError, match=message):
        parse(data, Path("it"))


SETTINGS = [
    ({"data": "/etc/passwd"}, RunError, "it sets 'data'"),
    ({"queries": 2}, RunError, "1 gaussian terms a step, and its method has 2"),
    ({"direction": "rademacher"}, RunError, "and its method has 1 rademacher"),
    ({"method": "adam"}, RunError, "and its method has 0"),
    ({"queries": "two"}, UsageError, "expected int"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), SETTINGS)
def test_impossible_settings_are_refused(home, made, tmp_path, changes, kind, message):
    data = made("")[1].read_bytes()
    settings = read(made("")[1]).head["settings"] | changes
    (tmp_path / "a.tinyzo").write_bytes(with_head(data, settings=settings))
    with pytest.raises(kind, match=message):
        open_tuned(f"{home / BASE}+{tmp_path / 'a.tinyzo'}")


def test_impossible_numbers_and_other_files_are_refused(home, made, tmp_path, monkeypatch):
    contents = read(made("mezo")[1])
    for name, value in (("terms", np.nan), ("terms", -np.inf), ("terms", 1e39), ("decays", 1.5)):
        wrong = getattr(contents, name).copy()
        wrong[3] = value
        with pytest.raises(RunError, match="step 4 has decay"):
            pack(contents._replace(**{name: wrong}))
    with pytest.raises(RunError, match="factors are not finite"):
        pack(contents._replace(factors=np.array([np.inf], np.float32)))
    data = pack(contents)
    start, size = START.size, START.unpack_from(data)[2]
    for changed, message in (
        (b"something else", "not a fine-tune of tinyzo"),
        (data[:20], "it is truncated: it has 20 bytes"),
        (data[:8] + b"\x02" + data[9:], "it is of format 2"),
        (data + b"\0", "its SHA-256 is another"),
        (sealed(data[:10] + b"\xff" * 4 + data[14:-DIGEST]), "it claims a head of 4294967295"),
        (sealed(data[:start] + b"\xff" + data[start + 1 : -DIGEST]), "its JSON is malformed"),
        (sealed(data[:start] + b"[" * size + data[start + size : -DIGEST]), "malformed"),
    ):
        with pytest.raises((RunError, CheckpointError), match=message):
            parse(changed, Path("it"))
    monkeypatch.setattr(fine_tune_file, "MOST_BYTES", 100)
    with pytest.raises(RunError, match="it has more than 100 bytes"):
        read(made("mezo")[1])
    (tmp_path / "empty.tinyzo").write_bytes(b"")
    with pytest.raises(RunError, match="it is empty"):
        tinyzo.load(f"{home / BASE}+{tmp_path / 'empty.tinyzo'}")


def test_factors_that_do_not_fit_are_refused(home, made, tmp_path):
    contents = read(made("zo-act")[1])
    (tmp_path / "a.tinyzo").write_bytes(pack(contents._replace(factors=contents.factors[:-1])))
    with pytest.raises(RunError, match="numbers begin its adapters, which have"):
        tinyzo.load(f"{home / BASE}+{tmp_path / 'a.tinyzo'}")
