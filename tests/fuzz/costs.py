"""What hostile files cost: python tests/fuzz/costs.py [KIND ...] [--megabytes 1 8 100]

Each file is made to cost as much as it can, and read in a process of its own. It may take ten times
its size in memory, or FREE where that is more; and two seconds of CPU a megabyte, or one in all.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":  # its own folder has names that others have too
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from checkpoints.hostile import safetensors, torch_zip, zip_of  # noqa: E402 (the path first)

from tinyzo.checkpoints.directory import open_torch_bin  # noqa: E402
from tinyzo.checkpoints.peft import read_config as read_adapter_config  # noqa: E402
from tinyzo.checkpoints.safetensors import open_safetensors  # noqa: E402
from tinyzo.errors import TinyzoError  # noqa: E402
from tinyzo.models.model import read_config  # noqa: E402
from tinyzo.parsing import read_toml  # noqa: E402

FREE = 64 << 20  # bytes of memory that any file may take
Make = Callable[[int], bytes]  # a file of about so many bytes


class Kind(NamedTuple):
    """A kind of file: its name, how it is read, and hostile ones."""

    file: str
    read: Callable[[Path], object]
    files: dict[str, Make]


def fill(
    unit: str, size: int, before: str = '{"a":[', between: str = ",", after: str = "]}"
) -> bytes:
    """So much of a unit, in which %x is a number that differs."""
    count = size // len((unit + between).replace("%x", "12345"))
    if "%x" in unit:
        units = between.join(unit.replace("%x", f"{i:x}") for i in range(count + 1))
    else:
        units = (unit + between) * count + unit
    return (before + units + after).encode()


JSON: dict[str, Make] = {
    "objects": lambda n: fill("{}", n),
    "lists": lambda n: fill("[]", n),
    "lists in lists": lambda n: fill("[" * 100 + "]" * 100, n),
    "nesting": lambda n: b'{"a":' * (n // 5),
    "nested lists": lambda n: b'{"a":' + b"[" * n,
    "names": lambda n: fill('"%x":0', n, "{", after="}"),
    "one name": lambda n: fill('"a":0', n, "{", after="}"),
    "texts": lambda n: fill('"ab"', n),
    "a wide text": lambda n: fill("a", n, '{"a":"\U0001f600', "", '"}'),
    "escapes": lambda n: fill("\\u00e9", n, '{"a":"', "", '"}'),
    "numbers": lambda n: fill("999", n),
    "a long number": lambda n: b'{"a":' + b"9" * n + b"}",
    "long numbers": lambda n: fill("9" * 4000, n),
}
UNITS = {
    "dicts": b"}",
    "marks": b"(",
    "memo": b"\x94",
    "gets": b"h\x00",
    "nested tuples": b"\x85",
    "tuples": b"))\x86",
    "doubled tuples": b"h\x00h\x00\x86q\x00",
    "small numbers": b"M\xff\xff",
    "numbers": b"\x8a\xff" + b"\x7f" * 255,
    "texts": b"\x8c\x01a",
    "calls": b"ccollections\nOrderedDict\n)R",
}


def program(unit: bytes, size: int) -> bytes:
    """A pickle that does one thing again and again, in its ZIP."""
    return torch_zip(b"}q\x00" + unit * (size // len(unit)) + b".")


RANKS = '{"peft_type":"LORA","rank_pattern":{'


def in_safetensors(make: Make, size: int) -> bytes:
    return safetensors(make(size))


KINDS = {
    "header": Kind(
        "model.safetensors",
        open_safetensors,
        {
            **{name: partial(in_safetensors, make) for name, make in JSON.items()},
            "tensors": lambda n: safetensors(
                fill('"%x":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}', n, "{", after="}")
            ),
            "metadata": lambda n: safetensors(fill('"%x":""', n, '{"__metadata__":{', after="}}")),
        },
    ),
    "index": Kind(
        "model.safetensors.index.json",
        open_safetensors,
        JSON | {"shards": lambda n: fill('"%x":"%x"', n, '{"weight_map":{', after="}}")},
    ),
    "config": Kind("config.json", lambda path: read_config(path.parent), JSON),
    "adapter_config": Kind(
        "adapter_config.json",
        read_adapter_config,
        JSON
        | {
            "patterns": lambda n: fill('"%x":1', n, RANKS, after="}}"),
            "slow patterns": lambda n: fill('".*.*.*%x":1', min(n, 9000), RANKS, after="}}"),
        },
    ),
    "pickle": Kind(
        "pytorch_model.bin",
        open_torch_bin,
        {name: partial(program, unit) for name, unit in UNITS.items()}
        | {
            "puts": lambda n: torch_zip(
                b"}" + b"".join(b"r" + struct.pack("<I", i) for i in range(n // 5)) + b"."
            ),
            "a wide text": lambda n: torch_zip(
                b"X" + struct.pack("<I", n) + "\U0001f600".encode() + b"a" * (n - 4) + b"."
            ),
            "members": lambda n: zip_of([(f"a/{i:x}", b"") for i in range(n // 130)]),
        },
    ),
    "toml": Kind(
        "run.toml",
        read_toml,
        {
            "dots": lambda n: b"a" + b".a" * (n // 2) + b" = 1",
            "lines of dots": lambda n: fill("%x" + ".a" * 98 + " = 1", n, "", "\n", ""),
            "tables": lambda n: fill("[%x]", n, "", "\n", ""),
            "tables in tables": lambda n: fill("[a.b.c.d.e.f.g.h.%x]", n, "", "\n", ""),
            "arrays of tables": lambda n: fill("[[a]]", n, "", "\n", ""),
            "keys": lambda n: fill("%x = 1", n, "", "\n", ""),
            "lists": lambda n: fill("[]", n, "a = [", ",", "]"),
            "inline tables": lambda n: fill("{}", n, "a = [", ",", "]"),
            "nesting": lambda n: b"a = " + b"[" * n,
            "escapes": lambda n: fill("\\n", n, 'a = "', "", '"'),
        },
    ),
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_alone(kind: str, path: Path) -> None:
    """Read one file, and print the seconds, the bytes by which the process grew, and the answer."""
    before, start, answer = peak(), time.process_time(), "read"
    try:
        KINDS[kind].read(path)
    except TinyzoError as error:
        answer = error.message
    print(json.dumps([time.process_time() - start, peak() - before, answer[-70:]]))


def cost_is_fair(kind: str, name: str, size: int, folder: Path) -> bool:
    """Measure one file, print a line, and say whether it keeps to the limits."""
    path = folder / KINDS[kind].file
    path.write_bytes(KINDS[kind].files[name](size))
    size = path.stat().st_size
    command = [sys.executable, __file__, "--alone", kind, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path.unlink()
    seconds, grown, said = json.loads(answer)
    fair = grown <= max(10 * size, FREE) and seconds <= max(2 * size / 2**20, 1)
    print(
        f"{'ok ' if fair else 'BAD'} {kind:15} {name:18} {size / 2**20:6.1f} MB {seconds:6.2f} s "
        f"{grown / 2**20:6.0f} MB  ...{said}",
        flush=True,
    )
    return fair


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--megabytes", nargs="+", type=float, default=[0.12, 0.99, 8])
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        read_alone(options.alone[0], Path(options.alone[1]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fair = [
            cost_is_fair(kind, name, int(megabytes * 2**20), Path(folder))
            for kind in options.kinds or KINDS
            for name in KINDS[kind].files
            for megabytes in options.megabytes
        ]
    return int(not all(fair))


if __name__ == "__main__":
    sys.exit(main())
