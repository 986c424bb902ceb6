"""A pytorch_model.bin: its ZIP, or the pickle in it alone, which describes the tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from checkpoints.hostile import Parameter, Storage, Tensor, state_pickle, tensor, torch_zip
from fuzz.reader import Reader, place

from tinyzo.checkpoints.directory import open_torch_bin
from tinyzo.checkpoints.torch_bin import load_state_dict

MOST = 1 << 20  # bytes of a tensor that is read


def read(data: bytes) -> None:
    if not data.startswith(b"PK"):
        load_state_dict(data, Path("data.pkl"))
        return
    with open_torch_bin(place("pytorch_model.bin", data)) as source:
        for name in source.names():
            if source.info(name).nbytes < MOST:
                source.read(name)


def state() -> dict[str, object]:
    table = Storage("F32", np.arange(12, dtype=np.float32))
    first = Tensor(table, 0, (3, 4), (4, 1))
    return {
        "weight": first,
        "tied": first,
        "transposed": Tensor(table, 0, (4, 3), (1, 4)),
        "part": Tensor(table, 2, (1, 2), (2**40, 3)),
        "half": Parameter(tensor("F16", np.float16([1, 2]))),
        "scalar": tensor("I64", np.int64(3)),
        "empty": tensor("BF16", np.zeros((0, 2), np.uint16)),
    }


PROGRAMS = [state_pickle(state(), protocol) for protocol in (2, 3, 4, 5)]
WRAPPED = state_pickle({"state_dict": state()})
READER = Reader(
    read,
    seeds=[*(program for program, _ in PROGRAMS), WRAPPED[0], torch_zip(*PROGRAMS[0])],
    words=[
        *b"}( u. )R Q R b s t N q\0 h\0 K\0 \x94 )\x85 \x86 \x87 \x89 \x80\x02 M\xff\xff".split(
            b" "
        ),
        *b"PK\1\2 PK\3\4 PK\5\6 PK\6\6 PK\6\7 archive/data.pkl archive/data/0".split(b" "),
        b"ccollections\nOrderedDict\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nHalfStorage\n",
        b"\x8c\x07storage",
        b"\x8a\x08" + b"\xff" * 8,
        b"J\xff\xff\xff\xff",
        b"X\xff\xff\xff\x7f",
    ],
)
