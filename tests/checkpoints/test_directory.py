"""Model folders as people have them: the names, types and files that are read, and what is not."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import hostile
import numpy as np
import pytest
from tiny import MODELS

import tinyzo
from tinyzo.checkpoints import directory
from tinyzo.checkpoints.directory import fingerprint, typed_config
from tinyzo.checkpoints.safetensors import SafetensorsWriter
from tinyzo.checkpoints.sources import TensorInfo
from tinyzo.dtypes import DTYPES, narrow
from tinyzo.errors import CheckpointError, ConfigError, TinyzoError
from tinyzo.models import opt, roberta

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int64": "I64"}
ROBERTA_TABLE, OPT_TABLE = roberta.TOKENS, opt.TOKENS
LM_HEAD = {"roberta": "lm_head.decoder.weight", "opt": "lm_head.weight"}
BIAS, BIAS_TWIN = "lm_head.bias", "lm_head.decoder.bias"
families = pytest.mark.parametrize("family", ["roberta", "opt"])


class Folder:
    """A tiny model's folder, to be changed before it is written and loaded."""

    def __init__(self, path: Path, name: str) -> None:
        model = MODELS[name]()
        self.path, self.table = path, model.architecture.TOKENS
        self.config = {"model_type": model.family, **dataclasses.asdict(model.config)}
        self.tensors: dict[str, np.ndarray] = {
            tensor: model.weights.read(tensor) for tensor in model.weights.names()
        }
        self.original = dict(self.tensors)

    def write(self) -> Path:
        (self.path / "config.json").write_text(json.dumps(self.config))
        write_safetensors(self.path / "model.safetensors", self.tensors)
        return self.path

    def rename(self, old: str, new: str) -> None:
        """Put another prefix where the model's own is."""
        self.tensors = {
            new + name.removeprefix(old) if name.startswith(old) else name: tensor
            for name, tensor in self.tensors.items()
        }


Make = Callable[[str], Folder]
WriteOne = Callable[[Path, Mapping[str, np.ndarray]], None]


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    infos = {name: TensorInfo(TYPES[t.dtype.name], t.shape) for name, t in tensors.items()}
    with SafetensorsWriter(path, infos) as writer:
        for name in writer.names():
            writer.write(name, tensors[name])


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    held = OrderedDict((n, hostile.tensor(TYPES[t.dtype.name], t)) for n, t in tensors.items())
    path.write_bytes(hostile.torch_bin(held))


def write_shards(folder: Folder, count: int, name: str, write_one: WriteOne) -> None:
    """The weights in `count` files behind an index, in place of model.safetensors."""
    folder.write().joinpath("model.safetensors").unlink()
    stem, suffix = name.split(".")
    places: dict[str, str] = {}
    for i in range(count):
        part = {tensor: folder.tensors[tensor] for tensor in list(folder.tensors)[i::count]}
        shard = f"{stem}-{i + 1:05}-of-{count:05}.{suffix}"
        write_one(folder.path / shard, part)
        places |= dict.fromkeys(part, shard)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder.path / f"{name}.index.json").write_text(index)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name: Folder(tmp_path, name)


def check_loads(folder: Folder, expected: Mapping[str, np.ndarray] | None = None) -> None:
    """The folder's model has the original tensors, in the model's own order."""
    weights, expected = tinyzo.load(folder.path).weights, expected or folder.original
    assert weights.names() == list(expected)
    for name, tensor in expected.items():
        assert weights.dtype(name) == tensor.dtype, name
        assert np.array_equal(weights.stored(name), tensor), name


def check_refused(path: Path, kind: type[TinyzoError], message: str, hint: str) -> None:
    with pytest.raises(kind) as caught:
        tinyzo.load(path)
    assert message in caught.value.message and hint in caught.value.hint, str(caught.value)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "found"),
    [
        ("roberta", "roberta.", "roberta."),
        ("roberta", "roberta.", ""),
        ("opt", "model.decoder.", "model.decoder."),
        ("opt", "model.decoder.", "decoder."),
        ("opt", "model.decoder.", ""),
        ("opt-post", "model.decoder.", "decoder."),
    ],
)
@pytest.mark.parametrize("with_head", [True, False])
def test_every_prefix_that_is_found(
    make: Make, name: str, own: str, found: str, with_head: bool
) -> None:
    folder = make(name)
    folder.rename(own, found)
    if with_head:
        folder.tensors[LM_HEAD[folder.config["model_type"]]] = folder.original[folder.table].copy()
    folder.write()
    check_loads(folder)


def test_roberta_files_of_old_versions(make: Make) -> None:
    folder = make("roberta")
    folder.tensors |= {
        LM_HEAD["roberta"]: folder.tensors[ROBERTA_TABLE],
        BIAS_TWIN: folder.tensors[BIAS],
        "roberta.embeddings.position_ids": np.arange(20)[None],
        "roberta.pooler.dense.weight": np.ones((8, 8), np.float32),
        "roberta.pooler.dense.bias": np.ones(8, np.float32),
    }
    folder.write()
    check_loads(folder)
    folder.rename("roberta.", "")
    folder.write()
    check_loads(folder)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("roberta", ROBERTA_TABLE, LM_HEAD["roberta"]),
        ("roberta", BIAS, BIAS_TWIN),
        ("opt", OPT_TABLE, LM_HEAD["opt"]),
        ("opt-post", OPT_TABLE, LM_HEAD["opt"]),
    ],
)
def test_tied_tensors_may_have_either_name_or_both_but_not_two_values(
    make: Make, name: str, first: str, second: str
) -> None:
    folder = make(name)
    values = folder.tensors.pop(first)
    folder.tensors[second] = values
    folder.write()
    check_loads(folder)
    folder.tensors[first] = values.copy()
    folder.write()
    check_loads(folder)
    folder.tensors[second] = values.copy()
    folder.tensors[second].flat[-1] += 1e-6
    check_refused(
        folder.write(), CheckpointError, f"{second} is not tied to {first}", "is not built"
    )
    for other in (values[:-1].copy(), np.stack([values, values]), values.dtype.type(3)):
        folder.tensors[second] = np.asarray(other)
        message = f"{second}: shape {list(other.shape)}, the configuration asks for"
        check_refused(folder.write(), CheckpointError, message, "two different models")
    folder.tensors[second] = values.astype(np.int64)
    check_refused(folder.write(), CheckpointError, f"{first} is of I64", "only F32, F16, BF16")


@families
@pytest.mark.parametrize("dtype", [None, "f16", "bf16"])
def test_tied_tensors_may_be_of_two_types_if_their_values_are_the_same(
    make: Make, family: str, dtype: str | None
) -> None:
    folder = make(family)
    half = folder.tensors[folder.table].astype(np.float16)
    second = LM_HEAD[family]
    folder.tensors |= {folder.table: half.astype(np.float32), second: half}
    weights = tinyzo.load(folder.write(), dtype=dtype).weights
    assert weights.dtype(folder.table) == DTYPES[dtype or "f32"]
    folder.tensors |= {folder.table: folder.original[folder.table]}
    message = f"{second} is not tied to {folder.table}: their values differ"
    check_refused(folder.write(), CheckpointError, message, "is not built")


def test_tied_tensors_with_a_number_that_is_none_are_the_same(make: Make) -> None:
    folder = make("opt")
    folder.tensors[folder.table] = folder.tensors[folder.table].copy()
    folder.tensors[folder.table][0, 0] = np.nan
    folder.tensors[LM_HEAD["opt"]] = folder.tensors[folder.table].copy()
    tinyzo.load(folder.write())


WRAPPED = [
    lambda name: f"_orig_mod.{name}",
    lambda name: f"module.{name}",
    lambda name: f"module._orig_mod.{name}",
    lambda name: f"_orig_mod.module._fsdp_wrapped_module.{name}",
    lambda name: name.replace(".layer", "._checkpoint_wrapped_module.layer"),
    lambda name: f"_orig_mod.{name.removeprefix('roberta.').removeprefix('model.decoder.')}",
]


@families
@pytest.mark.parametrize("wrap", WRAPPED)
def test_the_names_of_wrappers_are_left_out(
    make: Make, family: str, wrap: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(family)
    folder.tensors = {wrap(name): tensor for name, tensor in folder.tensors.items()}
    folder.write()
    check_loads(folder)
    check_loads(folder)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(set(said))
    for wrapper in directory.WRAPPERS & set(".".join(folder.tensors).split(".")):
        file = folder.path / "model.safetensors"
        assert f"tinyzo: {file}: {wrapper!r} is left out of the names of its tensors" in said


def test_wrappers_do_not_make_two_tensors_one(make: Make) -> None:
    folder = make("opt")
    folder.tensors[f"module.{folder.table}"] = folder.tensors[folder.table]
    message = f"{folder.table} and module.{folder.table} are both {folder.table}"
    check_refused(folder.write(), CheckpointError, message, "keep one of them")


@families
def test_buffers_that_some_versions_saved_are_not_read(make: Make, family: str) -> None:
    folder = make(family)
    base = folder.table.partition("embed")[0]
    folder.tensors |= {
        f"{base}embeddings.token_type_ids": np.zeros((1, 20), np.int64),
        f"{base}embeddings.position_ids": np.arange(20)[None],
        f"{base}version": np.float32([3]),
        f"{base}embed_positions._float_tensor": np.float32([1]),
    }
    folder.write()
    check_loads(folder)


TENSOR_FAULTS = {
    "missing": (
        lambda t, table: t.pop(table),
        "missing tensors: roberta.embeddings.word_embeddings.weight",
        "a download that is not complete",
    ),
    "an encoder alone": (
        lambda t, table: [t.pop(name) for name in list(t) if name.startswith("lm_head")],
        "missing tensors: lm_head.dense.weight, lm_head.dense.bias, lm_head.layer_norm.weight, "
        "lm_head.layer_norm.bias and 1 more",
        "an encoder without its head",
    ),
    "unexpected": (
        lambda t, table: t.update({"roberta.adapter.down": t[table]}),
        "unexpected tensors: roberta.adapter.down",
        "if they are leftovers of training, save the model's own tensors alone",
    ),
    "misshapen": (
        lambda t, table: t.update({table: t[table][:, :7].copy()}),
        f"{ROBERTA_TABLE}: shape [29, 7], the configuration asks for [29, 8]",
        "two different models",
    ),
    "twice": (
        lambda t, table: t.update({table.removeprefix("roberta."): t[table]}),
        "are both roberta.embeddings.word_embeddings.weight",
        "keep one",
    ),
    "a classifier": (
        lambda t, table: t.update({"classifier.dense.weight": np.ones((8, 8), np.float32)}),
        "classifier.dense.weight: the head of a fine-tuned classifier, which is out of scope",
        "take the pretrained checkpoint with its language-model head",
    ),
    "whole numbers": (
        lambda t, table: t.update({table: t[table].astype(np.int64)}),
        f"model.safetensors: {ROBERTA_TABLE} is of I64",
        "only F32, F16, BF16, F64 are read",
    ),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_other_tensors_are_refused_by_name(make: Make, fault: str) -> None:
    folder = make("roberta")
    plant, message, hint = TENSOR_FAULTS[fault]
    plant(folder.tensors, ROBERTA_TABLE)
    check_refused(folder.write(), CheckpointError, message, hint)


def test_a_classifier_without_the_head_is_named_for_what_it_is(make: Make) -> None:
    folder = make("roberta")
    folder.tensors = {n: t for n, t in folder.tensors.items() if not n.startswith("lm_head")}
    folder.tensors["classifier.out_proj.bias"] = np.ones(2, np.float32)
    check_refused(folder.write(), CheckpointError, "classifier.out_proj.bias: the head", "pretrain")


def test_more_layers_than_tensors_are_refused_before_they_are_listed(make: Make) -> None:
    folder = make("opt")
    folder.config["num_hidden_layers"] = 10**9
    message = f"{len(folder.tensors)} tensors for the 1000000000 layers of config.json"
    check_refused(folder.write(), CheckpointError, message, "two different models")


# -- types -------------------------------------------------------------------------------------


def nearest(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """f32 rounded to a storage type, ties to even; f32 again."""
    if dtype != np.uint16:
        return values.astype(dtype).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@families
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("dtype", [None, "auto", *DTYPES])
def test_types_are_kept_or_converted_to_the_nearest(
    make: Make, family: str, stored: str, dtype: str | None
) -> None:
    folder, held = make(family), np.dtype(DTYPES[stored])
    folder.tensors = {name: narrow(t, held, None) for name, t in folder.tensors.items()}
    weights = tinyzo.load(folder.write(), dtype=dtype).weights
    target = np.dtype(DTYPES.get(dtype, held))
    for name, tensor in folder.original.items():
        assert weights.dtype(name) == target
        assert np.array_equal(weights.read(name), nearest(nearest(tensor, held), target))


def test_double_precision_becomes_float32(make: Make) -> None:
    folder = make("opt")
    folder.tensors = {name: t.astype(np.float64) + 1e-12 for name, t in folder.tensors.items()}
    expected = {name: t.astype(np.float32) for name, t in folder.tensors.items()}
    folder.write()
    check_loads(folder, expected)


@pytest.mark.parametrize(("held", "dtype"), [(np.float32, "f16"), (np.float64, None)])
def test_values_beyond_the_type_asked_for_are_refused(
    make: Make, held: type, dtype: str | None
) -> None:
    folder = make("roberta")
    folder.tensors = {name: t.astype(held) for name, t in folder.tensors.items()}
    folder.tensors[ROBERTA_TABLE][3, 4] = -1e39 if held == np.float64 else 70_000
    with pytest.raises(CheckpointError, match=f"{ROBERTA_TABLE}: values too large for") as caught:
        tinyzo.load(folder.write(), dtype=dtype)
    assert "another --dtype" in str(caught.value)


# -- files -------------------------------------------------------------------------------------


@families
def test_shards_are_one_model(make: Make, family: str) -> None:
    folder = make(family)
    write_shards(folder, 2, "model.safetensors", write_safetensors)
    check_loads(folder)


def test_shards_of_pytorch_model_bin_are_one_model(make: Make) -> None:
    folder = make("opt-post")
    write_shards(folder, 3, "pytorch_model.bin", write_torch)
    check_loads(folder)


def test_opt_as_published_is_float16_in_pytorch_model_bin(make: Make) -> None:
    folder = make("opt")
    half = {name: tensor.astype(np.float16) for name, tensor in folder.tensors.items()}
    folder.write().joinpath("model.safetensors").unlink()
    folder.tensors = half
    folder.rename("model.decoder.", "decoder.")
    write_torch(folder.path / "pytorch_model.bin", folder.tensors)
    check_loads(folder, half)


def test_safetensors_are_taken_before_pytorch_model_bin(make: Make) -> None:
    folder = make("roberta")
    folder.write().joinpath("pytorch_model.bin").write_bytes(b"not read")
    check_loads(folder)


def test_a_folder_that_is_not_there_or_has_no_weights(make: Make, tmp_path: Path) -> None:
    check_refused(tmp_path / "no", CheckpointError, "no: no such folder", "a model's folder")
    (tmp_path / "mail.csv").touch()
    check_refused(
        tmp_path / "mail.csv", CheckpointError, "mail.csv: a file, not a folder", "a model's"
    )
    folder = make("opt")
    folder.write().joinpath("model.safetensors").unlink()
    names = "none of model.safetensors, model.safetensors.index.json, pytorch_model.bin"
    check_refused(tmp_path, CheckpointError, names, "download the model's weights into it")
    folder.write().joinpath("model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("../blobs/gone")
    check_refused(
        tmp_path, CheckpointError, "model.safetensors: No such", "a link to ../blobs/gone"
    )


@pytest.mark.parametrize(
    "name",
    [
        "model.fp16.safetensors", "Model.Safetensors", "model.safetensors.incomplete",
        "pytorch_model.bin.part", "model-00001-of-00002.safetensors", "tf_model.h5",
        "flax_model.msgpack", "opt.gguf", "model.onnx", "consolidated.00.pth",
    ],
)  # fmt: skip
def test_weights_of_another_name_are_named(make: Make, tmp_path: Path, name: str) -> None:
    folder = make("opt").write()
    folder.joinpath("model.safetensors").rename(folder / name)
    found = f"pytorch_model.bin.index.json, but {name}"
    check_refused(folder, CheckpointError, found, "give such a file its name")


def test_a_name_in_another_case_is_named(make: Make) -> None:
    folder = make("opt").write()
    folder.joinpath("config.json").rename(folder / "Config.JSON")
    hint = "there is Config.JSON, and names differ by case: rename it"
    check_refused(folder, ConfigError, "config.json: No such file or directory", hint)


def test_opt_needs_no_padding(make: Make) -> None:
    """transformers reads it so; RoBERTa counts its positions from that id."""
    folder = make("opt").write()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    assert tinyzo.load(folder).config.vocab_size == config["vocab_size"]


# -- config.json -------------------------------------------------------------------------------

ROBERTA_BASE = """{"architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "roberta",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
    "type_vocab_size": 1, "vocab_size": 50265}"""
OPT_350M = """{"_name_or_path": "opt-350m", "_remove_final_layer_norm": false,
    "activation_dropout": 0.0, "activation_function": "relu",
    "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 2,
    "do_layer_norm_before": false, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 4096,
    "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
    "model_type": "opt", "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 1,
    "prefix": "</s>", "torch_dtype": "float16", "transformers_version": "4.20.0.dev0",
    "use_cache": true, "vocab_size": 50272, "word_embed_proj_dim": 512}"""


def test_published_configs() -> None:
    found = typed_config(json.loads(ROBERTA_BASE), roberta.Config, roberta.ALLOWED)
    assert found == roberta.Config(
        layer_norm_eps=1e-5, max_position_embeddings=514, type_vocab_size=1
    )
    assert found.max_length == 512
    found = typed_config(json.loads(OPT_350M), opt.Config, opt.ALLOWED)
    assert found == opt.Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, ffn_dim=4096,
        do_layer_norm_before=False, word_embed_proj_dim=512,
    )  # fmt: skip
    assert (found.embed_size, found.has_final_norm, found.max_length) == (512, False, 2048)


@pytest.mark.parametrize(
    ("architecture", "derived"), [(roberta, {}), (opt, {"word_embed_proj_dim": 768})]
)
def test_what_transformers_writes_is_known_and_its_defaults_are_ours(
    architecture: ModuleType, derived: dict[str, int]
) -> None:
    name = architecture.__name__.rpartition(".")[2]
    written = json.loads((GOLDEN / "configs.json").read_text())[name]
    found = typed_config(written, architecture.Config, architecture.ALLOWED)
    assert found == architecture.Config(**derived)
    assert typed_config({}, architecture.Config, architecture.ALLOWED) == architecture.Config()


@pytest.mark.parametrize("architecture", [roberta, opt])
def test_how_a_model_is_computed_elsewhere_is_no_matter(architecture: ModuleType) -> None:
    harmless = {
        "_attn_implementation_autoset": True, "_attn_implementation": "sdpa", "torch_dtype": "auto",
        "_flash_attn_2_enabled": False, "dtype": "bfloat16", "tie_encoder_decoder": False,
        "unsloth_version": "2025.1", "experts_implementation": None,
    }  # fmt: skip
    found = typed_config(harmless, architecture.Config, architecture.ALLOWED)
    assert found == architecture.Config()


COUNT, SIZE = "expected int from 1 to 2^31", "expected float from 0 to 2^31"
CONFIG_FAULTS = [
    ("roberta", {"rope_theta": 1e4}, "unknown field 'rope_theta' = 10000.0", "remove it"),
    ("roberta", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new' is not built", "'gelu'"),
    ("roberta", {"hidden_act": ["gelu"]}, "hidden_act = ['gelu'] is not built", "'gelu'"),
    ("opt", {"activation_function": "silu"}, "activation_function = 'silu'", "'relu', 'gelu'"),
    (
        "roberta", {"position_embedding_type": "relative_key"},
        "position_embedding_type = 'relative_key' is not built", "'absolute'",
    ),
    ("roberta", {"is_decoder": True}, "is_decoder = True is not built", "built: False"),
    ("roberta", {"add_cross_attention": True}, "add_cross_attention = True", "built: False"),
    ("roberta", {"tie_word_embeddings": False}, "tie_word_embeddings = False", "built: True"),
    ("opt", {"tie_word_embeddings": False}, "tie_word_embeddings = False", "built: True"),
    ("roberta", {"pruned_heads": {"0": [1]}}, "pruned_heads = {'0': [1]}", "leave it out"),
    ("opt", {"quantization_config": {"bits": 4}}, "unknown field 'quantization_config'", "remove"),
    ("opt", {"tie_encoder_decoder": True}, "tie_encoder_decoder = True", "leave it out"),
    ("opt", {"x" * 200: "y" * 200}, f"unknown field '{'x' * 79} = '{'y' * 79}", "remove it"),
    ("opt", {"is_encoder_decoder": True}, "is_encoder_decoder = True", "leave it out"),
    ("opt", {"hidden_size": "8"}, "hidden_size = '8'", COUNT),
    ("opt", {"hidden_size": 8.0}, "hidden_size = 8.0", COUNT),
    ("opt", {"hidden_size": True}, "hidden_size = True", COUNT),
    ("opt", {"hidden_size": None}, "hidden_size = None", COUNT),
    ("opt", {"num_hidden_layers": 0}, "num_hidden_layers = 0", COUNT),
    ("opt", {"num_attention_heads": -2}, "num_attention_heads = -2", COUNT),
    ("opt", {"vocab_size": 2**31}, "vocab_size = 2147483648", COUNT),
    ("opt", {"word_embed_proj_dim": 0}, "word_embed_proj_dim = 0", COUNT),
    ("roberta", {"pad_token_id": -1}, "pad_token_id = -1", "expected int from 0 to 2^31"),
    ("roberta", {"pad_token_id": None}, "pad_token_id = None", "expected int from 0 to 2^31"),
    ("opt", {"enable_bias": 1}, "enable_bias = 1", "expected bool"),
    ("roberta", {"layer_norm_eps": "1e-5"}, "layer_norm_eps = '1e-5'", SIZE),
    ("roberta", {"layer_norm_eps": -1e-5}, "layer_norm_eps = -1e-05", SIZE),
    ("roberta", {"layer_norm_eps": float("nan")}, "layer_norm_eps = nan", SIZE),
    ("roberta", {"layer_norm_eps": float("inf")}, "layer_norm_eps = inf", SIZE),
    ("roberta", {"num_attention_heads": 3}, "hidden_size 8 is not a multiple of "
     "num_attention_heads 3", "copy config.json"),
    ("roberta", {"model_type": "bert"}, "model_type 'bert' is not built", "built: roberta, opt"),
    ("roberta", {"model_type": ["opt"]}, "model_type \"['opt']\" is not built", "built: roberta"),
    ("roberta", {"model_type": None}, "model_type 'None' is not built", "built: roberta, opt"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "message", "hint"), CONFIG_FAULTS, ids=[str(row[1]) for row in CONFIG_FAULTS]
)
def test_other_configs_are_refused_by_field(
    make: Make, name: str, change: dict[str, object], message: str, hint: str
) -> None:
    folder = make(name)
    folder.config |= change
    check_refused(folder.write(), ConfigError, message, hint)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "No such file", "has a readable config.json"),
        (b"{", "config.json: Expecting property name", "has a readable config.json"),
        (b"\xff\xfe", "config.json: 'utf-8' codec can't decode", "has a readable config.json"),
        (b"[" * 100_000, "config.json: ", "has a readable config.json"),
        (b"9" * 5000, "config.json: Exceeds the limit", "has a readable config.json"),
        (b"[]", "config.json: not a JSON object", "copy config.json"),
    ],
    ids=["missing", "cut off", "not text", "deep", "long number", "a list"],
)
def test_a_config_that_cannot_be_read_is_refused(
    make: Make, content: bytes | None, message: str, hint: str
) -> None:
    folder = make("opt")
    path = folder.write() / "config.json"
    path.unlink() if content is None else path.write_bytes(content)
    check_refused(folder.path, ConfigError, message, hint)


# -- the fingerprint ---------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True])
def test_the_fingerprint_changes_with_any_byte_of_config_or_weights(
    make: Make, sharded: bool
) -> None:
    folder = make("roberta")
    folder.write()
    if sharded:
        write_shards(folder, 2, "model.safetensors", write_safetensors)
    before = fingerprint(folder.path)
    (folder.path / "vocab.json").write_text("{}")
    assert fingerprint(folder.path) == before and len(before) == 64
    files = [folder.path / "config.json", *folder.path.glob("*.safetensors")]
    assert len(files) == 2 + sharded
    for path in files:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert fingerprint(folder.path) != before
        content[-1] ^= 1
        path.write_bytes(content)
        assert fingerprint(folder.path) == before


def test_a_fingerprint_needs_every_file(make: Make) -> None:
    folder = make("roberta")
    write_shards(folder, 2, "model.safetensors", write_safetensors)
    (folder.path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: No such file .*\n.*check the path"):
        fingerprint(folder.path)
    (folder.path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(CheckpointError, match="its weight_map does not give"):
        fingerprint(folder.path)
