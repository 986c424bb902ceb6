"""Rows into prompts, on words that a test can read; labels; and the table of tasks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import message
from words import Words

from tinyzo.errors import TokenizerError
from tinyzo.packages import say_once
from tinyzo.text.rows import Row, read_rows
from tinyzo.text.tasks import TASKS, Task, custom_task, get_task, task_of_row


def mask_task(template: str, **options) -> Task:
    return Task("toy", "roberta", template, ("bad", "good"), (" bad", " good"), **options)


def opt_task(template: str, *words: str) -> Task:
    return Task("toy", "opt", template, ("0", "1"), words)


# RoBERTa


def test_a_mask_prompt_is_the_whole_sequence_with_the_mask_found():
    tokenizer = Words()
    bound = mask_task("{text} It was <mask>.").bind(tokenizer)
    example = bound.encode({"text": "a film ", "label": "good"})
    assert tokenizer.decode(example.prompt) == "<s>|a| film| | It| was|<mask>|.|</s>"
    assert (example.mask_at, example.label, example.text) == (6, 1, "a film ")
    assert example.candidates == () and example.prompt[6] == 50
    assert bound.label_word_ids == [tokenizer.word_id(" bad"), tokenizer.word_id(" good")]


def test_the_space_before_a_field_goes_to_the_field():
    tokenizer = Words()
    example = mask_task("<mask>: {text}").bind(tokenizer).encode({"text": "why ?", "label": "bad"})
    assert tokenizer.decode(example.prompt) == "<s>|<mask>|:| why| ?|</s>"
    assert example.mask_at == 1


def test_a_mask_in_the_users_text_is_not_the_prompts():
    bound = mask_task("{text} <mask>").bind(Words())
    example = bound.encode({"text": "a <mask> b", "label": "bad"})
    assert example.prompt[2] == 50 and example.mask_at == 4 and example.prompt[4] == 50


def test_the_first_sentence_limit_cuts_only_the_first_sentence():
    tokenizer = Words()
    task = mask_task("{a} <mask> {b}", sentence_limit=2)
    example = task.bind(tokenizer).encode({"a": "1 2 3 4", "b": "5 6 7", "label": "bad"})
    assert tokenizer.decode(example.prompt) == "<s>|1| 2|<mask>| 5| 6| 7|</s>"


def test_too_long_a_prompt_loses_its_tail_where_the_mask_is_not_in_it():
    tokenizer = Words()
    bound = mask_task("{a} <mask> {b}").bind(tokenizer, max_length=5)
    example = bound.encode({"a": "1 2", "b": "3 4", "label": "bad"})
    assert tokenizer.decode(example.prompt) == "<s>|1| 2|<mask>| 3"


def test_where_the_mask_would_be_lost_the_longest_text_is_shortened():
    tokenizer = Words()
    bound = mask_task("{a} It was <mask>. {b}", max_length=10).bind(tokenizer)
    example = bound.encode({"a": "1 2 3 4 5 6 7 8 9", "b": "x y", "label": "bad"})
    assert tokenizer.decode(example.prompt) == "<s>|1| 2| It| was|<mask>|.| x| y|</s>"
    assert example.mask_at == 5
    # One token less and the mask would still be inside: then the tail goes, as published.
    shorter = bound.encode({"a": "1 2 3 4 5 6", "b": "x y", "label": "bad"})
    assert tokenizer.decode(shorter.prompt) == "<s>|1| 2| 3| 4| 5| 6| It| was|<mask>"
    assert shorter.mask_at == 9


def test_a_template_longer_than_the_model_is_refused():
    bound = mask_task("{text} It was <mask>.").bind(Words(), max_length=5)
    text = message(bound.encode, {"text": "a b", "label": "bad"})
    assert text.startswith("the input: the template alone has 6 tokens, 5 fit")


def test_a_label_word_of_two_tokens_is_refused():
    task = Task("toy", "roberta", "{text} <mask>", ("a", "b"), (" bad", " so so"))
    with pytest.raises(TokenizerError, match="' so so' is 2 tokens"):
        task.bind(Words())


def test_a_vocabulary_without_a_mask_is_refused():
    tokenizer = Words()
    tokenizer.word_id = lambda text: Words.word_id(tokenizer, text.replace("<mask>", "< mask >"))
    with pytest.raises(TokenizerError):
        mask_task("{text} <mask>").bind(tokenizer)


# OPT


def test_candidates_continue_one_prompt():
    tokenizer = Words()
    bound = opt_task("{text:strip} It was", " bad", " very good").bind(tokenizer)
    example = bound.encode({"text": " a film ", "label": 1})
    assert tokenizer.decode(example.prompt) == "<0>|a| film| It| was"
    assert [tokenizer.decode(c) for c in example.candidates] == [" bad", " very| good"]
    assert (example.mask_at, example.label, example.text) == (-1, 1, " a film ")
    assert bound.label_word_ids == []
    assert bound.task.fixed_words == (" bad", " very good")
    assert get_task("copa", "opt").fixed_words == ()
    other_bos = opt_task("{a}", " b").bind(tokenizer, bos_id=2)
    assert other_bos.encode({"a": "x", "label": 0}).prompt[0] == 2


def test_spaces_are_stripped_from_prompts_and_new_lines_are_not():
    tokenizer = Words()
    example = opt_task("{a}?\n", "Yes", "No").bind(tokenizer).encode({"a": "  so ", "label": "0"})
    assert tokenizer.decode(example.prompt) == "<0>|so| ?|\n"
    assert [tokenizer.decode(c) for c in example.candidates] == ["Yes", "No"]


def test_candidates_may_come_from_the_row():
    tokenizer = Words()
    bound = get_task("copa", "opt").bind(tokenizer)
    row = {
        "premise": "It fell. ",
        "question": "cause",
        "label": 1,
        "choice1": "The hand slipped. ",
        "choice2": "I Let go.",
    }
    example = bound.encode(row)
    assert tokenizer.decode(example.prompt) == "<0>|It| fell| because"
    assert [tokenizer.decode(c) for c in example.candidates] == [
        " the| hand| slipped|.",
        " I| Let| go|.",
    ]


def test_too_long_a_prompt_is_cut_from_the_left_and_keeps_bos():
    tokenizer = Words()
    bound = opt_task("{a}", " x", " y z").bind(tokenizer, max_length=5)
    example = bound.encode({"a": "1 2 3 4", "label": "0"})
    assert tokenizer.decode(example.prompt) == "<0>| 3| 4"
    exact = bound.encode({"a": "3 4", "label": "0"})
    assert tokenizer.decode(exact.prompt) == "<0>|3| 4"
    only_bos = opt_task("{a}", " x y z w").bind(tokenizer, max_length=5)
    assert only_bos.encode({"a": "1 2", "label": "0"}).prompt == (0,)


@pytest.mark.parametrize(
    ("template", "words", "row"),
    [
        ("{a}", ("s", " t"), {"a": "word", "label": "0"}),  # "words" is another word
        ("{a}", (" x", " {b}"), {"a": "word", "b": "", "label": "0"}),  # nothing to predict
        ("{a}", (" x", " 1 2 3 4 5"), {"a": "word", "label": "0"}),  # no room for bos
    ],
)
def test_candidates_that_do_not_continue_the_prompt_are_refused(template, words, row):
    text = message(opt_task(template, *words).bind(Words(), max_length=5).encode, row)
    assert "the input: the candidates do not continue one prompt within 5 tokens" in text


# Rows, labels, templates


def test_a_field_may_have_an_alias_or_lie_deeper():
    task = mask_task("{text}", aliases={"text": ["sentence"]})
    assert task.find({"text": "a", "sentence": "b"}, "text") == "a"
    assert task.find({"sentence": "b"}, "text") == "b"
    assert task.find({"outer": {"inner": "c"}}, "outer.inner") == "c"
    assert task.find({"outer.inner": "d", "outer": {"inner": "c"}}, "outer.inner") == "d"
    assert task.find({"outer": "e"}, "outer.inner") is None
    assert task.find({}, "text") is None


def test_labels_are_names_or_json_values_in_any_case():
    wic = get_task("wic", "opt")
    assert [wic.label({"label": value}) for value in (False, True, "True ")] == [0, 1, 1]
    boolq = get_task("boolq", "opt")
    assert [boolq.label({"answer": value}) for value in (False, True)] == [1, 0]
    trec = get_task("trec", "roberta")
    assert [trec.label({"label": value}) for value in ("num", "ABBR", " Desc")] == [5, 2, 0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"text": "a", "label": "meh"},
            "label is 'meh', not one of bad, good\n  hint: labels are these names",
        ),
        ({"text": "a", "label": "0"}, "label is '0', not one of bad, good"),
        ({"text": "a", "label": "x" * 99}, "label is '" + "x" * 41 + ", not"),
        ({"text": "a", "label": 2.5}, "label is 2.5, not one of bad, good"),
        ({"text": "a", "label": True}, "label is True, not one of bad, good"),
        (
            {"text": "a", "mood": "bad"},
            "label is missing, not one of bad, good\n  hint: the row has the columns text, mood",
        ),
        ({"text": "a", "label": None}, "label is missing"),
        ({"text": "a", "label": [[0]]}, "label is [[0]], not one of bad, good"),
        ({"text": "a", "label": -1.0}, "label is missing"),
        ({"text": "a", "label": " "}, "label is missing"),
        ({"label": "bad"}, "no text under 'text'\n  hint: the row has the columns label"),
        ({"text": None, "label": "bad"}, "'text' is null\n  hint: fill it in"),
        ({"text": math.nan, "label": "bad"}, "'text' is null"),
        ({"text": math.inf, "label": "bad"}, "'text' is Infinity\n  hint: a template takes texts"),
        ({"text": ["a"], "label": "bad"}, "'text' is <list>\n  hint: a template takes texts"),
        ({"text": {"a": 1}, "label": "bad"}, "'text' is <dict>"),
        ({"text": b"a", "label": "bad"}, "'text' is <bytes>"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, expected):
    row = Row(row)
    row.where = "mine.csv line 7"
    bound = mask_task("{text} <mask>").bind(Words())
    assert message(bound.encode, row).startswith("mine.csv line 7: " + expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3.0"), (-0.5, "-0.5"), (1e16, "1e+16"), (True, "true"), (False, "false")],
)
def test_numbers_and_booleans_stand_in_a_prompt_as_json_writes_them(value, text):
    tokenizer = Words()
    bound = mask_task("{text} <mask>").bind(tokenizer)
    example = bound.encode({"text": value, "label": "bad"})
    said = bound.encode({"text": text, "label": "bad"})
    assert example == said and example.text == text


@pytest.mark.parametrize("name", ["text.__class__", "text[0]", "0", "text.a.b", "__class__"])
def test_a_template_reaches_nothing_but_columns(name):
    bound = mask_task(f"{{{name}}} <mask>").bind(Words())
    assert f"no text under {name!r}" in message(bound.encode, {"text": "a", "label": "bad"})


@pytest.mark.parametrize("value", [None, math.nan, "", " ", "-", -1, -1.0, "-1", "-1.0"])
def test_labels_that_are_none(value):
    task = mask_task("{text} <mask>")
    assert not task.is_labelled({"text": "a", "label": value})
    assert not task.is_labelled({"text": "a"})


@pytest.mark.parametrize("value", ["bad", "GOOD ", "meh", 0, 7, True, [1]])
def test_labels_that_are_some(value):
    assert mask_task("{text} <mask>").is_labelled({"label": value})


def test_a_label_called_minus_one_is_a_label():
    task = custom_task("{text} <mask>", ["-1", "0", "1"], "roberta", "label")
    assert [task.label({"label": value}) for value in ("-1", -1, -1.0, 1)] == [0, 0, 0, 2]
    assert task.is_labelled({"label": -1}) and not task.is_labelled({"label": ""})
    task = custom_task("{text} <mask>", ["-", "+"], "roberta", "label")
    assert task.is_labelled({"label": "-"}) and task.label({"label": "-"}) == 0


def test_a_row_may_be_read_without_its_label():
    bound = mask_task("{text} <mask>").bind(Words())
    assert bound.fields == ["text"]
    assert bound.encode({"text": "a"}, labelled=False).label == -1


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{text It was <mask>.", "expected '}' before end of string"),
        ("{text} It was.", "has 0 <mask> and 1 fields"),
        ("{text} <mask> <mask>", "has 2 <mask> and 1 fields"),
        ("It was <mask>.", "has 1 <mask> and 0 fields"),
    ],
)
def test_a_template_that_cannot_be_used_is_quoted(template, expected):
    text = message(mask_task(template).bind, Words())
    assert repr(template) in text and expected in text


def test_opt_has_no_mask():
    assert "has 1 <mask> and 1 fields" in message(opt_task("{text} <mask>").bind, Words())


def test_doubled_braces_are_braces():
    tokenizer = Words()
    example = mask_task("{{{text}}} <mask>").bind(tokenizer).encode({"text": "a", "label": "bad"})
    assert tokenizer.decode(example.prompt) == "<s>|{|a|}|<mask>|</s>"


# A user's own task


def test_a_custom_task_takes_words_or_indices_for_labels():
    task = custom_task("{text} It was <mask>.", ["Bad ", " good"], "roberta", "mood")
    assert task.words == (" Bad", " good") and task.labels == ("Bad", "good")
    assert [task.label({"mood": value}) for value in ("bad", "Good", "0", 1)] == [0, 1, 0, 1]
    assert "mood is '2', not one of Bad, good" in message(task.label, {"mood": "2"})


def test_numbers_as_label_words_are_names_and_never_indices():
    task = custom_task("{text} Stars: <mask>", ["1", "2", "3"], "roberta", "label")
    assert [task.label({"label": value}) for value in (1, "2", "3")] == [0, 1, 2]
    assert "label is 0, not one of 1, 2, 3" in message(task.label, {"label": 0})


def test_custom_candidates_begin_with_a_space_unless_on_a_line_of_their_own():
    assert custom_task("{text} It was", ["bad", "good"], "opt", "label").words == (" bad", " good")
    assert custom_task("{text}?\n", ["No", "Yes"], "opt", "label").words == ("No", "Yes")
    masked = custom_task("{text}\n<mask>\n", ["No", "Yes"], "roberta", "label")
    assert masked.words == (" No", " Yes")


@pytest.mark.parametrize("words", [[], ["a"], ["a", "a"], ["a", "A "], ["a", ""], [" ", "b", "c"]])
def test_label_words_must_be_different(words):
    text = message(custom_task, "{text} <mask>", words, "roberta", "label")
    assert text.startswith("label words '")


# The table


def test_names_in_any_case_and_by_family():
    assert get_task("sst2", "opt") is get_task("SST-2", "opt")
    assert get_task("Sst_2", "roberta").template == "{sentence} It was <mask>."
    assert get_task("SST-2", "opt").template == "{sentence:strip} It was"
    assert len({(task.name, task.family) for task in TASKS}) == len(TASKS)


def test_unknown_names_and_missing_prompts_say_what_is_known():
    assert message(get_task, "imdb", "roberta") == (
        "task 'imdb' is not known for roberta models\n"
        "  hint: known there: topics, reviews, SST-2, SST-5, TREC, RTE, SNLI, MNLI"
    )
    assert message(get_task, "TREC", "opt") == (
        "task 'TREC' has no prompt for opt models\n"
        "  hint: known there: topics, reviews, SST-2, RTE, CB, BoolQ, WSC, WIC, COPA, "
        "MultiRC, ReCoRD, SQuAD, DROP"
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.family}-{task.name}")
def test_every_row_of_the_table_binds(task):
    bound = task.bind(Words())
    assert len(task.words) == max(1, len(task.labels)) and len(bound.fields) in (1, 2, 3, 4)
    assert bound.max_length == task.max_length and task.bind(Words(), 64).max_length == 64


ROW = {
    "name": "toy",
    "family": "opt",
    "template": "{text}",
    "labels": ["0", "1"],
    "words": [" bad", " good"],
}


def test_a_row_of_the_table_becomes_a_task():
    task = task_of_row(ROW | {"aliases": {"text": ["sentence"]}, "sentence_limit": 9})
    assert (task.labels, task.words) == (("0", "1"), (" bad", " good"))
    assert (task.aliases, task.sentence_limit) == ({"text": ["sentence"]}, 9)
    assert (task.columns, task.max_length, task.numbers) == (None, 2048, {})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"template": 3}, "template is 3"),
        ({"labels": "01"}, "labels is '01'"),
        ({"labels": ["0", 1]}, "labels is ['0', 1]"),
        ({"max_length": "128"}, "max_length is '128'"),
        ({"max_length": True}, "max_length is True"),
        ({"numbers": {"label": "01"}}, "numbers is {'label': '01'}"),
        ({"aliases": {"text": [1]}}, "aliases is {'text': [1]}"),
        ({"synonyms": {"bad": 0}}, "synonyms is {'bad': 0}"),
        ({"limit": 3}, "limit is 3"),
    ],
)
def test_a_row_of_another_type_is_refused(change, expected):
    text = message(task_of_row, ROW | change)
    assert text == f"task 'toy': {expected}\n  hint: fields and types are those of Task"


def test_a_row_that_lacks_a_field_is_refused():
    text = message(task_of_row, {"name": "toy", "family": "opt", "template": "{text}"})
    assert text == "task 'toy' has no labels, words\n  hint: add it to the row"
    for change in ({"words": [" bad"]}, {"choices": "entities"}, {"max_new_tokens": 9}):
        text = message(task_of_row, ROW | change)
        assert text.startswith("task 'toy': labels and words differ in number")


@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_the_shipped_reviews(family):
    rows = read_rows(Path(__file__).resolve().parents[2] / "weights" / "reviews" / "dev.tsv")
    task = get_task("reviews", family)
    examples = [task.bind(Words()).encode(row) for row in rows]
    assert [e.label for e in examples] == [["terrible", "great"].index(r["mood"]) for r in rows]


# -- values as libraries have them, and texts that are too long --------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.str_("a"), "a"), (np.int64(3), "3"), (np.float32(1.5), "1.5"), (np.bool_(True), "true"),
        (np.float64(0.25), "0.25"),
    ],
)  # fmt: skip
def test_scalars_of_numpy_stand_as_pythons(value, text):
    assert get_task("SST-2", "roberta").text({"sentence": value}, "sentence") == text


class NAType:
    """pandas has one of that name, whose truth is an error."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


@pytest.mark.parametrize("value", [NAType(), np.float32("nan"), None])
def test_nothing_of_pandas_is_null(value):
    task = get_task("SST-2", "roberta")
    assert "'sentence' is null" in message(task.text, {"sentence": value}, "sentence")
    assert not task.is_labelled({"label": value})


@pytest.mark.parametrize("value", [b"a", np.bytes_(b"a"), np.array("a")])
def test_what_is_no_text(value):
    found = message(get_task("SST-2", "roberta").text, {"sentence": value}, "sentence")
    assert "'sentence' is <" in found and "a template takes texts, numbers" in found


def test_labels_of_numpy():
    task = get_task("SST-2", "roberta")
    assert [task.label({"label": value}) for value in (np.int64(1), np.str_("0"))] == [1, 0]


@pytest.mark.parametrize(("family", "part"), [("roberta", "end"), ("opt", "beginning")])
def test_a_text_that_is_cut_is_told_once(family, part, capsys):
    say_once.cache_clear()
    words = ("great", "terrible")
    template = "{text} is <mask>" if family == "roberta" else "{text} is"
    bound = custom_task(template, words, family, "label").bind(Words(), 10)
    bound.encode({"text": "one"}, labelled=False)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        bound.encode({"text": "one " * 1000}, labelled=False)
    said = f"tinyzo: texts of more than 10 tokens lose their {part}\n"
    assert capsys.readouterr().err == said


# -- a row's own candidates, and answers that are written ---------------------------------

RECORD = {
    "passage": "Ann met Bob.\n@highlight\nThey met",
    "query": "@placeholder met  @placeholder",
    "entities": ["Ann", "Bob Lee", "Rome"],
    "answers": ["Rome", "Ann"],
}


def test_candidates_of_a_row_share_its_passage():
    tokenizer = Words()
    example = get_task("record", "opt").bind(tokenizer).encode(RECORD)
    assert tokenizer.decode(example.prompt) == "<0>|Ann| met| Bob|.|\n|-| They| met|\n|-"
    assert [tokenizer.decode(each) for each in example.candidates] == [
        " Ann| met| | Ann", " Bob| Lee| met| | Bob| Lee", " Rome| met| | Rome",
    ]  # fmt: skip
    assert (example.label, example.also_gold) == (2, (0,))
    assert [example.is_right(each) for each in range(3)] == [True, False, True]


def test_lists_may_be_numpys():
    task = get_task("record", "opt")
    arrays = {name: np.array(RECORD[name], object) for name in ("entities", "answers")}
    assert task.bind(Words()).encode({**RECORD, **arrays}) == task.bind(Words()).encode(RECORD)
    assert task.is_labelled({**RECORD, **arrays})
    for value in (None, [], "", np.array([], object), (), math.nan):
        assert not task.is_labelled({**RECORD, "answers": value})


@pytest.mark.parametrize(
    ("answer", "kept"),
    [("x", " g| h|\n|"), ("x y", " g| h|\n|"), ("1 2 3 4 5 6", "")],
)
def test_a_prompt_leaves_room_for_an_answer_of_any_length(answer, kept):
    """So that the same prompt is trained on and asked; only a longer gold answer takes more."""
    tokenizer = Words()
    task = replace(get_task("drop", "opt"), max_new_tokens=4)
    row = {"passage": "a b c d e f g h", "question": "i ?", "answer": answer}
    example = task.bind(tokenizer, max_length=15).encode(row)
    assert tokenizer.decode(example.prompt) == f"<0>|{kept}Question|:| i| ?|\n|Answer|:"
    (candidate,) = example.candidates
    assert tokenizer.decode(candidate) == "|".join(f" {word}" for word in answer.split()) + "|\n"
    assert (example.label, example.also_gold, example.answers) == (0, (), (answer,))


def test_columns_of_words_and_choices_are_the_tasks_too():
    assert get_task("record", "opt").fields == ["passage", "query", "entities"]
    assert get_task("copa", "opt").fields == ["premise", "question", "choice1", "choice2"]
    assert get_task("squad", "opt").fields == ["title", "context", "question"]
    assert {"passage", "query", "answer", "answers.text"} <= get_task("squad", "opt").column_names


def test_what_candidates_are_called():
    assert get_task("record", "opt").label_names(RECORD) == ["Ann", "Bob Lee", "Rome"]
    assert get_task("multirc", "opt").label_names({}) == ["No", "Yes"]
    assert get_task("copa", "opt").label_names({}) == ["0", "1"]
