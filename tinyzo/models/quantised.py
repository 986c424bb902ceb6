"""Models whose matrices are in groups of small integers: which are, and how they are opened.

    int8   all matrices
    int4   all but the tables, which are int8: in int4, the token table alone costs more of the loss
           than all other matrices together (bench/quant.py)

A table is read by rows; the token table is also what scores. Norms and biases are floats.
"""

from collections.abc import Mapping

import numpy as np

from tinyzo.checkpoints.groups import GROUP_TYPES, INT8, groups_in, kind_of
from tinyzo.checkpoints.sources import Source
from tinyzo.engine.groups import GroupedWeights
from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.stores.grouped import FileOfGroups, Grouped, Quantised

Shapes = Mapping[str, tuple[int, ...]]


def open_grouped(
    source: Source, names: dict[str, str], shapes: Shapes, tables: tuple[str, ...], kind: str
) -> GroupedWeights:
    """The weights of a file in groups, whether they are so in the file or become so now.

    names: of each parameter in the file; kind: "int4" or "int8"
    raises: CheckpointError for a file of groups that is damaged
    """
    store: Grouped
    if kind_of(source):
        store = FileOfGroups(source, names, shapes, groups_in(source, shapes))
    else:
        store = Quantised(source, names, shapes, groups_for(shapes, tables, kind))
    return GroupedWeights(store, NumpyEngine())


def groups_for(shapes: Shapes, tables: tuple[str, ...], kind: str) -> dict[str, np.dtype]:
    """The types that matrices get."""
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    return {name: INT8 if name in tables else GROUP_TYPES[kind] for name in matrices}
