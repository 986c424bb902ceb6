"""Settings: defaults, contradictions, ranges, and TOML there and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tinyzo.dtypes import DTYPES
from tinyzo.engine.select import ENGINES
from tinyzo.errors import ConfigError, UsageError
from tinyzo.models.model import RESIDENCIES
from tinyzo.parsing import read_toml
from tinyzo.runs.settings import CHOICES, HELP, RANGES, SHIPPED, TINY, Settings, settings_from
from tinyzo.zo.estimators import ESTIMATORS
from tinyzo.zo.methods import METHODS, PLAIN
from tinyzo.zo.updates import SCHEDULES

OWN = {"template": "{text} <mask>", "label_words": ["bad", "good"], "data": "rows.jsonl"}


def test_the_shipped_model_has_its_own_defaults():
    settings = Settings().complete("roberta")
    assert (settings.task, settings.data_path) == ("topics", SHIPPED / "reviews")
    assert settings.model_path == SHIPPED / "roberta-tiny"
    assert {name: getattr(settings, name) for name in TINY} == TINY
    assert settings.data_seed == 42


@pytest.mark.parametrize(("family", "batch", "data_seed"), [("roberta", 64, 42), ("opt", 16, 0)])
def test_another_model_has_the_papers_defaults(tmp_path, family, batch, data_seed):
    settings = Settings(model=str(tmp_path)).complete(family)
    assert (settings.lr, settings.eps, settings.steps) == (1e-6, 1e-3, 10_000)
    assert (settings.batch_size, settings.eval_every) == (batch, 1000)
    assert settings.data_seed == data_seed


def test_what_is_given_is_kept_and_completing_twice_changes_nothing(tmp_path):
    given = {"lr": 0.5, "steps": 3, "batch_size": 2, "data_seed": 0, "eval_every": 9}
    settings = Settings(model=str(tmp_path), **given).complete("roberta")
    assert {name: getattr(settings, name) for name in given} == given
    assert settings.complete("roberta") == settings


def test_a_shipped_model_is_known_by_its_path_too():
    settings = Settings(model=str(SHIPPED / "roberta-tiny")).complete("roberta")
    assert settings.is_shipped_model
    assert (settings.lr, settings.steps) == (TINY["lr"], TINY["steps"])


def test_a_folder_comes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "roberta-tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not Settings().is_shipped_model
    assert Settings().model_path == Path("roberta-tiny")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "SST-2"}, "--task SST-2 without --data"),
        ({**OWN, "data": None}, "--template without --data"),
        ({**OWN, "label_words": None}, "needs --template and --label-words"),
        ({**OWN, "template": None}, "needs --template and --label-words"),
        ({**OWN, "label_words": []}, "needs --template and --label-words"),
        ({**OWN, "task": "SST-2"}, "--task SST-2 and --template"),
        ({"data": "folder"}, "--data without --task or --template"),
    ],
)
def test_contradictions(given, message):
    with pytest.raises(UsageError, match=message) as error:
        Settings(**given).complete("roberta")
    assert error.value.hint and error.value.exit_code == 2


@pytest.mark.parametrize("given", [{"task": "SST-2"}, {**OWN, "data": None}])
def test_without_rows_to_read_no_data_are_needed(given):
    assert Settings(**given).complete("roberta", needs_data=False).data is None


@pytest.mark.parametrize("name", RANGES)
def test_numbers_out_of_range(name):
    least, most = RANGES[name]
    for value in (least - 1, most * 2, float("nan")):
        with pytest.raises(UsageError, match=rf"{name} = .*\n  hint: {name} is from {least} to"):
            Settings(**{name: value}).complete("roberta")
    for value in (least, most):
        Settings(**{name: value}).complete("roberta")


@pytest.mark.parametrize(
    "text", ["plain", "", "größer 一 😀", 'a " and \\ back\\slash', "tab\tend\r\n", "\x00\x1f\x7f"]
)
def test_toml_there_and_back(tmp_path, text):
    settings = Settings(
        data=text, template=text, label_words=[text, "b"], lr=1e-7, eps=3.0, steps=5
    )
    (tmp_path / "run.toml").write_text(settings.to_toml(), "utf-8")
    assert settings_from(read_toml(tmp_path / "run.toml"), "run.toml") == settings


def test_a_path_that_is_not_utf8_is_refused():
    with pytest.raises(UsageError, match="not UTF-8"):
        Settings(model="\udcff").complete("roberta")


def test_dashes_integers_paths_tuples_and_none():
    settings = settings_from(
        {"batch-size": 3, "lr": 1, "model": Path("m"), "label-words": ("a", "b"), "data": None}, ""
    )
    assert settings == Settings(batch_size=3, lr=1.0, model="m", label_words=["a", "b"])
    assert type(settings.lr) is float


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("steps", "5", "int"),
        ("steps", 5.0, "int"),
        ("steps", True, "int"),
        ("lr", "1e-6", "float"),
        ("lr", True, "float"),
        ("lr", 10**400, "float"),
        ("model", 3, "str"),
        ("label_words", "terrible,great", r"list\[str\]"),
        ("label_words", [1, 2], r"list\[str\]"),
        ("task", {"a": 1}, "str"),
    ],
)
def test_values_of_another_type(name, value, kind):
    with pytest.raises(UsageError, match=f"c.toml: {name} = .*\n  hint: expected {kind}"):
        settings_from({name: value}, "c.toml")


def test_every_setting_has_a_type_that_is_checked():
    for field in dataclasses.fields(Settings):
        with pytest.raises(UsageError):
            settings_from({field.name: object()}, "here")


def test_the_choices_of_the_table_are_what_is_built():
    built = {"engine": ENGINES, "residency": RESIDENCIES, "dtype": ("auto", *DTYPES),
             "estimator": tuple(ESTIMATORS), "schedule": tuple(SCHEDULES)}  # fmt: skip
    assert {name: CHOICES[name] for name in built} == built
    for values in (PLAIN, *METHODS.values(), vars(Settings())):
        named = {name: values[name] for name in values.keys() & CHOICES.keys()}
        assert all(value is None or value in CHOICES[name] for name, value in named.items())


def test_every_setting_is_an_attribute_and_says_what_it_is():
    for field in dataclasses.fields(Settings):
        assert getattr(Settings, field.name) == field.default
        assert f"{field.name}: {HELP[field.name]}\n" in Settings.__doc__


def test_a_name_that_is_no_setting():
    with pytest.raises(UsageError, match=r"c.toml: no setting is called 'learning_rate'"):
        settings_from({"learning-rate": 1e-3}, "c.toml")


@pytest.mark.parametrize("content", [b"lr = ", b"lr 1", b"\xff", b"a = 1\na = 2"])
def test_toml_that_cannot_be_read(tmp_path, content):
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c.toml: "):
        read_toml(tmp_path / "c.toml")


def test_toml_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*c.toml"):
        read_toml(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match=r"Is a directory"):
        read_toml(tmp_path)
