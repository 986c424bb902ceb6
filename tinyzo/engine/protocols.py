"""The seam: what stores, engines and views promise.

    Store    where the bytes of named tensors live: in memory, or in their file
    Engine   arithmetic: makes views of the weights, and folds updates into their bytes
    View     the verbs of a forward pass; a model computes on one, and sees no array of weights

Any store works with any engine, and any model with any view. Arrays are float32 unless it is said;
what a method returns belongs to the caller, but for a store's blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.terms import Probe
from tinyzo.engine.tiles import Block

if TYPE_CHECKING:
    from tinyzo.engine.weights import Parameters


class Store(Protocol):
    """Named tensors in their storage types. shapes, dtypes: of each tensor, in the file's order."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype]
    is_resident: bool  # `read` and `blocks` give the bytes themselves, which may be changed

    def read(self, name: str) -> np.ndarray:
        """A whole tensor as it is stored: the store's own bytes if it is resident, else a copy."""

    def blocks(
        self, name: str, start: int = 0, stop: int | None = None, sweep: str = ""
    ) -> Iterator[Block]:
        """Rows start .. stop in turn, as they are stored.

        A block is the store's own, and good until the next one is asked for.

        sweep: names a pass over the weights; within one, blocks come in the order of the last time
        raises: UsageError when others were asked for before the last of these was done with
        """

    def gather(self, name: str, rows: Integers) -> np.ndarray:
        """A copy of the given rows."""

    def load(self) -> "Store":
        """The same tensors in memory; this store's file is closed, and it is not used again."""

    def resize(self, tiles: int) -> None:
        """Give out blocks of at most so many tiles from now on."""

    def block_bytes(self, tiles: int) -> int:
        """The most that one block of so many tiles takes."""

    def move(self, path: Path) -> None:
        """Go on with a safetensors file that holds the same tensors."""

    def close(self) -> None:
        """Give back files and threads."""


class View(Protocol):
    """P perturbed copies of the weights, by the verbs that a model needs.

    Activations are f32[P, N, D]; P is 1 until the first perturbed tensor is touched. `name` is a
    tensor's name, or without its ".weight" and ".bias" a module's. A verb may overwrite what it is
    given only where it says so.
    """

    probes: Sequence[Probe]

    def parts(self, most: int) -> Sequence["View"]:
        """The same probes in views of at most `most` each, which bounds memory."""

    def embed(self, name: str, ids: Integers) -> Array:
        """Rows of a table. ids: i64[N]; returns f32[P, N, D]."""

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        """x W^T + b, where there is a b, and the residual on top.

        x: f32[P, N, in]; residual, and what is returned: f32[P, N, out]
        """

    def norm(self, name: str, x: Array, ln_eps: float) -> Array:
        """LayerNorm (Ba et al. 2016): f32[P, N, D]; without its vectors it only standardises."""

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        """The vocabulary projection h E^T + b, of all V rows of E or of the R that are asked for.

        h: f32[P, N, D]; rows: i64[R]; bias: b's name; returns f32[P, N, V or R]
        """

    def nll(
        self, name: str, h: Array, at: Integers, targets: Integers, bias: str | None = None
    ) -> Array:
        """-log p of target k at row at[k] of h. The logits never exist as a whole.

        h: f32[P, N, D]; at, targets: i64[K]; returns f32[P, K]
        """

    def attention(
        self,
        name: str,
        q: Array,
        k: Array,
        v: Array,
        batch: Batch,
        causal: bool,
        rows: Rows = None,
    ) -> Array:
        """Scaled dot-product attention within each packed segment (Vaswani et al. 2017, eq. 1).

        softmax(q k^T / sqrt(K)) v. A query sees its segment and that one's parent.

        name:   the module's
        q:      f32[P, M, H, K], the queries of tokens `rows` (None: all N)
        k, v:   f32[P, N, H, K]
        causal: a query sees the tokens up to its own
        returns: f32[P, M, H, K]
        differs: no padding mask exists, since nothing is padded
        """

    def gelu(self, x: Array) -> Array:
        """x Phi(x), of x's shape; x may be overwritten, and may be what is returned."""

    def relu(self, x: Array) -> Array:
        """max(x, 0), of x's shape; x may be overwritten, and may be what is returned."""

    def cross_entropy(self, scores: np.ndarray, labels: Integers, counts: Integers) -> np.ndarray:
        """Sum over examples of -log softmax(scores)[label]: f64[P].

        scores: f64[P, B, C]; labels: i64[B]; counts: i64[B], how many candidates there are
        """


@runtime_checkable
class LayeredView(Protocol):
    """A View that has to know where a layer of a model begins and ends."""

    def layered(self, layer: Callable[..., Array]) -> Callable[..., Array]:
        """What is called in place of `layer`, an Architecture's, with the same arguments."""


class Engine(Protocol):
    """Arithmetic on weights that it does not own.

    Two engines give the same z and the same folds bit by bit, and the same losses up to rounding.
    """

    name: str

    def view(self, weights: "Parameters", probes: Sequence[Probe]) -> View:
        """The weights at several perturbed points; nothing is computed yet, nothing is changed."""

    def fold(self, weights: "Parameters", name: str, raw: np.ndarray, start: int) -> None:
        """Write what is pending into some rows of a tensor, in place.

        raw: the rows from row `start` on, as they are stored; they become `weights.now` of them
        """
