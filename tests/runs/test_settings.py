"""Settings: defaults, contradictions, ranges, and TOML there and back."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path

import pytest

import tinyzo
from tinyzo.errors import ConfigError, UsageError
from tinyzo.parsing import read_toml
from tinyzo.runs import defaults
from tinyzo.runs.settings import CHOICES, FIELDS, RANGES, SHIPPED, RunSettings, Settings, kinds
from tinyzo.zo.methods import METHODS

OWN = {"template": "{text} <mask>", "label_words": ["bad", "good"], "data": "rows.jsonl"}


def test_the_shipped_model_has_its_own_defaults():
    settings = Settings().resolve("roberta")
    assert (settings.task, settings.data_path) == ("topics", SHIPPED / "reviews")
    assert settings.model_path == SHIPPED / "roberta-tiny"
    assert {name: getattr(settings, name) for name in defaults.SHIPPED} == defaults.SHIPPED
    assert settings.data_seed == 42


@pytest.mark.parametrize(("family", "batch", "data_seed"), [("roberta", 64, 42), ("opt", 16, 0)])
def test_another_model_has_the_papers_defaults(tmp_path, family, batch, data_seed):
    settings = Settings(model=str(tmp_path)).resolve(family)
    assert (settings.lr, settings.eps, settings.steps) == (1e-6, 1e-3, 10_000)
    assert (settings.batch_size, settings.eval_every) == (batch, 1000)
    assert settings.data_seed == data_seed


def test_what_is_given_is_kept_and_resolving_twice_changes_nothing(tmp_path):
    given = {"lr": 0.5, "steps": 3, "batch_size": 2, "data_seed": 0, "eval_every": 9}
    settings = Settings(model=str(tmp_path), **given).resolve("roberta")
    assert {name: getattr(settings, name) for name in given} == given
    assert Settings(**vars(settings)).resolve("roberta") == settings


def test_a_shipped_model_is_known_by_its_path_too():
    settings = Settings(model=str(SHIPPED / "roberta-tiny")).resolve("roberta")
    assert settings.is_shipped_model
    assert (settings.lr, settings.steps) == (defaults.SHIPPED["lr"], defaults.SHIPPED["steps"])


def test_a_path_that_the_system_does_not_take(tmp_path):
    assert not Settings(model="x" * 5000).resolve("roberta").is_shipped_model
    (tmp_path / "link").symlink_to(tmp_path / "link")
    assert not Settings(model=str(tmp_path / "link")).resolve("roberta").is_shipped_model


def test_a_folder_comes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "roberta-tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Settings().model_path == Path("roberta-tiny")
    assert not Settings().resolve("roberta").is_shipped_model


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
        Settings(**given).resolve("roberta")
    assert error.value.hint and error.value.exit_code == 2


@pytest.mark.parametrize("given", [{"task": "SST-2"}, {**OWN, "data": None}])
def test_without_rows_to_read_no_data_are_needed(given):
    assert Settings(**given).resolve("roberta", needs_data=False).data is None


@pytest.mark.parametrize("name", RANGES)
def test_numbers_out_of_range(name):
    least, most = RANGES[name]
    for value in (least - 1, most * 2, float("nan")):
        with pytest.raises(UsageError, match=rf"{name} = .*\n  hint: {name} is from {least} to"):
            Settings(**{name: value}).resolve("roberta")
    rate = {} if name == "lr" else {"lr": 0.0}  # at which any weight decay will do
    for value in (least, most):
        Settings(**{name: value}, **rate).resolve("roberta")


@pytest.mark.parametrize(
    "text", ["plain", "größer 一 😀", 'a " and \\ back\\slash', "tab\tend\r\n", "\x00\x1f\x7f"]
)
def test_toml_there_and_back(tmp_path, text):
    settings = Settings(task="topics", lr=1e-7, eps=3.0, steps=5).resolve("roberta")
    settings = settings.replace(data=text.replace("\0", ""), template=text, label_words=[text, "b"])
    (tmp_path / "run.toml").write_text(settings.to_toml(), "utf-8")
    there = Settings.from_mapping(read_toml(tmp_path / "run.toml"), "run.toml")
    assert there.given() == {n: v for n, v in vars(settings).items() if v is not None}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("model", {"model": "\udcff"}),
        ("label_words", {**OWN, "label_words": ["a", "\udcff"]}),
        ("train", {"train": "\udcff"}),
    ],
)
def test_text_that_is_not_utf8_is_refused_by_name(name, given):
    with pytest.raises(UsageError, match=rf"{name} = .*\\udcff'\]? is not UTF-8\n  hint: it is wr"):
        Settings(**given).resolve("roberta")


@pytest.mark.parametrize("name", [name for name, kind in FIELDS.items() if kind is str])
def test_a_text_that_is_empty_is_refused(name):
    with pytest.raises(UsageError, match=f"c.toml: {name} is empty\n  hint: give it a value, or"):
        Settings.from_mapping({name: ""}, "c.toml")


def test_the_home_folder_is_where_a_path_may_begin(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    given = {"model": "~/m", "data": Path("~/d"), "train": "~/t"}
    found = Settings.from_mapping(given, "")
    assert (found.model, found.data, found.train) == ("/home/me/m", "/home/me/d", "~/t")


def test_a_decay_that_takes_more_than_all_is_refused():
    with pytest.raises(UsageError, match=r"lr = 0.1 and weight_decay = 11\n  hint: .*at most 1"):
        Settings(lr=0.1, weight_decay=11.0).resolve("roberta")
    Settings(lr=0.1, weight_decay=10.0).resolve("roberta")


@pytest.mark.parametrize("size", ["much", "9" * 400 + "GB", "1e9", "-1"])
def test_a_budget_that_is_no_size_is_refused_before_anything_is_opened(size):
    with pytest.raises(UsageError, match=r"memory_budget = .*\n  hint: a size such as 400MB"):
        Settings(memory_budget=size).resolve("roberta")


@pytest.mark.parametrize(
    ("given", "need"),
    [
        ({"lora_rank": 4}, "--train lora"),
        ({"train": "bias", "lora_alpha": 4.0}, "--train lora"),
        ({"method": "p-rge", "train": "full", "lora_targets": ["query"]}, "--train lora"),
        ({"window": 5}, "--update momentum, rms or adamezo, or --direction low-rank"),
        ({"task": "topics", "label_field": "mood"}, "a task of your own"),
        ({"k_shot": 5, "train_rows": 5}, "not with --k-shot"),
    ],
)
def test_a_choice_that_counts_for_nothing_is_refused(given, need):
    *_, name = given
    settings = Settings(**given)
    with pytest.raises(UsageError, match=rf"{name} counts for nothing here\n  hint: .*{need}"):
        settings.check_used(settings.resolve("roberta"))


@pytest.mark.parametrize(
    "given",
    [
        {"method": "p-rge", "lora_rank": 4, "lora_alpha": 2.0, "lora_targets": ["query"]},
        {"method": "lozo", "window": 5},
        {"update": "momentum", "window": 5},
        {"update": "rms", "window": 5},
        {**OWN, "label_field": "mood"},
        {"train_rows": 5},
    ],
)
def test_a_choice_that_counts_is_not(given):
    settings = Settings(**given)
    settings.check_used(settings.resolve("roberta"))


def test_dashes_integers_paths_tuples_and_none():
    settings = Settings.from_mapping(
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
        Settings.from_mapping({name: value}, "c.toml")


def test_every_setting_has_a_type_that_is_checked():
    for field in dataclasses.fields(Settings):
        with pytest.raises(UsageError):
            Settings.from_mapping({field.name: object()}, "here")


def test_both_kinds_of_settings_have_the_same_fields_in_one_order():
    assert kinds(RunSettings) == FIELDS
    assert list(kinds(RunSettings)) == list(FIELDS)
    assert all(field.default is None for field in dataclasses.fields(Settings))


def test_the_function_takes_every_setting():
    signature = inspect.signature(tinyzo.finetune)
    others = ("output", "resume", "recipe", "share")
    own = {n: p for n, p in signature.parameters.items() if n not in others}
    assert list(own) == list(FIELDS)
    hints = typing.get_type_hints(tinyzo.finetune)
    for name in FIELDS.keys() - {"model", "data"}:  # these two may be a Path as well
        assert hints[name] == typing.get_type_hints(Settings)[name]
    with pytest.raises(TypeError, match="stepz"):
        tinyzo.finetune(stepz=3)


def named(name: str, family: str) -> RunSettings:
    return Settings(method=name).resolve(family)


@pytest.mark.parametrize("family", ["roberta", "opt"])
@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if not method.gradient])
def test_a_methods_parts_chosen_one_by_one_are_the_method(name, family):
    """Rates too: they belong to the parts, not to a name."""
    method, found = METHODS[name], named(name, family)
    parts = {part: getattr(method, part) for part in defaults.PARTS}
    assert Settings(**parts).resolve(family) == found.replace(method="mezo")


@pytest.mark.parametrize(
    ("parts", "factor"),
    [
        ({}, 1),
        ({"estimator": "one-sided", "queries": 2}, 30),
        ({"direction": "low-rank"}, 0.1),
        ({"update": "adamezo"}, 0.1),
        ({"train": "lora"}, 100),
        ({"train": "prefix", "update": "momentum"}, 300),
        ({"method": "fzoo", "train": "label-words"}, 30),
        ({"method": "fzoo", "train": "lora"}, 150),
        ({"update": "rms"}, 6),
        ({"update": "rms", "train": "lora-fa"}, 30),
        ({"update": "adamezo", "train": "prefix"}, 3),
    ],
)
def test_factors_of_the_learning_rate_multiply(tmp_path, parts, factor):
    for model, lr in ((None, 5e-5), (str(tmp_path), 1e-6)):
        settings = Settings(model=model, **parts).resolve("roberta")
        assert settings.lr == pytest.approx(lr * factor, rel=1e-3)
        assert Settings(model=model, lr=0.5, **parts).resolve("roberta").lr == 0.5


def test_choices_that_are_not_built_are_refused():
    for name, known in CHOICES.items():
        with pytest.raises(ConfigError, match=rf"{name} 'nothing' is not built\n.*{known[0]}"):
            Settings(**{name: "nothing"}).resolve("roberta")


def test_a_name_that_is_no_setting():
    hint = "see tinyzo finetune -h"
    with pytest.raises(
        UsageError, match=rf"c.toml: no setting is called 'learning_rate'\n.*{hint}"
    ):
        Settings.from_mapping({"learning-rate": 1e-3}, "c.toml")
    with pytest.raises(UsageError, match=r"'batchsize'\n  hint: did you mean batch_size\?"):
        Settings.from_mapping({"batchsize": 3}, "c.toml")
