"""`share`: what a run's step is over its base, as one small file."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyzo import __version__
from tinyzo.errors import RunError
from tinyzo.parsing import JsonObject
from tinyzo.runs.fine_tune import KEPT, base_name, kind_of_z, seeds_of, zeroth_order
from tinyzo.runs.fine_tune_file import SCORES, Contents, pack, stretches
from tinyzo.runs.run import Run
from tinyzo.runs.start import LED, factors_of
from tinyzo.system import os_errors, write_file

OTHER_OUTPUT = "name another --output"


def share(run: Run, output: Path, step: int | None = None) -> Path:
    """Write a fine-tune as one file; of an unfinished run what it has so far.

    step:    after so many steps; None: the best on dev
    returns: the file
    raises: RunError for a method without terms, a step that the run has not, or an output that is
        there already or cannot be written
    """
    if os.path.lexists(output):
        raise RunError(f"{output}: there is something of that name", OTHER_OUTPUT)
    data = pack(contents_of(run, run.best_step() if step is None else step))
    with os_errors(RunError, output, OTHER_OUTPUT, f"or {OTHER_OUTPUT}", len(data)):
        write_file(output, data)
    return output


def contents_of(run: Run, step: int) -> Contents:
    """All that belongs to the weights after a step: of a run that went back, the way there."""
    method = zeroth_order(run.settings)
    way = run.way(step)
    numbers = [number for number, _ in way]
    terms = np.array([taken.terms for _, taken in way], object)
    terms = terms.reshape(-1, method.journal_shape.terms, 2)
    seeds = terms[..., 0].astype(np.uint64)
    is_by_rule = np.array_equal(seeds, seeds_of(numbers, method))
    return Contents(
        head=head_of(run, step, numbers),
        factors=start_of(run),
        decays=np.array([taken.decay for _, taken in way], np.float64),
        seeds=None if is_by_rule else seeds,
        terms=terms[..., 1].astype(np.float64),
    )


def start_of(run: Run) -> np.ndarray:
    """What no seed makes of the adapters that the run began with, one after another."""
    if run.settings.train not in LED:
        return np.zeros(0, np.float32)
    return np.concatenate([half.ravel() for half in factors_of(run.base_model().weights)])


def head_of(run: Run, step: int, numbers: Sequence[int]) -> JsonObject:
    """What names the base, the task and the method, and says of the run what others may know."""
    s = run.settings
    kept = {name: getattr(s, name) for name in KEPT}
    return {
        "tinyzo": __version__,
        "name": base_name(s.model),
        **{name: run.about[name] for name in ("family", "base", "data")},
        "data_ships": s.data is None,
        "settings": {name: value for name, value in kept.items() if value is not None},
        "scores": scores_of(run, step),
        "z": kind_of_z(s),
        "steps": stretches(numbers),
    }


def scores_of(run: Run, step: int) -> JsonObject:
    """What the run said of the step, and of the model as it came: an evaluation by its name."""
    test = run.evaluations("test")
    found = {
        "dev": run.evaluations("dev").get(step),
        "test": test.get(step),
        "test_zero_shot": test.get(0),
    }
    return {
        name: {score: value for score, value in event.items() if score in SCORES}
        for name, event in found.items()
        if event
    }
