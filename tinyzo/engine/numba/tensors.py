"""Tensors as they are read, in Numba: the twin of Parameters.now, NumpyView.copies and a fold."""

from typing import NamedTuple

import numpy as np
from numba import njit

from tinyzo.engine.moments import FLOOR
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import CHUNK, F, U, kernel, tasks
from tinyzo.engine.numba.noise import fill_gaussian, fill_signs, random_word
from tinyzo.engine.numba.storage import (
    BF16,
    F32,
    dithered,
    half_bits,
    itemsize,
    nearest_bfloat,
    widen,
)


class Terms(NamedTuple):
    """The terms that are added to a tensor as it is read: pending ones, then a z for each probe.

    keys: u32[T + S, 2], noise.key of the pending terms, then of the probes' seeds
    kept, added: f32[T], w <- kept w + added z, in this order
    rounds: bool[T], an update ends there, after which w is rounded; salts: u32[T, 2], for that
    seeds: i64[C], for each copy of the weights the place of its z in keys, or -1; scales: f32[C]
    is_signs: z is rademacher; limit: z is 0 where |w| is larger
    is_moment: bool[T], the term is AdaMeZO's, and not one of a sum
    moments: f32[T, 2], AdaMeZO's factor of z^2, and at its update's end the rate
    """

    keys: np.ndarray
    kept: np.ndarray
    added: np.ndarray
    rounds: np.ndarray
    salts: np.ndarray
    seeds: np.ndarray
    scales: np.ndarray
    is_signs: bool
    is_moment: np.ndarray
    moments: np.ndarray
    limit: float


@kernel
def fill_noise(terms, t, start, z, w):
    """Parameters.z of the elements start, ... from terms.keys[t]. z: f32[n], written; w: f32[n]."""
    if terms.is_signs:
        fill_signs(terms.keys[t, 0], terms.keys[t, 1], start, z)
    else:
        fill_gaussian(terms.keys[t, 0], terms.keys[t, 1], start, z)
    if terms.limit < np.inf:
        for i in range(z.size):
            z[i] = F(0) if abs(w[i]) > terms.limit else z[i]


@kernel
def add_moment(terms, t, w, z, m, v):
    """moments.Moments.change: one more term of the moments; the last one moves w.

    w, z, m, v: f32[n]; m and v are kept from term to term
    """
    if t == 0 or terms.rounds[t - 1]:
        m[:] = F(0)
        v[:] = F(0)
    added, kept = terms.added[t], terms.kept[t]
    square, rate = terms.moments[t]
    for i in range(w.size):
        m[i] = m[i] + added * z[i]
        v[i] = v[i] + square * (z[i] * z[i])
    if terms.rounds[t]:
        for i in range(w.size):
            w[i] = kept * w[i] + rate * (m[i] / (np.sqrt(v[i]) + FLOOR))


@njit(inline="always")
def read(raw, storage, row, start, terms, index, work):
    """Parameters.now: elements start, ... of a row, w <- kept w + added z for each pending term.

    index: the first element's number; work: f32[4, n], w, which is the result, z and two moments
    """
    w, z = work[0], work[1]
    size = itemsize(storage)
    part = raw[row, size * start : size * (start + w.size)]
    if storage == F32:
        w[:] = part.view(F)
    else:
        halves = part.view(np.uint16)
        for i in range(w.size):
            w[i] = widen(halves[i], storage)
    for t in range(terms.kept.size):
        fill_noise(terms, t, index, z, w)
        kept, added = terms.kept[t], terms.added[t]
        if terms.is_moment[t]:
            add_moment(terms, t, w, z, work[2], work[3])
        else:
            for i in range(w.size):
                w[i] = kept * w[i] + added * z[i]
        if terms.rounds[t] and storage != F32:
            salt_0, salt_1 = terms.salts[t, 0], terms.salts[t, 1]
            for i in range(w.size):
                w[i] = dithered(w[i], random_word(salt_0, salt_1, U(index + U(i))), storage)


@kept
@kernel
def fold(raw, storage, terms, first, scratch, counters):
    """NumpyEngine.fold: what is pending into the bytes. raw: u8[1, bytes], changed."""
    n = raw.shape[1] // itemsize(storage)
    step = 1024  # elements at once
    for task in tasks(counters, 0, (n + step - 1) // step, CHUNK // step):
        start, size = task * step, min(step, n - task * step)
        work = scratch[: 4 * size].reshape(4, size)
        w, part = work[0], raw[0, itemsize(storage) * start :]
        read(raw, storage, 0, start, terms, U(first + start), work)
        if storage == F32:
            part[: 4 * size].view(F)[:] = w
        else:
            halves = part[: 2 * size].view(np.uint16)
            for i in range(size):
                halves[i] = nearest_bfloat(w[i]) if storage == BF16 else half_bits(w[i])
