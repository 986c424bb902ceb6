"""`tinyzo COMMAND ...`: reads the command line, runs the command, and says what went wrong."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tinyzo.cli import (
    convert,
    doctor,
    evaluate,
    export,
    finetune,
    generate,
    inspect,
    predict,
    replay,
    share,
)
from tinyzo.cli import report as page
from tinyzo.cli.completion import SHELLS, completion
from tinyzo.cli.failures import failure_of, heed_signals, report
from tinyzo.cli.parser import Parser
from tinyzo.cli.streams import leave_stderr, open_streams, put

ABOUT = "Fine-tune RoBERTa and OPT with forward passes only."
BEGIN = f"""\
{ABOUT}

to begin with:
  tinyzo finetune                       tune the model that ships, in a minute
  tinyzo evaluate --model RUN           how often the run, a folder, is right
  tinyzo predict --model RUN "a text"   label a text with it

tinyzo -h lists all commands, tinyzo finetune -h all options.
If something seems wrong, tinyzo doctor checks this machine."""


class Command(NamedTuple):
    """A command of tinyzo. `run` returns its JSON document; None: it has printed its own."""

    summary: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], dict[str, Any] | None]


COMMANDS = {
    "finetune": Command("tune a model on a task", finetune.add_arguments, finetune.run),
    "evaluate": Command(
        "accuracy and loss of a model or a run on a task", evaluate.add_arguments, evaluate.run
    ),
    "predict": Command("label texts with a model or a run", predict.add_arguments, predict.run),
    "generate": Command("continue texts with OPT", generate.add_arguments, generate.run),
    "replay": Command(
        "write a run's tuned model as a Hugging Face folder", replay.add_arguments, replay.run
    ),
    "share": Command(
        "write what a run is over its base as one small file", share.add_arguments, share.run
    ),
    "report": Command("write a page on runs, to look at them", page.add_arguments, page.run),
    "convert": Command(
        "rewrite pytorch_model.bin as safetensors, or quantise a model",
        convert.add_arguments,
        convert.run,
    ),
    "export": Command("write a step as a graph that an app runs", export.add_arguments, export.run),
    "inspect": Command(
        "parameters, types and memory plan of a model, a run or an export",
        inspect.add_arguments,
        inspect.run,
    ),
    "doctor": Command(
        "check the environment, its speed, and what a model computes",
        doctor.add_arguments,
        doctor.run,
    ),
}


def build_parser() -> Parser:
    """The parser of all commands; `run` of what it parses is the command's function."""
    parser = Parser(prog="tinyzo", description=ABOUT, epilog="tinyzo COMMAND -h says more")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=SHELLS,
        help="print a script by which bash or zsh completes commands, options and paths: "
        "eval \"$(tinyzo --print-completion bash)\"; needs pip install 'tinyzo[completion]'",
    )
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(of_command)
        of_command.set_defaults(parser=of_command, run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `-h` leaves by SystemExit, as argparse has it."""
    open_streams()
    try:
        with heed_signals():
            return _run(arguments)
    except BrokenPipeError:  # the reader has seen enough, as `| head -1`
        return 1
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(error)
        if failure is None:
            raise
        return report(failure)
    finally:
        leave_stderr()


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown[0])
    if options.version:
        from tinyzo import __version__

        put(f"tinyzo {__version__}")
        return 0
    if options.print_completion:
        put(completion(parser, options.print_completion))
        return 0
    if options.command is None:
        put(BEGIN)
        return 0
    return _run_command(options)


def _run_command(options: argparse.Namespace) -> int:
    import numpy as np  # not at the top: help needs none of it

    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite has an error
        result = options.run(options) or {}
    if options.json and result:
        put(json.dumps(result, allow_nan=False))
    is_ok = result.get("ok", True)  # the doctor's
    return 0 if is_ok else 1
