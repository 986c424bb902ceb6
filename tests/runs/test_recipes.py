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


def test_published_values() -> None:
    """Of Malladi et al. 2023, as docs and issues cite them most."""
    large = find_recipe("roberta-large/SST-2").settings
    assert (large.lr, large.eps, large.steps, large.batch_size) == (1e-6, 1e-3, 100_000, 64)
    assert large.k_shot == 16
    prefix = find_recipe("opt-1.3b/RTE/prefix").settings
    assert (prefix.lr, prefix.eps, prefix.steps, prefix.train) == (1e-2, 1e-1, 20_000, "prefix")


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
