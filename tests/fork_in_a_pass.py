"""Fork while other threads compute and train: `python fork_in_a_pass.py FOLDER ENGINE`.

It prints how many children found the model as it was after some whole step.
"""

from __future__ import annotations

import sys
import threading
from itertools import count
from pathlib import Path

from sharing import in_a_child
from streams import streamed
from tiny import ENGINES, MODELS, raw_bytes

from tinyzo.engine import tiles
from tinyzo.models.model import Model

IDS = [[2, 3, 4, 5, 6, 7, 8]]
STEPS = 100
FORKS = 8


def seen(model: Model) -> str:
    return repr((model.logits(IDS)[0].tobytes(), sorted(raw_bytes(model.weights).items())))


def main(folder: Path, engine: str) -> None:
    tiles.TILE = 24
    shared, alone = (MODELS["opt"](engine=ENGINES[engine]) for _ in range(2))
    stored = streamed(MODELS["opt"](engine=ENGINES[engine]), folder / "w")
    states = {seen(alone)}
    for step in range(STEPS):
        alone.weights.add([(step, 1e-3)])
        states.add(seen(alone))
    expected, ended, begun = stored.logits(IDS)[0].tobytes(), threading.Event(), threading.Event()

    def train() -> None:
        for step in range(STEPS):
            shared.weights.add([(step, 1e-3)])
            begun.set()
            if ended.is_set():
                return

    def serve() -> None:
        for _ in count():
            stored.logits(IDS)
            shared.logits(IDS)
            if ended.is_set():
                return

    def is_sound() -> bool:
        return seen(shared) in states and stored.logits(IDS)[0].tobytes() == expected

    threads = [threading.Thread(target=work, daemon=True) for work in (train, serve, serve)]
    for thread in threads:
        thread.start()
    begun.wait()
    print(sum(in_a_child(is_sound) for _ in range(FORKS)))
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
