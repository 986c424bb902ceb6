"""load, finetune, evaluate, predict, generate, replay, share, report and export_onnx.

These are the functions of `import tinyzo` on runs, tasks and texts. Each but `load` does what the
command of its name does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyzo.engine.select import ENGINES
from tinyzo.errors import DataError, UsageError, check_choice
from tinyzo.models import model as models
from tinyzo.models.model import RESIDENCIES, Model
from tinyzo.models.sampling import Sampler
from tinyzo.runs import export
from tinyzo.runs import share as sharing
from tinyzo.runs.evaluate import Evaluation, written_answers
from tinyzo.runs.evaluate import predict as predict_examples
from tinyzo.runs.named import open_one, open_tuned
from tinyzo.runs.opened import Opened, check_no_base, check_same, open_for_task, row_of, with_task
from tinyzo.runs.ranks import join
from tinyzo.runs.recipes import with_recipe
from tinyzo.runs.run import Run
from tinyzo.runs.settings import FIELDS, Settings, model_path
from tinyzo.runs.snapshots import tuned_model
from tinyzo.runs.texts import NEW_TOKENS, Continuation, continuations
from tinyzo.runs.train import tune
from tinyzo.runs.untrained import Way, score


def load(
    path: str | Path,
    engine: str = "auto",
    residency: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    base: str | Path | None = None,
    base_dtype: str | None = None,
) -> Model:
    """Open whatever `--model` takes: a folder, a run, a PEFT folder, a shipped name, or one of them
    and what `share` wrote, as "base+a.tinyzo".

    path:      a run gives the model of its best step, as its settings hold it
    engine:    "numba", "numpy", "onnx" (ONNX Runtime), or "auto": a run's own, or the fastest of
        the first two
    residency: "resident": weights in memory; "streamed": read from their file in every pass;
        "auto": resident if they take less than half of the free memory
    dtype:     how weights are stored: "f32", "bf16" or "f16"; None or "auto": as in the file; a
        run keeps its own
    threads:   of the numba or onnx engine; None: one on each fast CPU. NumPy's BLAS has its own
    base:      of a run, where the model that it began with is now; None: where run.toml says
    base_dtype: "int4" or "int8": matrices become that as they are read, and stand still; a run
        keeps its own
    raises: CheckpointError, ConfigError, RunError; UsageError for another dtype than a run's

        model = tinyzo.load("roberta-tiny")
        (scores,) = model.logits([[0, 31414, 2]])       # f32[T, V]
    """
    tuned = open_tuned(str(path), as_text(base))
    if tuned is None:
        check_no_base(Settings(model=str(path)), as_text(base))
        found = model_path(str(path))
        return models.load(found, engine, residency, dtype, threads, base_dtype)
    check_choice("engine", engine, ENGINES)
    check_choice("residency", residency, RESIDENCIES)
    check_same(tuned.settings, Settings(dtype=dtype, base_dtype=base_dtype))
    return tuned_model(tuned, None, engine, residency, threads)


def finetune(
    output: str | Path | None = None,
    resume: str | Path | None = None,
    *,
    recipe: str | None = None,
    model: str | Path | None = None,
    task: str | None = None,
    data: str | Path | None = None,
    template: str | None = None,
    label_words: list[str] | None = None,
    label_field: str | None = None,
    method: str | None = None,
    estimator: str | None = None,
    queries: int | None = None,
    direction: str | None = None,
    update: str | None = None,
    window: int | None = None,
    clip: float | None = None,
    objective: str | None = None,
    train: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    eps: float | None = None,
    schedule: str | None = None,
    lr_passes: int | None = None,
    warmup: int | None = None,
    weight_decay: float | None = None,
    seed: int | None = None,
    data_seed: int | None = None,
    k_shot: int | None = None,
    train_rows: int | None = None,
    limit: int | None = None,
    eval_every: int | None = None,
    guard: int | None = None,
    patience: int | None = None,
    micro_batch_tokens: int | None = None,
    engine: str | None = None,
    residency: str | None = None,
    memory_budget: str | None = None,
    fold_every: int | None = None,
    dtype: str | None = None,
    base_dtype: str | None = None,
    threads: int | None = None,
    share: str | None = None,
) -> Run:
    """Tune a model by forward passes; the same as `tinyzo finetune`.

    output: the run's new directory; None: runs/<task>-<model>-<n>
    resume: go on with this run instead; then only steps, guard, patience, engine, fold_every,
        residency, threads and memory_budget may be chosen anew, and model and data say where these
        are now
    recipe: settings by which others have tuned a model on a task, as "roberta-large/SST-2"; all
        that is given here counts before it
    share: under mpiexec, what its processes share of a step: "queries", "rows" or "both"; one that
        fails ends all when it ends itself
    All others are the fields of Settings, which says what each is; None leaves it to tinyzo.
    returns: the finished run, on each process that of the first; its `result` is the summary
    raises: TinyzoError; KeyboardInterrupt leaves a run that can be resumed
    """
    choices = {name: value for name, value in locals().items() if name in FIELDS}
    ranks = join(share)
    with ranks.working():
        settings = with_recipe(recipe, Settings.from_mapping(choices, "finetune"))
        return tune(settings, as_path(output), as_path(resume), ranks)


def evaluate(
    model: str | Path | Model,
    task: str | None = None,
    data: str | Path | None = None,
    *,
    template: str | None = None,
    label_words: list[str] | None = None,
    label_field: str | None = None,
    data_seed: int | None = None,
    limit: int | None = None,
    zero_shot: bool = False,
    base: str | Path | None = None,
    engine: str | None = None,
    icl: int = 0,
    calibrate: bool = False,
    method: str = "prompt",
    k_shot: int | None = None,
    train_rows: int | None = None,
) -> Evaluation:
    """Accuracy and loss of a model or a run on a task.

    model:     what `load` takes, or what it gave
    task:      a name; None: a run's own, or the shipped task
    data:      its folder or file; None: a run's own, or the shipped data. Of a run whose data are
        gone from where they were, the same elsewhere
    template, label_words, label_field: a task of your own instead
    data_seed: draws the rows where there are more than 1,000
    limit:     most rows to report on
    zero_shot: of a run, the model that it began with, and not its result
    base:      of a run, where that model is now; None: where run.toml says
    engine:    as for `load`, which has settled it for what it gave; None: "auto"
    icl:       training rows to show before each prompt, with their answers (OPT); drawn by
        data_seed
    calibrate: choose the candidate that the row makes likelier by most (OPT)
    method:    "prompt", or "linear-probe": a classifier of hidden states, which needs scikit-learn
    k_shot, train_rows: the rows that the probe is fitted to, as for `finetune`
    returns: Evaluation(examples, accuracy, loss, f1, exact_match), the last two of SQuAD and DROP
    raises: TinyzoError
    """
    choices = {
        "task": task,
        "data": data,
        "template": template,
        "label_words": label_words,
        "label_field": label_field,
        "data_seed": data_seed,
        "limit": limit,
        "engine": engine,
        "k_shot": k_shot,
        "train_rows": train_rows,
    }
    way = Way(method, icl, calibrate)
    way.check(Settings.from_mapping({**choices, "engine": None}, "the call"))
    opened = _open(model, choices, zero_shot=zero_shot, base=base)
    with opened.model.weights.lock:  # of one theta, whoever else trains it
        return score(opened, way).evaluation


@dataclass(frozen=True)
class Prediction:
    """A text, its likeliest label, and the probability of each label.

    Where the model writes the answer (SQuAD, DROP), that is the label, and there are no scores.
    """

    text: str
    label: str
    scores: dict[str, float]


def predict(
    model: str | Path | Model,
    texts: Sequence[str | Mapping[str, object]],
    task: str | None = None,
    *,
    template: str | None = None,
    label_words: list[str] | None = None,
    base: str | Path | None = None,
    engine: str | None = None,
) -> list[Prediction]:
    """Label texts with a model or a run.

    model: what `load` takes, or what it gave
    texts: of a task of one column a text each, else a dictionary of its columns
    task, template, label_words, base, engine: as for `evaluate`
    raises: TinyzoError

        tinyzo.predict("roberta-tiny", ["A good camera."], template="{text} It was <mask>.",
                       label_words=["bad", "good"])
    """
    if isinstance(texts, str | bytes) or hasattr(texts, "keys"):
        hint = "predict takes a list: [text], or of a pandas table df.to_dict('records')"
        raise DataError(f"texts is a {type(texts).__name__}", hint)
    choices = {
        "task": task,
        "template": template,
        "label_words": label_words,
        "engine": engine,
    }
    opened = _open(model, choices, needs_data=False, base=base)
    return list(predictions(opened, texts))


def predictions(
    opened: Opened, texts: Iterable[str | Mapping[str, object]]
) -> Iterator[Prediction]:
    """The prediction for each text, one by one.

    A label is its word; of a task whose words are columns (COPA), what its files call it; of one
    whose candidates are the row's own (ReCoRD), the candidate.
    """
    bound = opened.bound
    loss = opened.loss()
    for text in texts:
        row = row_of(bound, text)
        example = bound.encode(row, labelled=False)
        scores: dict[str, float] = {}
        if bound.task.is_generated:
            (label,) = written_answers(loss, [example])
        else:
            (odds,) = predict_examples(loss, [example])
            labels = bound.task.label_names(row)
            scores = dict(zip(labels, odds.tolist(), strict=True))
            label = labels[odds.argmax()]
        yield Prediction(str(text), label, scores)


def generate(
    model: str | Path | Model,
    prompts: Sequence[str],
    max_new_tokens: int = NEW_TOKENS,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    base: str | Path | None = None,
    engine: str | None = None,
) -> list[Continuation]:
    """Continue texts with OPT, all at once.

    model:       what `load` takes, or what it gave
    temperature: 0: the likeliest token always; 1: drawn as likely as the model says
    top_p:       draw from the likeliest tokens that come to this share together
    stop:        texts that end a continuation, and are not part of it; the model's end does, too
    seed:        of what is drawn
    base, engine: as for `evaluate`
    raises: TinyzoError

        tinyzo.generate("opt-tiny", ["The camera is"], stop=["."])[0].text
    """
    sampler = Sampler(temperature, top_p, seed)
    opened = _loaded(model, base, engine)
    with opened.weights.lock:  # of one theta, whoever else trains it
        return list(continuations(opened, prompts, max_new_tokens, stop, sampler))


def replay(
    run: str | Path | Run,
    output: str | Path,
    step: int | None = None,
    merge: bool = False,
    base: str | Path | None = None,
) -> Path:
    """Write a run's tuned model as a directory that transformers loads; of LoRA, that peft loads.

    run:   its directory, or what `share` wrote with its base, as "base+a.tinyzo"
    step:  after so many steps; None: the best on dev
    merge: LoRA as a whole model too
    base:  where the model that the run began with is now; None: where run.toml says
    returns: the directory
    raises: CheckpointError when `output` has a model already or cannot be written; RunError
    """
    opened = run if isinstance(run, Run) else open_one(str(run), as_text(base))
    return export.replay(opened, Path(output), step, merge)


def share(
    run: str | Path | Run, output: str | Path = "fine-tune.tinyzo", step: int | None = None
) -> Path:
    """Write what a run's best step is over its base as one small file; `tinyzo share`.

    run:    its directory, also of one that is unfinished
    output: the new file
    step:   after so many steps; None: the best on dev
    returns: the file, which every function that takes a model takes as "base+file"
    raises: RunError for a method without terms, or an output that is there or cannot be written
    """
    opened = run if isinstance(run, Run) else Run.open(Path(as_text(run) or ""))
    return sharing.share(opened, Path(as_text(output) or ""), step)


def report(
    runs: str | Path | Run | Iterable[str | Path | Run], output: str | Path = "report.html"
) -> Path:
    """Write one page of HTML on a run, or on several to compare; `tinyzo report`.

    runs:   their directories; unfinished or damaged ones are shown as far as they go
    output: the page; one of before is replaced
    returns: the page
    raises: RunError for a folder without a run, for an output that is another file, or one that
        cannot be written; UsageError without runs
    """
    from tinyzo.runs.page import write_report  # few programs do

    one = [runs] if isinstance(runs, str | Path | Run) else runs
    paths = [each.path if isinstance(each, Run) else Path(as_text(each) or "") for each in one]
    return write_report(paths, Path(as_text(output) or "")).path


def export_onnx(
    output: str | Path,
    tokens: int | None = None,
    *,
    model: str | Path | None = None,
    task: str | None = None,
    data: str | Path | None = None,
    template: str | None = None,
    label_words: list[str] | None = None,
    label_field: str | None = None,
    train: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    queries: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    eps: float | None = None,
    seed: int | None = None,
    data_seed: int | None = None,
    k_shot: int | None = None,
    train_rows: int | None = None,
    limit: int | None = None,
    base: str | Path | None = None,
) -> Path:
    """Write a step as a graph, from which an app tunes a model; `tinyzo export --format onnx`.

    output: the new folder
    tokens: of a row, which the graphs then fix; None: any number
    batch_size: examples of a batch, which the graphs then fix; None: any number
    base:   of a run, where the model that it began with is now; None: where run.toml says
    All others are fields of Settings, which says what each is; None leaves it to tinyzo.
    returns: the folder
    raises: TinyzoError
    """
    from tinyzo.runs import inference  # few programs do

    choices = {name: value for name, value in locals().items() if name in FIELDS}
    settings = Settings.from_mapping(choices, "export_onnx")
    return inference.export_onnx(settings, Path(as_text(output) or ""), tokens, as_text(base))


def _open(
    model: str | Path | Model,
    choices: Mapping[str, object],
    needs_data: bool = True,
    zero_shot: bool = False,
    base: str | Path | None = None,
) -> Opened:
    """A model that is open already, or what a path names, for the task of the choices."""
    path = model.directory if isinstance(model, Model) else model
    given = Settings.from_mapping({**choices, "model": path}, "the call")
    if isinstance(model, Model):
        _check_open(given, base)
        return with_task(model, given, needs_data)
    return open_for_task(given, needs_data, zero_shot, as_text(base))


def _loaded(model: str | Path | Model, base: str | Path | None, engine: str | None) -> Model:
    """A model that is open already, or what a path names."""
    if isinstance(model, Model):
        _check_open(Settings(model=str(model.directory), engine=engine), base)
        return model
    return load(model, engine or "auto", base=base)


def _check_open(given: Settings, base: str | Path | None) -> None:
    """raises: UsageError for choices that a model which is open has made already"""
    check_no_base(given, as_text(base))
    if given.engine is not None:
        hint = "give it to tinyzo.load, or give this the path of the model"
        raise UsageError(f"engine {given.engine!r}, but the model is open already", hint)


def as_path(path: str | Path | None) -> Path | None:
    """A path in whatever form it was given, ~ the home folder; None stays None.

    raises: UsageError for one that is empty, or that no system takes
    """
    if path is None:
        return None
    if path == "":
        raise UsageError("a path is empty", "name a folder, or leave it out")
    if "\0" in str(path):
        raise UsageError(f"path {str(path)!r}", "no path has a NUL in it")
    return Path(os.path.expanduser(path))


def as_text(path: str | Path | None) -> str | None:
    """A path in whatever form it was given, as text; None stays None."""
    found = as_path(path)
    return None if found is None else str(found)
