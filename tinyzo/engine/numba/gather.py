"""Rows of a tensor as each probe has them, in Numba: the twin of NumpyView.whole and embed."""

from tinyzo.engine.numba.cache import kept
from tinyzo.engine.numba.kernels import F, U, kernel, tasks
from tinyzo.engine.numba.tensors import add_scaled, fill_noise, read


@kept
@kernel
def gather(raw, storage, terms, numbers, out, scratch, counters):
    """out = w + scale z, a task for each row.

    raw: u8[R, bytes]; numbers: i64[R], what is the number of each row in its tensor
    out: f32[P, R, D], written
    """
    width = out.shape[2]
    w, z = scratch[:width], scratch[width : 2 * width]
    for r in tasks(counters, 0, raw.shape[0], 1):
        index = U(numbers[r] * width)
        read(raw, storage, r, 0, terms, index, w)
        made = -1
        for p in range(out.shape[0]):
            seed, scale = terms.seeds[p], terms.scales[p]
            if seed >= 0 and seed != made:
                made = seed
                fill_noise(terms, seed, index, z, w)
            add_scaled(w, scale if seed >= 0 else F(0), z, out[p, r])
