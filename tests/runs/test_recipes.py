"""Recipes: each is of a task that there is, resolves, and gives way to what the user chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import write_reviews

import tinyzo
from tinyzo.errors import UsageError
from tinyzo.runs.recipes import find_recipe, listing, recipes, with_recipe
from tinyzo.runs.settings import Settings

ALL = {recipe.name: recipe for recipe in recipes()}


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_is_one_that_a_run_can_have(name: str) -> None:
    recipe = ALL[name]
    family = name.partition("-")[0]
    settings = recipe.settings.replace(data=None if "topics" in name else "somewhere")
    found = settings.resolve(family)
    settings.check_used(found)
    assert (found.lr, found.eps) == (recipe.settings.lr or found.lr, found.eps)
    assert recipe.source and f"{found.lr:.0e}".replace("e-0", "e-") in recipe.grid
    assert found.steps % found.eval_every == 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("roberta-large/SST-2", (1e-6, 1e-3, 100_000, 64, 10_000)),
        ("roberta-base/TREC/lora", (1e-4, 1e-3, 100_000, 64, 10_000)),
        ("roberta-large/MNLI/prefix", (1e-2, 1e-1, 100_000, 64, 10_000)),
        ("roberta-large/RTE/adam", (1e-5, None, 1_000, 8, 100)),
        ("opt-125m/SQuAD", (1e-6, 1e-3, 20_000, 16, 4_000)),
        ("opt-6.7b/ReCoRD/lora", (1e-4, 1e-2, 20_000, 16, 4_000)),
        ("opt-1.3b/RTE/prefix", (1e-2, 1e-1, 20_000, 16, 4_000)),
        ("opt-2.7b/DROP/adam", (1e-5, None, 625, 8, 125)),
    ],
)
def test_published_values(name: str, values: tuple) -> None:
    """lr, eps, steps, batch and steps between evaluations of Malladi et al. 2023, and the rows."""
    found = find_recipe(name).settings
    assert (found.lr, found.eps, found.steps, found.batch_size, found.eval_every) == values
    assert (found.k_shot, found.train_rows) == ((16, None) if "ro" in name else (None, 1000))
    assert found.train == {"lora": "lora", "prefix": "prefix"}.get(name.rpartition("/")[2])


def test_each_model_has_each_task_by_each_method() -> None:
    methods = ["mezo", "lora", "prefix", "adam"]
    roberta = ["SST-2", "SST-5", "TREC", "SNLI", "MNLI", "RTE"]
    opt = [
        "SST-2",
        "RTE",
        "CB",
        "BoolQ",
        "WSC",
        "WIC",
        "MultiRC",
        "COPA",
        "ReCoRD",
        "SQuAD",
        "DROP",
    ]
    tasks = dict.fromkeys(("roberta-base", "roberta-large"), roberta)
    sizes = ["125m", "350m", "1.3b", "2.7b", "6.7b"]
    tasks |= dict.fromkeys((f"opt-{size}" for size in sizes), opt)
    wanted = {
        f"{model}/{task}/{way}" for model in tasks for task in tasks[model] for way in methods
    }
    assert ALL.keys() == wanted | {"roberta-tiny/topics/mezo", "opt-tiny/topics/mezo"}


def test_names_in_any_case_and_without_a_method() -> None:
    assert find_recipe("RoBERTa-large/sst2") == ALL["roberta-large/SST-2/mezo"]
    assert find_recipe("opt-6.7b/boolq/LoRA") == ALL["opt-6.7b/BoolQ/lora"]
    assert ALL["opt-6.7b/BoolQ/lora"].settings.model == "facebook/opt-6.7b"


def test_a_name_that_no_recipe_has() -> None:
    with pytest.raises(UsageError, match=r"did you mean roberta-large/SST-2\?"):
        find_recipe("roberta-lage/SST-2")
    with pytest.raises(UsageError, match="no recipe is called 'x'"):
        tinyzo.finetune(recipe="x")


def test_what_is_given_counts_before_a_recipe() -> None:
    name = "roberta-large/SST-2"
    recipe = ALL[f"{name}/mezo"].settings
    assert with_recipe(None, Settings(lr=1.0)) == Settings(lr=1.0)
    assert with_recipe(name, Settings()) == recipe
    found = with_recipe(name, Settings(lr=3e-7, model="here", train_rows=100, steps=50))
    expected = {"lr": 3e-7, "model": "here", "train_rows": 100, "steps": 50}
    assert found == recipe.replace(**expected, k_shot=None, eval_every=None)
    assert with_recipe("opt-125m/CB", Settings(k_shot=8)).train_rows is None


def test_a_run_by_a_recipe(tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "data")
    more = {"task": "reviews", "data": data, "steps": 2}
    run = tinyzo.finetune(tmp_path / "run", recipe="opt-tiny/topics", **more)
    assert (run.settings.lr, run.settings.task, run.settings.steps) == (3e-4, "reviews", 2)


def test_the_list_names_models_tasks_methods_and_sources() -> None:
    text = listing()
    for name in ("opt-2.7b", "ReCoRD", "prefix: ", "table 16", "lr=0.01"):
        assert name in text
