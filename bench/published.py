"""Figures that others have published: accuracy, or F1, in percent."""

from __future__ import annotations

# Malladi et al. 2023, table 18: RoBERTa-large; (rows per label, row) -> task -> mean of five seeds.
ROBERTA_TASKS = ("SST-2", "SST-5", "SNLI", "MNLI", "RTE", "TREC")
ROBERTA_LARGE: dict[tuple[int, str], tuple[float, ...]] = {
    (0, "zero-shot"): (79.0, 35.5, 50.2, 48.8, 51.4, 32.0),
    (16, "linear probe"): (76.0, 40.3, 66.0, 56.5, 59.4, 51.3),
    (16, "MeZO"): (90.5, 45.5, 68.5, 58.7, 64.0, 76.9),
    (16, "MeZO, LoRA"): (91.4, 43.0, 69.7, 64.0, 64.9, 73.1),
    (16, "MeZO, prefix"): (90.8, 45.8, 71.6, 63.4, 65.4, 80.3),
    (16, "first order"): (91.9, 47.5, 77.5, 70.0, 66.4, 85.0),
    (512, "MeZO"): (93.3, 53.2, 83.0, 78.3, 78.6, 94.3),
    (512, "first order"): (93.9, 55.9, 88.7, 84.4, 82.7, 97.3),
}

# The same, table 1: OPT-13B with 1,000 rows; SQuAD and DROP are F1.
OPT_TASKS = (
    "SST-2", "RTE", "CB", "BoolQ", "WSC", "WIC", "MultiRC", "COPA", "ReCoRD", "SQuAD", "DROP",
)  # fmt: skip
OPT_13B: dict[str, tuple[float, ...]] = {
    "zero-shot": (58.8, 59.6, 46.4, 59.0, 38.5, 55.0, 46.9, 80.0, 81.2, 46.2, 14.6),
    "MeZO": (91.4, 66.1, 67.9, 67.6, 63.5, 61.1, 60.1, 88.0, 81.7, 84.7, 30.9),
}
ALIASES = {"SST2": "SST-2", "WiC": "WIC"}


def published(model: str, task: str, k_shot: int | None, row: str) -> float | None:
    """What RoBERTa-large or OPT-13B, as the model is of its family, has in that row; else None."""
    name = ALIASES.get(task, task)
    if model.lower().startswith("opt"):
        if k_shot and row != "zero-shot":
            return None  # theirs have 1,000 rows
        known = dict(zip(OPT_TASKS, OPT_13B.get(row, ()), strict=False))
    else:
        rows = 0 if row == "zero-shot" else k_shot or -1
        known = dict(zip(ROBERTA_TASKS, ROBERTA_LARGE.get((rows, row), ()), strict=False))
    return known.get(name)
