"""A command line, a word a line: all of it that is read before anything is opened."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import cache

from fuzz.reader import Reader

from tinyzo.cli import build_parser
from tinyzo.cli.failures import Failure, failure_of
from tinyzo.cli.options import given_settings
from tinyzo.cli.parser import Parser
from tinyzo.errors import TinyzoError, shown
from tinyzo.models.model import MODELS
from tinyzo.runs.settings import FIELDS, Settings


def read(data: bytes) -> None:
    words = data.decode(errors="surrogateescape").split("\n")
    try:
        with redirect_stdout(io.StringIO()):
            settings = settings_of(words)
        for family in MODELS:
            settings.check_used(settings.resolve(family))
    except SystemExit as left:  # of -h
        if left.code != 0:
            raise ValueError("it left without a word") from None
    except TinyzoError as error:
        check_words(failure_of(error))
        raise


def settings_of(words: list[str]) -> Settings:
    options, unknown = parser().parse_known_args(words)
    if unknown:
        options.parser.refuse(unknown[0])
    return given_settings(options)


@cache
def parser() -> Parser:
    return build_parser()


def check_words(failure: Failure | None) -> None:
    """raises: ValueError for a message without a hint, or of no one line"""
    if failure is None or not failure.what or not failure.hint:
        raise ValueError("no words, or no hint")
    if len((shown(failure.what) + shown(failure.hint)).splitlines()) > 1:
        raise ValueError("words of several lines")


def line(text: str) -> bytes:
    return "\n".join(text.split()).encode()


COMMANDS = ("finetune", "evaluate", "predict", "replay", "convert", "inspect", "doctor")
READER = Reader(
    read,
    seeds=[
        line("finetune --model opt-tiny --task reviews --steps 3 --lr 1e-3 --memory-budget 1.5GB"),
        line("finetune --method lozo --window 5 --seed 7 --train full --schedule linear"),
        line("finetune --train lora --lora-rank 4 --lora-alpha 2.5 --lora-targets a,b --clip 3"),
        line("finetune --template {x}_<mask> --label-words a,b --data rows.csv --label-field y"),
        line("finetune --resume run --config c.toml --output ~/run --find-lr --json"),
        line("evaluate --model run --zero-shot --limit 5 --data-seed 3 --dtype f16"),
        line("predict --model run -- a -b"),
        line("replay run --output new --step 3 --merge"),
        line("convert model --output=new"),
        line("inspect model --plan --tokens 5 --batch-size 2"),
        line("doctor -h"),
    ],
    words=[
        *(f"\n--{name.replace('_', '-')}\n".encode() for name in FIELDS),
        *(f"\n--{name.replace('_', '-')}=".encode() for name in FIELDS),
        *(name.encode() for name in COMMANDS),
        *(
            b"\n",
            b"=",
            b"--",
            b"\n--\n",
            b"-",
            b",",
            b"nan",
            b"-inf",
            b"1e999",
            b"~",
            b"\xff",
            b"1",
        ),
    ],
)
