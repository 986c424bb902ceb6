"""PEFT folders: adapters that peft wrote compute what they compute there, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ROOT, cached, write_tensors
from golden.compare import TOLERANCE
from golden.seeded import ADAPTERS, TINY
from tiny import ENGINES

from tinyzo.checkpoints.peft import CONFIG, PREFIX, WEIGHTS, WEIGHTS_FILES, parts, read_config
from tinyzo.checkpoints.safetensors import open_safetensors
from tinyzo.cli import main
from tinyzo.errors import CheckpointError, ConfigError, TinyzoError
from tinyzo.models.model import MODELS, load

GOLDEN = ROOT / "tests" / "golden" / "peft"
Q = f"{PREFIX}model.decoder.layers.0.self_attn.q_proj"
cases = pytest.mark.parametrize("name", ADAPTERS)


def write_base(folder: Path, name: str) -> None:
    """One of TINY as a folder."""
    case = TINY[ADAPTERS[name][0]]
    architecture = MODELS[case.config["model_type"]]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(case.config))
    shapes = architecture.shapes(architecture.Config(**known_fields(architecture, case.config)))
    write_tensors(folder / "model.safetensors", {n: case.tensor(n, s) for n, s in shapes})


def known_fields(architecture: Any, config: Any) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k in architecture.Config.__dataclass_fields__}


def adapter(tmp_path: Path, name: str = "opt") -> Path:
    """What peft wrote, with the base that it names beside it in a folder."""
    folder = tmp_path / "adapter"
    shutil.copytree(GOLDEN / name, folder)
    write_base(folder / "base", name)
    return folder


def change_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    *_, weights = parts(folder)
    with WEIGHTS_FILES[weights.name](weights) as file:
        return {name: file.read(name) for name in file.names()}


def refusal(folder: Path, kind: type[TinyzoError]) -> TinyzoError:
    with pytest.raises(kind) as error:
        load(folder)
    return error.value


def concatenated_logits(model: Any, name: str) -> np.ndarray:
    return np.concatenate(model.logits(TINY[ADAPTERS[name][0]].sequences))


# -- what peft wrote -----------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("residency", ["resident", "streamed"])
def test_logits_are_those_of_peft(tmp_path: Path, name: str, engine: str, residency: str) -> None:
    model = load(adapter(tmp_path, name), engine=engine, residency=residency)
    found = concatenated_logits(model, name)
    with np.load(GOLDEN / name / "logits.npz") as golden:
        error = np.abs(found - golden["logits"]).max()
        assert error <= TOLERANCE * golden["logits.error"], error / golden["logits.error"]
        assert golden["moved"] > 1000 * TOLERANCE * golden["logits.error"]  # the adapter counts


@cases
def test_z_reaches_the_adapter_alone(tmp_path: Path, name: str) -> None:
    model = load(adapter(tmp_path, name), residency="resident")
    weights = model.weights
    adapters = [n for n in weights.names() if ".lora_" in n]
    assert list(weights.trained) == list(weights.saved) == adapters
    in_file = {n for n in tensors_of(tmp_path / "adapter") if ".lora_" in n}
    assert {PREFIX + n for n in adapters} == in_file
    before = {n: weights.read(n) for n in weights.names()}
    weights.add([(3, 0.5)])
    moved = [n for n in weights.names() if (weights.read(n) != before[n]).any()]
    assert moved == adapters


@pytest.mark.parametrize("kind", ["f2", "f8", "bf16"])
def test_halves_in_other_types_are_computed_as_float32(tmp_path: Path, kind: str) -> None:
    folder = adapter(tmp_path)
    tensors = tensors_of(folder)
    if kind == "f8":
        pytest.importorskip("safetensors", reason="the oracle that writes float64")
        from safetensors.numpy import save_file

        save_file({n: t.astype("f8") for n, t in tensors.items()}, folder / WEIGHTS)
        changed = tensors
    elif kind == "f2":
        write_tensors(folder / WEIGHTS, {n: t.astype("f2") for n, t in tensors.items()})
        changed = {n: t.astype("f2").astype("f4") for n, t in tensors.items()}
    else:
        cut = {n: (t.view("u4") >> 16).astype("u2") for n, t in tensors.items()}
        write_tensors(folder / WEIGHTS, cut)
        changed = {n: (t.astype("u4") << 16).view("f4") for n, t in cut.items()}
    weights = load(folder, dtype="bf16").weights
    for name, tensor in changed.items():
        found = weights.stored(name.removeprefix(PREFIX))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, tensor)


def test_where_the_base_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(tmp_path)
    config, weights = folder / CONFIG, folder / WEIGHTS
    assert parts(folder) == [folder / "base", config, weights]
    assert parts(folder / "base") == [folder / "base"]  # which is a whole model
    (folder / "base").rename(tmp_path / "base")
    with pytest.raises(ConfigError, match="its base 'base' is no folder here"):
        parts(folder)
    monkeypatch.chdir(tmp_path)
    assert parts(folder) == [Path("base"), config, weights]
    change_config(folder, base_model_name_or_path="../base")
    assert load(folder).directory == folder / ".." / "base"
    change_config(folder, base_model_name_or_path=str(tmp_path / "base"))
    assert load(folder).directory == tmp_path / "base"


def test_a_base_that_is_not_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = change_config(adapter(tmp_path), base_model_name_or_path="facebook/opt-125m")
    assert str(refusal(folder, ConfigError)) == (
        f"{folder / CONFIG}: its base 'facebook/opt-125m' is no folder here; "
        f"{tmp_path}/cache/models--facebook--opt-125m has no snapshot of main either, and nothing "
        "is downloaded\n  hint: download the base, and set base_model_name_or_path to its folder"
    )
    change_config(folder, base_model_name_or_path="\0")
    assert (
        refusal(folder, ConfigError).message
        == f"{folder / CONFIG}: its base '\\x00' is no folder here"
    )


@pytest.mark.parametrize("base", [None, "", 3, ["base"]])
def test_a_base_that_has_no_name_is_refused(tmp_path: Path, base: object) -> None:
    folder = change_config(adapter(tmp_path), base_model_name_or_path=base)
    error = refusal(folder, ConfigError)
    assert error.message == f"{folder / CONFIG}: base_model_name_or_path = {base!r}"
    assert error.hint == "set it to the folder of the base"


@pytest.mark.parametrize("revision", [None, "main", "v1", "c0ffee"])
def test_a_base_by_its_name_is_sought_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = adapter(tmp_path)
    expected = concatenated_logits(load(folder), "opt")
    refs = {"c0ffee": revision} if revision in ("main", "v1") else {"c0ffee": "main"}
    snapshot = cached(tmp_path / "cache", "org/base", folder / "base", *refs.items())
    shutil.rmtree(folder / "base")
    change_config(folder, base_model_name_or_path="org/base", revision=revision)
    assert parts(folder)[0] == snapshot
    np.testing.assert_array_equal(concatenated_logits(load(folder), "opt"), expected)


def test_a_base_without_weights_is_refused(tmp_path: Path) -> None:
    folder = change_config(adapter(tmp_path), base_model_name_or_path=".")
    with pytest.raises(CheckpointError, match=r"none of model\.safetensors"):
        load(folder)


def test_commands_take_a_folder_of_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter(tmp_path)
    assert main(["inspect", str(folder)]) == 0
    assert "opt" in capsys.readouterr().out
    assert main(["doctor", str(folder)]) == 1  # the golden models have no tokenizer
    output = capsys.readouterr().out
    assert "\nok  checkpoint" in output and "\nBAD tokenizer" in output


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "IA3"), ("peft_type", "PREFIX_TUNING"), ("peft_type", None),
        ("use_dora", True), ("bias", "some"), ("bias", None), ("lora_bias", True),
        ("use_qalora", True), ("target_parameters", ["q_proj.weight"]),
        ("trainable_token_indices", [1]), ("layer_replication", [[0, 2]]),
        ("init_lora_weights", "pissa"), ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"), ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "mica"), ("use_bdlora", {"nblocks": 2}),
        ("alora_invocation_tokens", [1]), ("kasa_config", {"beta": 1}), ("of_2030", 1),
    ],
)  # fmt: skip
def test_a_field_that_is_not_built_is_refused_by_name(
    tmp_path: Path, field: str, value: object
) -> None:
    folder = change_config(adapter(tmp_path), **{field: value})
    with pytest.raises(ConfigError) as error:
        load(folder)
    assert error.value.message == f"{folder / CONFIG}: {field} = {value!r} is not built"
    assert error.value.hint.startswith("only plain LoRA is read; if peft can merge it")


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("r", 0, "expected int from 1 to 2^31"),
        ("r", True, "expected int from 1 to 2^31"),
        ("r", 4.0, "expected int from 1 to 2^31"),
        ("r", 10**400, "expected int from 1 to 2^31"),
        ("r", None, "expected int from 1 to 2^31"),
        ("lora_alpha", "16", "expected float from 0 to 2^31"),
        ("lora_alpha", -1, "expected float from 0 to 2^31"),
        ("lora_alpha", float("nan"), "expected float from 0 to 2^31"),
        ("use_rslora", 1, "expected bool"),
    ],
)
def test_a_number_that_is_none_is_refused(
    tmp_path: Path, field: str, value: object, hint: str
) -> None:
    folder = change_config(adapter(tmp_path), **{field: value})
    with pytest.raises(ConfigError) as error:
        load(folder)
    assert error.value.message == f"{folder / CONFIG}: {field} = {value!r:.80}"
    assert error.value.hint == hint


def test_fields_that_are_off_or_older_are_no_matter(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    expected = concatenated_logits(load(folder), "opt")
    harmless = {"fan_in_fan_out": True, "ensure_weight_tying": True, "modules_to_save": ["fc1"]}
    change_config(folder, init_lora_weights="eva", use_dora=False, of_2030=None, **harmless)
    np.testing.assert_array_equal(concatenated_logits(load(folder), "opt"), expected)
    config = json.loads((folder / CONFIG).read_text())
    few = ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules")
    (folder / CONFIG).write_text(json.dumps({name: config[name] for name in few}))
    np.testing.assert_array_equal(concatenated_logits(load(folder), "opt"), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "adapter_config.json: Expecting"), ("[]", "adapter_config.json: not a JSON object")],
)
def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = adapter(tmp_path)
    (folder / CONFIG).write_text(text)
    with pytest.raises(ConfigError, match=f"{message}.*(\n.*)*hint: .*{CONFIG}"):
        load(folder)


NO_HALF = "it is no A or B of a linear module of the base"


def without(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


def also(name: str, *shape: int) -> Any:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (without(f"{Q}.lora_B.weight"), "missing tensors: model.decoder.layers.0.self_attn.q_proj."
         "lora_B.weight", "not complete"),
        (without(f"{Q}.lora_A.weight"), "missing tensors: model.decoder.layers.0.self_attn.q_proj."
         "lora_A.weight", "not complete"),
        (also(f"{Q}.lora_A.weight", 3, 24),
         f"{Q}.lora_A.weight: shape [3, 24], the configuration asks for [4, 24]", "two different"),
        (also(f"{Q}.lora_B.weight", 24, 4, 1),
         f"{Q}.lora_B.weight: shape [24, 4, 1], the configuration asks for [24, 4]",
         "two different"),
        (also(f"{Q}x.lora_A.weight", 4, 24), f"{Q}x.lora_A.weight: {NO_HALF}", "merge_and"),
        (also(f"{PREFIX}lm_head.lora_A.weight", 4, 24),
         f"{PREFIX}lm_head.lora_A.weight: {NO_HALF}", "merge_and"),
        (also(f"{PREFIX}model.decoder.final_layer_norm.lora_A.weight", 4, 24),
         f"{PREFIX}model.decoder.final_layer_norm.lora_A.weight: {NO_HALF}", "merge_and"),
        (also(f"{Q}.lora_magnitude_vector", 24), f"{Q}.lora_magnitude_vector: {NO_HALF}", "merge"),
        (also(f"{Q}.lora_embedding_A", 4, 24), f"{Q}.lora_embedding_A: {NO_HALF}", "merge_and"),
        (also(f"{Q}.else", 4, 24), f"unexpected tensors: {Q}.else", "another"),
        (also(f"{Q.removeprefix(PREFIX)}.lora_A.weight", 4, 24), "are both", "keep one"),
        (lambda tensors: tensors.clear(), "it has no adapter", "download or copy it again"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object], message: str, hint: str
) -> None:
    folder = adapter(tmp_path)
    tensors = tensors_of(folder)
    change(tensors)
    write_tensors(folder / WEIGHTS, tensors)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert message in error.value.message
    assert hint in error.value.hint


def test_halves_of_integers_are_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    oracle = pytest.importorskip("safetensors.numpy", reason="the crate that writes integers")
    oracle.save_file({n: t.astype("i4") for n, t in tensors_of(folder).items()}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="weight is of I32\n  hint: only F32"):
        load(folder)


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="the file at"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: No such file.*\n  hint: check the"):
        load(folder)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    shutil.rmtree(folder / "base")
    write_base(folder / "base", "roberta")
    with pytest.raises(CheckpointError, match="it is no A or B of a linear module of the base"):
        load(folder)


# -- modules with a rank or an alpha of their own ------------------------------------------------


def test_each_module_has_the_first_pattern_that_matches(tmp_path: Path) -> None:
    folder = change_config(
        adapter(tmp_path),
        use_rslora=True,
        rank_pattern={"self_attn.q_proj": 9, "q_proj": 16, "_proj": 2},
        alpha_pattern={"proj": 1, "layers.1.self_attn.q_proj": 2, "^model.*q_proj": 3},
    )
    settings = read_config(folder / CONFIG)
    q = "model.decoder.layers.{}.self_attn.q_proj"
    for module, r, alpha in (
        (q.format(0), 9, 3), (q.format(1), 9, 2), (q.format(11), 9, 3), ("q_proj", 16, 16),
        (f"peft.{q.format(1)}", 9, 2), (f"{q.format(1)}.part", 4, 16), ("aq_proj", 4, 16),
    ):  # fmt: skip
        found = settings.of(module)
        assert (found.r, found.lora_alpha) == (r, alpha)
        assert found.scale == alpha / math.sqrt(r)


@pytest.mark.parametrize("alpha", [0, 4, 7])
def test_a_scale_of_its_own_is_in_b(tmp_path: Path, alpha: int) -> None:
    folder = adapter(tmp_path)
    before = load(folder).weights
    change_config(folder, lora_alpha=alpha, alpha_pattern={r"layers\.0\..*q_proj": 3})
    weights = load(folder).weights
    assert weights.adapter_scale == (alpha or 3) / 4
    for name in weights.trained:
        factor = 1.0
        if name == f"{Q.removeprefix(PREFIX)}.lora_B.weight":
            factor = 3 / (alpha or 3)
        elif alpha == 0 and ".lora_B." in name:
            factor = 0.0
        expected = (before.stored(name).astype("f8") * factor).astype("f4")
        np.testing.assert_array_equal(weights.stored(name), expected)


@pytest.mark.parametrize(
    ("field", "value", "message", "hint"),
    [
        ("rank_pattern", ["q_proj"], "rank_pattern = ['q_proj']", "patterns, each with a number"),
        ("rank_pattern", "q_proj", "rank_pattern = 'q_proj'", "patterns, each with a number"),
        (
            "alpha_pattern",
            {str(i): 1 for i in range(1001)},
            "alpha_pattern = {'0': 1",
            "at most 1000",
        ),
        ("rank_pattern", {"q": 2.0}, "rank_pattern['q'] = 2.0", "expected int from 1"),
        ("rank_pattern", {"q": None}, "rank_pattern['q'] = None", "expected int from 1"),
        ("alpha_pattern", {"q": "2"}, "alpha_pattern['q'] = '2'", "expected float from 0"),
        ("alpha_pattern", {"(q": 2}, "alpha_pattern has the pattern '(q': missing )", "only plain"),
        (
            "alpha_pattern",
            {"a{99999999999}": 2},
            "the repetition number is too large",
            "only plain",
        ),
        ("rank_pattern", {"(a+)+": 2}, "rank_pattern has the pattern '(a+)+'", "none of a group"),
        ("rank_pattern", {".*.*.*.*q": 2}, "has the pattern '.*.*.*.*q'", "at most 3 of *+?{"),
        ("rank_pattern", {"q" * 501: 2}, "has the pattern 'qqq", "at most 3"),
    ],
)
def test_a_pattern_that_is_none_or_may_take_for_ever_is_refused(
    tmp_path: Path, field: str, value: object, message: str, hint: str
) -> None:
    error = refusal(change_config(adapter(tmp_path), **{field: value}), ConfigError)
    assert message in error.message and hint in error.hint, str(error)


def test_a_rank_that_its_pattern_does_not_give_is_refused(tmp_path: Path) -> None:
    folder = change_config(adapter(tmp_path), rank_pattern={"q_proj": 2})
    error = refusal(folder, CheckpointError)
    found = f"{Q}.lora_A.weight: shape [4, 24], the configuration asks for [2, 24]"
    assert error.message == f"{folder / WEIGHTS}: {found}"


# -- files and names as they are found ----------------------------------------------------------


def test_safetensors_are_read_before_bin(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    (folder / "adapter_model.bin").write_bytes(b"not read")
    load(folder)
    (folder / WEIGHTS).unlink()
    assert "torch.save did not write it" in refusal(folder, CheckpointError).message


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace(".decoder.", ".decoder._orig_mod."),
        lambda name: name.replace("model.model.decoder.", "model."),  # of an OPTModel
        lambda name: name.replace("model.model.decoder.", "model.decoder."),
    ],
)
def test_halves_may_have_other_prefixes(tmp_path: Path, rename: Callable[[str], str]) -> None:
    folder = adapter(tmp_path)
    expected = concatenated_logits(load(folder), "opt")
    write_tensors(folder / WEIGHTS, {rename(n): t for n, t in tensors_of(folder).items()})
    np.testing.assert_array_equal(concatenated_logits(load(folder), "opt"), expected)


TABLE = "model.decoder.embed_tokens.weight"
Q_BIAS = "model.decoder.layers.0.self_attn.q_proj.bias"


def base_tensor(folder: Path, name: str) -> np.ndarray:
    with open_safetensors(folder / "base" / "model.safetensors") as file:
        return file.read(name)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (TABLE, f"{PREFIX}{TABLE}"),
        (TABLE, f"{PREFIX}lm_head.weight"),
        (TABLE, f"{PREFIX}model.decoder.embed_tokens.base_layer.weight"),
        (Q_BIAS, f"{Q}.bias"),
        (Q_BIAS, f"{Q}.base_layer.bias"),
    ],
)
@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_tensors_of_the_base_may_lie_beside_if_they_are_unchanged(
    tmp_path: Path, own: str, name: str, dtype: str | None
) -> None:
    folder = adapter(tmp_path)
    tensors, copy = tensors_of(folder), base_tensor(folder, own)
    write_tensors(folder / WEIGHTS, tensors | {name: copy})
    assert list(load(folder, dtype=dtype).weights.trained) == [
        n.removeprefix(PREFIX) for n in tensors
    ]
    found = f"{folder / WEIGHTS}: {name} is not the base's {own}, so it was trained or resized too"
    changed = copy.copy()
    changed.flat[-1] += 1e-6
    for other in (changed, np.concatenate([copy, copy]), copy[:0], np.float32(3)):
        write_tensors(folder / WEIGHTS, tensors | {name: np.asarray(other)})
        error = refusal(folder, CheckpointError)
        assert error.message == f"{found} (bias, modules_to_save)"
        assert error.hint.startswith("only plain LoRA is read")


def test_a_classifier_beside_an_adapter_is_named_for_what_it_is(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    name = f"{PREFIX}score.weight"
    write_tensors(folder / WEIGHTS, tensors_of(folder) | {name: np.ones((2, 24), np.float32)})
    error = refusal(folder, CheckpointError)
    found = f"{folder / WEIGHTS}: {name}: the head of a fine-tuned classifier"
    assert error.message.startswith(found)
