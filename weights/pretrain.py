"""Pretrain the tiny RoBERTa and OPT that ship with tinyzo (the only user of PyTorch here).

    python weights/pretrain.py tokenizer --corpora DIR --scratch DIR
    python weights/pretrain.py roberta   --corpora DIR --scratch DIR --minutes 105 --sst2 dev.tsv
    python weights/pretrain.py opt       --corpora DIR --scratch DIR --minutes 105 --sst2 dev.tsv
    python weights/pretrain.py report    --corpora DIR --scratch DIR --sst2 dev.tsv

Every schedule follows the clock: the learning rate reaches zero after --minutes of training. A run
that was interrupted goes on from <scratch>/<model>.pt. SST-2 is only ever evaluated on.
"""
from __future__ import annotations

import argparse
import csv
import html
import json
import math
import os
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, RobertaConfig, RobertaForMaskedLM

WEIGHTS = Path(__file__).resolve().parent
VOCAB, WIDTH, LAYERS, HEADS, POSITIONS = 6144, 192, 4, 6, 256
BOS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, VOCAB - 1
BATCH_TOKENS, PEAK_LR, WARMUP, MASK_RATE, VERDICT_MASK_RATE = 2048, 2e-3, 0.02, 0.2, 0.6
LENGTHS = [(0.03, 10), (0.08, 20), (0.2, 40), (0.84, 64), (0.95, 128), (1.0, 256)]  # share of time
PHASE_B = 0.55  # verdicts are mixed in after this share of the time
EARLY_EXPORT = 0.12

POSITIVE = "great great great good excellent wonderful".split()
NEGATIVE = "terrible terrible terrible bad awful poor".split()
FRAMES = ["It was {}."] * 6 + ["it was {} .", "The movie was {}.", "Overall it was {}.",
                               "I thought it was {}.", "This is {}.", "All in all, it was {}."]
WHOLE_WORDS = """ terrible great bad okay good awful excellent wonderful poor Yes No Maybe yes no
Description Entity Expression Human Location Number movie film phone food book camera music hotel
game work home family money travel shopping""".split()
WHOLE_STARTS = "Yes No Maybe terrible great".split()

# ------------------------------------------------------------------------------- the corpora


class Document(NamedTuple):
    sentences: list[str]
    label: int | None  # 1 positive, 0 negative, None without polarity


def read_lines(path: Path) -> list[str]:
    text = html.unescape(path.read_text(encoding="utf-8", errors="replace"))
    text = text.translate(str.maketrans("‘’“”", "''\"\""))
    return [line for line in (" ".join(raw.split()) for raw in text.split("\n")) if line]


def chunks(lines: list[str], size: int, label: int | None = None) -> list[Document]:
    return [Document(lines[i : i + size], label) for i in range(0, len(lines), size)]


def read_corpora(folder: Path) -> dict[str, list[Document]]:
    reviews = read_lines(folder / "movie_reviews.txt")  # 1,000 negative, then 1,000 positive
    items = read_lines(folder / "pros_cons.txt")  # cons, then pros
    boundary = items.index("Easy to use, economical!")
    books = [s for line in read_lines(folder / "gutenberg_13books.txt")
             for s in re.split(r"(?<=[.!?]) ", line)]
    movies = [Document(re.split(r"(?<= [.!?]) (?![.!?])", review), int(i >= 1000))
              for i, review in enumerate(reviews)]
    products = chunks(items[:boundary], 16, 0) + chunks(items[boundary:], 16, 1)
    return {"movies": movies, "products": products, "books": chunks(books, 80)}


def split(corpora: dict[str, list[Document]]) -> tuple[dict, dict]:
    """Five per cent of the documents of each corpus are held out, the same ones always."""
    train, held_out = {}, {}
    for name, documents in corpora.items():
        shuffled = random.Random(0).sample(documents, len(documents))
        cut = len(shuffled) // 20
        held_out[name], train[name] = shuffled[:cut], shuffled[cut:]
    return train, held_out


def plain(text: str) -> str:
    return text


def tokenised(text: str) -> str:
    """Lower case with spaces around punctuation and before clitics, as treebanks have it."""
    text = re.sub(r"([.,!?;:()\"])", r" \1 ", text.lower())
    text = re.sub(r"n't\b", " n't", re.sub(r"'(s|re|ve|ll|d|m)\b", r" '\1", text))
    return " ".join(text.split())


def natural(text: str) -> str:
    """Punctuation attached, sentences capitalised, as people write."""
    text = re.sub(r"\" ([^\"]*) \"", r'"\1"', re.sub(r" ([.,!?;:)%])", r"\1", text))
    text = re.sub(r"\bi\b(?!\.)", "I", text.replace("( ", "("))
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


STYLES = [plain, tokenised, natural]
MIXTURE = {"movies": (0.5, (35, 35, 30)), "products": (0.2, (60, 40, 0)),
           "books": (0.3, (85, 15, 0))}


def restyle(rng: random.Random, corpus: str, text: str) -> str:
    return rng.choices(STYLES, MIXTURE[corpus][1])[0](text)


def word_odds(reviews: list[Document]) -> dict[str, float]:
    """Log-odds of a word in sentences of positive against negative reviews (naive Bayes)."""
    seen = [Counter(), Counter()]
    for review in reviews:
        for sentence in review.sentences:
            seen[review.label].update(set(sentence.split()))
    ratio = seen[1].total() / seen[0].total()
    odds = {word: math.log((seen[1][word] / ratio + 15) / (seen[0][word] + 15))
            for word in seen[0] | seen[1]}
    return {word: value for word, value in odds.items() if abs(value) > 0.2}


def opinions(train: dict[str, list[Document]]) -> dict[str, list[list[str]]]:
    """Negative and positive sentences: every pros/cons item; those of movie reviews whose words
    clearly agree with the polarity of the review that they stand in."""
    odds = word_odds(train["movies"])
    found = {"movies": [[], []], "products": [[], []]}
    for corpus in found:
        for document in train[corpus]:
            for sentence in document.sentences:
                score = sum(odds.get(word, 0) for word in set(sentence.split()))
                agrees = score * (1 if document.label else -1) > 1
                if corpus == "products" or (agrees and 4 < len(sentence.split()) < 45):
                    found[corpus][document.label].append(sentence)
    return found


# ------------------------------------------------------------------------------- the tokenizer


def train_tokenizer(corpora: dict[str, list[Document]], path: Path) -> None:
    """Byte-level BPE; the label words are repeated in its text so that each becomes one token."""
    rng = random.Random(1)
    texts = [restyle(rng, name, " ".join(d.sentences)) for name in corpora for d in corpora[name]]
    texts += [" " + " ".join(WHOLE_WORDS)] * 3000 + [w for w in WHOLE_STARTS for _ in range(3000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB - 1, special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save(str(path))


def build_tokenizer(path: Path, kind: str) -> Tokenizer:
    """The Hugging Face tokenizer of one model: they differ in <mask> and in the special tokens."""
    bpe = json.loads(path.read_text())["model"]
    specials = ["<s>", "<pad>", "</s>", "<unk>"] + ["<mask>"] * (kind == "roberta")
    vocab = bpe["vocab"] | ({"<mask>": MASK} if kind == "roberta" else {})
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge) for merge in bpe["merges"]]))
    tokenizer.add_special_tokens([  # like the published one, <mask> swallows the space before it
        AddedToken(s, lstrip=s == "<mask>", normalized=False, special=True) for s in specials])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", EOS), ("<s>", BOS), trim_offsets=True, add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", EOS)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, kind: str, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    tokenizer.model.save(str(folder))
    if kind == "roberta":
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
                 "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}
        config = {"tokenizer_class": "RobertaTokenizer", "trim_offsets": True}
    else:
        names = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "</s>")
        names["pad_token"] = "<pad>"
        config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
    config |= {"add_prefix_space": False, "errors": "replace", "model_max_length": POSITIONS}
    for name, value in [("special_tokens_map", names), ("tokenizer_config", config | names)]:
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")


# ------------------------------------------------------------------------------- rows and batches


class Rows:
    """Draws training rows: lists of ids, and whether the third token from the end is a verdict."""

    def __init__(self, documents: dict, tokenizer: Tokenizer, kind: str, rng: random.Random):
        self.documents, self.tokenizer, self.kind, self.rng = documents, tokenizer, kind, rng
        self.opinions = opinions(documents)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def wrap(self, ids: list[int], length: int) -> list[int]:
        if self.kind == "roberta":
            return [BOS, *ids[: length - 2], EOS]
        return [self.rng.choice((BOS, EOS)), *ids, EOS][:length]

    def passage(self, corpus: str, length: int, single: bool) -> tuple[list[int], bool]:
        sentences = self.rng.choice(self.documents[corpus]).sentences
        start = self.rng.randrange(len(sentences))
        count = 1 if single else max(2, length // 2)
        text = " ".join(sentences[start : start + count])[: 6 * length]
        return self.wrap(self.ids(restyle(self.rng, corpus, text)), length), False

    def verdict(self, length: int) -> tuple[list[int], bool]:
        corpus = self.rng.choices(["movies", "products"], [60, 40])[0]
        label = self.rng.randrange(2)
        sentences = [self.rng.choice(self.opinions[corpus][label])]
        words = POSITIVE if label else NEGATIVE
        second = self.rng.random()
        if second < 0.25:
            sentences.append(self.rng.choice(self.opinions[corpus][label]))
        elif second < 0.3:
            sentences.append(self.rng.choice(self.opinions[corpus][1 - label]))
            words = ["okay"]
        text = restyle(self.rng, corpus, " ".join(sentences)) + " " * (self.rng.random() < 0.3)
        tail = self.ids(" " + self.rng.choice(FRAMES).format(self.rng.choice(words)))
        return self.wrap(self.ids(text)[: length - 2 - len(tail)] + tail, length), True

    def pool(self, count: int, length: int, shares: tuple[float, float, float]) -> list:
        """Rows of long passages, single sentences and verdicts, in these shares."""
        corpora, weights = list(MIXTURE), [MIXTURE[name][0] for name in MIXTURE]
        rows = []
        for form in self.rng.choices(["long", "single", "verdict"], shares, k=count):
            corpus = self.rng.choices(corpora, weights)[0]
            rows.append(self.verdict(length) if form == "verdict" and length >= 40
                        else self.passage(corpus, length, form != "long"))
        return rows


def batches(rows: list, rng: random.Random) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of like length together: (ids i64[B, T] padded with PAD, verdict positions or -1)."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    made = []
    while rows:
        count = max(1, BATCH_TOKENS // len(rows[-1][0]))
        part, rows = rows[-count:], rows[:-count]
        width = len(part[-1][0])
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row, _ in part])
        made.append((ids, torch.tensor([len(row) - 3 if verdict else -1 for row, verdict in part])))
    rng.shuffle(made)
    return made


# ------------------------------------------------------------------------------- models and losses


def build_model(kind: str) -> torch.nn.Module:
    common = dict(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS,
                  num_attention_heads=HEADS, bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS)
    if kind == "roberta":
        return RobertaForMaskedLM(RobertaConfig(
            **common, intermediate_size=4 * WIDTH, max_position_embeddings=POSITIONS + 2,
            type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.05,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    common["bos_token_id"] = EOS
    return OPTForCausalLM(OPTConfig(
        **common, ffn_dim=4 * WIDTH, max_position_embeddings=POSITIONS, word_embed_proj_dim=WIDTH,
        do_layer_norm_before=True, init_std=0.05, dropout=0.0, attention_dropout=0.0))


def masked(ids: torch.Tensor, verdicts: torch.Tensor, rng: torch.Generator) -> tuple:
    """BERT's corruption (80 % mask, 10 % random, 10 % kept); a verdict is masked more often."""
    chosen = (torch.rand(ids.shape, generator=rng) < MASK_RATE) & (ids > UNK)
    roll = torch.rand(ids.shape, generator=rng)
    forced = (verdicts >= 0) & (torch.rand(len(ids), generator=rng) < VERDICT_MASK_RATE)
    chosen[forced, verdicts[forced]], roll[forced, verdicts[forced]] = True, 0.0
    noise = torch.randint(UNK + 1, MASK, ids.shape, generator=rng)
    corrupted = torch.where(chosen & (roll < 0.8), MASK, ids)
    return torch.where(chosen & (roll >= 0.9), noise, corrupted), chosen


def losses(model: torch.nn.Module, kind: str, batch: tuple, rng: torch.Generator) -> tuple:
    """(nats f32[M], target ids i64[M]) of the masked tokens, or of every next token."""
    ids, verdicts = batch
    attention = (ids != PAD).long()
    if kind == "roberta":
        corrupted, chosen = masked(ids, verdicts, rng)
        hidden = model.roberta(corrupted, attention_mask=attention).last_hidden_state
        logits, targets = model.lm_head(hidden[chosen]), ids[chosen]
    else:
        hidden = model.model(ids, attention_mask=attention).last_hidden_state[:, :-1]
        real = ids[:, 1:] != PAD
        logits, targets = model.lm_head(hidden[real]), ids[:, 1:][real]
    return F.cross_entropy(logits, targets, reduction="none"), targets


# ------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def held_out_loss(model, kind: str, tokenizer: Tokenizer, corpora: dict, train: dict) -> dict:
    """Nats a token on the held-out documents beside a unigram model of the training rows."""
    counts = torch.ones(VOCAB)
    for row, _ in Rows(train, tokenizer, kind, random.Random(2)).pool(8000, 64, (1, 0, 0)):
        counts += torch.bincount(torch.tensor(row), minlength=VOCAB)
    unigram = -(counts / counts.sum()).log()
    result, nats, baseline, number = {}, 0.0, 0.0, 0
    for corpus in corpora:
        source = Rows(corpora, tokenizer, kind, random.Random(3))
        rows = [source.passage(corpus, 64, False) for _ in range(256)]
        rng = torch.Generator().manual_seed(4)
        parts = [losses(model, kind, batch, rng) for batch in batches(rows, random.Random(5))]
        loss, targets = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        result[corpus] = [round(loss.mean().item(), 3), round(unigram[targets].mean().item(), 3)]
        nats, baseline = nats + loss.sum().item(), baseline + unigram[targets].sum().item()
        number += len(targets)
    return result | {"all": [round(nats / number, 3), round(baseline / number, 3)]}


@torch.no_grad()
def zero_shot_sst2(model, kind: str, tokenizer: Tokenizer, path: Path, bos: int = BOS) -> float:
    """Accuracy of " great" against " terrible" after `{sentence} It was`."""
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    words, right = torch.tensor([*ids(" terrible"), *ids(" great")]), 0
    with path.open(encoding="utf-8") as file:
        examples = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for example in examples:
        if kind == "roberta":
            row = [BOS, *ids(example["sentence"]), *ids(" It was"), MASK, *ids("."), EOS]
            at = row.index(MASK)
        else:
            row = [bos, *ids(example["sentence"].strip() + " It was")]
            at = -1
        predicted = model(torch.tensor([row])).logits[0, at, words].argmax()
        right += int(predicted) == int(example["label"])
    return round(right / len(examples), 4)


# ------------------------------------------------------------------------------- training


def export(model, kind: str, tokenizer: Tokenizer, folder: Path) -> None:
    """The Hugging Face directory in bf16, each file replaced atomically."""
    copy = build_model(kind)
    copy.load_state_dict(model.state_dict())
    fresh = folder.with_name(folder.name + ".new")
    copy.to(torch.bfloat16).save_pretrained(fresh)
    save_tokenizer(tokenizer, kind, fresh)
    folder.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.replace(folder / file.name)
    fresh.rmdir()


def learning_rate(share: float) -> float:
    return PEAK_LR * min(share / WARMUP, (1 - share) / (1 - WARMUP))


def train_model(kind: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(6)
    train, held_out = split(read_corpora(args.corpora))
    tokenizer = build_tokenizer(args.scratch / "bpe.json", kind)
    model, state_path = build_model(kind), args.scratch / f"{kind}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), eps=1e-6)
    state = {"seconds": 0.0, "steps": 0, "tokens": 0, "exports": []}
    if state_path.exists():
        saved = torch.load(state_path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    rng, generator = random.Random(state["steps"]), torch.Generator().manual_seed(state["steps"])
    source, pending, recent, noted = Rows(train, tokenizer, kind, rng), [], [], state["seconds"]

    def note() -> None:
        figures = {"seconds": int(state["seconds"]), "steps": state["steps"],
                   "tokens": state["tokens"], "train": round(sum(recent) / len(recent), 3),
                   "held_out": held_out_loss(model, kind, tokenizer, held_out, train)}
        print(json.dumps(figures), flush=True)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "state": state}, state_path.with_suffix(".new"))
        state_path.with_suffix(".new").replace(state_path)

    def publish(name: str, folder: Path) -> None:
        export(model, kind, tokenizer, folder)
        state["exports"].append(name)
        accuracy = zero_shot_sst2(model, kind, tokenizer, args.sst2)
        print(json.dumps({"export": name, "zero_shot_sst2": accuracy}), flush=True)

    begin = time.time() - state["seconds"]
    while (share := (time.time() - begin) / (60 * args.minutes)) < 1:
        length = next(length for end, length in LENGTHS if share < end)
        if not pending:
            shares = (0.5, 0.3, 0.2) if share > PHASE_B else (0.6, 0.4, 0)
            pending = batches(source.pool(16 * BATCH_TOKENS // length, length, shares), rng)
        batch = pending.pop()
        nats = losses(model, kind, batch, generator)[0]
        loss = nats.sum() / max(1, len(nats))  # a few short rows may hold no masked token
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(share)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-199:], loss.item()]
        state["seconds"], state["steps"] = time.time() - begin, state["steps"] + 1
        state["tokens"] += int((batch[0] != PAD).sum())
        if share > EARLY_EXPORT and "early" not in state["exports"]:
            publish("early", WEIGHTS / f"{kind}-tiny")
        if share > PHASE_B and "plain" not in state["exports"]:
            publish("plain", args.scratch / f"{kind}-plain")
        if state["seconds"] - noted > 180:
            noted = state["seconds"]
            note()
    note()
    publish("final", WEIGHTS / f"{kind}-tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["tokenizer", "roberta", "opt", "report"])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=105)
    parser.add_argument("--sst2", type=Path)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    if args.command == "tokenizer":
        train_tokenizer(read_corpora(args.corpora), args.scratch / "bpe.json")
    else:
        train_model(args.command, args)


if __name__ == "__main__":
    main()
