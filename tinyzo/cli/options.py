"""Options that commands share, each with its unit and its default.

An option that is a setting has the setting's name and no default here: what is not given is left
to runs/settings.py, or to the run that --model names.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import TYPE_CHECKING

from tinyzo.cli.parser import count, names, path, size
from tinyzo.zo.methods import METHODS

if TYPE_CHECKING:
    from tinyzo.runs.settings import Settings

# argparse has no public name for what `add_argument_group` returns.
Group = argparse._ArgumentGroup


def given_settings(options: argparse.Namespace) -> Settings:
    """The settings among a command's options that the user gave."""
    from tinyzo.runs.settings import FIELDS, Settings

    values = {name: getattr(options, name, None) for name in FIELDS}
    return Settings.from_mapping(values, "the command")


def describe_methods() -> str:
    """The methods that --method takes, a line each."""
    width = max(40, shutil.get_terminal_size().columns - 2)  # the latter as argparse has it
    lines = (
        textwrap.fill(
            method.summary,
            width,
            initial_indent=f"  {name:17} ",
            subsequent_indent=" " * 20,
            break_on_hyphens=False,
        )
        for name, method in METHODS.items()
    )
    return "\n".join(["methods, by --method NAME:", *lines])


# -- options that several commands take --------------------------------------------------------


def add_model(group: Group) -> None:
    group.add_argument(
        "--model",
        metavar="DIR",
        type=path,
        help="folder of a RoBERTa or OPT model, or of an adapter, a run of finetune, or a name "
        "that ships: roberta-tiny, opt-tiny; BASE+FILE.tinyzo: with what share wrote; default: "
        "roberta-tiny",
    )


def add_base(group: Group, *other_names: str) -> None:
    group.add_argument(
        "--base",
        *other_names,
        metavar="DIR",
        help="of a run: where the model that it began with is now; default: where it was, as "
        "seen from the run or by its full path",
    )


def add_task(group: Group) -> None:
    group.add_argument(
        "--task",
        metavar="NAME",
        help="topics, reviews, SST-2, RTE; for RoBERTa also SST-5, TREC, SNLI, MNLI; for OPT "
        "also CB, BoolQ, WSC, WIC, MultiRC, COPA, ReCoRD, SQuAD, DROP; default: topics, or the "
        "task of a run",
    )


def add_data(group: Group) -> None:
    group.add_argument(
        "--data",
        metavar="PATH",
        type=path,
        help="folder with the task's files, or one file of rows; default: the "
        "reviews that ship, for topics and reviews, or the data of a run",
    )


def add_own_task(group: Group) -> None:
    group.add_argument(
        "--template",
        metavar="TEXT",
        help="a task of your own: '{text} It was <mask>.', for OPT '{text} It was', with columns "
        "of your data in braces; default: that of --task",
    )
    group.add_argument(
        "--label-words",
        metavar="WORDS",
        type=names,
        help="a task of your own: the word for each label, as terrible,great; default: those of "
        "--task",
    )


def add_rows(group: Group) -> None:
    group.add_argument(
        "--label-field",
        metavar="COLUMN",
        help="a task of your own: column of the label; default: label",
    )
    group.add_argument(
        "--limit",
        metavar="N",
        type=int,
        help="most rows to report on; default: all, up to 1000",
    )
    group.add_argument(
        "--data-seed",
        metavar="N",
        type=int,
        help="seed of the rows that are drawn, and of their order; default: 42 for RoBERTa, "
        "0 for OPT",
    )


def add_dtype(group: Group) -> None:
    group.add_argument(
        "--dtype",
        metavar="TYPE",
        choices=("auto", "f32", "f16", "bf16"),
        help="how weights are stored: auto, f32, f16 or bf16; default: auto, as in the file",
    )


def add_base_dtype(group: Group) -> None:
    group.add_argument(
        "--base-dtype",
        metavar="TYPE",
        choices=("int4", "int8"),
        help="quantise the matrices as they are read: int4 or int8; they stand still, so this "
        "goes with --train lora and the like; default: as in the file",
    )


def add_engine(group: Group) -> None:
    group.add_argument(
        "--engine",
        metavar="NAME",
        choices=("auto", "numba", "numpy", "onnx"),
        help="what computes: auto, numba, numpy or onnx (ONNX Runtime); default: auto, a run's "
        "own, or numba where it is installed",
    )


def add_memory_budget(group: Group) -> None:
    group.add_argument(
        "--memory-budget",
        metavar="SIZE",
        help="most memory to take, as 400MB or 1.5GB: chooses engine, residency and "
        "micro-batches that fit; default: no limit, and weights in memory if they take less "
        "than half of what is free",
    )


def add_json(group: Group) -> None:
    group.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document, the last line of stdout; default: lines for people",
    )


def add_step(group: Group) -> None:
    group.add_argument(
        "--step",
        metavar="N",
        type=count,
        help="the model after so many steps; default: the step that did best on dev",
    )


def add_new_folder(group: Group) -> None:
    group.add_argument(
        "--output", metavar="DIR", type=path, required=True, help="the new folder; needed"
    )


# -- groups of finetune -------------------------------------------------------------------------


def add_sampling(group: Group) -> None:
    group.add_argument(
        "--k-shot",
        metavar="K",
        type=int,
        help="train on K rows per label, drawn as published; default: on all, up to --train-rows",
    )
    group.add_argument(
        "--train-rows",
        metavar="N",
        type=int,
        help="most rows to train on, without --k-shot; default: 1000",
    )


def add_method(group: Group) -> None:
    group.add_argument(
        "--method",
        metavar="NAME",
        choices=tuple(METHODS),
        help="how to step, listed below; default: mezo",
    )


def add_parts(group: Group) -> None:
    group.add_argument(
        "--estimator",
        metavar="NAME",
        choices=("two-sided", "one-sided", "leave-one-out", "forward"),
        help="from losses to a gradient: two-sided, one-sided, leave-one-out or forward; default: "
        "the method's, two-sided for mezo",
    )
    group.add_argument(
        "--queries",
        metavar="Q",
        type=int,
        help="directions per step; default: the method's, 1 for mezo, 4 for n-spsa and p-rge, "
        "8 for fzoo, auto and leave-one-out",
    )
    group.add_argument(
        "--direction",
        metavar="NAME",
        choices=("gaussian", "rademacher", "low-rank", "magnitude"),
        help="what z is: gaussian, rademacher (signs), low-rank, or magnitude (gaussian where "
        "weights are small); default: the method's, gaussian for mezo",
    )
    group.add_argument(
        "--update",
        metavar="NAME",
        choices=("sgd", "sign", "momentum", "rms", "adamezo"),
        help="from gradients to a step: sgd, sign, momentum, rms or adamezo; default: the "
        "method's, sgd for mezo",
    )
    group.add_argument(
        "--window",
        metavar="N",
        type=int,
        help="steps that momentum, rms and adamezo look back on, or that a low-rank V stays; "
        "default: 10, or 50 for low-rank",
    )
    group.add_argument(
        "--clip",
        metavar="X",
        type=float,
        help="the largest projected gradient, in loss per unit of perturbation; larger ones are "
        "cut to it; default: none is cut",
    )
    group.add_argument(
        "--objective",
        metavar="NAME",
        choices=("cross-entropy", "accuracy", "f1"),
        help="what is minimised: cross-entropy, accuracy (the share of errors) or f1 "
        "(1 - macro F1, or of the words of written answers); default: cross-entropy",
    )


def add_trained(group: Group) -> None:
    group.add_argument(
        "--train",
        metavar="WHAT",
        help="which parameters are trained: full, lora, lora-fa, lora-act, lora-fit, head-fit, "
        "prefix, label-words, bias, head, or names as 'lm_head.*,*.bias'; default: full, or "
        "lora-fa for p-rge, lora-act for zo-act, lora-fit for zo-fit, head-fit for zo-head",
    )
    add_adapters(group)


def add_adapters(group: Group) -> None:
    group.add_argument(
        "--lora-rank", metavar="R", type=int, help="rank of new adapters; default: 8"
    )
    group.add_argument(
        "--lora-alpha",
        metavar="X",
        type=float,
        help="scale of new adapters, which is divided by their rank; default: 16",
    )
    group.add_argument(
        "--lora-targets",
        metavar="NAMES",
        type=names,
        help="projections that get an adapter, by the end of their names, as query,value; "
        "default: query,value for RoBERTa, q_proj,v_proj for OPT; lora-fit, head-fit: all",
    )


def add_steps(group: Group) -> None:
    group.add_argument(
        "--steps",
        metavar="N",
        type=int,
        help="steps to take; default: 10000, or 400 for a model that ships",
    )


def add_rates(group: Group) -> None:
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        help="examples per step; default: 64 for RoBERTa, 16 for OPT, 32 for a model that ships",
    )
    group.add_argument(
        "--lr",
        metavar="X",
        type=float,
        help="learning rate; default: 1e-6, or 5e-5 for a model that ships, times a factor for "
        "the method and for --train (1 for mezo and full)",
    )
    group.add_argument(
        "--eps",
        metavar="X",
        type=float,
        help="size of the perturbation: the standard deviation of what is added to a weight; "
        "default: 0.001, or 0.01 for lora, lora-fa, lora-fit, head-fit and label-words, 0.1 for "
        "prefix",
    )
    group.add_argument(
        "--find-lr",
        action="store_true",
        help="try a few lr and eps for 40 steps each, and take the best on dev; default: no",
    )
    group.add_argument(
        "--schedule",
        metavar="NAME",
        choices=("constant", "sqrt", "linear", "cosine"),
        help="course of the learning rate: constant, sqrt (lower the longer a run is), linear or "
        "cosine; default: constant",
    )
    group.add_argument(
        "--lr-passes",
        metavar="N",
        type=int,
        help="forward passes that --lr is right for; --schedule sqrt lowers it beyond them; "
        "default: 384",
    )
    group.add_argument(
        "--warmup",
        metavar="N",
        type=int,
        help="steps in which the learning rate rises; default: 0",
    )
    group.add_argument(
        "--weight-decay",
        metavar="X",
        type=float,
        help="pull of the matrices towards 0: each step takes lr * X of them away; default: 0",
    )


def add_course(group: Group) -> None:
    group.add_argument(
        "--seed", metavar="N", type=int, help="seed of z, the random directions; default: 0"
    )
    group.add_argument(
        "--eval-every",
        metavar="N",
        type=int,
        help="steps between evaluations on dev; default: a tenth of --steps, or 100 for a model "
        "that ships",
    )
    group.add_argument(
        "--guard",
        metavar="N",
        type=int,
        help="go back to the best step, and on with 0.3 of the rates, where N evaluations on dev "
        "in a row have a loss 2 %% above that at first; default: 0, never",
    )
    group.add_argument(
        "--patience",
        metavar="N",
        type=int,
        help="stop where N evaluations on dev in a row have no lower loss than the best; default: "
        "0, never",
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        type=path,
        help="go on with a run; --steps, --guard, --patience, --engine, --fold-every, "
        "--residency, --threads and --memory-budget may be given anew; default: a new run",
    )
    group.add_argument(
        "--config",
        metavar="FILE.toml",
        type=path,
        help="file of settings, a line each as lr = 1e-6; options count before it; default: none",
    )


def add_machine(group: Group) -> None:
    add_engine(group)
    group.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="threads of the numba or onnx engine; default: one on each fast core",
    )
    group.add_argument(
        "--residency",
        metavar="WHERE",
        choices=("auto", "resident", "streamed"),
        help="where weights are: auto, resident (in memory) or streamed (in their file, read in "
        "each pass); default: auto, what fits",
    )
    add_memory_budget(group)
    group.add_argument(
        "--micro-batch-tokens",
        metavar="N",
        type=int,
        help="most tokens computed at once; default: 512, or 4096 for a model that ships",
    )


def add_output(group: Group) -> None:
    group.add_argument(
        "--output",
        metavar="RUN",
        type=path,
        help="the run's new directory; default: runs/TASK-MODEL-N",
    )


def add_snapshots(group: Group) -> None:
    group.add_argument(
        "--fold-every",
        metavar="N",
        type=int,
        help="steps between snapshots of the weights in the run; 0: none, only the journal; "
        "default: 1000, or if streamed as often as is quickest, which is measured",
    )


def add_plan_sizes(group: Group) -> None:
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=size,
        default=8,
        help="sequences of a batch, for the memory plan; default: 8",
    )
    group.add_argument(
        "--tokens",
        metavar="N",
        type=size,
        default=64,
        help="tokens of a sequence, for the memory plan; default: 64",
    )
