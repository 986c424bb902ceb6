"""Tensors as they are read, in Numba: the twin of Parameters.now, NumpyView.copies and a fold."""

import numpy as np
from numba import njit

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.groups import widen_groups
from tinyzo.engine.numba.kernels import F, U, kernel, tasks
from tinyzo.engine.numba.noise import draw
from tinyzo.engine.numba.sizes import CHUNK
from tinyzo.engine.numba.storage import dithered, itemsize, load, store
from tinyzo.engine.numba.terms import F32, INT4
from tinyzo.engine.numba.wide import (
    WIDE,
    all_of,
    load_floats,
    moved,
    scaled,
    squared,
    step_of,
    store_floats,
)


@kernel
def fill_noise(terms, t, start, z, w):
    """Parameters.z of the elements start, ... from terms.keys[t]. z: f32[n], written; w: f32[n]."""
    key_0, key_1 = terms.keys[t]
    is_signs, limit = terms.is_signs, terms.limit
    for i in range(0, z.size, WIDE):
        now = load_floats(w, i, z.size - i)
        made = draw(key_0, key_1, is_signs, U(start + U(i)), now, limit)
        store_floats(made, z, i, z.size - i)


@njit(forceinline=True)
def move(source, source_type, terms, storage, start, target, target_type):
    """Parameters.now of the elements start, ...: u8[.] to u8[.], which may be the same.

    storage: the tensor's; source_type, target_type: how its elements are given, and wanted
    """
    keys, all_kept, all_added, salts = terms.keys, terms.kept, terms.added, terms.salts
    rounds, is_moment, moments = terms.rounds, terms.is_moment, terms.moments
    is_signs, limit = terms.is_signs, terms.limit
    n = source.size // itemsize(source_type)
    for i in range(0, n, WIDE):
        index, count = U(start + U(i)), n - i
        w = load(source, i, count, source_type)
        m = v = all_of(F(0))
        for t in range(rounds.size):
            z = draw(keys[t, 0], keys[t, 1], is_signs, index, w, limit)
            if all_kept[t] != 1:
                w = scaled(all_kept[t], w)
            if is_moment[t]:  # moments.Moments.change
                m, v = moved(m, all_added[t], z), moved(v, moments[t, 0], squared(z))
                if rounds[t]:
                    w = moved(w, moments[t, 1], step_of(m, v))
                    m = v = all_of(F(0))
            else:
                w = moved(w, all_added[t], z)
            if rounds[t]:
                w = dithered(w, salts[t, 0], salts[t, 1], index, storage)
        store(w, target, i, count, target_type)


@njit(inline="always")
def read(raw, storage, row, start, terms, index, w):
    """Parameters.now: elements start, ... of a row of raw, with all pending terms. w: f32[n]

    index: the first element's number
    """
    size = itemsize(storage)
    part = raw[row, size * start : size * (start + w.size)]
    if storage >= INT4:  # never trained
        widen_groups(raw, storage, row, start, w)
    else:
        move(part, storage, terms, storage, index, w.view(np.uint8), F32)


@kernel
def add_scaled(w, scale, z, out):
    """out = w + scale z, or w if scale is 0. w, z, out: f32[n]"""
    for i in range(w.size):
        out[i] = w[i] + scale * z[i] if scale != F(0) else w[i]


@kept
@kernel
def fold(raw, storage, terms, first, scratch, counters):
    """NumpyEngine.fold: what is pending into the bytes. raw: u8[1, bytes], changed."""
    size = itemsize(storage)
    n = raw.shape[1] // size
    for task in tasks(counters, 0, (n + CHUNK - 1) // CHUNK, 1):
        start = task * CHUNK
        part = raw[0, size * start : size * min(start + CHUNK, n)]
        move(part, storage, terms, storage, U(first + start), part, storage)
