"""What `tinyzo export` wrote, opened again, with all its parts checked against one another.

    export = open_export(folder)          CheckpointError for whatever does not fit together
    export.about["queries"], export.rows("train")

Nothing that a file of the folder says is believed before it is checked: the folder may have come
from anywhere.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tinyzo.checkpoints import peft
from tinyzo.checkpoints.directory import fingerprint
from tinyzo.checkpoints.safetensors import SafetensorsFile
from tinyzo.engine import noise
from tinyzo.engine.onnx.reader import Outline, read_outline
from tinyzo.errors import CheckpointError, refuse
from tinyzo.models.model import MODELS, names_of_tensors, read_config
from tinyzo.parsing import MAX_BYTES, JsonObject, is_natural, parse_json
from tinyzo.runs.export import WEIGHTS
from tinyzo.runs.inference import ABOUT, ADAPTER_WEIGHTS, EVAL, FORMAT, ROWS, STEP
from tinyzo.system import os_errors, read_file
from tinyzo.zo.graphs import CANDIDATES, GOLD, WORDS

AGAIN = "tinyzo export writes it again"
SPLITS = ("train", "test")
MOST = 64 << 20  # bytes of a graph, and of rows.json


# -- what a field of tinyzo.json may be ----------------------------------------------------------

IsRight = Callable[[object], bool]


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def is_positive(value: object) -> bool:
    return is_natural(value) and value > 0


def is_one_of(known: Collection[object]) -> IsRight:
    return lambda value: is_text(value) and value in known


def is_list_of(is_right: IsRight) -> IsRight:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def is_table_of(is_right: IsRight, *names: str) -> IsRight:
    """Whether it is an object of such values, with just these names, or with any."""

    def is_table(value: object) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        has_its_names = not names or value.keys() == set(names)
        return has_its_names and all(map(is_right, value.values()))

    return is_table


def is_size(value: object) -> bool:
    """Whether it is a number, or the name of a size that may be any."""
    return is_natural(value) or is_text(value)


def is_array(value: object) -> bool:
    """Whether it describes an input or an output of a graph."""
    match value:
        case {"type": str(), "shape": shape}:
            return is_list_of(is_size)(shape)
    return False


def is_trained(value: object) -> bool:
    """Whether it says where a tensor is in the adapter's file."""
    match value:
        case {"key": str(), "shape": [rows, columns]}:
            return is_positive(rows) and is_positive(columns)
    return False


def is_token_or_none(value: object) -> bool:
    return value is None or is_natural(value)


IS_SIGNATURE = is_table_of(is_table_of(is_array), "inputs", "outputs")
FIELDS: dict[str, IsRight] = {
    "base": is_text,
    "graphs": is_table_of(is_text, STEP, EVAL),
    "signatures": is_table_of(IS_SIGNATURE, STEP, EVAL),
    "family": is_one_of(MODELS),
    "task": is_text,
    "labels": is_list_of(is_text),
    "label_words": is_list_of(is_text),
    "kind": is_one_of((WORDS, CANDIDATES, GOLD)),
    "words": is_list_of(is_natural),
    "mask_id": is_token_or_none,
    "pad_id": is_natural,
    "max_tokens": is_positive,
    "train": is_text,
    "rank": is_positive,
    "alpha": is_number,
    "scale": is_number,
    "queries": is_positive,
    "batch_size": is_positive,
    "lr": is_number,
    "eps": is_number,
    "seed": is_natural,
    "adapter": is_one_of((ADAPTER_WEIGHTS,)),
    "trained": is_table_of(is_trained),
}
FORMATS = {"format": FORMAT, "noise_format": noise.FORMAT}


def read_about(data: bytes, path: Path) -> JsonObject:
    """The fields of tinyzo.json, each of its type.

    path: what errors name
    raises: CheckpointError for another format, for z of another format, for a field that is
        missing or not of its type
    """
    about = parse_json(data, path)
    for name, own in FORMATS.items():
        check_format(about, path, name, own)
    for name, is_right in FIELDS.items():
        if name not in about:
            refuse(path, f"it has no {name}", AGAIN)
        if not is_right(about[name]):
            refuse(path, f"{name} is {about[name]!r:.80}", AGAIN)
    for graph, signature in about["signatures"].items():
        check_inputs(about, path, graph, signature["inputs"])
    return about


def check_inputs(about: JsonObject, path: Path, graph: str, inputs: JsonObject) -> None:
    """raises: CheckpointError for other inputs than a graph of this kind has"""
    rows = ["input_ids", "attention_mask"]
    if about["kind"] != WORDS:
        rows.append("targets")
    others = [*about["trained"]]
    if graph == STEP:
        others += ["seeds", "lr", "eps"]
    if graph == STEP and about["kind"] != GOLD:
        others.append("labels")
    if inputs.keys() != {*rows, *others}:
        odd = ", ".join(sorted(inputs.keys() ^ {*rows, *others}))
        refuse(path, f"{graph} of kind {about['kind']} lacks or has {odd:.80}", AGAIN)
    for name in rows:
        shape = inputs[name]["shape"]
        if len(shape) != 2:
            refuse(path, f"{name} of {graph} is {shape!r:.40}, not of rows and tokens", AGAIN)


def check_format(about: JsonObject, path: Path, name: str, own: int) -> None:
    """raises: CheckpointError for a number of a format that is not known here"""
    found = about.get(name)
    if type(found) is int and found == own:
        return
    writer = f"tinyzo {about.get('tinyzo')!s:.20}"
    hint = f"export it again with this version, or take the one that wrote it, {writer}"
    refuse(path, f"{name} is {found!r:.40}; this version of tinyzo reads {own}", hint)


# -- the folder --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """A folder in which all fits together.

    about: the fields of tinyzo.json
    """

    path: Path
    about: JsonObject

    @property
    def trained(self) -> dict[str, tuple[int, ...]]:
        """The tensors that a step moves, and their shapes."""
        return {name: tuple(each["shape"]) for name, each in self.about["trained"].items()}

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        return (self.path / ADAPTER_WEIGHTS).parent

    def sizes(self, rows: int, tokens: int) -> tuple[int, int]:
        """The rows and the tokens of a step's batch: as the graph fixes them, or else as given."""
        shape = self.about["signatures"][STEP]["inputs"]["input_ids"]["shape"]
        if is_natural(shape[0]):
            rows = shape[0]
        if is_natural(shape[1]):
            tokens = shape[1]
        return rows, tokens

    def elements(self) -> int:
        """The number of parameters that a step moves."""
        return sum(map(math.prod, self.trained.values()))

    def size_of_base(self) -> int:
        """The bytes of the base's weights, which the runtime maps and does not copy."""
        with os_errors(CheckpointError, self.path / WEIGHTS, AGAIN):
            return (self.path / WEIGHTS).stat().st_size

    def rows(self, split: str) -> list[JsonObject]:
        """The rows of "train" or "test".

        raises: CheckpointError when rows.json is damaged
        """
        path = self.path / ROWS
        found = parse_json(read_part(path, MOST), path).get(split)
        if not isinstance(found, list) or not all(map(self._is_row, found)):
            refuse(path, f"its {split} are no rows of {self.about['kind']}", AGAIN)
        return found

    def _is_row(self, row: object) -> bool:
        """Whether a row is as the kind of the task has them."""
        labels = len(self.about["labels"])
        if self.about["kind"] == WORDS:
            return is_row(row, labels)
        match row:
            case {"input_ids": [*ids], "targets": [*targets], "label": label}:
                both = zip(ids, targets, strict=False)
                is_whole = len(ids) == len(targets) == labels
                return is_whole and all(is_candidate(*each, label, labels) for each in both)
        return False


def is_row(row: object, labels: int) -> bool:
    match row:
        case {"input_ids": [_, *_] as ids, "label": label}:
            return is_natural(label) and label < labels and all(map(is_natural, ids))
    return False


def is_candidate(ids: object, targets: object, label: object, labels: int) -> bool:
    """Whether these are tokens of a row, and which of them are the candidate's."""
    rows = [{"input_ids": each, "label": label} for each in (ids, targets)]
    if not all(is_row(row, labels) for row in rows):
        return False
    return len(rows[0]["input_ids"]) == len(rows[1]["input_ids"])  # type: ignore[arg-type]


def is_export(path: Path) -> bool:
    """Whether this is a folder of `tinyzo export`, maybe a damaged one; a PEFT folder is none."""
    names = (ABOUT, STEP, EVAL, f".{ABOUT}.partial")
    is_adapter = os.path.isfile(path / peft.CONFIG)
    return not is_adapter and any(os.path.isfile(path / name) for name in names)


def open_export(path: Path) -> Export:
    """A folder of `tinyzo export`, once all of it has been checked.

    raises: CheckpointError for a file that is missing, truncated, altered, or of another export,
        for another format of the folder or of z, and for paths out of the folder
    """
    if not os.path.isfile(path / ABOUT):
        hint = AGAIN if is_export(path) else "name the --output of tinyzo export"
        refuse(path, f"no {ABOUT}, so no whole export", hint)
    about = read_about(read_part(path / ABOUT), path / ABOUT)
    outlines = [check_graph(path / name, digest) for name, digest in about["graphs"].items()]
    check_base(path, about)
    if not os.path.isfile(path / ADAPTER_WEIGHTS):
        refuse(path / ADAPTER_WEIGHTS, "it is missing", AGAIN)
    with ExitStack() as files:
        names = (WEIGHTS, ADAPTER_WEIGHTS)
        sources = {name: files.enter_context(SafetensorsFile(path / name)) for name in names}
        for name, outline in zip(about["graphs"], outlines, strict=True):
            check_externals(path / name, outline, sources)
        check_adapter(about, sources[WEIGHTS], sources[ADAPTER_WEIGHTS])
    return Export(path, about)


def read_part(path: Path, most: int = MAX_BYTES) -> bytes:
    """A file of the folder. raises: CheckpointError, also for one that is larger"""
    data = read_file(path, CheckpointError, AGAIN, most + 1)
    if len(data) > most:
        refuse(path, f"it has more than {most} bytes", AGAIN)
    return data


def check_graph(path: Path, digest: str) -> Outline:
    """raises: CheckpointError for a graph of another hash"""
    data = read_part(path, MOST)
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        why = f"it is not as it was exported: SHA-256 {found[:12]}, then {digest:.12}"
        refuse(path, why, AGAIN)
    outline = read_outline(data, path)
    own = str(noise.FORMAT)
    if outline.metadata.get("noise_format") != own:
        found = outline.metadata.get("noise_format", "")
        refuse(path, f"its z is of format {found!r:.20}; this version of tinyzo has {own}", AGAIN)
    return outline


def check_base(path: Path, about: JsonObject) -> None:
    """raises: CheckpointError for a base of another hash"""
    found = fingerprint(path)
    if found != about["base"]:
        why = f"not the base that was exported: SHA-256 {found[:12]}, then {about['base']:.12}"
        refuse(f"{path}: {WEIGHTS} or config.json", why, "restore them, or export again")


def check_externals(path: Path, outline: Outline, sources: Mapping[str, SafetensorsFile]) -> None:
    """raises: CheckpointError for a tensor that is at no tensor's place in the folder's files"""
    spans = {
        file: {(source.offset(name), source.info(name).nbytes) for name in source.names()}
        for file, source in sources.items()
    }
    for each in outline.externals:
        if each.file not in spans:
            hint = f"only {WEIGHTS} and {ADAPTER_WEIGHTS} are read"
            refuse(path, f"{each.name:.80} is to be read from {each.file!r:.80}", hint)
        if (each.offset, each.nbytes) not in spans[each.file]:
            found = f"{each.name:.80} is to be at byte {each.offset} of {each.file}"
            hint = "restore that file as it was; an app writes its own into another folder"
            refuse(path, f"{found}, where no tensor of {each.nbytes} bytes is", hint)


def check_adapter(about: JsonObject, base: SafetensorsFile, source: SafetensorsFile) -> None:
    """raises: CheckpointError for an adapter that does not fit the base, or the graphs' inputs"""
    family, config = read_config(base.path.parent)
    architecture = MODELS[family]
    names_of_tensors(base, architecture, config)
    shapes = dict(architecture.shapes(config))
    file = source.path.with_name(peft.CONFIG)
    peft.open_adapter(file, source.path, shapes, architecture.LAYOUT).source.close()
    for each in about["trained"].values():
        info = source.info(each["key"])
        if info.dtype != "F32" or info.shape != tuple(each["shape"]):
            found = f"{each['key']:.80} is {info.dtype} {list(info.shape)}"
            refuse(source.path, f"{found}, and the graphs take F32 {each['shape']}", AGAIN)
