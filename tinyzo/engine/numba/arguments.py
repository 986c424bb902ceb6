"""The arguments of the kernels: a view's probes, weights and tokens, as arrays of numbers."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyzo.batch import Batch
from tinyzo.checkpoints.groups import INT4, INT8
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine import noise
from tinyzo.engine.moments import Moments
from tinyzo.engine.numba import terms as kinds
from tinyzo.engine.numba.objects import constant
from tinyzo.engine.numba.terms import Terms
from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.engine.terms import Probe, Update
from tinyzo.engine.weights import Parameters

key = functools.lru_cache(1024)(noise.key)  # a pass and the fold after it ask for the same
NOTHING = np.zeros((0, 0, 0), np.float32)  # where a kernel may be given an array
KERNEL_TYPES = {
    np.dtype("<f4"): kinds.F32,
    np.dtype("<u2"): kinds.BF16,
    np.dtype("<f2"): kinds.F16,
    INT4: kinds.INT4,
    INT8: kinds.INT8,
}


def padded(n: int, multiple: int) -> int:
    """n, rounded up."""
    return -(-n // multiple) * multiple


def as_bytes(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows as the kernels know them: u8[rows, bytes], and which type they are."""
    return raw.view(np.uint8), KERNEL_TYPES[raw.dtype]


class Product(NamedTuple):
    """out = x W^T + bias + residual, as the kernel `linear` takes it.

    x:        f32[1 or P, M, K], contiguous
    terms:    what is added to W as it is read
    bias:     f32[0 or 1 or P, 1, N]; residual: f32[0 or 1 or P, M, N]
    out:      f32[P, M, N], to be written
    kind:     of products, as sizes.FLOATS
    """

    x: Array
    terms: Terms
    bias: Array
    residual: Array
    out: Array
    kind: int

    @property
    def has_one_w(self) -> bool:
        """True when the probes differ in their tokens only."""
        return (
            len(self.terms.seeds) == 1
            and len(self.bias) <= 1
            and len(self.residual) in (0, len(self.x))
        )

    def side_by_side(self) -> "Product":
        """The tokens of all probes as those of one, so that tiles are full; in place."""
        return self._replace(
            x=side_by_side(self.x), residual=side_by_side(self.residual), out=side_by_side(self.out)
        )


def side_by_side(array: Array) -> Array:
    """f32[P, M, N] as f32[1, P * M, N]; an array of nothing stays one."""
    return array.reshape(1, -1, array.shape[2]) if len(array) else array


# -- attention --------------------------------------------------------------------------------


class AttentionLayout(NamedTuple):
    """The keys that each query of a batch sees.

    batch, rows, prefix: what was asked for
    blocks:  i64[B, 4], of each block its first query, the query after its last, and the same of its
             part of `keys`
    keys:    i64[.], the numbers of the blocks' keys, one block after another
    places:  i64[M], each query's own place among its keys
    longest: the most keys that a block has
    """

    batch: Batch
    rows: Rows
    prefix: int
    blocks: Integers
    keys: Integers
    places: Integers
    longest: int

    def is_of(self, batch: Batch, rows: Rows, prefix: int) -> bool:
        return self.batch is batch and self.rows is rows and self.prefix == prefix


def attention_layout(batch: Batch, rows: Rows, prefix: int) -> AttentionLayout:
    """The blocks of Batch.attention_blocks in arrays."""
    tokens = np.arange(len(batch.ids) + prefix)
    blocks: list[tuple[int, int, int, int]] = []
    keys: list[Integers] = []
    places: list[Integers] = []
    end = 0
    for block in batch.attention_blocks(rows, QUERIES, prefix):
        keys.append(tokens[block.keys])
        places.append(block.places)
        start, end = end, end + len(keys[-1])
        blocks.append((block.queries.start, block.queries.stop, start, end))
    longest = max(len(each) for each in keys)
    return AttentionLayout(
        *(batch, rows, prefix),
        blocks=np.array(blocks),
        keys=np.concatenate(keys),
        places=np.concatenate(places),
        longest=longest,
    )


# -- z and updates ----------------------------------------------------------------------------


class PendingTerm(NamedTuple):
    """One term of a pending update: w <- kept w + added z, or a term of AdaMeZO's moments.

    ends:   its update ends here, after which 16-bit w is rounded
    rounding_seed: makes the random words for that
    is_moment: AdaMeZO's, which adds to the moments and moves w at the end of its update
    square: AdaMeZO's factor of z^2; rate: AdaMeZO's factor of the step, at the end of its update
    """

    seed: int
    rounding_seed: int
    added: float
    kept: float = 1.0
    ends: bool = False
    is_moment: bool = False
    square: float = 0.0
    rate: float = 0.0


def make_terms(weights: Parameters, name: str, probes: Sequence[Probe]) -> Terms:
    """The terms that are added to a tensor as it is read. probes: () for the tensor itself."""
    if not probes and not (weights.pending and name in weights.trained):
        return NO_TERMS
    kind = weights.direction.kind
    past = pending_terms(weights, name)
    past_seeds = [term.seed for term in past]
    seeds = list(dict.fromkeys(probe.seed for probe in probes if probe.scale))
    keys = [key(seed, name, kind) for seed in past_seeds + seeds]
    salts = [key(term.rounding_seed, name, "rounding") for term in past]
    places = [len(past) + seeds.index(p.seed) if p.scale else -1 for p in probes]
    moments = [(term.square, term.rate) for term in past]
    return Terms(
        keys=np.array(keys, np.uint32).reshape(-1, 2),
        kept=np.array([term.kept for term in past], np.float32),
        added=np.array([term.added for term in past], np.float32),
        rounds=np.array([term.ends for term in past], np.bool_),
        salts=np.array(salts, np.uint32).reshape(-1, 2),
        seeds=np.array(places or [-1], np.int64),
        scales=np.array([probe.scale for probe in probes] or [0], np.float32),
        is_signs=kind == "rademacher",
        is_moment=np.array([term.is_moment for term in past], np.bool_),
        moments=np.array(moments, np.float32).reshape(-1, 2),
        limit=np.float32(weights.direction.limits.get(name, np.inf)),
    )


NO_TERMS = constant(
    Terms(
        keys=np.zeros((0, 2), np.uint32),
        kept=np.zeros(0, np.float32),
        added=np.zeros(0, np.float32),
        rounds=np.zeros(0, np.bool_),
        salts=np.zeros((0, 2), np.uint32),
        seeds=np.array([-1]),
        scales=np.zeros(1, np.float32),
        is_signs=False,
        is_moment=np.zeros(0, np.bool_),
        moments=np.zeros((0, 2), np.float32),
        limit=np.float32(np.inf),
    )
)


def pending_terms(weights: Parameters, name: str) -> list[PendingTerm]:
    """All that is pending for a tensor, in order."""
    if name not in weights.trained:
        return []
    terms: list[PendingTerm] = []
    for update in weights.pending:
        kept = update.kept(weights.shape(name))
        if update.moments and update.terms:
            terms += moment_terms(update, update.moments, kept)
        else:
            terms += sum_terms(update, kept)
    return terms


def sum_terms(update: Update, kept: float) -> list[PendingTerm]:
    """An update that is a sum: w decays before its first term."""
    salt = update.rounding_seed
    terms = [PendingTerm(seed, salt, c) for seed, c in update.terms or [(0, 0.0)]]
    terms[0] = terms[0]._replace(kept=kept)
    terms[-1] = terms[-1]._replace(ends=True)
    return terms


def moment_terms(update: Update, moments: Moments, kept: float) -> list[PendingTerm]:
    """An update of AdaMeZO's: w decays and moves when the moments have their last term."""
    aged = moments.aged(update.terms)
    salt = update.rounding_seed
    terms = [
        PendingTerm(seed, salt, first, is_moment=True, square=second)
        for seed, first, second in aged
    ]
    terms[-1] = terms[-1]._replace(kept=kept, ends=True, rate=moments.rate)
    return terms
