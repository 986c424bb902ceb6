"""Sums of fine-tunes of one base, and which there are none of.

    theta = base + sum_i weight_i (theta_i - base)

Theta is the base and a sum of terms, so the terms of all, each times its file's weight, added one
after another, are that sum, up to rounding. It is of the tensors that are trained: of LoRA's A and
B themselves, not of their products.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from tinyzo.errors import RunError
from tinyzo.runs.fine_tune import OF_START, FineTune, Part, read_part

# What else decides where the trained tensors begin, by `--train`.
ALSO_OF_START = {
    "lora": ("seed",),
    "lora-fa": ("seed",),
    "prefix": ("seed",),
    "label-words": ("task", "label_words"),
}


def open_sum(name: str, files: Sequence[tuple[Path, float]], base: str | None = None) -> FineTune:
    """The sum of some fine-tunes, each with its weight; one of weight 1 is that fine-tune.

    name: what messages call it
    base: as for FineTune
    raises: as `read_part` does; RunError for a sum that there is none of
    """
    parts = [read_part(path, weight) for path, weight in files]
    found = FineTune(Path(name), parts, base)
    if not found.is_sum:
        return FineTune(parts[0].path, parts, base)
    for part in parts:
        check_linear(part)
        check_alike(parts[0], part)
    return found


def check_linear(part: Part) -> None:
    """raises: RunError for steps that hang on what theta is, so that no terms make their sum"""
    if part.contents.decays.any():
        refuse(part, "its weight decay takes from all that is there, the others' terms too")
    if part.settings.direction == "magnitude":
        refuse(part, "its z is 0 where theta is large, which the others' terms change")
    if part.settings.direction == "low-rank":
        refuse(part, "its windows are counted in steps, with which the others' would mix")


def check_alike(first: Part, part: Part) -> None:
    """raises: RunError for two fine-tunes whose terms are not added to the same tensors"""
    one, s = first.contents, first.settings
    two, t = part.contents, part.settings
    pairs = {name: (one.head[name], two.head[name]) for name in ("base", "z")}
    for name in (*OF_START, *ALSO_OF_START.get(s.train, ())):
        pairs[name] = (getattr(s, name), getattr(t, name))
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            refuse(part, f"its {name} is {theirs!s:.12}, and that of {first.path} {ours!s:.12}")
    if not np.array_equal(one.factors, two.factors):
        refuse(part, f"its adapters begin along other directions than those of {first.path}")
    moments = [each.update == "adamezo" and each.window for each in (s, t)]
    if moments[0] != moments[1]:
        refuse(part, "adamezo's terms are moments, which go with those of its window alone")


def refuse(part: Part, why: str) -> NoReturn:
    raise RunError(f"{part.path} is no part of a sum: {why}", "apply it alone, with weight 1")
