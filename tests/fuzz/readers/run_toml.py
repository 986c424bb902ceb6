"""run.toml: its checksum, its tables, every setting, and where the model and the data are."""

from __future__ import annotations

import zlib

from fuzz.reader import Reader, place

from tinyzo.runs.run import SEAL, Run
from tinyzo.runs.settings import FIELDS


def read(data: bytes) -> None:
    """As it is, and as if its checksum were right."""
    place("run/journal", b"")
    for each in (data, sealed(data.partition(b"\n")[2])):
        path = place("run/run.toml", each)
        run = Run.open(path.parent)
        assert run.models and run.settings.data_path
        assert run.missing_base()


def sealed(text: bytes) -> bytes:
    return f"{SEAL}{zlib.crc32(text):08x}\n".encode() + text


def file(model: str, data: str, more: str = "") -> bytes:
    return f"""
[about]
format = 1
tinyzo = "0.2.0"
family = "roberta"
base = "{"ab" * 32}"
data = "{"cd" * 32}"
directory = "/home/me/runs/one"

[settings]
model = "{model}"
task = "reviews"
data = "{data}"
label_field = "label"
method = "mezo"
estimator = "two-sided"
queries = 1
direction = "gaussian"
update = "sgd"
train = "full"
steps = 6
batch_size = 4
lr = 1e-05
eps = 0.001
data_seed = 42
eval_every = 3
{more}
""".encode()


LORA = 'lora_targets = ["query"]\nlora_rank = 8\nclip = 1.5'
READER = Reader(
    read,
    seeds=[
        sealed(file("../../model", "../../data")),
        sealed(file("roberta-tiny", "./rows.jsonl", LORA)),
        file("/models/opt", "C:\\\\data", 'memory_budget = "1GB"'),
    ],
    words=[*(f"\n{name} = ".encode() for name in FIELDS), b"inf", b"nan", b"[[a]]", b"../", b"\\u"],
)
