"""Prompts against the published rules, built here a second time from the papers' notation."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tinyzo.errors import DataError, TokenizerError
from tinyzo.text.datasets import Row, load_splits, read_rows
from tinyzo.text.tasks import EDITS, TASKS, Example, Task, custom_task, get_task
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


@cache
def real(family: str) -> Tokenizer:
    return load_tokenizer(SHARED / "tokenizers" / family)


class Words:
    """A vocabulary that grows: one id for each word with the space before it. <mask> is 50."""

    bos_id, eos_id, mask_id = 1, 2, 50

    def __init__(self) -> None:
        self.ids = {"<mask>": self.mask_id}

    def encode(self, text: str) -> list[int]:
        pieces = re.findall(r" *<mask>|\n| ?[^\s\w<]| ?\w+| ", text)
        return [self.ids.setdefault(p.replace(" <mask>", "<mask>"), 100 + len(self.ids))
                for p in pieces]  # fmt: skip

    def word_id(self, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise TokenizerError(f"label word {text!r} is {len(ids)} tokens", "choose another")
        return ids[0]

    def decode(self, ids: tuple[int, ...]) -> list[str]:
        names = {value: key for key, value in self.ids.items()} | {0: "<0>", 1: "<s>", 2: "</s>"}
        return [names[i] for i in ids]


def message(call: Callable, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert caught.value.hint
    return str(caught.value)


def mask_task(template: str, **options) -> Task:
    return Task("toy", "roberta", template, ("bad", "good"), (" bad", " good"), **options)


def opt_task(template: str, *words: str) -> Task:
    return Task("toy", "opt", template, ("0", "1"), words)


# RoBERTa, without ../shared


def test_a_mask_prompt_is_the_whole_sequence_with_the_mask_found():
    tokenizer = Words()
    bound = mask_task("{text} It was <mask>.").bind(tokenizer)
    example = bound.encode({"text": "a film ", "label": "good"})
    assert tokenizer.decode(example.prompt) == [
        "<s>", "a", " film", " ", " It", " was", "<mask>", ".", "</s>"
    ]  # fmt: skip
    assert (example.mask_at, example.label, example.text) == (6, 1, "a film ")
    assert example.candidates == () and example.prompt[6] == 50
    assert bound.label_word_ids == [tokenizer.word_id(" bad"), tokenizer.word_id(" good")]


def test_the_space_before_a_field_goes_to_the_field():
    tokenizer = Words()
    example = mask_task("<mask>: {text}").bind(tokenizer).encode({"text": "why ?", "label": "bad"})
    assert tokenizer.decode(example.prompt) == ["<s>", "<mask>", ":", " why", " ?", "</s>"]
    assert example.mask_at == 1


def test_a_mask_in_the_users_text_is_not_the_prompts():
    bound = mask_task("{text} <mask>").bind(Words())
    example = bound.encode({"text": "a <mask> b", "label": "bad"})
    assert example.prompt[2] == 50 and example.mask_at == 4 and example.prompt[4] == 50


def test_the_first_sentence_limit_cuts_only_the_first_sentence():
    tokenizer = Words()
    task = mask_task("{a} <mask> {b}", sentence_limit=2)
    example = task.bind(tokenizer).encode({"a": "1 2 3 4", "b": "5 6 7", "label": "bad"})
    assert tokenizer.decode(example.prompt) == [
        "<s>", "1", " 2", "<mask>", " 5", " 6", " 7", "</s>"
    ]  # fmt: skip


def test_too_long_a_prompt_loses_its_tail_where_the_mask_is_not_in_it():
    tokenizer = Words()
    bound = mask_task("{a} <mask> {b}").bind(tokenizer, max_length=5)
    example = bound.encode({"a": "1 2", "b": "3 4", "label": "bad"})
    assert tokenizer.decode(example.prompt) == ["<s>", "1", " 2", "<mask>", " 3"]


def test_where_the_mask_would_be_lost_the_longest_text_is_shortened():
    tokenizer = Words()
    bound = mask_task("{a} It was <mask>. {b}", max_length=10).bind(tokenizer)
    example = bound.encode({"a": "1 2 3 4 5 6 7 8 9", "b": "x y", "label": "bad"})
    assert tokenizer.decode(example.prompt) == [
        "<s>", "1", " 2", " It", " was", "<mask>", ".", " x", " y", "</s>"
    ]  # fmt: skip
    assert example.mask_at == 5
    # One token less and the mask would still be inside: then the tail goes, as published.
    shorter = bound.encode({"a": "1 2 3 4 5 6", "b": "x y", "label": "bad"})
    assert tokenizer.decode(shorter.prompt)[-2:] == [" was", "<mask>"] and shorter.mask_at == 9


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


# OPT, without ../shared


def test_candidates_continue_one_prompt():
    tokenizer = Words()
    bound = opt_task("{text:strip} It was", " bad", " very good").bind(tokenizer)
    example = bound.encode({"text": " a film ", "label": 1})
    assert tokenizer.decode(example.prompt) == ["<0>", "a", " film", " It", " was"]
    assert [tokenizer.decode(c) for c in example.candidates] == [[" bad"], [" very", " good"]]
    assert (example.mask_at, example.label, example.text) == (-1, 1, " a film ")
    assert bound.label_word_ids == []
    assert bound.task.fixed_words == (" bad", " very good")
    assert get_task("copa", "opt").fixed_words == ()
    other_bos = opt_task("{a}", " b").bind(tokenizer, bos_id=2)
    assert other_bos.encode({"a": "x", "label": 0}).prompt[0] == 2


def test_spaces_are_stripped_from_prompts_and_new_lines_are_not():
    tokenizer = Words()
    example = opt_task("{a}?\n", "Yes", "No").bind(tokenizer).encode({"a": "  so ", "label": "0"})
    assert tokenizer.decode(example.prompt) == ["<0>", "so", " ?", "\n"]
    assert [tokenizer.decode(c) for c in example.candidates] == [["Yes"], ["No"]]


def test_candidates_may_come_from_the_row():
    tokenizer = Words()
    bound = get_task("copa", "opt").bind(tokenizer)
    row = {"premise": "It fell. ", "question": "cause", "label": 1,
           "choice1": "The hand slipped. ", "choice2": "I Let go."}  # fmt: skip
    example = bound.encode(row)
    assert tokenizer.decode(example.prompt) == ["<0>", "It", " fell", " because"]
    assert [tokenizer.decode(c) for c in example.candidates] == [
        [" the", " hand", " slipped", "."], [" I", " Let", " go", "."]
    ]  # fmt: skip


def test_too_long_a_prompt_is_cut_from_the_left_and_keeps_bos():
    tokenizer = Words()
    bound = opt_task("{a}", " x", " y z").bind(tokenizer, max_length=5)
    example = bound.encode({"a": "1 2 3 4", "label": "0"})
    assert tokenizer.decode(example.prompt) == ["<0>", " 3", " 4"]
    exact = bound.encode({"a": "3 4", "label": "0"})
    assert tokenizer.decode(exact.prompt) == ["<0>", "3", " 4"]
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


def test_edits():
    table = {
        "strip": (" a b ", "a b"), "lower": ("It IS", "it is"), "lower_first": ("AB C", "aB C"),
        "upper_first": ("ab c", "Ab c"), "chop": ("end.", "end"), "unstop": ("end. ", "end"),
        "unquote": ('"a, b"', "a, b"), "ask": ("why", "why?"), "conjunction": ("effect", "so"),
        "lower_word": ("THE Cat Sat", "the Cat Sat"),
    }  # fmt: skip
    assert table.keys() == EDITS.keys()
    assert {name: EDITS[name](given) for name, (given, _) in table.items()} == {
        name: wanted for name, (_, wanted) in table.items()
    }
    assert EDITS["ask"]("why?") == "why?" and EDITS["unstop"]("end") == "end"
    assert EDITS["conjunction"]("cause") == "because"
    words = ("I am", "I", "I'm In", "It", " The", "")
    assert [EDITS["lower_word"](w) for w in words] == ["I am", "I", "i'm In", "it", " The", ""]
    assert [EDITS[e]("") for e in ("chop", "lower_first", "upper_first")] == ["", "", ""]


def test_a_field_may_have_an_alias_or_lie_deeper():
    task = mask_task("{text}", aliases={"text": "sentence"})
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
    assert [trec.label({"label": value}) for value in ("num", "5", 5, "ABBR", 2)] == [5, 5, 5, 2, 2]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "label": "meh"}, "label is 'meh', not one of bad, good"),
        ({"text": "a", "label": "0"}, "label is '0', not one of bad, good"),
        ({"text": "a", "label": "x" * 99}, "label is '" + "x" * 40 + "', not"),
        ({"text": "a", "mood": "bad"}, "label is missing, not one of bad, good\n  hint: the row "
                                       "has the columns text, mood"),
        ({"text": "a", "label": None}, "label is missing"),
        ({"text": "a", "label": [[0]]}, "label is '<list>', not one of bad, good"),
        ({"label": "bad"}, "no text under 'text'\n  hint: the row has the columns label"),
        ({"text": 3, "label": "bad"}, "no text under 'text'"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named(row, expected):
    row = Row(row)
    row.where = "mine.csv line 7"
    bound = mask_task("{text} <mask>").bind(Words())
    assert message(bound.encode, row).startswith("mine.csv line 7: " + expected)


def test_a_row_may_be_read_without_its_label():
    bound = mask_task("{text} <mask>").bind(Words())
    assert bound.fields == ["text"]
    assert bound.encode({"text": "a"}, labelled=False).label == -1


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{text It was <mask>.", "expected '}' before end of string"),
        ("{text} } <mask>", "Single '}' encountered"),
        ("{} <mask>", "cannot read {:}"),
        ("{text:shout} <mask>", "cannot read {text:shout}"),
        ("{text:strip:} <mask>", "cannot read {text:strip:}"),
        ("{text!r} <mask>", "cannot read {text:}"),
        ("{text:{x}} <mask>", "cannot read {text:{x}}"),
        ("{text} It was.", "has 0 <mask> and 1 fields"),
        ("{text} <mask> <mask>", "has 2 <mask> and 1 fields"),
        ("It was <mask>.", "has 1 <mask> and 0 fields"),
    ],
)
def test_a_template_that_cannot_be_read_is_quoted(template, expected):
    text = message(mask_task(template).bind, Words())
    assert repr(template) in text and expected in text


def test_opt_has_no_mask():
    assert "has 1 <mask> and 1 fields" in message(opt_task("{text} <mask>").bind, Words())


def test_doubled_braces_are_braces():
    tokenizer = Words()
    example = mask_task("{{{text}}} <mask>").bind(tokenizer).encode({"text": "a", "label": "bad"})
    assert tokenizer.decode(example.prompt) == ["<s>", "{", "a", "}", "<mask>", "</s>"]


# A user's own task


def test_a_custom_task_takes_words_or_indices_for_labels():
    task = custom_task("{text} It was <mask>.", ["Bad ", " good"], "roberta", "mood")
    assert task.words == (" Bad", " good") and task.labels == ("Bad", "good")
    assert [task.label({"mood": value}) for value in ("bad", "Good", "0", 1)] == [0, 1, 0, 1]
    assert "mood is '2', not one of Bad, good" in message(task.label, {"mood": "2"})


def test_numbers_as_label_words_are_names_and_never_indices():
    task = custom_task("{text} Stars: <mask>", ["1", "2", "3"], "roberta", "label")
    assert [task.label({"label": value}) for value in (1, "2", "3")] == [0, 1, 2]
    assert "label is '0', not one of 1, 2, 3" in message(task.label, {"label": 0})


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
        "  hint: known there: topics, reviews, SST-2, RTE, CB, BoolQ, WSC, WIC, COPA"
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.family}-{task.name}")
def test_every_row_of_the_table_binds(task):
    bound = task.bind(Words())
    assert len(task.words) == len(task.labels) and len(bound.fields) in (1, 2, 3)
    assert bound.max_length == task.max_length and task.bind(Words(), 64).max_length == 64


@pytest.mark.parametrize("family", ["roberta", "opt"])
def test_the_shipped_reviews(family):
    rows = read_rows(Path(__file__).resolve().parents[2] / "weights" / "reviews" / "dev.tsv")
    task = get_task("reviews", family)
    examples = [task.bind(Words()).encode(row) for row in rows]
    assert [e.label for e in examples] == [["terrible", "great"].index(r["mood"]) for r in rows]


# The real vocabularies: every prompt made a second time, in the notation of the published code


STAR = {
    "SST-2": "*cls**sent_0*_It_was*mask*.*sep+*",
    "SST-5": "*cls**sent_0*_It_was*mask*.*sep+*",
    "TREC": "*cls**mask*:*+sent_0**sep+*",
    "SNLI": "*cls**sent-_0*?*mask*,*+sentl_1**sep+*",
    "MNLI": "*cls**sent-_0*?*mask*,*+sentl_1**sep+*",
    "RTE": "*cls**sent-_0*?*mask*,*+sentl_1**sep+*",
}
FIRST_LIMIT = {"SST-5": 110, "TREC": 110, "MNLI": 240, "RTE": 240}
WORDS = {
    "SST-2": {"0": 6587, "1": 372},
    "SST-5": {"0": 6587, "1": 1099, "2": 8578, "3": 205, "4": 372},
    "SNLI": {"contradiction": 440, "entailment": 3216, "neutral": 5359},
    "MNLI": {"contradiction": 440, "entailment": 3216, "neutral": 5359},
    "RTE": {"entailment": 3216, "not_entailment": 440},
}


@pytest.fixture(scope="module")
def plain():
    """Encoders by the `tokenizers` package, straight from vocab.json and merges.txt."""
    tokenizers = pytest.importorskip("tokenizers")

    @cache
    def load(family: str) -> Callable[[str], list[int]]:
        folder = SHARED / "tokenizers" / family
        files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
        backend = tokenizers.ByteLevelBPETokenizer(*files)
        return lambda text: backend.encode(text).ids

    return load


def star_prompt(name: str, sentences: list[str], encode: Callable, max_length: int) -> list[int]:
    ids: list[int] = []
    for part in STAR[name].split("*"):
        if special := {"cls": [0], "sep+": [2], "mask": [50264]}.get(part):
            ids += special
        elif found := re.fullmatch(r"(\+?)sent(l?)(-?)_(\d)", part):
            space, lower, chop, index = found.groups()
            text = sentences[int(index)]
            text = text[:1].lower() + text[1:] if lower else text
            text = text[:-1] if chop else text
            limit = FIRST_LIMIT.get(name) if index == "0" else None
            ids += encode(" " * len(space) + text)[:limit]
        else:
            ids += encode(part.replace("_", " "))
    return ids[:max_length]


@needs_shared
@pytest.mark.parametrize(
    ("name", "folder", "columns"),
    [
        ("SST-2", "k-shot/SST-2/16-42", ["sentence"]),
        ("SST-2", "glue/SST-2", ["sentence"]),
        ("SST-5", "k-shot/sst-5/16-42", ["sentence"]),
        ("TREC", "k-shot/trec/16-42", ["sentence"]),
        ("RTE", "k-shot/RTE/16-42", ["sentence1", "sentence2"]),
        ("RTE", "superglue-32shot/RTE", ["premise", "hypothesis"]),
        ("SNLI", "k-shot/SNLI/16-42", ["sentence1", "sentence2"]),
        ("MNLI", "k-shot/MNLI/16-42", ["sentence1", "sentence2"]),
    ],
)
def test_roberta_prompts_are_the_published_ones(name, folder, columns, plain):
    encode, task = plain("roberta"), get_task(name, "roberta")
    bound = task.bind(real("roberta"))
    splits = load_splits(task, DATA / folder)
    rows = (splits.train[:100] + splits.dev + splits.test)[:300]
    if name in FIRST_LIMIT:
        rows.append(Row(rows[0], **{columns[0]: "So it goes on. " * 80}))
    for row in rows:
        example = bound.encode(row)
        wanted = star_prompt(name, [row[c] for c in columns], encode, bound.max_length)
        assert list(example.prompt) == wanted
        assert example.mask_at == wanted.index(50264) and example.text == row[columns[0]]
        if name in WORDS:
            label = row.get("gold_label", row.get("label"))
            assert bound.label_word_ids[example.label] == WORDS[name][label]


@needs_shared
def test_trec_words_in_the_order_of_the_published_integers():
    tokenizer = real("roberta")
    ids = get_task("trec", "roberta").bind(tokenizer).label_word_ids
    words = ["Description", "Entity", "Expression", "Human", "Location", "Number"]
    assert ids == [tokenizer.word_id(" " + word) for word in words]


@needs_shared
def test_one_sst2_prompt_in_full():
    bound = get_task("sst-2", "roberta").bind(real("roberta"))
    example = bound.encode({"sentence": "it 's a charming journey . ", "label": "1"})
    prompt = (0, 405, 128, 29, 10, 18452, 3251, 479, 1437, 85, 21, 50264, 4, 2)
    assert example == Example(prompt, (), 11, 1, "it 's a charming journey . ")
    assert bound.label_word_ids == [6587, 372]


def question(text: str) -> str:
    text = text if text[-1] == "?" else text + "?"
    return text[0].upper() + text[1:]


def copa(row: dict) -> tuple[str, list[str]]:
    choices = [row["choice1"].split(" "), row["choice2"].split(" ")]
    lowered = [[w[0] if w[0] == "I" else w[0].lower(), *w[1:]] for w in choices]
    premise = row["premise"].rstrip()
    premise = premise[:-1] if premise.endswith(".") else premise
    prompt = premise + {"effect": " so ", "cause": " because "}[row["question"]]
    return prompt, [" ".join(words) for words in lowered]


OPT = {
    "SST-2": lambda r: (f"{r['sentence'].strip()} It was", [" terrible", " great"]),
    "RTE": lambda r: (
        f'{r["premise"]}\nDoes this mean that "{r["hypothesis"]}" is true? Yes or No?\n',
        ["Yes", "No"],
    ),
    "CB": lambda r: (
        f'Suppose {r["premise"]} Can we infer that "{r["hypothesis"]}"? Yes, No, or Maybe?\n',
        ["Yes", "No", "Maybe"],
    ),
    "BoolQ": lambda r: (f"{r['passage']} {question(r['question'])}\n", ["Yes", "No"]),
    "WSC": lambda r: (
        f"{r['text']}\nIn the previous sentence, does the pronoun "
        f'"{r["target"]["span2_text"].lower()}" refer to {r["target"]["span1_text"]}? Yes or No?\n',
        ["No", "Yes"],
    ),
    "WIC": lambda r: (
        f'Does the word "{r["word"]}" have the same meaning in these two sentences? Yes, No?\n'
        f"{r['sentence1']}\n{r['sentence2']}\n",
        ["No", "Yes"],
    ),
    "COPA": copa,
}
ANSWERS = {  # what the gold candidate says, by what the file says
    "SST-2": {"0": " terrible", "1": " great"},
    "RTE": {"entailment": "Yes", "not_entailment": "No"},
    "CB": {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
    "BoolQ": {True: "Yes", False: "No"},
    "WSC": {True: "Yes", False: "No"},
    "WIC": {True: "Yes", False: "No"},
}


@needs_shared
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("SST-2", "glue/SST-2"),
        ("RTE", "superglue-32shot/RTE"),
        ("CB", "superglue/CB"),
        ("BoolQ", "superglue/BoolQ"),
        ("WSC", "superglue/WSC"),
        ("WIC", "superglue/WiC"),
        ("COPA", "superglue/COPA"),
    ],
)
def test_opt_prompts_are_the_published_ones(name, folder, plain):
    encode, task = plain("opt"), get_task(name, "opt")
    bound = task.bind(real("opt"))
    splits = load_splits(task, DATA / folder)
    for row in splits.train[:100] + splits.dev[:50]:
        example = bound.encode(row)
        prompt, endings = OPT[name](row)
        length = len(encode(prompt.strip(" ")))
        wanted = [encode((prompt + ending).strip(" ")) for ending in endings]
        assert [[*example.prompt, *c] for c in example.candidates] == [[0, *w] for w in wanted]
        assert [len(c) for c in example.candidates] == [len(w) - length for w in wanted]
        if name == "COPA":
            assert example.label == row["label"]
        else:
            said = row.get("label", row.get("answer"))
            assert endings[example.label] == ANSWERS[name][said]


@needs_shared
def test_glue_and_superglue_spellings_of_rte_are_one_prompt():
    bound = get_task("rte", "opt").bind(real("opt"))
    glue = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": "entailment"}
    superglue = {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"}
    assert bound.encode(glue) == bound.encode(superglue)
