"""Every choice of a run, with its default; written to run.toml and read back from it.

Which there are, of what type, from where to where, and what they say of themselves, is a table,
settings.toml: the fields of Settings are made from it. What a method sets is in zo/methods.toml.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyzo.errors import UsageError, check_choice
from tinyzo.parsing import read_toml
from tinyzo.zo.methods import METHODS, PLAIN, check_combination

# The models and the data that ship: installed beside the package's code, or in the checkout.
HERE = Path(__file__).resolve().parents[1]
SHIPPED = next((p for p in (HERE / "weights", HERE.parent / "weights") if p.is_dir()), HERE)

SHIPPED_TASKS = ("topics", "reviews")  # two columns of weights/reviews; the first by default

ROWS, PAPERS, FAMILY, TINY, CASES, RATES = read_toml(Path(__file__).with_suffix(".toml")).values()
FIELDS = {name: row["type"].removesuffix(" | None") for name, row in ROWS.items()}
HELP = {name: row["help"] for name, row in ROWS.items()}
RANGES = {name: row["range"] for name, row in ROWS.items() if "range" in row}
CHOICES = {name: tuple(row["choices"]) for name, row in ROWS.items() if "choices" in row}
CHOICES["method"] = tuple(METHODS)


class BaseSettings:
    """What Settings does with its fields, those of settings.toml."""

    @property
    def model_path(self) -> Path:
        here, shipped = Path(self.model), SHIPPED / self.model
        return here if here.is_dir() or not shipped.is_dir() else shipped

    @property
    def is_shipped_model(self) -> bool:
        return self.model_path.resolve().parent == SHIPPED

    @property
    def data_path(self) -> Path:
        return Path(self.data) if self.data else SHIPPED / "reviews"

    @property
    def is_custom(self) -> bool:
        """Whether the task is one's own."""
        return self.template is not None or self.label_words is not None

    @property
    def is_plain(self) -> bool:
        """Whether a step is MeZO's own, mezo.py."""
        return self.clip is None and all(getattr(self, name) == PLAIN[name] for name in PLAIN)

    def complete(self, family: str, needs_data: bool = True) -> "Settings":
        """The settings with every None that has a default for this family of models filled in.

        needs_data: whether rows will be read, so that a task without its files is a mistake

        raises: UsageError for settings that contradict each other or are out of range
        """
        self.check_task(needs_data)
        filled = {k: v for k, v in self.defaults(family).items() if getattr(self, k) is None}
        settings = dataclasses.replace(self, **filled)
        settings.check()
        check_combination(settings)
        return settings

    def defaults(self, family: str) -> dict[str, Any]:
        """What is filled in, from the general to the particular."""
        check_choice("method", self.method, CHOICES["method"])
        found = PAPERS | FAMILY[family] | PLAIN | METHODS[self.method]
        found |= TINY if self.is_shipped_model else {}
        found |= {name: value for name, value in vars(self).items() if value is not None}
        for name, cases in CASES.items():
            found |= cases.get(found[name], {})
        scale = RATES.get(self.method, 1) * RATES.get(found["train"], 1)
        found["lr"] = float(f"{found['lr'] * scale:.4g}")
        task = None if self.is_custom else SHIPPED_TASKS[0]
        return {"eval_every": max(1, found["steps"] // 10), "task": task} | found

    def check_task(self, needs_data: bool) -> None:
        """raises: UsageError for a task that is not said, said twice, or without its rows"""
        if (custom := self.is_custom) and not (self.template and self.label_words):
            raise UsageError("a task of your own needs --template and --label-words", "give both")
        if self.task and custom:
            raise UsageError(f"--task {self.task} and --template", "give one of them")
        if self.data and not (self.task or custom):
            raise UsageError("--data without --task or --template", "say what the rows are")
        shipped = not custom and (self.task or SHIPPED_TASKS[0]).lower() in SHIPPED_TASKS
        what = "--template" if custom else f"--task {self.task}"
        if needs_data and not self.data and not shipped:
            raise UsageError(f"{what} without --data", "name the folder or file of its rows")

    def check(self) -> None:
        """raises: UsageError for a number out of range, or text that run.toml cannot hold"""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} = {value}", f"{name} is from {least} to {most}")
        try:
            self.to_toml().encode()
        except UnicodeEncodeError:
            raise UsageError("a path or text that is not UTF-8", "rename the folder") from None

    def to_toml(self) -> str:
        """The settings that have a value, a line each."""
        items = ((k, v) for k, v in dataclasses.asdict(self).items() if v is not None)
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in items)
        return "".join(lines).replace("\x7f", "\\u007f")  # JSON leaves it, TOML does not


ABOUT = "The settings of a run; None: `complete` fills it in.\n\n" + "".join(
    f"{name}: {what}\n" for name, what in HELP.items())  # fmt: skip
Settings = dataclasses.make_dataclass(
    "Settings", [(name, row["type"], row.get("default")) for name, row in ROWS.items()],
    bases=(BaseSettings,), frozen=True, namespace={"__module__": __name__, "__doc__": ABOUT},
)  # fmt: skip


def parse_bytes(text: str) -> int:
    """A size such as 400MB, 1.5G or 256MiB.

    raises: UsageError for another text
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)(i?)B?", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"memory_budget = {text!r}", "a size such as 400MB or 1.5GB")
    power = " KMG".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def settings_from(values: Mapping[str, Any], where: str) -> Settings:
    """Settings from a dictionary such as a TOML file gives; `-` in a name counts as `_`.

    raises: UsageError for a name that is no setting, or a value of another type
    """
    given: dict[str, Any] = {}
    for name, value in values.items():
        name = name.replace("-", "_")
        if name not in FIELDS:
            raise UsageError(f"{where}: no setting is called {name!r}", "see tinyzo finetune -h")
        if value is not None:
            given[name] = _typed(FIELDS[name], value)
            if given[name] is None:
                raise UsageError(f"{where}: {name} = {value!r}", f"expected {FIELDS[name]}")
    return Settings(**given)


def _typed(kind: str, value: Any) -> Any:
    """The value if it is of the kind, or can stand for it without loss; else None."""
    if kind == "str" and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind == "float" and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if kind == "list[str]" and isinstance(value, (list, tuple)):
        return list(value) if all(isinstance(v, str) for v in value) else None
    return value if type(value).__name__ == kind else None
