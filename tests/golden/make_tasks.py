"""Writes tasks.json: rows of each published task, and the ids that the published rules give them.

    python tests/golden/make_tasks.py    # with transformers 5, tokenizers; not in CI

The rows are made up. Prompts are built here a second time, by plain Python from the papers' and the
published code's notation, and nothing of tinyzo is imported; ids come from transformers, for the
vocabularies that ship. Written with transformers 5.24.0.

A prompt of RoBERTa is in LM-BFF's notation (Gao et al. 2021): `_` is a space, sent_0 the text,
sent-_0 the text without its last character, +sentl_1 a space and the text with a small first
letter. Its parts are encoded one by one, and the tail of what is too long goes.

A prompt of OPT and each candidate behind it are encoded as one text without the spaces around it; a
candidate's tokens are those beyond the prompt's own length. What is too long goes on the left,
behind the first id, which is 0. Where an answer is to be written, the prompt leaves room for 50
tokens. Rows that are too long have candidates of one length, since sequences of several lengths
lose different numbers of tokens in published code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parents[1] / "weights"
LONG = "So it goes on, and on; nobody knows why. "
SHORT = 96  # positions that the long rows of OPT are given
ANSWER = 50

Encode = Callable[[str], list[int]]
Row = dict[str, Any]


class Masked(NamedTuple):
    """A task of RoBERTa: its template, label -> word, most tokens, and of the first sentence."""

    template: str
    words: dict[str, str]
    longest: int
    first: int | None
    sentences: list[str]
    label: str
    rows: list[Row]


class Asked(NamedTuple):
    """A task of OPT.

    ask:  a row -> its prompt, what candidates put behind it, and the numbers of the gold ones
    long: rows to be read with SHORT positions
    """

    ask: Callable[[Row], tuple[str, list[str], list[int]]]
    rows: list[Row]
    long: list[Row]
    room: int = 0


# -- RoBERTa ---------------------------------------------------------------------------

GREAT = "*cls**sent_0*_It_was*mask*.*sep+*"
PAIR = "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"
KINDS = {
    "DESC": "Description", "ENTY": "Entity", "ABBR": "Expression", "HUM": "Human",
    "LOC": "Location", "NUM": "Number",
}  # fmt: skip
NLI = {"contradiction": "No", "entailment": "Yes", "neutral": "Maybe"}


def pairs(first: str, second: str, label: str, labels: list[str]) -> list[Row]:
    texts = [
        ("A man plays the guitar.", "Nobody makes music."),
        ("Two dogs run , one barks !", "I see animals"),
        ("It is late", "The naïve café closes at 9 p.m."),
        ("It rains. " * 3, LONG * 40),
    ]
    numbered = [labels[number % len(labels)] for number in range(len(texts))]
    return [
        {first: a, second: b, label: name} for (a, b), name in zip(texts, numbered, strict=True)
    ]


MASKED = {
    "SST-2": Masked(
        GREAT, {"0": "terrible", "1": "great"}, 128, None, ["sentence"], "label",
        [
            {"sentence": "it 's a charming film . ", "label": "1"},
            {"sentence": "never once surprising", "label": "0"},
        ],
    ),
    "SST-5": Masked(
        GREAT,
        {"0": "terrible", "1": "bad", "2": "okay", "3": "good", "4": "great"},
        128, 110, ["sentence"], "label",
        [
            {"sentence": "So so .", "label": "2"},
            {"sentence": "A \"great\" one , isn't it ?", "label": "4"},
            {"sentence": LONG * 12, "label": "1"},
        ],
    ),
    "TREC": Masked(
        "*cls**mask*:*+sent_0**sep+*", KINDS, 128, 110, ["sentence"], "label",
        [
            {"sentence": "What does NASA stand for ?", "label": "ABBR"},
            {"sentence": "How far is it from Rome to Pisa ?", "label": "NUM"},
            {"sentence": LONG * 12, "label": "HUM"},
        ],
    ),
    "RTE": Masked(
        PAIR, {"entailment": "Yes", "not_entailment": "No"}, 256, 240, ["sentence1", "sentence2"],
        "label", pairs("sentence1", "sentence2", "label", ["entailment", "not_entailment"]),
    ),
    "SNLI": Masked(
        PAIR, NLI, 256, None, ["sentence1", "sentence2"], "gold_label",
        pairs("sentence1", "sentence2", "gold_label", list(NLI)),
    ),
    "MNLI": Masked(
        PAIR, NLI, 256, 240, ["sentence1", "sentence2"], "gold_label",
        [
            *pairs("sentence1", "sentence2", "gold_label", list(NLI)),
            {"sentence1": LONG * 40, "sentence2": "It ends", "gold_label": "neutral"},
        ],
    ),
}  # fmt: skip


def masked_ids(task: Masked, row: Row, encode: Encode, special: dict[str, int]) -> list[int]:
    ids: list[int] = []
    for part in task.template.split("*"):
        found = re.fullmatch(r"(\+?)sent(l?)(-?)_(\d)", part)
        if part in special:
            ids.append(special[part])
        elif found:
            space, lower, chop, number = found.groups()
            text = row[task.sentences[int(number)]]
            text = text[:-1] if chop else text
            text = text[:1].lower() + text[1:] if lower else text
            ids += encode(" " * len(space) + text)[: task.first if number == "0" else None]
        else:
            ids += encode(part.replace("_", " "))
    return ids[: task.longest]


def masked(task: Masked, row: Row, encode: Encode, special: dict[str, int]) -> Row:
    prompt = masked_ids(task, row, encode, special)
    return {
        "prompt": prompt,
        "candidates": [],
        "mask_at": prompt.index(special["mask"]),
        "label": list(task.words).index(row[task.label]),
        "also_gold": [],
        "answers": [],
    }


# -- OPT -------------------------------------------------------------------------------


def sst2(row: Row) -> tuple[str, list[str], list[int]]:
    return f"{row['sentence'].strip()} It was", [" terrible", " great"], [int(row["label"])]


def rte(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = f'{row["premise"]}\nDoes this mean that "{row["hypothesis"]}" is true? Yes or No?\n'
    return prompt, ["Yes", "No"], [["entailment", "not_entailment"].index(row["label"])]


def cb(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = (
        f'Suppose {row["premise"]} Can we infer that "{row["hypothesis"]}"? Yes, No, or Maybe?\n'
    )
    gold = ["entailment", "contradiction", "neutral"].index(row["label"])
    return prompt, ["Yes", "No", "Maybe"], [gold]


def boolq(row: Row) -> tuple[str, list[str], list[int]]:
    question = row["question"]
    if not question.endswith("?"):
        question = question + "?"
    question = question[0].upper() + question[1:]
    return f"{row['passage']} {question}\n", ["Yes", "No"], [0 if row["label"] else 1]


def wsc(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = (
        f"{row['text']}\nIn the previous sentence, does the pronoun "
        f'"{row["span2_text"].lower()}" refer to {row["span1_text"]}? Yes or No?\n'
    )
    return prompt, ["No", "Yes"], [row["label"]]


def wic(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = (
        f'Does the word "{row["word"]}" have the same meaning in these two sentences? '
        f"Yes, No?\n{row['sentence1']}\n{row['sentence2']}\n"
    )
    return prompt, ["No", "Yes"], [row["label"]]


def multirc(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = (
        f"{row['paragraph']}\nQuestion: {row['question']}\n"
        f'I found this answer "{row["answer"]}". Is that correct? Yes or No?\n'
    )
    return prompt, ["No", "Yes"], [row["label"]]


def copa(row: Row) -> tuple[str, list[str], list[int]]:
    premise = row["premise"].rstrip()
    if premise.endswith("."):
        premise = premise[:-1]
    prompt = premise + {"effect": " so ", "cause": " because "}[row["question"]]
    choices = []
    for choice in (row["choice1"], row["choice2"]):
        words = choice.split(" ")
        if words[0] != "I":
            words[0] = words[0].lower()
        choices.append(" ".join(words))
    return prompt, choices, [row["label"]]


def record(row: Row) -> tuple[str, list[str], list[int]]:
    passage = row["passage"].replace("@highlight\n", "- ")
    queries = [row["query"].replace("@placeholder", entity) for entity in row["entities"]]
    gold = [row["entities"].index(answer) for answer in row["answers"]]
    return f"{passage}\n- ", queries, gold


def squad(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = (
        f"Title: {row['title']}\nContext: {row['context']}\n"
        f"Question: {row['question'].strip()}\nAnswer:"
    )
    return prompt, [f" {row['answers']['text'][0]}\n"], [0]


def drop(row: Row) -> tuple[str, list[str], list[int]]:
    prompt = f"Passage: {row['passage']}\nQuestion: {row['question'].strip()}\nAnswer:"
    return prompt, [f" {row['answers_spans']['spans'][0]}\n"], [0]


PASSAGE = (
    'Ann Lee met Bob in Rome on Monday. "It was great," said Bob.\n@highlight\nAnn Lee met Bob'
    "\n@highlight\nRome is old"
)
ASKED = {
    "SST-2": Asked(
        sst2,
        [
            {"sentence": " it 's a charming film . ", "label": "1"},
            {"sentence": "never once surprising", "label": "0"},
        ],
        [{"sentence": LONG * 9, "label": "1"}],
    ),
    "RTE": Asked(
        rte,
        [
            {"premise": " It \"rains\".", "hypothesis": "It is wet", "label": "entailment"},
            {"premise": "No one came.", "hypothesis": "Bob came.", "label": "not_entailment"},
        ],
        [{"premise": LONG * 9, "hypothesis": "It ends.", "label": "not_entailment"}],
    ),
    "CB": Asked(
        cb,
        [
            {"premise": "I doubt it.", "hypothesis": "it is so", "label": "contradiction"},
            {"premise": "Who knows?\nB: Bob.", "hypothesis": "Bob knows", "label": "neutral"},
        ],
        [],
    ),
    "BoolQ": Asked(
        boolq,
        [
            {"passage": "Tea -- Tea is a drink.", "question": "is tea a drink", "label": True},
            {"passage": "Tea is hot. ", "question": "Is it cold?", "label": False},
        ],
        [{"passage": LONG * 9, "question": "does it end", "label": False}],
    ),
    "WSC": Asked(
        wsc,
        [
            {"text": "Ann told Sue that She won.", "span1_text": "Ann", "span2_text": "She",
             "label": 1},
            {"text": "The cup fell off the table as it shook.", "span1_text": "The cup",
             "span2_text": "it", "label": 0},
        ],
        [],
    ),
    "WIC": Asked(
        wic,
        [
            {"word": "place", "sentence1": "My place.", "sentence2": "Place it here .", "label": 0},
            {"word": "run", "sentence1": "I run.", "sentence2": "They run!", "label": 1},
        ],
        [],
    ),
    "MultiRC": Asked(
        multirc,
        [
            {"paragraph": "Ann met Bob.  They left.", "question": "Who left?",
             "answer": "Ann and \"Bob\"", "label": 1},
            {"paragraph": "Ann met Bob.", "question": "Who left ?", "answer": " Nobody ",
             "label": 0},
        ],
        [{"paragraph": LONG * 9, "question": "Why?", "answer": "Nobody knows", "label": 1}],
    ),
    "COPA": Asked(
        copa,
        [
            {"premise": "The cup fell. ", "choice1": "I slipped.", "choice2": "The Wind blew.",
             "question": "cause", "label": 0},
            {"premise": "I was late!", "choice1": "She left.", "choice2": "I'm sorry.",
             "question": "effect", "label": 1},
        ],
        [],
    ),
    "ReCoRD": Asked(
        record,
        [
            {"passage": PASSAGE, "query": "\"Very old,\" said @placeholder of the city",
             "entities": ["Ann Lee", "Bob", "Rome"], "answers": ["Bob"]},
            {"passage": PASSAGE, "query": "@placeholder left; nobody saw @placeholder go.",
             "entities": ["Ann", "Ann Lee", "Bob", "Rome"], "answers": ["Ann Lee", "Ann"]},
            {"passage": " No summary here.", "query": "Here is @placeholder's summary",
             "entities": ["No one"], "answers": ["No one"]},
        ],
        [{"passage": LONG * 9 + "\n@highlight\nIt ends", "query": "Did @placeholder know?",
          "entities": ["Bob", "Rob"], "answers": ["Rob", "Bob"]}],
    ),
    "SQuAD": Asked(
        squad,
        [
            {"title": "Tea", "context": "Tea was found in 2737 BC by Shennong.",
             "question": " When was tea found?  ",
             "answers": {"text": ["2737 BC", "in 2737 BC"], "answer_start": [14, 11]}},
            {"title": "Café_(\"naïve\")", "context": "It is\nold. ", "question": "Is it?",
             "answers": {"text": ["old"], "answer_start": [6]}},
        ],
        [{"title": "On and on", "context": LONG * 9, "question": "Who knows why it goes on?",
          "answers": {"text": ["nobody", "Nobody knows"], "answer_start": [23, 23]}}],
        ANSWER,
    ),
    "DROP": Asked(
        drop,
        [
            {"passage": "The Bears led 10-7, then 17-7.", "question": "How many points more? ",
             "answers_spans": {"spans": ["10", "ten points"], "types": ["number", "span"]}},
            {"passage": "In May 1900 the war ended.", "question": "When did it end?",
             "answers_spans": {"spans": ["May 1900"], "types": ["date"]}},
        ],
        [{"passage": LONG * 9, "question": "Who knows?",
          "answers_spans": {"spans": ["nobody"], "types": ["span"]}}],
        ANSWER,
    ),
}  # fmt: skip


def asked(task: Asked, row: Row, encode: Encode, longest: int) -> Row:
    prompt, endings, gold = task.ask(row)
    split = len(encode(prompt.strip(" ")))
    texts = [encode((prompt + ending).strip(" ")) for ending in endings]
    candidates = [ids[split:] for ids in texts]
    (begin,) = {tuple(ids[:split]) for ids in texts}
    left = longest - 1 - max(task.room, *map(len, candidates))
    answers = row.get("answers", row.get("answers_spans"))
    return {
        "prompt": [0, *begin[-left:]],
        "candidates": candidates,
        "mask_at": -1,
        "label": gold[0],
        "also_gold": gold[1:],
        "answers": answers.get("text", answers.get("spans")) if task.room else [],
    }


# -- the file --------------------------------------------------------------------------


def encoder(name: str) -> Encode:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / name)
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def main() -> None:
    roberta = encoder("roberta-tiny")
    opt = encoder("opt-tiny")
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "roberta-tiny")
    special = {
        "cls": tokenizer.cls_token_id,
        "sep+": tokenizer.sep_token_id,
        "mask": tokenizer.mask_token_id,
    }
    golden: list[Row] = []
    for name, task in MASKED.items():
        words = [roberta(" " + word) for word in task.words.values()]
        for row in task.rows:
            example = masked(task, row, roberta, special)
            golden.append({"task": name, "family": "roberta", "max_length": 512, "row": row,
                           "words": [word for (word,) in words], "example": example})  # fmt: skip
    for name, task in ASKED.items():
        lengths = [2048] * len(task.rows) + [SHORT] * len(task.long)
        for row, longest in zip([*task.rows, *task.long], lengths, strict=True):
            example = asked(task, row, opt, longest)
            golden.append({"task": name, "family": "opt", "max_length": longest, "row": row,
                           "words": [], "example": example})  # fmt: skip
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in golden)
    (HERE / "tasks.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
