"""Adapters along what a forward pass shows: A from the inputs X of each layer, tokens x width.

    lora-act    X = U S V^T, A = V[:, :r]^T: the r leading directions      ZO-Act, arXiv 2607.01125
    lora-fit    A = E^T X (X^T X + c I)^-1: of each class but the last the direction along which
                the inputs foretell the error e = p - y of their row; ours
    head-fit    the same, after D is added to the label words' rows of the table that scores them:
                the D of the least cross-entropy of softmax(scores + X D^T), X its inputs, with a
                penalty of c / 4 |D|^2. Probing first keeps what was learnt: LP-FT, arXiv 2202.10054

The gradient of W is dY^T X: its rows lie in the span of the inputs, mostly in that of a few, and
that begins EVA (arXiv 2410.07170), too. But along the leading ones the loss is as curved as it is
steep, so that steps must be small. dY is at first what p - y makes of it, so that E^T X has much of
the gradient; and divided by X^T X, as LDA does (Fisher 1936), little of the curvature.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tinyzo.batch import Batch
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.adapters import Halves, adapter
from tinyzo.engine.around import Around
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.protocols import View
from tinyzo.engine.weights import Weights
from tinyzo.errors import ConfigError

Float64 = NDArray[np.float64]
Real = Array | Float64
RIDGE = 0.1  # c, as a share of the mean of X^T X's diagonal
PRIOR = 13  # c of D, in mean squares of X: as RIDGE for 128 rows, and no less for fewer
TINY = 1e-30  # the least length, since inputs may foretell nothing
BLOCK = 256  # rows of a product in float64
SIDE = 1024  # the most that a Gram matrix has: 8 MB
ROUNDS = 100  # of ridge regressions that make D
Result = TypeVar("Result")
Seen = Callable[[str, Array], None]  # the name of a matrix, and its inputs, f32[N, in]


class Watcher(Around):
    """A view that shows the inputs of linear modules, and of the table that scores words."""

    def __init__(self, view: View, seen: Seen) -> None:
        super().__init__(view)
        self.seen = seen

    def linear(self, name: str, x: Array, residual: Array | None = None) -> Array:
        """As View's."""
        self.seen(f"{name}.weight", x[0])
        return self.view.linear(name, x, residual)

    def scores(self, name: str, h: Array, rows: Rows = None, bias: str | None = None) -> Array:
        """As View's."""
        self.seen(name, h[0])
        return self.view.scores(name, h, rows, bias)


class Errors(NamedTuple):
    """A batch that is read once more, and how wrong the model was.

    forward: the pass, on a view of one probe
    batch:   what it computes
    errors:  f64[B, C], p - y of each example and class
    """

    forward: Callable[[View], object]
    batch: Batch
    errors: Float64

    def of_inputs(self, count: int) -> Float64:
        """The errors of the examples that so many inputs are of: all tokens, or those read."""
        batch = self.batch
        example = np.cumsum(batch.parents < 0) - 1  # of each segment
        owners = np.repeat(example, np.diff(batch.starts))
        if count < len(owners):
            owners = owners[batch.read]
        return self.errors[owners]


def lead_by_inputs(weights: Weights, forward: Callable[[View], object]) -> None:
    """Set the A of every adapter to the leading directions of its matrix's inputs.

    weights: with new adapters; only their A changes
    forward: a forward pass on a view of one probe. NumPy computes it, whatever the engine is
    raises: ConfigError for an adapter of a matrix that has no inputs: a table
    """
    found: dict[str, Array] = {}
    adapters = adapters_in(weights)

    def lead(name: str, x: Array) -> None:
        if name in adapters and name not in found:
            rank = weights.shape(adapters[name].a)[0]
            found[name] = leading_directions(x, rank)

    watch(weights, forward, lead)
    set_a(weights, adapters, found)


def lead_by_errors(weights: Weights, parts: Iterable[Errors]) -> None:
    """Set the A of every adapter to the directions in which its matrix's inputs foretell errors.

    Each part has its own; A is their sum, its rows so long that their products with inputs have a
    mean square of about 1.

    weights, raises: as for `lead_by_inputs`; adapters have a row of A for each class but the last
    """
    adapters = adapters_in(weights)
    sums: dict[str, Any] = defaultdict(float)
    squares: dict[str, Any] = defaultdict(float)
    for part in parts:

        def lead(name: str, x: Array, part: Errors = part) -> None:
            if name in adapters:
                c = RIDGE * float(np.vdot(x, x)) / x.shape[1]
                fit = foretelling(x, part.of_inputs(len(x))[:, :-1], c)
                sums[name] += fit
                squares[name] += np.square(x @ fit.T.astype(np.float32)).mean(axis=0)

        watch(weights, part.forward, lead)
    lengths = {name: np.sqrt(square)[:, None] for name, square in squares.items()}
    found = {name: total / np.maximum(lengths[name], TINY) for name, total in sums.items()}
    set_a(weights, adapters, found)


def widest(weights: Weights) -> int:
    """The most inputs that an adapted matrix has."""
    return max(weights.shape(halves.a)[1] for halves in adapters_in(weights).values())


def fitted_at_once(tokens: int, widest: int) -> int:
    """So many of the tokens that no Gram matrix is larger than SIDE, where inputs are so wide."""
    return tokens if widest <= SIDE else min(tokens, SIDE)


def fit_bytes(tokens: int, widest: int) -> int:
    """What the fit of so many inputs of the widest matrix holds: a Gram matrix, a solver's copy of
    it, and blocks of inputs, in float64."""
    side = min(tokens, widest)
    return 8 * (2 * side * side + BLOCK * (2 * side + widest))


def adapters_in(weights: Weights) -> dict[str, Halves]:
    """The halves of the adapter of each matrix that has one whose B is trained."""
    found = {name: adapter(name) for name in weights.names()}
    return {name: halves for name, halves in found.items() if halves.b in weights.trained}


def watch(weights: Weights, forward: Callable[[View], Result], seen: Seen) -> Result:
    """A forward pass, by NumPy, of which `seen` is told the inputs."""
    return forward(cast(View, Watcher(NumpyEngine().view(weights, []), seen)))


def set_a(weights: Weights, adapters: dict[str, Halves], found: dict[str, Array]) -> None:
    """Write what was found into A, rounded to float32."""
    lacking = sorted(adapters.keys() - found.keys())
    if lacking:
        why = f"{lacking[0]} is a table, and has no inputs to take directions from"
        raise ConfigError(why, "--lora-targets names projections; or take --train lora-fa")
    for name, a in found.items():
        weights.stored(adapters[name].a)[...] = a


def leading_directions(x: Array, rank: int) -> Array:
    """The first right singular vectors of x, each with its largest element above 0.

    x: f32[N, D]; returns f32[rank, D], whose rows beyond the N-th or the D-th are 0
    """
    count, width = x.shape
    if width <= count:
        found = np.linalg.eigh(product(x, x)).eigenvectors.T[::-1]
    else:
        squares, u = np.linalg.eigh(product(x.T, x.T))
        lengths = np.sqrt(np.maximum(squares, TINY))
        found = product(u / lengths, x)[::-1]
    a = np.zeros((rank, width), np.float32)
    for row, direction in zip(a, found, strict=False):
        largest = direction[np.abs(direction).argmax()]
        row[...] = direction * np.sign(largest)
    return a


def foretelling(x: Real, e: Float64, c: float) -> Float64:
    """Ridge regression of e on x: e^T x (x^T x + c I)^-1, by the smaller of the two Gram matrices.

    x: [N, D]; e: [N, C]; returns [C, D]
    """
    count, width = x.shape
    if width <= count:
        return np.linalg.solve(product(x, x) + c * np.eye(width), product(x, e)).T
    return product(np.linalg.solve(product(x.T, x.T) + c * np.eye(count), e), x)


def product(a: Real, b: Real) -> Float64:
    """a^T b in float64, whose operands are never all float64 at once."""
    total = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        total += a[rows].astype(np.float64).T @ b[rows].astype(np.float64)
    return total


def fitted_rows(x: Float64, scores: Float64, labels: Integers) -> Float64:
    """D: logistic regression of the labels on x, beside scores that are there already.

    The curvature of cross-entropy is at most half of x^T x for each class (Böhning 1992), so that
    D <- D - (gradient) (x^T x / 2 + c / 2 I)^-1 never rises: a ridge regression a round.

    x: [N, D]; scores: [N, C]; returns [C, D]
    """
    c = PRIOR * np.square(x).mean()
    fit = foretelling(x, np.eye(len(x)), c)  # of any e it is e^T fit
    d = np.zeros((scores.shape[1], x.shape[1]))
    for _ in range(ROUNDS):
        added = x @ d.T
        d = (added - 2 * errors(scores + added, labels)).T @ fit
    return d


def errors(scores: Float64, labels: Integers) -> Float64:
    """softmax(scores) less 1 at the label. scores: f64[B, C]"""
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p
