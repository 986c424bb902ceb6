"""Pretrain the tiny RoBERTa and OPT that ship with tinyzo (the only user of PyTorch here).

    python weights/pretrain.py tokenizer|roberta|opt --corpora DIR --scratch DIR

Every schedule follows the clock: the learning rate reaches zero after --minutes of training. A run
that was interrupted goes on from <scratch>/<model>.pt; a finished one only exports again.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import random
import re
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import OPTConfig, OPTForCausalLM, RobertaConfig, RobertaForMaskedLM

WEIGHTS = Path(__file__).resolve().parent
VOCAB, WIDTH, LAYERS, HEADS, POSITIONS = 6144, 192, 4, 6, 256
BOS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, VOCAB - 1
BATCH_TOKENS, PEAK_LR, WARMUP, MASK_RATE, VERDICT_MASK_RATE = 1024, 2e-3, 0.02, 0.2, 0.6
# (until this share of the time, tokens a sequence): short ones get a post-LN model off its plateau
LENGTHS = {
    "roberta": [(0.2, 10), (0.25, 20), (0.34, 40), (0.84, 64), (0.95, 128), (1.0, 256)],
    "opt": [(0.03, 10), (0.08, 20), (0.3, 40), (0.84, 64), (0.95, 128), (1.0, 256)],
}
VERDICTS = 0.55  # verdicts are mixed in after this share of the time
ADJECTIVES = [
    ["terrible"] * 3 + ["bad", "awful", "poor"],  # by label
    ["great"] * 3 + ["good", "excellent", "wonderful"],
]
FRAMES = ["It was {}."] * 6 + [
    "it was {} .",
    "The movie was {}.",
    "Overall it was {}.",
    "I thought it was {}.",
    "This is {}.",
    "All in all, it was {}.",
]
WHOLE_WORDS = (
    " terrible great bad okay good awful excellent wonderful poor Yes No Maybe yes no"
    " Description Entity Expression Human Location Number movie film phone food book"
    " camera music hotel game work home family money travel shopping"
)
MIXTURE = {"movies": 0.5, "products": 0.2, "books": 0.3}
STYLE_WEIGHTS = {"movies": (35, 35, 30), "products": (60, 40, 0), "books": (85, 15, 0)}
Document = tuple[list[str], int | None]  # sentences; 1 positive, 0 negative, None without polarity


def read_lines(path: Path) -> list[str]:
    text = html.unescape(path.read_text(encoding="utf-8", errors="replace"))
    lines = text.translate(str.maketrans("‘’“”", "''\"\"")).split("\n")
    return [" ".join(line.split()) for line in lines if line.strip()]


def read_documents(folder: Path) -> dict[str, list[Document]]:
    reviews = read_lines(folder / "movie_reviews.txt")  # 1,000 negative, then 1,000 positive
    items = read_lines(folder / "pros_cons.txt")  # cons, then pros
    pros = items.index("Easy to use, economical!")
    books = re.split(r"(?<=[.!?]) |\n", "\n".join(read_lines(folder / "gutenberg_13books.txt")))
    movies = [
        (re.split(r"(?<= [.!?]) (?![.!?])", review), int(i >= 1000))
        for i, review in enumerate(reviews)
    ]
    products = [
        (part[i : i + 16], label)
        for label, part in enumerate((items[:pros], items[pros:]))
        for i in range(0, len(part), 16)
    ]
    books = [(books[i : i + 80], None) for i in range(0, len(books), 80)]
    return {"movies": movies, "products": products, "books": books}


def read_corpora(folder: Path) -> tuple[dict, dict]:
    """Documents to train on, and the 5 % of each corpus that are held out, the same ones always."""
    train, held_out = {}, {}
    for name, documents in read_documents(folder).items():
        shuffled = random.Random(0).sample(documents, len(documents))
        cut = len(shuffled) // 20
        held_out[name], train[name] = shuffled[:cut], shuffled[cut:]
    return train, held_out


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


def restyle(rng: random.Random, corpus: str, text: str) -> str:
    return rng.choices([str, tokenised, natural], STYLE_WEIGHTS[corpus])[0](text)


def train_tokenizer(folder: Path, path: Path) -> None:
    """Byte-level BPE; the label words are repeated in its text so that each becomes one token."""
    rng = random.Random(1)
    texts = [
        restyle(rng, corpus, " ".join(sentences))
        for corpus, documents in read_documents(folder).items()
        for sentences, _ in documents
    ]
    texts += [WHOLE_WORDS, "Yes", "No", "Maybe", "terrible", "great"] * 3000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB - 1,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(path))


def build_tokenizer(path: Path, kind: str) -> Tokenizer:
    """The Hugging Face tokenizer of one model: they differ in <mask> and in the special tokens."""
    bpe = json.loads(path.read_text())["model"]
    vocab = bpe["vocab"] | ({"<mask>": MASK} if kind == "roberta" else {})
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge) for merge in bpe["merges"]]))
    tokenizer.add_special_tokens(
        [  # like the published one, <mask> swallows the space before it
            AddedToken(name, lstrip=name == "<mask>", normalized=False, special=True)
            for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
            if name in vocab
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", EOS)]
    )
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", EOS), ("<s>", BOS), trim_offsets=True, add_prefix_space=False
        )
    return tokenizer


class Rows:
    """Draws rows (ids, whether the third token from the end is the word of a verdict)."""

    def __init__(self, documents: dict, tokenizer: Tokenizer, kind: str, rng: random.Random):
        self.documents, self.tokenizer, self.kind, self.rng = documents, tokenizer, kind, rng

    @cached_property
    def opinions(self) -> dict[str, list[list[str]]]:
        """{corpus: [negative, positive] sentences}: all pros/cons; those of movie reviews whose
        words (log-odds between polarities, naive Bayes) clearly agree with the review's label."""
        seen = [Counter(), Counter()]
        for sentences, label in self.documents["movies"]:
            seen[label].update(word for s in sentences for word in set(s.split()))
        ratio = seen[1].total() / seen[0].total()
        odds = {
            word: math.log((seen[1][word] / ratio + 15) / (seen[0][word] + 15))
            for word in seen[0] | seen[1]
        }
        found = {"movies": [[], []], "products": [[], []]}
        for sentences, label in self.documents["products"]:
            found["products"][label] += sentences
        for sentence, label in ((s, label) for d, label in self.documents["movies"] for s in d):
            scores = [odds[word] for word in set(sentence.split()) if abs(odds[word]) > 0.2]
            if 4 < len(sentence.split()) < 45 and sum(scores) * (1 if label else -1) > 1:
                found["movies"][label].append(sentence)
        return found

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def wrap(self, ids: list[int], length: int) -> list[int]:
        if self.kind == "roberta":
            return [BOS, *ids[: length - 2], EOS]
        return [self.rng.choice((BOS, EOS)), *ids, EOS][:length]

    def passage(self, corpus: str, length: int, single: bool) -> tuple[list[int], bool]:
        sentences, _ = self.rng.choice(self.documents[corpus])
        start = self.rng.randrange(len(sentences))
        text = sentences[start] if single else " ".join(sentences[start:])[: 6 * length]
        return self.wrap(self.encode(restyle(self.rng, corpus, text)), length), False

    def verdict(self, length: int) -> tuple[list[int], bool]:
        rng, label = self.rng, self.rng.randrange(2)
        corpus = rng.choices(["movies", "products"], [60, 40])[0]
        sentences = rng.choices(self.opinions[corpus][label], k=rng.choice((1, 1, 1, 2)))
        text = restyle(rng, corpus, " ".join(sentences)) + " " * (rng.random() < 0.3)
        tail = " " + rng.choice(FRAMES).format(rng.choice(ADJECTIVES[label]))
        ids, tail_ids = self.encode(text), self.encode(tail)
        return self.wrap(ids[: length - 2 - len(tail_ids)] + tail_ids, length), True

    def pool(self, count: int, length: int, shares: tuple[float, float, float]) -> list:
        """Rows of long passages, single sentences and verdicts, in these shares."""
        corpora = self.rng.choices(list(MIXTURE), MIXTURE.values(), k=count)
        forms = self.rng.choices(["long", "single", "verdict"], shares, k=count)
        return [
            self.verdict(length)
            if form == "verdict"
            else self.passage(corpus, length, form == "single")
            for corpus, form in zip(corpora, forms, strict=True)
        ]


def batches(rows: list, rng: random.Random) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of like length together: (ids i64[B, T] padded with PAD, verdict positions or -1)."""
    rows, made = sorted(rows, key=lambda row: len(row[0])), []
    while rows:
        width = len(rows[-1][0])
        count = max(1, BATCH_TOKENS // width)
        part, rows = rows[-count:], rows[:-count]
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row, _ in part])
        made.append((ids, torch.tensor([len(row) - 3 if verdict else -1 for row, verdict in part])))
    rng.shuffle(made)
    return made


def build_model(kind: str) -> torch.nn.Module:
    common = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
    }
    if kind == "roberta":
        return RobertaForMaskedLM(
            RobertaConfig(
                **common,
                intermediate_size=4 * WIDTH,
                max_position_embeddings=POSITIONS + 2,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
                initializer_range=0.05,
                bos_token_id=BOS,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
    return OPTForCausalLM(
        OPTConfig(
            **common,
            ffn_dim=4 * WIDTH,
            max_position_embeddings=POSITIONS,
            word_embed_proj_dim=WIDTH,
            do_layer_norm_before=True,
            init_std=0.05,
            bos_token_id=EOS,
            dropout=0.0,
            attention_dropout=0.0,
        )
    )


def masked(ids: torch.Tensor, verdicts: torch.Tensor, rng: torch.Generator) -> tuple:
    """BERT's corruption (80 % mask, 10 % random, 10 % kept); a verdict is masked more often."""
    chosen = (torch.rand(ids.shape, generator=rng) < MASK_RATE) & (ids > UNK)
    roll = torch.rand(ids.shape, generator=rng)
    forced = (verdicts >= 0) & (torch.rand(len(ids), generator=rng) < VERDICT_MASK_RATE)
    chosen[forced, verdicts[forced]], roll[forced, verdicts[forced]] = True, 0.0
    noise = torch.randint(UNK + 1, MASK, ids.shape, generator=rng)
    kept = torch.where(chosen & (roll >= 0.9), noise, ids)
    return torch.where(chosen & (roll < 0.8), MASK, kept), chosen


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
    return cross_entropy(logits, targets, reduction="none"), targets


@torch.no_grad()
def held_out_loss(model, kind: str, tokenizer: Tokenizer, train: dict, held_out: dict) -> dict:
    """{corpus: [nats a token, the same of a unigram model of the training rows]}."""
    counts, result = torch.ones(VOCAB), {}
    for row, _ in Rows(train, tokenizer, kind, random.Random(2)).pool(8192, 64, (1, 0, 0)):
        counts += torch.bincount(torch.tensor(row), minlength=VOCAB)
    unigram = -(counts / counts.sum()).log()
    for corpus in held_out:
        source = Rows(held_out, tokenizer, kind, random.Random(3))
        rows = [source.passage(corpus, 64, False) for _ in range(256)]
        rng = torch.Generator().manual_seed(4)
        parts = [losses(model, kind, batch, rng) for batch in batches(rows, random.Random(5))]
        nats, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        result[corpus] = [round(x.mean().item(), 3) for x in (nats, unigram[targets])]
    return result


def export(model, kind: str, tokenizer: Tokenizer, folder: Path) -> None:
    """The Hugging Face directory in bf16, each file replaced atomically."""
    copy, fresh = build_model(kind), folder.with_name(folder.name + ".new")
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(fresh)
    tokenizer.save(str(fresh / "tokenizer.json"), pretty=False)
    tokenizer.model.save(str(fresh))
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
    if kind == "roberta":
        names |= {
            "bos_token": "<s>",
            "unk_token": "<unk>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "mask_token": "<mask>",
        }
        config = {"tokenizer_class": "RobertaTokenizer", "trim_offsets": True}
    config |= {"add_prefix_space": False, "errors": "replace", "model_max_length": POSITIONS}
    for name, value in [("special_tokens_map", names), ("tokenizer_config", config | names)]:
        (fresh / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.replace(folder / file.name)
    fresh.rmdir()


class Training:
    """One model under training, with everything that a resumed run needs."""

    def __init__(self, kind: str, args: argparse.Namespace):
        self.kind, self.args, self.file = kind, args, args.scratch / f"{kind}.pt"
        self.train, self.held_out = read_corpora(args.corpora)
        self.tokenizer = build_tokenizer(args.scratch / "bpe.json", kind)
        self.model, self.state = build_model(kind), {"seconds": 0.0, "steps": 0, "tokens": 0}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.98), eps=1e-6)
        if self.file.exists():
            saved = torch.load(self.file)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.state = saved["state"]
        steps = self.state["steps"]
        self.rng, self.generator = random.Random(steps), torch.Generator().manual_seed(steps)
        self.rows, self.pending = Rows(self.train, self.tokenizer, kind, self.rng), []

    def save(self) -> None:
        loss = held_out_loss(self.model, self.kind, self.tokenizer, self.train, self.held_out)
        print(json.dumps(self.state | {"held_out": loss}), flush=True)
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "state": self.state,
            },
            self.file.with_suffix(".new"),
        )
        self.file.with_suffix(".new").replace(self.file)

    def next_batch(self, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.pending:
            length = next(length for end, length in LENGTHS[self.kind] if share < end)
            forms = (0.5, 0.3, 0.2) if share > VERDICTS else (0.6, 0.4, 0)
            rows = self.rows.pool(16 * BATCH_TOKENS // length, length, forms)
            self.pending = batches(rows, self.rng)
        return self.pending.pop()

    def step(self, share: float) -> None:
        batch = self.next_batch(share)
        nats, _ = losses(self.model, self.kind, batch, self.generator)
        (nats.sum() / max(1, len(nats))).backward()  # a few short rows may hold no masked token
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        decay = min(share / WARMUP, (1 - share) / (1 - WARMUP))
        self.optimizer.param_groups[0]["lr"] = PEAK_LR * decay
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state["steps"] += 1
        self.state["tokens"] += int((batch[0] != PAD).sum())

    def run(self) -> None:
        begin, saved = time.time() - self.state["seconds"], time.time()
        plain = self.args.scratch / f"{self.kind}-plain"
        while (share := self.state["seconds"] / (60 * self.args.minutes)) < 1:
            if share > VERDICTS and not plain.exists():
                export(self.model, self.kind, self.tokenizer, plain)
            self.step(share)
            self.state["seconds"] = time.time() - begin
            if time.time() - saved > 180:
                self.save()
                saved = time.time()
        self.save()
        export(self.model, self.kind, self.tokenizer, WEIGHTS / f"{self.kind}-tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["tokenizer", "roberta", "opt"])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=104)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(6)
    if args.command == "tokenizer":
        train_tokenizer(args.corpora, args.scratch / "bpe.json")
    else:
        Training(args.command, args).run()


if __name__ == "__main__":
    main()
