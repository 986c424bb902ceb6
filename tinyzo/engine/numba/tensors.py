"""Tensors as they are read, in Numba: the twin of Parameters.now, NumpyView.copies and a fold."""

import numpy as np
from numba import njit

from tinyzo.engine.moments import FLOOR
from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, U, kernel, tasks
from tinyzo.engine.numba.noise import fill_gaussian, fill_signs, random_word
from tinyzo.engine.numba.sizes import CHUNK
from tinyzo.engine.numba.storage import (
    dithered,
    half_bits,
    itemsize,
    nearest_bfloat,
    to_bfloat,
    widen,
)
from tinyzo.engine.numba.terms import BF16, F32


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


@kernel
def copy_rows(raw, storage, terms, first, start, size, work, copies, stride, apart, bf16):
    """`size` elements from `start` on of each row of raw: u8[R, bytes], as each probe has them.

    work: f32[4 size]; copies: f32[.]
    Copy c of row r goes to copies[r stride + c apart], as float32 or, in words, as bfloat16.
    """
    work = work[: 4 * size].reshape(4, size)
    w, z = work[0], work[1]
    for r in range(raw.shape[0]):
        index = U(first + r * (raw.shape[1] // itemsize(storage)) + start)
        read(raw, storage, r, start, terms, index, work)
        made = -2
        for c in range(terms.seeds.size):
            if terms.seeds[c] != made:
                made = terms.seeds[c]
                if made < 0:
                    z[:] = F(0)
                else:
                    fill_noise(terms, made, index, z, w)
            scale, at = terms.scales[c], r * stride + c * apart
            out = work[2] if bf16 else copies[at : at + size]
            for i in range(size):
                out[i] = w[i] + scale * z[i]
            if bf16:
                to_bfloat(out, copies, at)


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
