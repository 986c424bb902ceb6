"""`tinyzo generate`: continue texts with OPT, written as the tokens come."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from tinyzo.cli import options as shared
from tinyzo.cli.parser import Parser, path, size
from tinyzo.cli.predict import given_texts
from tinyzo.cli.streams import put

if TYPE_CHECKING:
    from tinyzo.runs.texts import Piece

MODEL = "opt-tiny"


def add_arguments(parser: Parser) -> None:
    parser.usage = "tinyzo generate [options] [PROMPT ...]"
    parser.epilog = 'tinyzo generate --model RUN "The camera is", or lines of a file by < FILE'
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="a text to continue; default: the lines of stdin",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="DIR",
        type=path,
        default=MODEL,
        help="folder of an OPT model, or of an adapter, a run of finetune, or a name that ships; "
        "BASE+FILE.tinyzo: with what share wrote; default: opt-tiny",
    )
    shared.add_base(model)
    shared.add_dtype(model)
    shared.add_base_dtype(model)
    shared.add_engine(model)
    add_choices(parser.add_argument_group("text"))
    parser.add_argument_group("output").add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: prompt, text, ids, tokens, end (stop or length); default: "
        "the text as it comes",
    )


def add_choices(group: shared.Group) -> None:
    group.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=size,
        default=50,
        help="most tokens to add to a prompt; default: 50",
    )
    group.add_argument(
        "--temperature",
        metavar="X",
        type=float,
        default=0.0,
        help="0: the likeliest token always; 1: drawn as likely as the model says, above: more "
        "evenly; default: 0",
    )
    group.add_argument(
        "--top-p",
        metavar="X",
        type=float,
        default=1.0,
        help="draw from the likeliest tokens that come to this share together; default: 1, all",
    )
    group.add_argument(
        "--stop",
        metavar="TEXT",
        action="append",
        default=[],
        help="a text to stop at, which is not written; may be given several times; default: the "
        "model's end of a text alone",
    )
    group.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of what is drawn; default: 0"
    )


def run(options: argparse.Namespace) -> None:
    """Write what follows each prompt, one after another: as it comes, or as lines of JSON."""
    from tinyzo.cli.suggest import check_names
    from tinyzo.models.sampling import Sampler
    from tinyzo.runs import texts
    from tinyzo.runs.api import load

    given = shared.given_settings(options)
    check_names(given.model, None)
    sampler = Sampler(options.temperature, options.top_p, options.seed)
    model = load(
        options.model,
        given.engine or "auto",
        dtype=given.dtype,
        base=options.base,
        base_dtype=given.base_dtype,
    )
    prompts = [text for _, text in given_texts(options.prompts)]
    how = (options.max_new_tokens, options.stop, sampler)
    if options.json:
        for found in texts.continuations(model, prompts, *how):
            put(json.dumps(asdict(found), allow_nan=False))
    else:
        write(in_order(texts.pieces(model, prompts, *how), len(prompts)))


def in_order(pieces: Iterator["Piece"], count: int) -> Iterator["Piece"]:
    """The pieces as they come, of the first prompt that is not done; of the others afterwards."""
    waiting: list[list[Piece]] = [[] for _ in range(count)]
    turn = 0
    for piece in pieces:
        waiting[piece.prompt].append(piece)
        while turn < count and waiting[turn]:
            ready, waiting[turn] = waiting[turn], []
            yield from ready
            if not ready[-1].end:
                break
            turn += 1


def write(pieces: Iterator["Piece"]) -> None:
    """Each prompt's pieces, and an end of its line; also where they break off."""
    is_open = False
    try:
        for piece in pieces:
            is_open = True
            put(piece.text, end="\n" if piece.end else "")
            is_open = not piece.end
    except KeyboardInterrupt:
        if is_open:
            put("")
        raise
