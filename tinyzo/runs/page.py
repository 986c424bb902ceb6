"""`tinyzo report`: runs as one page of HTML, which needs no network and no script.

recorded.py   what the files of a run say
curves.py     which curves there are
charts.py     curves as SVG
commands.py   how the run is made again
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tinyzo import __version__
from tinyzo.errors import RunError, UsageError
from tinyzo.parsing import JsonObject
from tinyzo.runs.answers import Answer, Change
from tinyzo.runs.charts import figure, safe
from tinyzo.runs.commands import finetune_command, replay_command
from tinyzo.runs.curves import charts, probes
from tinyzo.runs.page_style import STYLE
from tinyzo.runs.recorded import MEGABYTE, Recorded, number_of, read_run
from tinyzo.runs.run import directory_of
from tinyzo.system import os_errors, write_file

BEGINNING = "<!doctype html>\n<!-- a page of tinyzo report -->\n"
# No script, no font, no picture: nothing is loaded, whatever a text on the page may try.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
HINT = "name another --output"
RIGHT = '<span class="right" role="img" aria-label="right">\N{CHECK MARK}</span>'
WRONG = '<span class="wrong" role="img" aria-label="wrong">\N{BALLOT X}</span>'
NOTHING = "(nothing)"  # where a model wrote an empty answer


class Written(NamedTuple):
    """A page, and what it lacks: a line for each problem of a run."""

    path: Path
    size: int
    problems: list[str]


def write_report(paths: Sequence[Path], output: Path) -> Written:
    """Write one page on all these runs; a page of before is replaced, another file is not.

    raises: UsageError without runs; RunError for a folder without a run, or when the page cannot
        be written
    """
    if not paths:
        raise UsageError("a report of no runs", "name the --output of finetune, one or several")
    _check_free(output)
    folders = map(directory_of, paths)
    different = {os.path.realpath(folder): folder for folder in folders}
    runs = _with_names([read_run(folder) for folder in different.values()])
    page = html_page(runs).encode()
    with os_errors(RunError, output, HINT):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_file(output, page)
    problems = [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    return Written(output, len(page), problems)


def _check_free(output: Path) -> None:
    """raises: RunError for a file that is no page of ours"""
    if not os.path.lexists(output):
        return
    with os_errors(RunError, output, HINT), open(output, "rb") as file:
        start = file.read(len(BEGINNING))
    if start != BEGINNING.encode():
        raise RunError(f"{output}: there is another file of that name", HINT)


def _with_names(runs: Sequence[Recorded]) -> list[Recorded]:
    """The runs, by their paths where two of them have one name."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else run._replace(name=str(run.path)) for run in runs]


def html_page(runs: Sequence[Recorded]) -> str:
    """The whole page."""
    title = f"tinyzo: {', '.join(run.name for run in runs)}"
    drawn = "".join(figure(chart, number) for number, chart in enumerate(charts(runs)))
    if not drawn:
        drawn = '<p class="soft">No step is on record yet.</p>\n'
    numbers = count(100)
    parts = [
        f'{BEGINNING}<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<title>{safe(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        f"<h1>{safe(title)}</h1>\n{_all_problems(runs)}",
        f"<h2>Results</h2>\n{_results(runs)}",
        f'<h2>Curves</h2>\n<div class="charts">\n{drawn}</div>\n',
        *(_section(run, next(numbers)) for run in runs),
        f"<h2>Settings</h2>\n{_settings(runs)}",
        f'</main>\n<p class="foot">Written by tinyzo {__version__}, from the files of the runs.',
        "</p>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _all_problems(runs: Sequence[Recorded]) -> str:
    """What is missing or damaged, by the names of the runs."""
    found = [
        f"<li><b><bdi>{safe(run.name)}</bdi></b>: {safe(problem)}</li>\n"
        for run in runs
        for problem in run.problems
    ]
    return f'<ul class="problems">\n{"".join(found)}</ul>\n' if found else ""


# -- tables ----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of a table whose columns are runs. cells: HTML"""

    name: str
    cells: Sequence[str]

    @property
    def differs(self) -> bool:
        return len(set(self.cells)) > 1


def _table(caption: str, runs: Sequence[Recorded], rows: Iterable[Row], stresses: bool) -> str:
    """A table with a column for each run. stresses: mark the rows in which the runs differ"""
    names = (f"<bdi>{safe(run.name)}</bdi>" for run in runs)
    body = "".join(_row(row, stresses and row.differs) for row in rows)
    return _scrolled(caption, f"<td></td>{_heads(names)}", body)


def _heads(names: Iterable[str]) -> str:
    """The cells above columns of these names."""
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _row(row: Row, is_stressed: bool) -> str:
    kind = ' class="differs"' if is_stressed else ""
    cells = "".join(f"<td>{cell}</td>" for cell in row.cells)
    return f'<tr{kind}><th scope="row">{safe(row.name)}</th>{cells}</tr>\n'


def _scrolled(caption: str, head: str, body: str, kind: str = "runs") -> str:
    """A table that scrolls by itself where it is wider than the screen, also by keys."""
    name = safe(caption)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{name}">\n'
        f'<table class="{kind}">\n<caption>{name}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _results(runs: Sequence[Recorded]) -> str:
    """What came out; F1 where answers were written, whose accuracy is that of exact matches."""
    facts: dict[str, Callable[[Recorded], str]] = {
        "state": _state,
        "task": lambda run: _said_by_settings(run, "task") or "custom",
        "accuracy before": lambda run: _evaluation(run, 0, "accuracy", "{:.3f}"),
        "accuracy after": lambda run: _evaluation(run, run.final_step, "accuracy", "{:.3f}"),
        "loss before": lambda run: _evaluation(run, 0, "loss", "{:.4f}"),
        "loss after": lambda run: _evaluation(run, run.final_step, "loss", "{:.4f}"),
        "F1 before": lambda run: _evaluation(run, 0, "f1", "{:.3f}"),
        "F1 after": lambda run: _evaluation(run, run.final_step, "f1", "{:.3f}"),
        "rows reported on": _reported,
        "best step on dev": lambda run: _known(run.best_step),
        "steps": lambda run: _known(run.steps),
        "returns to an earlier step": lambda run: f"{len(run.returns())}",
        "forward passes": lambda run: f"{_last(run.passes):,.0f}",
        "seconds": lambda run: f"{_last(run.seconds):,.1f}",
        "seconds a step": _seconds_a_step,
        "peak memory": _peak,
        "journal": lambda run: f"{run.journal_bytes:,} bytes",
    }
    rows = [Row(name, [safe(fact(run)) for run in runs]) for name, fact in facts.items()]
    rows = [row for row in rows if not row.name.startswith("F1") or set(row.cells) != {"-"}]
    return _table("Accuracy and loss on the rows reported on", runs, rows, stresses=False)


def _state(run: Recorded) -> str:
    if run.result:
        return "finished"
    wanted = run.run.settings.steps if run.run else "?"
    return f"unfinished, {_known(run.steps)} of {wanted} steps"


def _known(value: object) -> str:
    return "?" if value is None else f"{value}"


def _last(sums: Sequence[float]) -> float:
    return sums[-1] if sums else 0.0


def _said_by_settings(run: Recorded, name: str) -> str:
    value = getattr(run.run.settings, name) if run.run else "?"
    return "" if value is None else str(value)


def _evaluation(run: Recorded, step: int | None, key: str, form: str) -> str:
    """A number of the evaluation of the reported rows after a step."""
    for event in run.evaluations("test"):
        if event["step"] == step and key in event:
            return form.format(number_of(event[key]))
    return "-"


def _reported(run: Recorded) -> str:
    found = run.evaluations("test")
    return f"{found[0]['examples']}" if found else "-"


def _seconds_a_step(run: Recorded) -> str:
    timed = _numbers(run, "seconds")
    return f"{sum(timed) / len(timed):.3f}" if timed else "-"


def _numbers(run: Recorded, key: str) -> list[float]:
    """The numbers of a key of metrics.jsonl, at the steps where there is one."""
    return [number for number in run.column(key) if number == number]


def _peak(run: Recorded) -> str:
    """Of a finished run also what its last evaluation took."""
    sizes = [number_of(run.result.get("peak_bytes")), *_numbers(run, "peak_bytes")]
    known = [size for size in sizes if size == size]
    return f"{max(known) / MEGABYTE:.0f} MB" if known else "-"


def _settings(runs: Sequence[Recorded]) -> str:
    """All settings; of several runs first those in which they differ."""
    known = [run for run in runs if run.run]
    if not known:
        return '<p class="soft">No run.toml can be read.</p>\n'
    rows = []
    for name in vars(known[0].run.settings) if known[0].run else ():
        cells = [_setting(run, name) for run in known]
        if any(cells):
            rows.append(Row(name.replace("_", "-"), cells))
    rows.sort(key=lambda row: not row.differs)
    caption = "What the runs go by"
    if len(known) > 1:
        caption += "; marked, and first, is what differs"
    return _table(caption, known, rows, stresses=True)


def _setting(run: Recorded, name: str) -> str:
    value = getattr(run.run.settings, name) if run.run else None
    if isinstance(value, list):
        value = ", ".join(value)
    return "" if value is None else f"<bdi>{safe(value)}</bdi>"


# -- a run -----------------------------------------------------------------------------------------


def _section(run: Recorded, number: int) -> str:
    """What there is of one run alone."""
    return (
        f"<h2><bdi>{safe(run.name)}</bdi></h2>\n{_answers(run)}"
        f'<div class="charts">{figure(probes(run), number)}</div>\n'
        f"{_commands(run)}{_versions(run)}"
    )


def _answers(run: Recorded) -> str:
    """Ten rows, and what the model said of them."""
    found = run.changes()
    if not found:
        return '<p class="soft">Of this run no answers are kept.</p>\n'
    after = "after"
    if run.final_step is not None:
        after = f"after {run.final_step} steps"
    caption = f"{len(found)} rows of those reported on, and what the model said of them"
    head = _heads(("label", "before", after, "text"))
    return _scrolled(caption, head, "".join(map(_change, found)), "answers")


def _change(change: Change) -> str:
    before, after = change
    return (
        f'<tr><td data-name="label"><bdi>{safe(before.label)}</bdi></td>'
        f'<td data-name="before">{_said(before)}</td>'
        f'<td data-name="after">{_said(after)}</td>'
        f'<td class="text"><bdi>{safe(before.text)}</bdi></td></tr>\n'
    )


def _said(answer: Answer | None) -> str:
    if answer is None:
        return "-"
    probability = ""
    if answer.probability is not None:  # of an answer that was written none is known
        probability = f"&nbsp;{answer.probability:.2f}"
    mark = RIGHT if answer.is_right else WRONG
    return f"{mark}&nbsp;<bdi>{safe(answer.said or NOTHING)}</bdi>{probability}"


def _commands(run: Recorded) -> str:
    """How the run is made again, and its model."""
    if run.run is None:
        return ""
    again = finetune_command(run.run.settings, run.run.about["family"], f"{run.path}-again")
    model = replay_command(str(run.path), f"{run.path}-tuned")
    return (
        f"<h3>The same run again</h3>\n<pre>{_code(again)}</pre>\n"
        f"<h3>Its tuned model, from the journal of {run.journal_bytes:,} bytes</h3>\n"
        f"<pre>{_code(model)}</pre>\n"
    )


def _code(command: str) -> str:
    """A command, whole however long it is."""
    return "\n".join("".join(map(safe, line)) for line in command.split("\n"))


def _versions(run: Recorded) -> str:
    """With what it was made."""
    if run.run is None:
        return ""
    about: JsonObject = run.run.about
    engines = ", then ".join(
        f"{engine.name} from step {engine.step}" for engine in run.run.engines()
    )
    facts = {
        "tinyzo": about.get("tinyzo"),
        "NumPy": about.get("numpy"),
        "machine": about.get("machine"),
        "engine": engines,
        "SHA-256 of the checkpoint": about.get("base"),
        "SHA-256 of the encoded data": about.get("data"),
    }
    rows = "".join(_row(Row(name, [safe(_known(v))]), False) for name, v in facts.items())
    return f"<h3>Made with</h3>\n<table>\n<tbody>\n{rows}</tbody>\n</table>\n"
