"""Methods by name: each an estimator, a direction, an update and what is trained.

    estimator   two-sided, one-sided, leave-one-out, forward         estimators.py
    direction   z: gaussian or rademacher everywhere; gaussian of low rank in matrices, or only
                where weights are small
    update      sgd, sign, momentum, adam                            updates.py
    train       full, lora, lora-fa, prefix, names                   models/trainable.py

All combine in one step, but for what is refused: both tables are in methods.toml.
"""

from pathlib import Path
from typing import Any

from tinyzo.errors import UsageError
from tinyzo.parsing import read_toml

FIRST_ORDER = ("adam", "sgd")  # by backpropagation, to compare with

TABLE = read_toml(Path(__file__).with_suffix(".toml"))
METHODS: dict[str, dict[str, Any]] = TABLE["methods"]
PLAIN: dict[str, Any] = TABLE["plain"]


def check_combination(settings: Any) -> None:
    """raises: UsageError for what does not go together, with the reason"""

    def holds(row: dict[str, Any], key: str) -> list[bool]:
        return [(getattr(settings, name) or 0) in these for name, these in row.get(key, {}).items()]

    for row in TABLE["refused"]:
        name, value = row["setting"], getattr(settings, row["setting"])
        clashes = any(holds(row, "with")) or not all(holds(row, "unless"))
        if value in row["values"] and clashes:
            raise UsageError(f"--{name} {value} with the other settings", row["why"])
