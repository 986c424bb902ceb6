"""Prompts against the published rules, built here a second time from the papers' notation."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
from published import DATA, VOCABULARIES, needs_data, needs_vocabularies

from tinyzo.text.datasets import load_splits
from tinyzo.text.rows import Row
from tinyzo.text.tasks import Example, get_task
from tinyzo.text.tokenizer import Tokenizer, load_tokenizer

Encode = Callable[[str], list[int]]


@cache
def real(family: str) -> Tokenizer:
    return load_tokenizer(VOCABULARIES / family)


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
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle is not installed")

    @cache
    def load(family: str) -> Encode:
        files = [str(VOCABULARIES / family / name) for name in ("vocab.json", "merges.txt")]
        backend = tokenizers.ByteLevelBPETokenizer.from_file(*files)
        return lambda text: backend.encode(text).ids

    return load


def star_prompt(name: str, sentences: list[str], encode: Encode, max_length: int) -> list[int]:
    specials = {"cls": [0], "sep+": [2], "mask": [50264]}
    ids: list[int] = []
    for part in STAR[name].split("*"):
        found = re.fullmatch(r"(\+?)sent(l?)(-?)_(\d)", part)
        if part in specials:
            ids += specials[part]
        elif found:
            space, lower, chop, index = found.groups()
            text = sentences[int(index)]
            if lower:
                text = text[:1].lower() + text[1:]
            if chop:
                text = text[:-1]
            limit = FIRST_LIMIT.get(name) if index == "0" else None
            ids += encode(" " * len(space) + text)[:limit]
        else:
            ids += encode(part.replace("_", " "))
    return ids[:max_length]


@needs_data
@needs_vocabularies
@pytest.mark.parametrize(
    ("name", "folder", "columns"),
    [
        ("SST-2", "k-shot/SST-2/16-42", ["sentence"]),
        ("SST-2", "glue/SST-2/dev.tsv", ["sentence"]),
        ("SST-5", "k-shot/sst-5/16-42", ["sentence"]),
        ("TREC", "k-shot/trec/16-42", ["sentence"]),
        ("RTE", "k-shot/RTE/16-42", ["sentence1", "sentence2"]),
        ("RTE", "superglue-32shot/RTE", ["premise", "hypothesis"]),
        ("SNLI", "k-shot/SNLI/16-42", ["sentence1", "sentence2"]),
        ("MNLI", "k-shot/MNLI/16-42", ["sentence1", "sentence2"]),
    ],
)
def test_roberta_prompts_are_the_published_ones(name, folder, columns, plain):
    encode = plain("roberta")
    task = get_task(name, "roberta")
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


@needs_vocabularies
def test_trec_words_in_the_order_of_the_published_integers():
    tokenizer = real("roberta")
    ids = get_task("trec", "roberta").bind(tokenizer).label_word_ids
    words = ["Description", "Entity", "Expression", "Human", "Location", "Number"]
    assert ids == [tokenizer.word_id(" " + word) for word in words]


@needs_vocabularies
def test_one_sst2_prompt_in_full():
    bound = get_task("sst-2", "roberta").bind(real("roberta"))
    example = bound.encode({"sentence": "it 's a charming journey . ", "label": "1"})
    prompt = (0, 405, 128, 29, 10, 18452, 3251, 479, 1437, 85, 21, 50264, 4, 2)
    assert example == Example(prompt, (), 11, 1, "it 's a charming journey . ")
    assert bound.label_word_ids == [6587, 372]


def question(text: str) -> str:
    text = text if text[-1] == "?" else text + "?"
    return text[0].upper() + text[1:]


def span_of(row: dict, number: int) -> str:
    """A span of WSC as the hub's wsc.fixed has it: its first letter is that of the word there."""
    span = row["target"][f"span{number}_text"]
    word = row["text"].split()[row["target"][f"span{number}_index"]]
    if span in row["text"] or span.startswith("Kamenev"):
        return span
    first = span[0].lower() if word[0].islower() else span[0].upper()
    return (first + span[1:]).rstrip(".").replace("\n", " ")


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
        f'"{span_of(r, 2).lower()}" refer to {span_of(r, 1)}? Yes or No?\n',
        ["No", "Yes"],
    ),
    "WIC": lambda r: (
        f'Does the word "{r["word"]}" have the same meaning in these two sentences? Yes, No?\n'
        f"{r['sentence1']}\n{r['sentence2']}\n",
        ["No", "Yes"],
    ),
    "MultiRC": lambda r: (
        f"{r['paragraph']}\nQuestion: {r['question']}\n"
        f'I found this answer "{r["answer"]}". Is that correct? Yes or No?\n',
        ["No", "Yes"],
    ),
    "COPA": copa,
    "ReCoRD": lambda r: (
        r["passage"].replace("@highlight\n", "- ") + "\n-",
        [" " + r["query"].replace("@placeholder", entity) for entity in r["entities"]],
    ),
}
ANSWERS = {  # what the gold candidate says, by what the file says
    "SST-2": {"0": " terrible", "1": " great"},
    "RTE": {"entailment": "Yes", "not_entailment": "No"},
    "CB": {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
    "BoolQ": {True: "Yes", False: "No"},
    "WSC": {True: "Yes", False: "No"},
    "WIC": {True: "Yes", False: "No"},
    "MultiRC": {1: "Yes", 0: "No"},
}


@needs_data
@needs_vocabularies
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("SST-2", "glue/SST-2/dev.tsv"),
        ("RTE", "superglue-32shot/RTE"),
        ("CB", "superglue/CB"),
        ("BoolQ", "superglue/BoolQ"),
        ("WSC", "superglue/WSC"),
        ("WIC", "superglue/WiC"),
        ("MultiRC", "superglue/MultiRC"),
        ("COPA", "superglue/COPA"),
        ("ReCoRD", "superglue-32shot/ReCoRD"),
    ],
)
def test_opt_prompts_are_the_published_ones(name, folder, plain):
    encode = plain("opt")
    task = get_task(name, "opt")
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
        elif name == "ReCoRD":
            gold = [row["entities"][n] for n in (example.label, *example.also_gold)]
            assert gold == row["answers"]
        else:
            said = row.get("label", row.get("answer"))
            assert endings[example.label] == ANSWERS[name][said]


@needs_vocabularies
def test_glue_and_superglue_spellings_of_rte_are_one_prompt():
    bound = get_task("rte", "opt").bind(real("opt"))
    glue = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": "entailment"}
    superglue = {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"}
    assert bound.encode(glue) == bound.encode(superglue)
