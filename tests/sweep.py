"""A sweep of learning rates by processes: `python sweep.py fork|spawn ENGINE RESIDENCY FOLDER`.

The parent has tuned already, by the same engine, when the workers start. It prints how many
journals differ from each other, and whether the workers' are its own.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from functools import partial
from pathlib import Path

import tinyzo

RATES = (1e-3, 1e-4)


def journal(engine: str, residency: str, output: str, lr: float) -> str:
    folder = Path(output).parent
    run = tinyzo.finetune(
        f"{output}-{lr}", model=folder / "model", data=folder / "data", task="reviews",
        steps=4, batch_size=4, eval_every=2, lr=lr, engine=engine, residency=residency,
    )  # fmt: skip
    return hashlib.sha256(run.journal_path.read_bytes()).hexdigest()


def main(method: str, engine: str, residency: str, folder: str) -> None:
    tune = partial(journal, engine, residency)
    before = tune(f"{folder}/before", RATES[0])
    with multiprocessing.get_context(method).Pool(2) as pool:
        swept = pool.map(partial(tune, f"{folder}/swept"), RATES)
        pool.close()
        pool.join()
    after = [tune(f"{folder}/after", lr) for lr in RATES]
    print(len(set(after)), [before, after[1]] == swept == after)


if __name__ == "__main__":
    main(*sys.argv[1:])
