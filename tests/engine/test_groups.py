"""Weights in groups of small integers: as both engines read them, wherever they live."""

from __future__ import annotations

import numpy as np
import pytest
from in_groups import KINDS, as_floats, groups_of, in_groups
from streams import PAIR, small_tiles  # noqa: F401 (small_tiles: used by all)
from tiny import ANY_STORE, ENGINES, MODELS, WORDS, Float64View, examples_for, raw_bytes, toy_task

from tinyzo.autodiff.reverse_mode import GradientView
from tinyzo.checkpoints.groups import GROUP, GROUP_TYPES, INT4, INT8, group_count, widen_groups
from tinyzo.engine.groups import GroupedWeights, check_still
from tinyzo.engine.stores.streamed import Streamed
from tinyzo.engine.terms import Probe
from tinyzo.errors import CheckpointError, ConfigError
from tinyzo.models.model import Model
from tinyzo.models.trainable import train_only
from tinyzo.zo.mezo import mezo_step
from tinyzo.zo.objectives import Objective

engines = pytest.mark.parametrize("engine", ANY_STORE.values(), ids=ANY_STORE)
models = pytest.mark.parametrize("name", MODELS)
kinds = pytest.mark.parametrize("kind", KINDS)
sets = pytest.mark.parametrize("what", ["lora", "lora-fa", "prefix", "label-words", "bias"])
ITSELF = [Probe(0, 0.0)]
# A chain of float32 sums as in test_conformance.py, of the same widths.
TOLERANCE = 16 * 2.0**-24


def losses(model: Model, probes: list[Probe], loss: str = "classification") -> np.ndarray:
    objective = Objective(model, toy_task(model.family, loss))
    return objective(model.weights.view(probes), examples_for(model.family))


def both(name: str, kind: str, engine, path, what: str | None = None) -> tuple[Model, Model]:
    """A model in groups, and the same numbers in float32, prepared alike."""
    grouped = in_groups(MODELS[name]("f32", engine), path, kind)
    floats = as_floats(grouped)
    if what:
        for model in (grouped, floats):
            train_only(model, what, 3, 2, 4.0, ids=WORDS)
    return grouped, floats


@pytest.mark.skipif("numba" not in ENGINES, reason="Numba is not here")
@pytest.mark.parametrize("dtype", GROUP_TYPES.values(), ids=GROUP_TYPES)
def test_the_kernel_gives_the_bits_of_numpy(dtype):
    """From any element on, for any number: whole groups and parts of them go different ways."""
    from tinyzo.engine.numba import groups as kernels

    storage = kernels.INT4 if dtype == INT4 else kernels.INT8
    groups = groups_of(2, 5, dtype)
    expected = widen_groups(groups, 5 * GROUP)
    for start in range(0, 5 * GROUP, 7):
        for count in {min(n, 5 * GROUP - start) for n in (0, 1, 3, 63, 64, 65, 130, 320)}:
            for row in range(2):
                found = np.full(count, np.nan, np.float32)
                kernels.widen_groups(groups.view(np.uint8), storage, row, start, found)
                assert found.tobytes() == expected[row, start : start + count].tobytes()


@pytest.mark.skipif("numba" not in ENGINES, reason="Numba is not here")
def test_the_kernel_s_groups_are_as_long():
    from tinyzo.engine.numba import groups as kernels

    assert kernels.GROUP == GROUP and INT8.itemsize - kernels.SCALE == GROUP


@engines
@models
@kinds
def test_losses_are_those_of_the_numbers_that_are_read(tmp_path, name, kind, engine):
    model = in_groups(MODELS[name]("f32", engine), tmp_path / "w", kind)
    used = 0.0
    for loss in ("classification",) if name == "roberta" else ("classification", "lm"):
        theta = Float64View(model.weights, ITSELF)
        exact = Objective(model, toy_task(model.family, loss))(theta, examples_for(model.family))
        error = np.abs(losses(model, ITSELF, loss) - exact) / np.maximum(1, np.abs(exact))
        used = max(used, error.max() / TOLERANCE)
    print(f"used {used:.0%}")
    assert used < 1


@engines
@models
@kinds
@sets
def test_steps_are_those_on_the_same_numbers_in_float32(tmp_path, name, kind, engine, what):
    """Products of the same numbers in the same order; NumPy's BLAS may take another order."""
    grouped, floats = both(name, kind, engine, tmp_path / "w", what)
    before = raw_bytes(grouped.weights)
    for step in range(3):
        found, expected = (
            mezo_step(
                model.weights,
                Objective(model, toy_task(model.family)),
                examples_for(model.family),
                *(70 + step, 1e-2, 1e-2),
            )
            for model in (grouped, floats)
        )
        if grouped.engine.name == "numba":
            assert found == expected
        assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    changed = [n for n, raw in raw_bytes(grouped.weights).items() if raw != before[n]]
    assert changed == list(grouped.weights.trained)


@engines
@models
@kinds
@pytest.mark.parametrize("what", ["lora", "bias"])
def test_streamed_is_resident_to_the_bit(tmp_path, name, kind, engine, what):
    model = MODELS[name]("f32", engine)
    here, there = (
        in_groups(model, tmp_path / f"{is_streamed}", kind, is_streamed)
        for is_streamed in (False, True)
    )
    assert raw_bytes(here.weights) == raw_bytes(there.weights)
    assert here.weights.nbytes() == there.weights.nbytes()
    for each in (here, there):
        train_only(each, what, 3, 2, 4.0)
    steps = [
        mezo_step(
            each.weights,
            Objective(each, toy_task(each.family)),
            examples_for(each.family),
            *(7, 1e-2, 1e-2),
        )
        for each in (here, there)
    ]
    assert steps[0] == steps[1]
    assert np.array_equal(losses(here, PAIR), losses(there, PAIR))
    assert raw_bytes(here.weights) == raw_bytes(there.weights)


@models
@kinds
def test_gradients_are_those_on_the_same_numbers_in_float32(tmp_path, name, kind):
    grouped, floats = both(name, kind, ENGINES["numpy"], tmp_path / "w", "lora")
    found, expected = (
        Objective(model, toy_task(model.family))(
            GradientView(model.weights), examples_for(model.family)
        ).backward()
        for model in (grouped, floats)
    )
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert np.allclose(gradient, expected[name], rtol=1e-4, atol=1e-6), name


@kinds
def test_sizes_are_of_groups(tmp_path, kind):
    """Widths of 8 and 12 fill a group each; tables are of 8 bits."""
    model = in_groups(MODELS["opt"](), tmp_path / "w", kind)
    size = 0
    for name in model.weights.names():
        rows, *columns = model.weights.shape(name)
        dtype = INT8 if name in model.architecture.TABLES else GROUP_TYPES[kind]
        size += rows * (group_count(columns[0]) * dtype.itemsize if columns else 4)
        assert not columns or model.weights.dtype(name) == dtype
    assert model.weights.nbytes() == size


def test_a_tile_is_of_so_many_numbers_not_groups(tmp_path):
    model = in_groups(MODELS["opt"](), tmp_path / "w", "int4")
    name = model.architecture.TOKENS  # [29, 8], of which a tile of 24 numbers is 3 rows
    sizes = [len(raw) for _, raw in model.weights.tiles(name)]
    assert sizes == [3] * 9 + [2]


# -- what stands still --------------------------------------------------------------------------


@pytest.fixture
def grouped(tmp_path) -> GroupedWeights:
    weights = in_groups(MODELS["opt"](), tmp_path / "w", "int4").weights
    assert isinstance(weights, GroupedWeights)
    return weights


STILL = "embed_tokens.weight is INT8, and what is quantised stands still"


def test_what_is_quantised_is_neither_perturbed_nor_moved_nor_written(grouped):
    before = raw_bytes(grouped)
    with pytest.raises(ConfigError, match=STILL):
        grouped.view(PAIR)
    with pytest.raises(ConfigError, match=STILL):
        grouped.add([(1, 1e-3)])
    with pytest.raises(ConfigError, match=STILL):
        grouped.write(lambda name, raw: None, grouped.names())
    assert not grouped.pending and raw_bytes(grouped) == before
    assert grouped.view(ITSELF)


def test_the_hint_names_what_can_be_trained(grouped):
    with pytest.raises(ConfigError) as caught:
        check_still(grouped, ["model.decoder.layers.0.fc1.weight"])
    assert "fc1.weight is INT4" in caught.value.message
    assert caught.value.hint == (
        "train what lies beside: lora, lora-fa, prefix, label-words, or bias"
    )
    check_still(grouped, ["model.decoder.layers.0.fc1.bias"])


@pytest.mark.parametrize("what", ["full", "*.fc1.*", "*embed*"])
def test_a_set_that_reaches_what_is_quantised_is_refused(tmp_path, what):
    model = in_groups(MODELS["opt"](), tmp_path / "w", "int8")
    with pytest.raises(ConfigError, match="is INT8, and what is quantised stands still"):
        train_only(model, what, 3, 2, 4.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e8])
@kinds
def test_a_weight_that_no_scale_covers_is_refused(tmp_path, value, kind):
    model = MODELS["opt"]()
    model.weights.store.tensors["model.decoder.layers.0.fc2.weight"][3, 4] = value
    with pytest.raises(CheckpointError, match=r"fc2.weight: the scale of a group of row 3 is"):
        in_groups(model, tmp_path / "w", kind)


def test_a_block_has_room_for_both_forms(tmp_path):
    """The buffers hold what is in the file and what is made of it, and no more."""
    model = in_groups(MODELS["opt"](), tmp_path / "w", "int4", is_streamed=True)
    store = model.weights.store
    assert isinstance(store, Streamed)
    per_row = {
        name: 4 * columns[0] + group_count(columns[0]) * store.dtypes[name].itemsize
        for name, (_, *columns) in store.shapes.items()
        if columns
    }
    for tiles in (2, 100):
        most = [
            per_row[name] * min(store.shapes[name][0], tiles * (24 // store.shapes[name][1]))
            for name in per_row
        ]
        assert store.block_bytes(tiles) == max(most)
