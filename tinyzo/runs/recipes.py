"""Recipes: settings by which a model has been tuned on a task, each with its source.

recipes.toml is the table of them. A recipe is called MODEL/TASK/METHOD, and MODEL/TASK is MeZO's.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tinyzo.errors import UsageError
from tinyzo.parsing import JsonObject, own_toml
from tinyzo.runs.settings import Settings
from tinyzo.runs.spelling import closest

FIRST = "mezo"  # the method of a name without one
# A choice of the user's, and what a recipe says that does not go with it.
INSTEAD = {"train_rows": "k_shot", "k_shot": "train_rows", "steps": "eval_every"}


class Recipe(NamedTuple):
    """name: MODEL/TASK/METHOD; source: where the settings are from; grid: what was tried there"""

    name: str
    settings: Settings
    source: str
    grid: str


def recipes() -> Iterator[Recipe]:
    """All recipes, in the order of the file."""
    table = own_toml("runs/recipes.toml")
    for row in table["recipes"]:
        kind = table["kinds"][row["of"]]
        for model in kind["models"]:
            for task in kind["tasks"]:
                name = f"{model}/{task}/{row['method']}"
                place = {"model": kind["hub"] + model, "task": task}
                settings = Settings.from_mapping(row["settings"] | place, name)
                yield Recipe(name, settings, row["source"], row["grid"])


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, in any case, and with or without hyphens.

    raises: UsageError for a name that no recipe has, with the nearest one that there is
    """
    known = {recipe.name: recipe for recipe in recipes()}
    by_plain = {_plain(full): full for full in known}
    for wanted in (name, f"{name}/{FIRST}"):
        if _plain(wanted) in by_plain:
            return known[by_plain[_plain(wanted)]]
    short = [full.removesuffix(f"/{FIRST}") for full in known]
    near = closest(name, [*short, *known])
    hint = "--recipe list names all of them"
    if near:
        hint = f"did you mean {near}? {hint}"
    raise UsageError(f"no recipe is called {name!r}", hint)


def with_recipe(name: str | None, given: Settings) -> Settings:
    """The choices of a user, and for the others those of a recipe, if one is named.

    raises: UsageError for a name that no recipe has
    """
    if name is None:
        return given
    chosen = given.given()
    settings = find_recipe(name).settings
    for choice, other in INSTEAD.items():
        if choice in chosen:
            settings = settings.replace(**{other: None})
    return settings.replace(**chosen)


def _plain(name: str) -> str:
    return name.lower().replace("-", "")


def listing() -> str:
    """The recipes as lines for people: by models and tasks, the settings of each method."""
    lines = ["MODEL/TASK/METHOD, one of each; without METHOD mezo. Options count before a recipe."]
    table = own_toml("runs/recipes.toml")
    for of, kind in table["kinds"].items():
        lines.append("\nmodels  " + " ".join(kind["models"]))
        lines.append("tasks   " + " ".join(kind["tasks"]))
        for row in table["recipes"]:
            if row["of"] == of:
                lines += _lines_of(row)
    return "\n".join(lines)


def _lines_of(row: JsonObject) -> list[str]:
    values = [f"{name}={value}" for name, value in row["settings"].items()]
    return [
        f"  {row['method']}: {' '.join(values)}",
        f"    {row['source']}; tried there: {row['grid']}",
    ]
