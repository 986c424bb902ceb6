"""The values of zeroth-order training: a perturbed copy of the model, and a change of theta."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tinyzo.engine.moments import Moments

Term = tuple[int, float]  # (seed, coefficient): theta += coefficient * z(seed)


class Probe(NamedTuple):
    """One perturbed copy of the model, theta + scale * z(seed). scale = 0: the model itself."""

    seed: int
    scale: float


@dataclass(frozen=True)
class Direction:
    """The distribution of z.

    kind:   "gaussian" or "rademacher"
    limits: for some tensors: z is 0 where |theta| is larger (Sparse-MeZO, arXiv 2402.15751)
    """

    kind: str = "gaussian"
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """theta <- (1 - decay) theta + sum of coefficient * z(seed); decay reaches matrices only.

    moments: if given, the terms make AdaMeZO's moments instead of a sum (moments.py)
    """

    terms: Sequence[Term]
    decay: float = 0.0
    moments: "Moments | None" = None

    def kept(self, shape: tuple[int, ...]) -> float:
        """The factor that is left of a tensor of this shape when it decays."""
        is_matrix = len(shape) > 1
        return 1 - self.decay if is_matrix else 1.0

    @property
    def rounding_seed(self) -> int:
        """The seed of the random bits by which 16-bit storage is rounded after this update."""
        return self.terms[0][0] if self.terms else 0
