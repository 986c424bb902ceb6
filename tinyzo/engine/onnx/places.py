"""Where the weights lie that a session reads, and which of them it can read there.

    trained tensors    NumPy's own memory: a fold is seen by the next pass
    all others         there too if they are resident, else pages of their file, mapped: these are
                       no memory of the process's own, and the system takes them back when it must

Groups of integers are read in the file alone, which has codes and scales apart as MatMulNBits reads
them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyzo.checkpoints.groups import is_grouped, type_tag
from tinyzo.engine.protocols import Store
from tinyzo.engine.stores.grouped import FileOfGroups, Quantised
from tinyzo.engine.stores.overlay import Overlay
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.weights import Parameters
from tinyzo.errors import ConfigError, TinyzoError, UsageError

RESIDENT, STREAMED = "resident", "streamed"


class RawGroups(NamedTuple):
    """codes: u8[R, G, 32 or 64]; scales: f16[R, G]."""

    codes: np.ndarray
    scales: np.ndarray


def in_place(weights: Parameters, name: str) -> np.ndarray | RawGroups:
    """A tensor as it is now, without a copy of those that stand still.

    raises: ConfigError for one that cannot be read where it lies; CheckpointError as `mapped`
    """
    store = weights.store
    if isinstance(store, Overlay):
        store = store.of(name)
    if is_grouped(store.dtypes[name]):
        return RawGroups(*in_file(store).mapped_groups(name))
    if weights.pending and name in weights.trained:
        if isinstance(store, Streamed):
            raise ConfigError(
                f"{name} is trained, and is still in its file", "--residency resident"
            )
        return weights.read(name)
    return store.mapped(name) if isinstance(store, Streamed) else store.read(name)


def in_file(store: Store) -> FileOfGroups:
    """A store of groups that are in its file as such. raises: ConfigError for any other"""
    if isinstance(store, Quantised):
        found = "engine onnx reads quantised matrices in their file, and this one has floats"
        hint = "give it what `tinyzo convert --dtype int4` or int8 writes, without --base-dtype"
        raise ConfigError(found, hint)
    if not isinstance(store, FileOfGroups):
        found = "engine onnx reads quantised matrices in their file, and these are in memory"
        raise ConfigError(found, "leave out --residency resident")
    return store


def residency_for(weights: Parameters, asked: str, limit: float, trains: bool = False) -> str:
    """Where the weights of a session are to lie, "resident" or "streamed", which is mapped.

    asked:  that, or "auto"
    limit:  the most bytes that may come into memory unasked
    trains: whether the trained tensors will change, or already do
    raises: UsageError, ConfigError for what cannot be; CheckpointError for a tensor that cannot be
        mapped
    """
    base = weights.store
    is_beside = isinstance(base, Overlay)
    while isinstance(base, Overlay):
        base = base.base
    if any(map(is_grouped, base.dtypes.values())):
        in_file(base)
        if asked == RESIDENT:
            tag = next(type_tag(t) for t in base.dtypes.values() if is_grouped(t))
            found = f"--residency resident, and engine onnx reads {tag} matrices in their file"
            raise ConfigError(found, "leave it out: the file is mapped, and not copied")
        return STREAMED
    if asked == RESIDENT or not isinstance(base, Streamed):
        return RESIDENT
    if not is_beside and (trains or weights.pending):
        if asked == STREAMED:
            found = "--engine onnx maps weights in their file, and cannot train them there"
            hint = "--residency resident, or train what lies beside them, as --train lora-fa"
            raise UsageError(found, hint)
        return RESIDENT
    try:
        for name in base.shapes:
            base.mapped(name)
    except TinyzoError:
        if asked == STREAMED or weights.nbytes() > limit:
            raise
        return RESIDENT
    return STREAMED
