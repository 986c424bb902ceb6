"""Folders of tokenizers as people have them: the recipes that golden/tokenizers.json is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_bpe import IDS, MERGES

Files = dict[str, Any]

MERGES_TXT = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""])
END = len(IDS)  # the first id after the vocabulary's

TEXTS = [  # the first is also read with what transformers puts around it
    "It was great",
    "It was<mask>. <s>Great</s> <unk><pad> <mask> \t<mask>the",
    "the<e1>film <e1> the  <E1> it\n<e1>\u00a0 \u3000<e1>_9é<e1>\u0301",
    "<e1>",
    " <e2><e1>  <e1x> <e1 <e2 [MASK] <|endoftext|> x",
    "  two  spaces \n\nI'm we'll\r\n",
    "\x1c <mask>\x85<mask>\u3000 <e1>\x1f ",
    "<mask><mas<mask>k> < mask></s",
    "e\u0301 caf\u00e9 日本語 😀 \ufffd \ufffdx",
    "The THE the tHe İstanbul straße ǅ",
    "",
    " ",
    "\n",
    "the" * 30 + " " * 40 + "9" * 20,
    "new news  new\tNEW new",
    "a\u200db \u24b6<e1>\u24b6 \u2118<e1> \u00b2<e1>",
]


def token(content: str, **flags: bool) -> Files:
    """An AddedToken as transformers writes it, plain unless told."""
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    return {"content": content, "normalized": False, "special": True} | plain | flags


def numbered(*tokens: Files) -> list[Files]:
    """Entries of tokenizer.json's added_tokens: with the vocabulary's ids, or those after."""
    new = iter(range(END, END + len(tokens)))
    return [{"id": IDS[t["content"]] if t["content"] in IDS else next(new), **t} for t in tokens]


def decoder(*tokens: Files) -> Files:
    """added_tokens_decoder of a tokenizer_config.json."""
    return {str(entry.pop("id")): entry for entry in numbered(*tokens)}


SPECIALS = [token(name) for name in ("<s>", "<pad>", "</s>", "<unk>")]
SPECIALS.append(token("<mask>", lstrip=True))
OPT_SPECIALS = [token("<pad>", normalized=True), token("</s>", normalized=True)]


def tokenizer_json(**changes: object) -> Files:
    """RoBERTa's tokenizer.json, fields replaced; model__merges is the field merges of model."""
    spec: Files = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": numbered(*SPECIALS),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", 2],
            "cls": ["<s>", 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": IDS,
            "merges": [list(pair) for pair in MERGES],
        },
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            spec[part] = {**spec[part], key: value}
        else:
            spec[part] = value
    return spec


def pair(ids: object = IDS, merges: object = MERGES_TXT, **files: object) -> Files:
    """vocab.json and merges.txt, and other files by stem."""
    return {"vocab.json": ids, "merges.txt": merges} | _named(files)


def fast(spec: object = None, **files: object) -> Files:
    """tokenizer.json, and other files by stem."""
    return {"tokenizer.json": tokenizer_json() if spec is None else spec} | _named(files)


def _named(files: Files) -> Files:
    names = {"config": "tokenizer_config", "specials": "special_tokens_map"}
    return {f"{names.get(stem, stem)}.json": content for stem, content in files.items()}


def less(fields: Files, name: str) -> Files:
    return {key: value for key, value in fields.items() if key != name}


def without(*names: str) -> dict[str, int]:
    """The vocabulary without some items; the last ids are free then."""
    return {piece: index for piece, index in IDS.items() if piece not in names}


def around(begin: list[str], end: list[str]) -> Files:
    """A post_processor that puts tokens around a text."""
    whole = [*begin, None, *end]
    single = [
        {"SpecialToken": {"id": text, "type_id": 0}}
        if text
        else {"Sequence": {"id": "A", "type_id": 0}}
        for text in whole
    ]
    special = {t: {"id": t, "ids": [IDS[t]], "tokens": [t]} for t in (*begin, *end)}
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


BOS = around(["</s>"], [])
AROUND = around(["<s>"], ["</s>"])
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": False,
    "use_regex": True,
}
OTHER_ENDS = tokenizer_json()["post_processor"] | {"sep": ["<pad>", 1], "cls": ["<unk>", 3]}


def roles(**names: str) -> Files:
    """Tokens with a role, with flags as transformers 4 writes them into special_tokens_map.json."""
    flags = {"rstrip": False, "single_word": False, "normalized": True}
    return {
        f"{role}_token": {"content": text, "lstrip": role == "mask", **flags}
        for role, text in names.items()
    }


ENDS = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>"}
PUBLISHED_MAP = roles(**ENDS, unk="<unk>", pad="<pad>", mask="<mask>")
E1 = token("<e1>")
NEW = token("new", special=False, normalized=True)
LATE = E1 | {"normalized": True}
OVERLAPPING = [LATE, token("e<e1>"), token("m<e1>", normalized=True)]
LATE_SPECIALS = [*(t | {"normalized": True} for t in SPECIALS[:4]), SPECIALS[4]]

ROBERTA: dict[str, Files] = {
    "pair": pair(),
    "pair, published": pair(
        config={"do_lower_case": False, "model_max_length": 512, "full_tokenizer_file": None},
        specials=PUBLISHED_MAP,
    ),
    "json": fast(),
    "json and pair": {**fast(), **pair()},
    "json and another pair": {**fast(), **pair({p: i for i, p in enumerate(reversed(IDS))})},
    "json, merges as strings": fast(tokenizer_json(model__merges=[" ".join(p) for p in MERGES])),
    "json without type": fast(tokenizer_json(model=less(tokenizer_json()["model"], "type"))),
    # spaces before a text
    "pair, prefix": pair(config={"add_prefix_space": True}),
    "json, prefix by config": fast(config={"add_prefix_space": True}),
    "json, prefix by json": fast(tokenizer_json(pre_tokenizer__add_prefix_space=True)),
    "json, prefix by both": fast(
        tokenizer_json(pre_tokenizer__add_prefix_space=True), config={"add_prefix_space": True}
    ),
    "json, prefix against config": fast(
        tokenizer_json(pre_tokenizer__add_prefix_space=True), config={"add_prefix_space": False}
    ),
    "json, prefix, rebuilt": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS, E1, NEW)), config={"add_prefix_space": True}
    ),
    # added_tokens.json
    "added one": pair(added_tokens={"<e1>": END}),
    "added two": pair(added_tokens={"<e1>": END, "<e2>": END + 1}),
    "added in another order": pair(added_tokens={"<e2>": END + 1, "<e1>": END}),
    "added with a gap": pair(added_tokens={"<e1>": 400}),
    "added with a gap between": pair(added_tokens={"<e1>": END, "<e2>": END + 5}),
    "added, in the vocabulary": pair(added_tokens={"Ġthe": IDS["Ġthe"]}),
    "added, in the vocabulary, another id": pair(added_tokens={"Ġthe": END}),
    "added, one id twice": pair(added_tokens={"<e1>": END, "<e2>": END}),
    "added, an id of the vocabulary": pair(added_tokens={"<e1>": 7}),
    "added mask": pair(without("<mask>"), added_tokens={"<mask>": END - 1}),
    "added mask, named": pair(
        without("<mask>"), added_tokens={"<mask>": END - 1}, specials={"mask_token": "<mask>"}
    ),
    "added mask, named with flags": pair(
        without("<mask>"), added_tokens={"<mask>": END - 1}, specials=PUBLISHED_MAP
    ),
    "added mask of the vocabulary": pair(added_tokens={"<mask>": END - 1}),
    "added mask of the vocabulary, published": pair(
        added_tokens={"<mask>": END - 1}, specials=PUBLISHED_MAP
    ),
    "added overlapping": pair(added_tokens={"<e1": END, "<e1>": END + 1, "1>f": END + 2}),
    "added words": pair(added_tokens={"new": END, " new": END + 1, "news": END + 2}),
    "added with marks": pair(added_tokens={"e\u0301": END, "日": END + 1, "😀": END + 2}),
    "added white space": pair(added_tokens={"  ": END, "\n": END + 1}),
    "added nothing": pair(added_tokens={}),
    "added empty text": pair(added_tokens={"": END}),
    "added beside json": {**fast(), "added_tokens.json": {"<e1>": END}},
    "added, json has it": {
        **fast(tokenizer_json(added_tokens=numbered(*SPECIALS, E1))),
        "added_tokens.json": {"<e1>": END},
    },
    "added, special by map": pair(
        added_tokens={"<e1>": END}, specials={"additional_special_tokens": ["<e1>"]}
    ),
    "added and config decoder": pair(
        added_tokens={"<e2>": END}, config={"added_tokens_decoder": decoder(*SPECIALS, E1)}
    ),
    # added_tokens_decoder
    "decoder": pair(config={"added_tokens_decoder": decoder(*SPECIALS)}),
    "decoder, one new": pair(config={"added_tokens_decoder": decoder(*SPECIALS, E1)}),
    "decoder, only new": pair(config={"added_tokens_decoder": decoder(E1)}),
    "decoder, lstrip": pair(
        config={"added_tokens_decoder": decoder(*SPECIALS, E1 | {"lstrip": True})}
    ),
    "decoder, rstrip": pair(
        config={"added_tokens_decoder": decoder(*SPECIALS, E1 | {"rstrip": True})}
    ),
    "decoder, both strips": pair(
        config={"added_tokens_decoder": decoder(*SPECIALS, E1 | {"lstrip": True, "rstrip": True})}
    ),
    "decoder, single word": pair(
        config={
            "added_tokens_decoder": decoder(
                *SPECIALS, E1 | {"single_word": True}, NEW | {"single_word": True}
            )
        }
    ),
    "decoder, all flags": pair(
        config={
            "added_tokens_decoder": decoder(
                *SPECIALS,
                E1 | dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), True),
            )
        }
    ),
    "decoder, normalized": pair(config={"added_tokens_decoder": decoder(*SPECIALS, *OVERLAPPING)}),
    "decoder, not special": pair(
        config={"added_tokens_decoder": decoder(*SPECIALS, E1 | {"special": False})}
    ),
    "decoder, mask without lstrip": pair(
        config={"added_tokens_decoder": decoder(*SPECIALS[:4], token("<mask>"))}
    ),
    "decoder, few fields": pair(config={"added_tokens_decoder": {str(END): {"content": "<e1>"}}}),
    "decoder with a gap": pair(config={"added_tokens_decoder": {"400": E1}}),
    "decoder, another id": pair(config={"added_tokens_decoder": {"400": token("<s>")}}),
    "decoder, a token not there": pair(
        config={"added_tokens_decoder": {"400": E1}, "additional_special_tokens": ["<e2>"]}
    ),
    "decoder with typed": pair(
        config={
            "added_tokens_decoder": decoder(*SPECIALS),
            "mask_token": {"__type": "AddedToken", **token("<mask>")},
        }
    ),
    "json and decoder": fast(config={"added_tokens_decoder": decoder(*SPECIALS)}),
    "json and decoder, one new": fast(config={"added_tokens_decoder": decoder(*SPECIALS, E1)}),
    "json and decoder, one missing": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS, E1)),
        config={"added_tokens_decoder": decoder(*SPECIALS)},
    ),
    "json and decoder, both new": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS, E1)),
        config={"added_tokens_decoder": decoder(*SPECIALS, E1)},
    ),
    "json and decoder, other flags": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS, E1)),
        config={"added_tokens_decoder": decoder(*SPECIALS, E1 | {"rstrip": True})},
    ),
    "json and decoder, another name": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS, E1)),
        config={"added_tokens_decoder": decoder(*SPECIALS, token("<e2>"))},
    ),
    "json and decoder, normalized": fast(
        tokenizer_json(
            added_tokens=numbered(*SPECIALS[:4], token("<mask>", lstrip=True, normalized=True))
        ),
        config={"added_tokens_decoder": decoder(*SPECIALS)},
    ),
    # added_tokens of tokenizer.json
    "json, one new": fast(tokenizer_json(added_tokens=numbered(*SPECIALS, E1))),
    "json, lstrip": fast(tokenizer_json(added_tokens=numbered(*SPECIALS, E1 | {"lstrip": True}))),
    "json, rstrip": fast(tokenizer_json(added_tokens=numbered(*SPECIALS, E1 | {"rstrip": True}))),
    "json, single word": fast(
        tokenizer_json(
            added_tokens=numbered(
                *SPECIALS, E1 | {"single_word": True}, NEW | {"single_word": True}
            )
        )
    ),
    "json, normalized": fast(tokenizer_json(added_tokens=numbered(*SPECIALS, *OVERLAPPING))),
    "json, unsorted": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS, E1, token("<e2>"))[::-1])
    ),
    "json with a gap": fast(tokenizer_json(added_tokens=[*numbered(*SPECIALS), {"id": 400, **E1}])),
    "json, another id": fast(
        tokenizer_json(added_tokens=[*numbered(*SPECIALS), {"id": END, **token("Ġthe")}])
    ),
    "json, twice": fast(
        tokenizer_json(added_tokens=[*numbered(*SPECIALS, E1), {"id": END, **E1, "rstrip": True}])
    ),
    "json, no specials": fast(tokenizer_json(added_tokens=[])),
    "json, mask without lstrip": fast(
        tokenizer_json(added_tokens=numbered(*SPECIALS[:4], token("<mask>")))
    ),
    "json without added_tokens": fast(less(tokenizer_json(), "added_tokens")),
    "json, published": fast(
        tokenizer_json(added_tokens=numbered(*LATE_SPECIALS)), config={"model_max_length": 512}
    ),
    # special_tokens_map.json, and the same in tokenizer_config.json
    "map, mask without flags": pair(specials={"mask_token": "<mask>"}),
    "map, mask without lstrip": pair(specials={"mask_token": token("<mask>")}),
    "map, mask with rstrip": pair(specials={"mask_token": token("<mask>", rstrip=True)}),
    "map, another mask": pair(specials={"mask_token": "[MASK]"}),
    "map, no mask": pair(specials={"mask_token": None}),
    "map, more": pair(specials={"additional_special_tokens": ["<e1>", "<e2>"]}),
    "map, more with flags": pair(
        specials={"additional_special_tokens": [token("<e1>", rstrip=True)]}
    ),
    "map, extra": pair(specials=PUBLISHED_MAP | {"extra_special_tokens": ["<e1>", "<e2>"]}),
    "map, of the vocabulary": pair(specials={"additional_special_tokens": ["Ġthe", "s"]}),
    "map, another pad": pair(specials={"pad_token": "<e1>"}),
    "map, another unk": pair(specials={"unk_token": "<e1>"}),
    "map, another bos": pair(specials={"bos_token": "<e1>"}),
    "map, other ends": pair(specials={"cls_token": "</s>", "sep_token": "<s>"}),
    "map, other new ends": pair(specials={"cls_token": "<e1>", "sep_token": "<e2>"}),
    "map beside json": fast(specials=PUBLISHED_MAP),
    "map beside json, more": fast(specials={"additional_special_tokens": ["<e1>"]}),
    "map beside json, other ends": fast(specials={"cls_token": "</s>", "sep_token": "<s>"}),
    "map and config": pair(specials={"pad_token": "<e1>"}, config={"pad_token": "<e2>"}),
    "map and decoder": pair(
        specials={"pad_token": "<e1>"}, config={"added_tokens_decoder": decoder(*SPECIALS)}
    ),
    "config, more": pair(config={"additional_special_tokens": ["<e1>", "<e2>"]}),
    "config, more in both": pair(
        config={"additional_special_tokens": ["<e1>"]},
        specials={"additional_special_tokens": ["<e2>"]},
    ),
    "config, extra": pair(
        config={"extra_special_tokens": ["<e1>", "<e2>"]}, specials=PUBLISHED_MAP
    ),
    "config, extra by name": pair(config={"extra_special_tokens": {"image_token": "<e1>"}}),
    "config, own token": pair(config={"image_token": "<e1>"}),
    "config, another pad": pair(config={"pad_token": "<e1>"}),
    "config, no mask": pair(config={"mask_token": None}),
    "config, another mask": pair(config={"mask_token": "[MASK]"}),
    "config, ends": pair(config={"cls_token": "</s>", "sep_token": "<s>"}),
    "config, typed": pair(
        config={"mask_token": {"__type": "AddedToken", **token("<mask>", rstrip=True)}}
    ),
    "config, untyped": pair(config={"mask_token": token("<mask>", rstrip=True)}),
    "vocabulary without mask": pair(without("<mask>")),
    "vocabulary without unk": pair({p: i - (i > 3) for p, i in IDS.items() if p != "<unk>"}),
    # as published, and more
    "published, added": pair(specials=PUBLISHED_MAP, added_tokens={"<e1>": END, "<e2>": END + 1}),
    "published, more": pair(specials=PUBLISHED_MAP | {"additional_special_tokens": ["<e2>"]}),
    "published, extra": pair(specials=PUBLISHED_MAP, config={"extra_special_tokens": ["<e1>"]}),
    "published, prefix": pair(specials=PUBLISHED_MAP, config={"add_prefix_space": True}),
    "published, prefix by map": pair(specials=PUBLISHED_MAP | {"add_prefix_space": True}),
    "published, prefix and added": pair(
        specials=PUBLISHED_MAP, config={"add_prefix_space": True}, added_tokens={"news": END}
    ),
    "published, another pad": pair(specials=PUBLISHED_MAP | {"pad_token": "[PAD]"}),
    "published, no unk": pair(specials=PUBLISHED_MAP | {"unk_token": None}),
    "published, other ends": pair(specials=PUBLISHED_MAP | roles(cls="</s>", sep="<s>")),
    "published, CRLF": pair(merges=MERGES_TXT.replace("\n", "\r\n"), specials=PUBLISHED_MAP),
    "published, without mask": pair(without("<mask>"), specials=PUBLISHED_MAP),
    "published, no merges": pair(merges="#version: 0.2\n", specials=PUBLISHED_MAP),
    "published, words": pair(
        specials=PUBLISHED_MAP, added_tokens={"new": END, " new": END + 1, "news": END + 2}
    ),
    "published, marks": pair(
        specials=PUBLISHED_MAP, added_tokens={"e\u0301": END, "日": END + 1, "😀": END + 2}
    ),
    "published, upper and lower case": pair(
        specials=PUBLISHED_MAP, added_tokens={"the": END, "THE": END + 1, "straße": END + 2}
    ),
    "published, typed more": pair(
        config={"additional_special_tokens": [{"__type": "AddedToken", **E1, "lstrip": True}]},
        specials=PUBLISHED_MAP,
    ),
    # classes
    "class Roberta": pair(config={"tokenizer_class": "RobertaTokenizer"}),
    "class RobertaFast": pair(config={"tokenizer_class": "RobertaTokenizerFast"}),
    "class Roberta, json": fast(config={"tokenizer_class": "RobertaTokenizer"}),
    "class GPT2": pair(config={"tokenizer_class": "GPT2Tokenizer"}),
    "class GPT2, json": fast(config={"tokenizer_class": "GPT2Tokenizer"}),
    "class GPT2, named": pair(config={"tokenizer_class": "GPT2Tokenizer", **PUBLISHED_MAP}),
    "class PreTrainedFast": pair(config={"tokenizer_class": "PreTrainedTokenizerFast"}),
    "class PreTrainedFast, json": fast(config={"tokenizer_class": "PreTrainedTokenizerFast"}),
    "class PreTrainedFast, json, prefix": fast(
        tokenizer_json(pre_tokenizer__add_prefix_space=True),
        config={"tokenizer_class": "PreTrainedTokenizerFast"},
    ),
    "class TokenizersBackend, json": fast(config={"tokenizer_class": "TokenizersBackend"}),
    "class Bart": pair(config={"tokenizer_class": "BartTokenizer"}),
    "class Bart, json": fast(config={"tokenizer_class": "BartTokenizer"}),
    "class Bert": pair(config={"tokenizer_class": "BertTokenizer"}),
    "class XLMRoberta": pair(config={"tokenizer_class": "XLMRobertaTokenizer"}),
    "class unknown": pair(config={"tokenizer_class": "MyTokenizer"}),
    "class by config": {
        **pair(),
        "config.json": {"model_type": "roberta", "tokenizer_class": "RobertaTokenizer"},
    },
    "class by config, another": {
        **pair(),
        "config.json": {"model_type": "roberta", "tokenizer_class": "GPT2Tokenizer"},
    },
    "class by auto_map": pair(config={"auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}),
    # settings
    "lower case": pair(config={"do_lower_case": True}),
    "lower case, json": fast(config={"do_lower_case": True}),
    "of no account": pair(
        config={
            "clean_up_tokenization_spaces": True,
            "errors": "strict",
            "model_max_length": 4,
            "trim_offsets": False,
            "padding_side": "left",
            "truncation_side": "left",
            "name_or_path": "elsewhere",
        }
    ),
    "of no account, json": fast(
        config={
            "clean_up_tokenization_spaces": True,
            "errors": "strict",
            "model_max_length": 4,
            "trim_offsets": False,
            "max_length": 3,
            "stride": 1,
        }
    ),
    "split specials": pair(config={"split_special_tokens": True}),
    "split specials, json": fast(config={"split_special_tokens": True}),
    "from slow": {**fast(config={"from_slow": True}), **pair()},
    "file of config null": fast(config={"tokenizer_file": None}),
    "file of config null, pair": {**fast(config={"tokenizer_file": None}), **pair()},
    "vocab file of config null": pair(
        config={"vocab_file": None, "merges_file": None}, specials=PUBLISHED_MAP
    ),
    "vocab file of config": pair(config={"vocab_file": "/nowhere/vocab.json"}),
    "versioned files": fast(
        config={"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.0.json"]}
    ),
    "add bos": pair(config={"add_bos_token": True}),
    "add no bos": pair(config={"add_bos_token": False}),
    "add eos": pair(config={"add_eos_token": True}),
    "add bos, json": fast(config={"add_bos_token": True, "add_eos_token": True}),
    "truncation": fast(
        tokenizer_json(
            truncation={
                "direction": "Right",
                "max_length": 3,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        )
    ),
    "padding": fast(
        tokenizer_json(
            padding={
                "strategy": {"Fixed": 12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 1,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            }
        )
    ),
    "dropout": fast(tokenizer_json(model__dropout=0.5)),
    "no dropout": fast(tokenizer_json(model__dropout=0.0)),
    "unk": fast(tokenizer_json(model__unk_token="<unk>", model__fuse_unk=True)),
    "byte fallback": fast(tokenizer_json(model__byte_fallback=True)),
    "ignore merges": fast(
        tokenizer_json(model__ignore_merges=True, model__vocab={**IDS, "Ġwaz": END, "zq": END + 1})
    ),
    "subword prefix": fast(tokenizer_json(model__continuing_subword_prefix="##")),
    "word suffix": fast(tokenizer_json(model__end_of_word_suffix="</w>")),
    "normalizer NFC": fast(tokenizer_json(normalizer={"type": "NFC"})),
    "normalizer lower case": fast(tokenizer_json(normalizer={"type": "Lowercase"})),
    "normalizer of nothing": fast(
        tokenizer_json(normalizer={"type": "Sequence", "normalizers": []})
    ),
    "no pre-tokenizer": fast(tokenizer_json(pre_tokenizer=None)),
    "no regex": fast(tokenizer_json(pre_tokenizer__use_regex=False)),
    "sequence of one": fast(
        tokenizer_json(
            pre_tokenizer={"type": "Sequence", "pretokenizers": [tokenizer_json()["pre_tokenizer"]]}
        )
    ),
    "digits": fast(
        tokenizer_json(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    tokenizer_json()["pre_tokenizer"],
                ],
            }
        )
    ),
    "no post-processor": fast(tokenizer_json(post_processor=None)),
    "post-processor of bytes": fast(tokenizer_json(post_processor=BYTE_LEVEL)),
    "post-processor of a template": fast(tokenizer_json(post_processor=AROUND)),
    "post-processor of other ends": fast(tokenizer_json(post_processor=OTHER_ENDS)),
    "post-processor of several": fast(
        tokenizer_json(post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, AROUND]})
    ),
    "post-processor of bos": fast(tokenizer_json(post_processor=BOS)),
    "model of another kind": fast(
        tokenizer_json(
            model={"type": "WordLevel", "vocab": {"the": 0, "<unk>": 1}, "unk_token": "<unk>"}
        )
    ),
    # how files are written
    "merges with CRLF": pair(merges=MERGES_TXT.replace("\n", "\r\n")),
    "merges without a version": pair(merges=MERGES_TXT.partition("\n")[2]),
    "merges with a version in the middle": pair(
        merges=MERGES_TXT.replace("\n", "\n#version: 0.2\n", 9), specials=PUBLISHED_MAP
    ),
    "merges with another first line": pair(merges=MERGES_TXT.replace("#version: 0.2", "#versions")),
    "merges with a byte-order mark": pair(merges="\ufeff" + MERGES_TXT),
    "merges with spaces at the end": pair(merges=MERGES_TXT.replace("\n", " \n")),
    "merges with a space at one end": pair(merges=MERGES_TXT.replace("\n", " \n", 3)),
    "merges without a last line end": pair(merges=MERGES_TXT.rstrip("\n")),
    "merges with an empty line": pair(merges=MERGES_TXT.replace("\n", "\n\n", 5)),
    "merges with an empty end": pair(merges=MERGES_TXT + "\n\n"),
    "merges, one twice": pair(merges=MERGES_TXT + " ".join(MERGES[2]) + "\n"),
    "merges, one unknown": pair(merges=MERGES_TXT + "q z\n"),
    "merges, none": pair(merges="#version: 0.2\n"),
    "merges missing": {"vocab.json": IDS},
    "vocabulary with a byte-order mark": pair("\ufeff" + json.dumps(IDS)),
    "vocabulary, a key twice": pair(json.dumps(IDS)[:-1] + ', "<s>": 0}'),
    "vocabulary, a key twice, another id": pair(json.dumps(IDS)[:-1] + f', "<s>": {END}}}'),
    "vocabulary, an id twice": pair({**IDS, "zq": 9}),
    "vocabulary with a gap": pair({**IDS, "zq": 400}),
    "vocabulary in UTF-16": pair(json.dumps(IDS, ensure_ascii=False).encode("utf-16")),
    "vocabulary in Latin-1": pair(
        json.dumps(without(*(p for p in IDS if not p.isascii())), ensure_ascii=False).encode()
        + b"\xe9"
    ),
    "json with a byte-order mark": fast("\ufeff" + json.dumps(tokenizer_json())),
    "config with a byte-order mark": pair(config="\ufeff{}"),
    "json, a model twice": fast(json.dumps(tokenizer_json())[:-1] + ', "model": {}}'),
}

NAMED = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
TYPED = {
    role: {"__type": "AddedToken", **value}
    for role, value in roles(bos="</s>", eos="</s>", unk="</s>", pad="<pad>").items()
}
OPT_CONFIG = {
    "errors": "replace",
    **TYPED,
    "add_prefix_space": False,
    "add_bos_token": True,
    "special_tokens_map_file": None,
    "name_or_path": "elsewhere",
    "tokenizer_class": "GPT2Tokenizer",
}
OPT_JSON = tokenizer_json(added_tokens=numbered(*OPT_SPECIALS), post_processor=BOS)

OPT: dict[str, Files] = {
    "opt pair": pair(),
    "opt published": pair(config=OPT_CONFIG),
    "opt published, map": pair(config=OPT_CONFIG, specials=NAMED),
    "opt named": pair(config={**NAMED, "add_bos_token": True}),
    "opt named by map": pair(specials=NAMED),
    "opt named by map, config": pair(specials=NAMED, config={"add_bos_token": True}),
    "opt json": fast(OPT_JSON),
    "opt json, config": fast(OPT_JSON, config=OPT_CONFIG),
    "opt json, post-processor of bytes": fast(
        {**OPT_JSON, "post_processor": BYTE_LEVEL}, config=OPT_CONFIG
    ),
    "opt json, no post-processor": fast({**OPT_JSON, "post_processor": None}, config=OPT_CONFIG),
    "opt json, no bos": fast(
        {**OPT_JSON, "post_processor": BYTE_LEVEL}, config={**OPT_CONFIG, "add_bos_token": False}
    ),
    "opt json, ends of RoBERTa": fast({**OPT_JSON, "post_processor": AROUND}, config=OPT_CONFIG),
    "opt no bos": pair(config={**OPT_CONFIG, "add_bos_token": False}),
    "opt bos not said": pair(config=less(OPT_CONFIG, "add_bos_token")),
    "opt add eos": pair(config={**OPT_CONFIG, "add_eos_token": True}),
    "opt without names": pair(config={"add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"}),
    "opt without unk": pair(config=less(OPT_CONFIG, "unk_token")),
    "opt without pad": pair(config=less(OPT_CONFIG, "pad_token")),
    "opt another bos": pair(config={**OPT_CONFIG, "bos_token": "<s>"}),
    "opt another pad": pair(
        config={**OPT_CONFIG, "pad_token": "[PAD]"}, added_tokens={"[PAD]": END}
    ),
    "opt another pad, map": pair(
        config=OPT_CONFIG, specials={**NAMED, "pad_token": "[PAD]"}, added_tokens={"[PAD]": END}
    ),
    "opt decoder": pair(config={**OPT_CONFIG, "added_tokens_decoder": decoder(*OPT_SPECIALS)}),
    "opt decoder, one new": pair(
        config={**OPT_CONFIG, "added_tokens_decoder": decoder(*OPT_SPECIALS, E1)}
    ),
    "opt json and decoder": fast(
        OPT_JSON, config={**OPT_CONFIG, "added_tokens_decoder": decoder(*OPT_SPECIALS)}
    ),
    "opt added": pair(config=OPT_CONFIG, added_tokens={"<e1>": END, "<e2>": END + 1}),
    "opt mask": pair(config={**OPT_CONFIG, "mask_token": "<mask>"}),
    "opt prefix": pair(config={**OPT_CONFIG, "add_prefix_space": True}),
    "opt class GPT2Fast": pair(config={**OPT_CONFIG, "tokenizer_class": "GPT2TokenizerFast"}),
    "opt class Roberta": pair(config={"tokenizer_class": "RobertaTokenizer"}),
    "opt class PreTrainedFast, json": fast(
        OPT_JSON, config={**OPT_CONFIG, "tokenizer_class": "PreTrainedTokenizerFast"}
    ),
    "opt class OPT": pair(config={**OPT_CONFIG, "tokenizer_class": "OPTTokenizer"}),
    "opt lower case": pair(config={**OPT_CONFIG, "do_lower_case": True}),
    "opt merges with CRLF": pair(merges=MERGES_TXT.replace("\n", "\r\n"), config=OPT_CONFIG),
}


def with_config(files: Files, model_type: str) -> Files:
    return {"config.json": {"model_type": model_type}} | files


FOLDERS = {name: with_config(files, "roberta") for name, files in ROBERTA.items()}
FOLDERS |= {name: with_config(files, "opt") for name, files in OPT.items()}


def write_folder(directory: Path, files: Files) -> Path:
    """Text as UTF-8, bytes as they are, all else as JSON; and never through a link."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        if isinstance(content, str):
            content = content.encode()
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_bytes(content)
    return directory
