"""Tasks: a template, its label words, and the names that the data's files use.

tasks.toml is a table of the published ones. For RoBERTa a template holds one `<mask>`, and the
label words are what may stand there; the space before the mask is the label word's. For OPT each
word, then called a candidate, continues the template. A word with @placeholder in it stands for a
row's own candidates (ReCoRD), or for an answer that the model is to write (SQuAD, DROP).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, get_args, get_origin

import numpy as np

from tinyzo.errors import DataError
from tinyzo.packages import say_once
from tinyzo.parsing import own_toml
from tinyzo.text.templates import parse_template
from tinyzo.text.tokenizer import Tokenizer

Row = Mapping[str, object]  # of datasets.Row, which knows its file and line, or any dict
MASK = "<mask>"
PLACEHOLDER = "@placeholder"  # as ReCoRD's queries have it
NO_GOLD = (-1,)
NO_FILE = "the input"  # where a row is, in messages, when it came from no file
UNLABELLED = ("", "-1", "-")  # labels that are none; "-": SNLI's, where annotators disagree
WHOLE = re.compile(r"(-?\d+)\.0*")  # a whole number, written as a float


@dataclass(frozen=True)
class Example:
    """One row as token ids.

    RoBERTa: `prompt` is all of it, <s> to </s>, `mask_at` the mask's index; no candidates.
    OPT:     `prompt` begins with bos, each of `candidates` continues it; `mask_at` is -1.
    label:   index of the gold label word or candidate; -1 when read without one
    also_gold: other candidates that are right, too, which training does not read (ReCoRD)
    answers: all gold texts, the first of which is the candidate (SQuAD, DROP)
    """

    prompt: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    mask_at: int
    label: int
    text: str
    also_gold: tuple[int, ...] = field(default=(), repr=False)
    answers: tuple[str, ...] = field(default=(), repr=False)

    def is_right(self, candidate: int) -> bool:
        """Whether a candidate is a gold one."""
        return candidate == self.label or candidate in self.also_gold


class Stretch(NamedTuple):
    """A part of a filled template, which is encoded by itself."""

    is_field: bool
    text: str


@dataclass(frozen=True)
class Task:
    """A task: how a row of data becomes a prompt for one family of models.

    family:         "roberta" (a mask) or "opt" (candidates)
    labels:         what the label column says, in label order
    words:          what each label continues the template with, a space included; OPT's may
                    hold fields
    max_length:     tokens of a prompt, candidate included
    sentence_limit: tokens of the template's first field (RoBERTa)
    aliases:        what else a field may be called
    synonyms:       what else a label may be called
    numbers:        what 0, 1, ... in a label column mean, which differs from column to column
    columns:        names for a .csv without a header
    n_dev:          rows that choose the best step, where no file is for that
    loss:           "classification" or "lm", the gold candidate's negative log-likelihood
    choices:        the column that lists a row's own candidates. There are no labels then: the
                    label column lists the gold ones
    max_new_tokens: the most tokens of an answer that the model writes; 0: it chooses among
                    candidates. There are no labels then: the label column lists gold answers
    defaults:       texts of fields that files may lack
    nesting:        how its original files nest, a name of nested.NESTINGS
    content_free:   the template without the row's content, by which calibration measures the
                    candidates; None: the words after the template's last field (OPT)
    """

    name: str
    family: str
    template: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    max_length: int = 2048
    sentence_limit: int | None = None
    label_field: str = "label"
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    n_dev: int = 500
    loss: str = "classification"
    choices: str = ""
    max_new_tokens: int = 0
    defaults: Mapping[str, str] = field(default_factory=dict)
    nesting: str = ""
    content_free: str | None = None

    @property
    def is_generated(self) -> bool:
        """Whether the model writes the answer, and does not choose it."""
        return self.max_new_tokens > 0

    @property
    def fixed_words(self) -> tuple[str, ...]:
        """The label words; none where they are columns of the data."""
        if not self.labels or any("{" in word for word in self.words):
            return ()
        return self.words

    @cached_property
    def _names(self) -> list[str]:
        return [label.lower() for label in self.labels]

    @property
    def column_names(self) -> set[str]:
        """What the columns of its files may be called."""
        names = {self.label_field, *self.aliases, *chain(*self.aliases.values())}
        return names.union(self.fields)

    @cached_property
    def fields(self) -> list[str]:
        """The columns that prompt and candidates are made of, those of the template first."""
        pieces = chain.from_iterable(map(parse_template, (self.template, *self.words)))
        names = dict.fromkeys(piece.field for piece in pieces if piece.field)
        if self.choices:
            names[self.choices] = None
        return list(names)

    def column_of(self, row: Row, name: str) -> str:
        """What a row calls a field: its name or an alias."""
        for column in (name, *self.aliases.get(name, ())):
            if column in row:
                return column
        return name

    def find(self, row: Row, name: str, default: object = None) -> object:
        """A row's value under a name, its alias, or a path into nested JSON."""
        column = self.column_of(row, name)
        if column in row:
            return row[column]
        outer, _, inner = name.partition(".")
        nested = row.get(outer)
        if isinstance(nested, dict):
            return nested.get(inner, default)
        return default

    def is_labelled(self, row: Row) -> bool:
        """Whether the row has a label: not null, NaN, "", "-" or -1, unless one is called so.

        Of a task without labels: whether it has an answer.
        """
        value = plain(self.find(row, self.label_field))
        if not self.labels:
            return not _is_nothing(value) and _listed(value) not in ("", [])
        name = self._label_name(row, value)
        return name in self._names or not (_is_nothing(value) or name in UNLABELLED)

    def label(self, row: Row) -> int:
        """The index of the row's label.

        raises: DataError naming the row, for a label that is missing or unknown, or a number of
            which nobody says what it means
        """
        value = plain(self.find(row, self.label_field))
        name = self._label_name(row, value)
        if name in self._names:
            return self._names.index(name)
        column = self.column_of(row, self.label_field)
        found = f"{column} is {value!r:.42}"
        if not self.is_labelled(row):
            found = f"{self.label_field} is missing"
        elif self.numbers and name.isdecimal() and column not in self.numbers:
            hint = f"give their names: {', '.join(self.labels)}"
            raise _bad_row(row, f"{found}, and what numbers mean under this name is unknown", hint)
        hint = self._how_to_label(column) if self.is_labelled(row) else ""
        raise _bad_row(row, f"{found}, not one of {', '.join(self.labels)}", hint)

    def gold(self, row: Row) -> tuple[int, ...]:
        """The indices of the row's gold candidates, the one to train on first.

        That is the first answer that the row lists, as in published code; it evaluates with all.
        raises: DataError naming the row, as `label`; for an answer that is not among the choices
        """
        if self.is_generated:
            return (0,)
        if not self.choices:
            return (self.label(row),)
        choices = self.texts(row, self.choices)
        answers = self.answers(row)
        for answer in answers:
            if answer not in choices:
                found = f"{self.label_field} has {answer!r:.60}, which is not in {self.choices}"
                raise _bad_row(row, found, f"{self.choices} lists every text that is chosen from")
        return tuple(choices.index(answer) for answer in answers)

    def answers(self, row: Row) -> tuple[str, ...]:
        """All gold answers of a row; raises DataError naming the row, if they are not texts."""
        value = self.find(row, self.label_field)
        if isinstance(value, str) and value:
            return (value,)
        return self.texts(row, self.label_field)

    def texts(self, row: Row, name: str) -> tuple[str, ...]:
        """The texts that a column lists.

        raises: DataError naming row and column, unless it is a list of one text or more
        """
        value = _listed(self.find(row, name))
        texts = value if isinstance(value, list) else []
        if not texts or not all(isinstance(text, str) and text for text in texts):
            found = f"no texts under {name!r}" if value is None else f"{name!r} is {value!r:.40}"
            raise _bad_row(
                row, found, f"{name} is a list of texts, which JSON and Parquet can hold"
            )
        return tuple(texts)

    def label_names(self, row: Row) -> list[str]:
        """What each candidate of a row is called: its own text, its word, or else its label."""
        if self.choices:
            return list(self.texts(row, self.choices))
        return self.names_of_labels

    @property
    def names_of_labels(self) -> list[str]:
        """What each label is called: its word, or its own name where words are columns."""
        return [word.strip() for word in self.fixed_words] or list(self.labels)

    def endings(self, row: Row, answers: Sequence[str]) -> list[str]:
        """What may continue the filled template: each word, choice, or answer, filled.

        raises: DataError naming the row, where a field has no text, or a choice no place
        """
        filled = [self.filled(word, row) for word in self.words]
        if self.labels:
            return filled
        named = self.texts(row, self.choices) if self.choices else answers
        if PLACEHOLDER not in filled[0]:
            found = f"{filled[0]!r:.60} has no {PLACEHOLDER}"
            raise _bad_row(row, found, "write it where a candidate goes")
        return [filled[0].replace(PLACEHOLDER, name) for name in named]

    def filled(self, template: str, row: Row) -> str:
        """A template with the row's texts for its fields."""
        return "".join(stretch.text for stretch in self.fill(template, row))

    def demonstration(self, row: Row) -> str:
        """A row as OPT is shown it: the filled template, and the gold candidate or answer.

        raises: DataError naming the row, as `gold`, `answers` and `fill`
        """
        answers = self.answers(row)[:1] if self.is_generated else ()
        gold = self.endings(row, answers)[self.gold(row)[0]]
        return (self.filled(self.template, row) + gold).strip()

    def without_content(self) -> "Task":
        """The task whose prompts say nothing of a row, but that its candidates are to come."""
        template = self.content_free
        if template is None:
            last = parse_template(self.template)[-1]
            template = "" if last.field else last.literal
        return replace(self, template=template)

    def _how_to_label(self, column: str) -> str:
        """A hint what a column of labels may hold."""
        numbers = ", or their numbers from 0" if column in self.numbers else ""
        return f"labels are these names{numbers}; they were looked for under {column}"

    def _label_name(self, row: Row, value: object) -> str:
        """A label as one of `labels` in lower case, where it is one; else what the row says."""
        said = _said(value).strip().lower()
        number = WHOLE.sub(r"\1", said)
        if said in self._names or number in self._names:
            return said if said in self._names else number
        meanings = self.numbers.get(self.column_of(row, self.label_field), ())
        if number.isdecimal() and len(number) < 4 and int(number) < len(meanings):
            return meanings[int(number)].lower()
        return self.synonyms.get(said, number).lower()

    def fill(self, template: str, row: Row) -> Iterator[Stretch]:
        """A template with the row's texts for its fields, stretch by stretch.

        Numbers, true and false stand as JSON writes them.

        raises: DataError naming the row, where a field has no text
        """
        for piece in parse_template(template):
            yield Stretch(False, piece.literal)
            if piece.field:
                yield Stretch(True, piece.fill(self.text(row, piece.field)))

    def text(self, row: Row, name: str) -> str:
        """What a template says for a field: a text as it is, another value as in JSON.

        raises: DataError naming row and column, for a list, an object, null, or nothing at all
        """
        value = plain(self.find(row, name, MISSING))
        if value is MISSING and name in self.defaults:
            say_once(f"{self.name} rows without {name}: the prompt says {self.defaults[name]!r}")
            return self.defaults[name]
        if value is MISSING:
            raise _bad_row(row, f"no text under {name!r}")
        if _is_nothing(value):
            raise _bad_row(row, f"{name!r} is null", "fill it in, or leave the row out")
        if not isinstance(value, str | bool | int | float) or value in (math.inf, -math.inf):
            found = f"{name!r} is {_said(value)}"
            raise _bad_row(row, found, "a template takes texts, numbers, true and false")
        return _said(value)

    def bind(self, tokenizer: Tokenizer, max_length: int = 2048, bos_id: int = 0) -> "BoundTask":
        """The task with a vocabulary.

        max_length: the model's positions; the task's own max_length holds too
        bos_id:     OPT's first id: 0 as in published MeZO, `tokenizer.bos_id` for its config's
        raises:     DataError for a template that cannot be used; TokenizerError for a label word
                    (or a mask) that is not one token of RoBERTa's
        """
        self._check_template()
        max_length = min(self.max_length, max_length)
        if self.family != "roberta":
            return BoundTask(self, tokenizer, self.fields, [], max_length, bos_id)
        tokenizer.word_id(MASK)  # refuses a vocabulary without one
        word_ids = [tokenizer.word_id(word) for word in self.words]
        return BoundTask(self, tokenizer, self.fields, word_ids, max_length, tokenizer.bos_id)

    def _check_template(self) -> None:
        """raises: DataError unless it has a field, and as many masks as the family needs"""
        fields = [piece.field for piece in parse_template(self.template) if piece.field]
        masks = self.template.count(MASK)
        wanted_masks = 1 if self.family == "roberta" else 0
        if masks != wanted_masks or not fields:
            found = f"template {self.template!r} has {masks} {MASK} and {len(fields)} fields"
            hint = f"name a column as {{text}}; RoBERTa needs one {MASK}, OPT none"
            raise DataError(found, hint)


@dataclass
class PromptParts:
    """A prompt with a mask, whose texts can still be shortened.

    parts:     ids of <s>, of each stretch of the template, of </s>
    texts:     the parts that the row gave
    mask_part: which part has the mask; mask_offset: where in it
    """

    parts: list[list[int]]
    texts: list[list[int]]
    mask_part: int = 0
    mask_offset: int = 0

    @property
    def length(self) -> int:
        return sum(map(len, self.parts))

    @property
    def mask_at(self) -> int:
        """The mask's index in the whole prompt."""
        return sum(map(len, self.parts[: self.mask_part])) + self.mask_offset

    def shorten_to(self, length: int) -> bool:
        """Take tokens off the end of whichever text is longest; False when none is left."""
        while self.length > length:
            longest = max(self.texts, key=len)
            if not longest:
                return False
            longest.pop()
        return True


@dataclass(frozen=True)
class BoundTask:
    """A task and a tokenizer: rows go in, token ids come out.

    fields:         the columns that it reads, those of the template first
    label_word_ids: RoBERTa's, in label order; none for OPT
    bos_id:         the first id of every prompt
    lead:           a text before every prompt (OPT)
    """

    task: Task
    tokenizer: Tokenizer
    fields: list[str]
    label_word_ids: list[int]
    max_length: int
    bos_id: int
    lead: str = ""

    def encode(self, row: Row, labelled: bool = True) -> Example:
        """One row as token ids; `labelled=False` leaves its label unread.

        raises:  DataError naming the row: a field or label that is missing or wrong, a text that
                 leaves no room for the mask or the candidates
        differs: only for sequences that are too long, see `_encode_mask` and `_encode_candidates`
        """
        gold = self.task.gold(row) if labelled else NO_GOLD
        text = self.task.text(row, self.fields[0])
        if self.task.family == "roberta":
            return self._encode_mask(row, gold[0], text)
        answers: tuple[str, ...] = ()
        if self.task.is_generated and labelled:
            answers = self.task.answers(row)
        example = self._encode_candidates(row, self.task.endings(row, answers[:1]), text)
        return replace(example, label=gold[0], also_gold=gold[1:], answers=answers)

    def _encode_mask(self, row: Row, label: int, text: str) -> Example:
        """Each stretch encoded by itself (Gao et al. 2021); what is too long loses its tail.

        differs: where the tail has the mask (published code fails), the longest text is shortened
                 until everything fits
        """
        prompt = self._parts_of_prompt(row)
        self._say_cut(prompt.length, "end")
        is_mask_lost = prompt.mask_at >= self.max_length
        if is_mask_lost and not prompt.shorten_to(self.max_length):
            message = f"the template alone has {prompt.length} tokens, {self.max_length} fit"
            raise _bad_row(row, message, "shorten the template")
        ids = tuple(chain(*prompt.parts))
        return Example(ids[: self.max_length], (), prompt.mask_at, label, text)

    def _parts_of_prompt(self, row: Row) -> PromptParts:
        """The stretches of the template as ids, each text cut to its own limit."""
        prompt = PromptParts([[self.bos_id]], [])
        limit = self.task.sentence_limit or self.max_length  # the first text's
        for is_field, text in self.task.fill(self.task.template, row):
            ids = self.tokenizer.encode(text)
            if is_field:
                self._say_cut(len(ids), "end")
                ids = ids[:limit]
                limit = self.max_length
                prompt.texts.append(ids)
            elif MASK in text:
                prompt.mask_part = len(prompt.parts)
                prompt.mask_offset = ids.index(self.tokenizer.word_id(MASK))
            prompt.parts.append(ids)
        prompt.parts.append([self.tokenizer.eos_id])
        return prompt

    def _encode_candidates(self, row: Row, endings: Sequence[str], text: str) -> Example:
        """Prompt and candidate encoded together, and split where the prompt alone would end.

        differs: a prompt that is too long is cut from the left until the longest candidate fits,
                 and an answer that is written, so that all share it; published code cuts each
                 sequence by its own length
        """
        prompt_text = self.task.filled(self.task.template, row)
        prompt = self._encode_whole(prompt_text)
        sequences = [self._encode_whole(prompt_text + ending) for ending in endings]
        split = len(prompt)
        prompts = {sequence[:split] for sequence in sequences} or {prompt}
        candidates = tuple(sequence[split:] for sequence in sequences)
        longest = max(map(len, candidates), default=0)
        room = max(longest, self.task.max_new_tokens)
        too_many = max(0, 1 + split + room - self.max_length)  # 1: bos
        if len(prompts) > 1 or not all(candidates) or too_many > split:
            fault = "the candidates do not continue one prompt"
            message = f"{fault} within {self.max_length} tokens"
            raise _bad_row(row, message, "let each begin a word of its own")
        self._say_cut(too_many + self.max_length, "beginning")
        (prompt,) = prompts
        return Example((self.bos_id, *prompt[too_many:]), candidates, -1, -1, text)

    def _say_cut(self, length: int, part: str) -> None:
        if length > self.max_length:
            say_once(f"texts of more than {self.max_length} tokens lose their {part}")

    def _encode_whole(self, text: str) -> tuple[int, ...]:
        """The ids of a filled template, without the spaces around it, after the lead."""
        return tuple(self.tokenizer.encode(self.lead + text.strip(" ")))


MISSING = object()


def plain(value: object) -> object:
    """NumPy's scalars as Python's, and what stands for nothing in pandas as None."""
    if isinstance(value, np.generic):
        return value.item()
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _listed(value: object) -> object:
    """A value, as a list if it is an array of NumPy, as pandas has Parquet's lists, or a tuple."""
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return list(value)
    if isinstance(value, tuple):
        return list(value)
    return value


def _is_nothing(value: object) -> bool:
    """Whether a value is null, or the NaN that stands for it in tables of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _said(value: object) -> str:
    """A value as text: a number, true or false as in JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return f"<{type(value).__name__}>"


def _bad_row(row: Row, message: str, hint: str = "") -> DataError:
    where = getattr(row, "where", NO_FILE)
    columns = ", ".join(map(str, row))
    return DataError(f"{where}: {message}", hint or f"the row has the columns {columns}")


def custom_task(template: str, label_words: Sequence[str], family: str, label_field: str) -> Task:
    """A task of the user's own; labels in the file are the words, or else their indices.

    raises: DataError unless there are two or more words, all different, none empty
    """
    labels = tuple(word.strip() for word in label_words)
    different = {label.lower() for label in labels if label}
    if len(different) < max(2, len(labels)):
        raise DataError(f"label words {', '.join(labels)!r}", "give two or more different words")
    has_digits = any(label.isdigit() for label in labels)
    space = " "
    if family == "opt" and template.endswith("\n"):
        space = ""  # a candidate on a line of its own
    return Task(
        name="custom",
        family=family,
        template=template,
        labels=labels,
        words=tuple(space + label for label in labels),
        label_field=label_field,
        numbers={} if has_digits else {label_field: labels},
    )


def get_task(name: str, family: str) -> Task:
    """The task of that name ("SST-2", "sst2", ...) with the prompt for a family of models.

    family: "roberta" (a mask) or "opt" (candidates)
    raises: DataError for an unknown name, or a known one without a prompt for this family
    """
    found = {task.family: task for task in TASKS if _plain(task.name) == _plain(name)}
    if family not in found:
        problem = "has no prompt" if found else "is not known"
        known = ", ".join(task.name for task in TASKS if task.family == family)
        raise DataError(f"task {name!r} {problem} for {family} models", f"known there: {known}")
    return found[family]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_FIELD_TYPES: dict[str, Any] = {
    "name": str,
    "family": str,
    "template": str,
    "labels": list[str],
    "words": list[str],
    "max_length": int,
    "sentence_limit": int,
    "label_field": str,
    "aliases": dict[str, list[str]],
    "synonyms": dict[str, str],
    "numbers": dict[str, list[str]],
    "columns": list[str],
    "n_dev": int,
    "loss": str,
    "choices": str,
    "max_new_tokens": int,
    "defaults": dict[str, str],
    "nesting": str,
    "content_free": str,
}


def task_of_row(row: Mapping[str, Any]) -> Task:
    """A row of tasks.toml as a Task; its lists become tuples.

    raises: DataError naming the task, for a field that is missing, unknown or of another type
    """
    where = f"task {row.get('name')!r}"
    fields: dict[str, Any] = {}
    for name, value in row.items():
        if not _is_of(value, _FIELD_TYPES.get(name)):
            raise DataError(f"{where}: {name} is {value!r}", "fields and types are those of Task")
        fields[name] = tuple(value) if isinstance(value, list) else value
    missing = {"name", "family", "template", "labels", "words"} - fields.keys()
    if missing:
        raise DataError(f"{where} has no {', '.join(sorted(missing))}", "add it to the row")
    words = len(fields["words"])
    if fields.get("choices") or fields.get("max_new_tokens"):
        words -= 1  # the one that each candidate is put into
    if len(fields["labels"]) != words:
        raise DataError(f"{where}: labels and words differ in number", "give each label a word")
    return Task(**fields)


def _is_of(value: Any, wanted: Any) -> bool:
    """Whether a value, with all that a list or a dictionary holds, is of a type."""
    if type(value) is not (get_origin(wanted) or wanted):
        return False
    members = value.values() if isinstance(value, dict) else value
    return all(_is_of(member, kind) for kind in get_args(wanted)[-1:] for member in members)


def _read_table() -> list[Task]:
    return [task_of_row(row) for row in own_toml("text/tasks.toml")["tasks"]]


TASKS = _read_table()
