"""What is a table of a family of models, families.toml, as the classes that read a checkpoint."""

import dataclasses
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tinyzo.checkpoints.directory import Layout
from tinyzo.parsing import read_toml

TABLE = read_toml(Path(__file__).with_suffix(".toml"))


def family(name: str, derived: type) -> tuple[type, dict[str, list], Layout]:
    """Its Config, a dataclass of the fields with `derived` as its base; the values that are built
    of those that have a list; and how its tensors are named."""
    fields = TABLE[name]["fields"]
    allowed = {field: value for field, value in fields.items() if isinstance(value, list)}
    defaults = fields | {field: values[0] for field, values in allowed.items()}
    rows = [(f, Any, None if value == "none" else value) for f, value in defaults.items()]
    config = dataclasses.make_dataclass("Config", rows, bases=(derived,), frozen=True)
    config.__module__ = derived.__module__
    return config, allowed, Layout(**TABLE[name]["layout"])


def family_shapes(name: str, config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter's name and shape."""
    for part, times in (("before", 1), ("layer", config.num_hidden_layers), ("after", 1)):
        for i, (row, axes) in product(range(times), TABLE[name][part].items()):
            shape = tuple(getattr(config, axis) for axis in axes)
            if row.endswith((".weight", ".bias")):
                yield row, shape
            else:
                yield f"{row.format(i=i)}.weight", shape
                yield f"{row.format(i=i)}.bias", shape[:1]
