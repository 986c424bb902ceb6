"""Tasks as rows of a table, tasks.toml: a template, its label words, names that the files use.

A template is text with `{field}` for a column of the data, `{field:edit:edit}` for an edited one,
and for RoBERTa one `<mask>`. In byte-level BPE a space belongs to the word after it, so the space
before a field is encoded with the field, and the one before the mask is the label word's.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

from tinyzo.errors import DataError
from tinyzo.parsing import read_toml
from tinyzo.text.tokenizer import Tokenizer

Row = Mapping[str, Any]  # of datasets.Row, which knows its file and line, or any dict
MASK = "<mask>"
EDITS: dict[str, Callable[[str], str]] = {
    "strip": str.strip, "lower": str.lower,
    "lower_first": lambda text: text[:1].lower() + text[1:],
    "lower_word": lambda text: re.sub(r"^(?!I( |$))[^ ]+", lambda m: m[0].lower(), text),
    "upper_first": lambda text: text[:1].upper() + text[1:],
    "chop": lambda text: text[:-1],
    "unstop": lambda text: text.rstrip().removesuffix("."),
    "unquote": lambda text: text.strip('"'),
    "ask": lambda text: text if text.endswith("?") else text + "?",
    "conjunction": lambda text: {"cause": "because", "effect": "so"}.get(text, text),
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One row as token ids.

    RoBERTa: `prompt` is all of it, <s> to </s>, `mask_at` the mask's index; no candidates.
    OPT:     `prompt` begins with bos, each of `candidates` continues it; `mask_at` is -1.
    label:   index of the gold label word or candidate; -1 when read without one
    """

    prompt: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    mask_at: int
    label: int
    text: str


@dataclass(frozen=True)
class Task:
    """A row of the table.

    labels:   what the label column says, in label order; with by_index also 0, 1, ...
    words:    what each label continues the template with, a space included; OPT's may hold fields
    aliases:  what else a field may be called; columns: names for a .csv without a header
    """

    name: str
    family: str
    template: str
    labels: Sequence[str]
    words: Sequence[str]
    max_length: int = 2048
    sentence_limit: int | None = None
    label_field: str = "label"
    by_index: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] | None = None
    n_dev: int = 500
    loss: str = "classification"

    @property
    def fixed_words(self) -> Sequence[str]:
        """The label words; none where they are columns of the data."""
        return () if "{" in "".join(self.words) else self.words

    def find(self, row: Row, name: str) -> Any:
        """What a row has under a name, its alias, or a path into nested JSON; None for nothing."""
        for known in (name, self.aliases.get(name)):
            if known in row:
                return row[known]
        outer, _, inner = name.partition(".")
        nested = row.get(outer)
        return nested.get(inner) if isinstance(nested, dict) else None

    def label(self, row: Row) -> int:
        """The index of the row's label; raises DataError for one that is missing or unknown."""
        value = self.find(row, self.label_field)
        said = str(value) if isinstance(value, (str, int)) else f"<{type(value).__name__}>"
        key, names = said.strip().lower(), [label.lower() for label in self.labels]
        known = [*names, *map(str, range(len(names)))] if self.by_index else names
        if key in known:
            return known.index(key) % len(names)
        found = "missing" if value is None else repr(said[:40])
        raise _bad(row, f"{self.label_field} is {found}, not one of {', '.join(self.labels)}")

    def fill(self, template: str, row: Row) -> Iterator[tuple[bool, str]]:
        """(is a field, text) for each stretch of a template; raises DataError where none is."""
        for literal, name, edits in parse_template(template):
            space = " " if name and literal.endswith(" ") else ""
            yield False, literal.removesuffix(space)
            if name:
                text = self.find(row, name)
                if not isinstance(text, str):
                    raise _bad(row, f"no text under {name!r}")
                for edit in edits:
                    text = EDITS[edit](text)
                yield True, space + text

    def bind(self, tokenizer: Tokenizer, max_length: int = 2048, bos_id: int = 0) -> "BoundTask":
        """The task with a vocabulary.

        max_length: the model's positions; the task's own max_length holds too
        bos_id:     OPT's first id: 0 as in published MeZO, `tokenizer.bos_id` for its config's
        raises:     DataError for a template that cannot be used; TokenizerError for a label word
                    (or a mask) that is not one token of RoBERTa's
        """
        roberta = self.family == "roberta"
        fields = [name for _, name, _ in parse_template(self.template) if name]
        masks = self.template.count(MASK)
        if masks != roberta or not fields:
            found = f"template {self.template!r} has {masks} {MASK} and {len(fields)} fields"
            raise DataError(found, f"name a column as {{text}}; RoBERTa needs one {MASK}, OPT none")
        ids = [tokenizer.word_id(word) for word in (MASK, *self.words)] if roberta else []
        first, length = tokenizer.bos_id if roberta else bos_id, min(self.max_length, max_length)
        return BoundTask(self, tokenizer, fields, ids[1:], length, first)


@dataclass(frozen=True)
class BoundTask:
    """A task and a tokenizer: rows go in, token ids come out. `fields` are the template's."""

    task: Task
    tokenizer: Tokenizer
    fields: list[str]
    label_word_ids: list[int]
    max_length: int
    bos_id: int

    def encode(self, row: Row, labelled: bool = True) -> Example:
        """One row as token ids; `labelled=False` leaves its label unread.

        raises:  DataError naming the row: a field or label that is missing or wrong, a text that
                 leaves no room for the mask or the candidates
        differs: only for sequences that are too long, see `_at_mask` and `_with_candidates`
        """
        label = self.task.label(row) if labelled else -1
        encode = self._at_mask if self.task.family == "roberta" else self._with_candidates
        return Example(*encode(row), label, str(self.task.find(row, self.fields[0])))

    def _at_mask(self, row: Row) -> tuple[tuple, tuple, int]:
        """Each stretch encoded alone (Gao et al. 2021); too long a whole loses its tail.

        differs: where the tail has the mask (published code fails), the longest text is shortened
                 until everything fits
        """
        parts, texts, ahead = [[self.bos_id]], [], []  # ahead: what comes before the mask
        for is_field, text in self.task.fill(self.task.template, row):
            parts.append(self.tokenizer.encode(text))
            if is_field:
                limit = self.max_length if texts else self.task.sentence_limit or self.max_length
                del parts[-1][limit:]
                texts.append(parts[-1])
            elif MASK in text:
                ahead = [*parts[:-1], parts[-1][: parts[-1].index(self.tokenizer.mask_id)]]
        parts.append([self.tokenizer.eos_id])
        if sum(map(len, ahead)) >= self.max_length:
            while (length := sum(map(len, parts))) > self.max_length:
                if not (longest := max(texts, key=len)):
                    message = f"the template alone has {length} tokens, {self.max_length} fit"
                    raise _bad(row, message, "shorten the template")
                longest.pop()
        return tuple(itertools.chain(*parts))[: self.max_length], (), sum(map(len, ahead))

    def _with_candidates(self, row: Row) -> tuple[tuple, tuple, int]:
        """Prompt and candidate encoded together, and split where the prompt alone would end.

        differs: too long a prompt is cut from the left for the longest candidate, so that all of
                 them share it; published code cuts each sequence by its own length
        """
        templates = (self.task.template + word for word in ("", *self.task.words))
        filled = ("".join(text for _, text in self.task.fill(t, row)) for t in templates)
        prompt, *joint = (self.tokenizer.encode(text.strip(" ")) for text in filled)
        split, heads = len(prompt), {tuple(ids[: len(prompt)]) for ids in joint}
        candidates = tuple(tuple(ids[split:]) for ids in joint)
        cut = max(0, 1 + split + max(map(len, candidates)) - self.max_length)
        if len(heads) > 1 or not all(candidates) or cut > split:
            message = f"the candidates do not continue one prompt within {self.max_length} tokens"
            raise _bad(row, message, "let each begin a word of its own")
        return (self.bos_id, *heads.pop()[cut:]), candidates, -1


@lru_cache
def parse_template(template: str) -> list[tuple[str, str, list[str]]]:
    """(literal text, the field after it or "", the field's edits) for each piece of a template.

    raises:  DataError for a brace left open, a field without a name, an unknown edit
    """
    hint = f"{{{{ is a brace, {{field:edit}} a column edited by {', '.join(EDITS)}"
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"template {template!r}: {error}", hint) from error
    pieces = []
    for literal, name, spec, conversion in parsed:
        edits = spec.split(":") if spec else []
        if name == "" or conversion or not EDITS.keys() >= set(edits):
            raise DataError(f"template {template!r}: cannot read {{{name}:{spec}}}", hint)
        pieces.append((literal, name or "", edits))
    return pieces


def _bad(row: Row, message: str, hint: str = "") -> DataError:
    hint = hint or f"the row has the columns {', '.join(map(str, row))}"
    return DataError(f"{getattr(row, 'where', 'the input')}: {message}", hint)


def custom_task(template: str, label_words: Sequence[str], family: str, label_field: str) -> Task:
    """A task of the user's own; labels in the file are the words, or else their indices.

    raises:  DataError unless there are two or more words, all different, none empty
    """
    labels = tuple(word.strip() for word in label_words)
    if len({label.lower() for label in labels} - {""}) < max(2, len(labels)):
        raise DataError(f"label words {', '.join(labels)!r}", "give two or more different words")
    space = "" if family == "opt" and template.endswith("\n") else " "
    words = tuple(space + label for label in labels)
    by_index = not any(label.isdigit() for label in labels)
    return Task("custom", family, template, labels, words, 2048, None, label_field, by_index)


def get_task(name: str, family: str) -> Task:
    """The task of that name ("SST-2", "sst2", ...) with the prompt for a family of models.

    family:  "roberta" (a mask) or "opt" (candidates)
    raises:  DataError for an unknown name, or a known one without a prompt for this family
    """
    rows = {task.family: task for task in TASKS if _plain(task.name) == _plain(name)}
    if family not in rows:
        problem = "has no prompt" if rows else "is not known"
        known = ", ".join(task.name for task in TASKS if task.family == family)
        raise DataError(f"task {name!r} {problem} for {family} models", f"known there: {known}")
    return rows[family]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


TASKS = [Task(**row) for row in read_toml(Path(__file__).with_suffix(".toml"))["tasks"]]
