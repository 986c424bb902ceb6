"""The names that a model's file provides. The modules roberta and opt are Architectures.

A new model is a file with these names, and an entry in `model.MODELS`. It computes by the verbs of
a view alone, so it runs on every engine, and exact derivatives come with it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tinyzo.batch import Batch
from tinyzo.checkpoints.layout import Layout, Parameter
from tinyzo.dtypes import Array, Integers, Rows
from tinyzo.engine.protocols import View


class ModelConfig(Protocol):
    """The sizes of a model that other code than its own file reads."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def feed_forward_size(self) -> int: ...

    @property
    def num_hidden_layers(self) -> int: ...

    @property
    def num_attention_heads(self) -> int: ...

    @property
    def max_length(self) -> int:
        """The most tokens of a sequence."""


class Architecture(Protocol):
    """A family of models. A `config` is Any here: it is of the architecture's own class.

    Config:  a frozen dataclass of the fields of config.json that change the result
    ALLOWED: the values that are built, for the fields of which some are not
    LAYOUT:  how files name the parameters
    TOKENS:  the table that embeds tokens and, tied to that, scores them
    TABLES:  all matrices that are read by rows, that one among them
    """

    Config: type[Any]
    ALLOWED: dict[str, tuple[object, ...]]
    LAYOUT: Layout
    TOKENS: str
    TABLES: tuple[str, ...]

    def shapes(self, config: Any) -> Iterator[Parameter]:
        """Every parameter: its name, which is the checkpoint's, and its shape."""

    def layer(
        self, theta: View, config: Any, i: int, x: Array, batch: Batch, rows: Rows = None
    ) -> Array:
        """One layer. x: f32[P, N, D]; returns it, or only its `rows`: f32[P, M, D]."""

    def hidden(
        self, theta: View, config: Any, batch: Batch, layer: Callable[..., Array] = ...
    ) -> Array:
        """The last hidden state of the tokens that the batch reads: f32[P, M, D].

        layer: what computes each layer: the architecture's own, or a way around it
        """

    def logits(self, theta: View, config: Any, h: Array, rows: Rows = None) -> Array:
        """Scores of the vocabulary, or of some rows of it: f32[P, M, V or R]."""

    def nll(self, theta: View, config: Any, h: Array, at: Integers, targets: Integers) -> Array:
        """-log p of target k at hidden state at[k]: f32[P, K]."""
