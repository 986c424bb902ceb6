"""The tokenizer face: both backends alike, the real vocabularies, and every refusal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from broken import break_package
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import DATA, VOCABULARIES
from small_bpe import IDS, MERGES

from tinyzo.errors import TokenizerError
from tinyzo.packages import say_once
from tinyzo.text.tokenizer import load_tokenizer

TRICKY = [
    "It was<mask>. <s>Great</s> <unk><pad> <mask> \t<mask>the",
    "  two  spaces \n\nI'm we'll\r\n",
    "\x1c <mask>\x85<mask>\u3000",
    "<mask><mas<mask>k> < mask></s",
    "e\u0301 日本語 😀 \ud800 \udc00x \ud83d\ude00",
    "",
]


def added_token(name: str) -> dict:
    """An entry of added_tokens as transformers writes it for RoBERTa."""
    is_mask = name == "<mask>"
    flags = {"single_word": False, "lstrip": is_mask, "rstrip": False, "normalized": not is_mask}
    return {"id": IDS[name], "content": name, "special": True} | flags


# A tokenizer.json as transformers writes it for RoBERTa, with the merges as strings.
TOKENIZER_JSON = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [added_token(n) for n in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
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
        "fuse_unk": False,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "vocab": IDS,
        "merges": [" ".join(pair) for pair in MERGES],
    },
}


def tokenizer_json(**changes) -> dict:
    """TOKENIZER_JSON with fields replaced; model__merges is the field merges of model."""
    spec = json.loads(json.dumps(TOKENIZER_JSON))
    for name, value in changes.items():
        part, _, key = name.partition("__")
        (spec[part] if key else spec)[key or part] = value
    return spec


def write(directory: Path, **files) -> Path:
    """Files by stem: text as it is, anything else as JSON."""
    directory.mkdir(exist_ok=True)
    for stem, content in files.items():
        name = "merges.txt" if stem == "merges" else f"{stem}.json"
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def write_pair(directory: Path, ids=IDS, merges=MERGES, **files) -> Path:
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    return write(directory, vocab=ids, merges="\n".join(lines), **files)


@pytest.fixture(params=["tokenizers", "bpe"])
def backend(request, monkeypatch):
    if request.param == "tokenizers":
        pytest.importorskip("tokenizers", reason="this backend is not installed")
    monkeypatch.setenv("TINYZO_NO_TOKENIZERS", "1" if request.param == "bpe" else "0")
    return request.param


def both(directory: Path):
    pytest.importorskip("tokenizers", reason="the other backend is not installed")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("TINYZO_NO_TOKENIZERS", raising=False)
        packaged = load_tokenizer(directory)
        environment.setenv("TINYZO_NO_TOKENIZERS", "1")
        own = load_tokenizer(directory)
    assert (packaged.backend, own.backend) == ("tokenizers", "bpe")
    return packaged, own


def refusal(directory: Path) -> str:
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(directory)
    assert caught.value.hint
    return caught.value.message


def test_ids_of_a_small_vocabulary(tmp_path, backend):
    tokenizer = load_tokenizer(write_pair(tmp_path))
    assert tokenizer.backend == backend
    assert tokenizer.vocab_size == len(IDS) == 4 + 256 + 60 + 1
    roles = ("bos_id", "eos_id", "mask_id")
    assert [getattr(tokenizer, role) for role in roles] == [0, 2, 320]
    ids = tokenizer.encode("the q \t<mask>")
    assert ids == [IDS["t"], IDS["he"], IDS["Ġ"], IDS["q"], 320]
    assert tokenizer.token_id("Ġthe") == IDS["Ġthe"] == tokenizer.word_id(" the")


def test_the_environment_and_a_missing_package_choose_the_backend(tmp_path, monkeypatch):
    write_pair(tmp_path)
    monkeypatch.setenv("TINYZO_NO_TOKENIZERS", "1")
    assert load_tokenizer(tmp_path).backend == "bpe"
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # what makes `import` raise
    for value in ("", "0"):
        monkeypatch.setenv("TINYZO_NO_TOKENIZERS", value)
        assert load_tokenizer(tmp_path).backend == "bpe"
    monkeypatch.delitem(sys.modules, "tokenizers")
    pytest.importorskip("tokenizers", reason="the other backend is not installed")
    assert load_tokenizer(tmp_path).backend == "tokenizers"


@pytest.mark.parametrize("code", ['raise SystemError("bad")', "", "models = None"])
def test_a_broken_package_is_said_once_and_our_bpe_makes_the_ids(
    tmp_path, monkeypatch, capsys, code
):
    """At its import, or at its first use, as where it is of another version."""
    say_once.cache_clear()
    monkeypatch.delenv("TINYZO_NO_TOKENIZERS", raising=False)
    break_package(monkeypatch, tmp_path / "path", "tokenizers", code)
    write_pair(tmp_path)
    for _ in range(2):
        assert load_tokenizer(tmp_path).backend == "bpe"
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"tinyzo: tokenizers cannot be used \(\w+Error: .*\): our own BPE .*", line)


def test_opt_has_two_specials_and_begins_with_the_end(tmp_path, backend):
    tokenizer = load_tokenizer(write_pair(tmp_path, config={"model_type": "opt"}))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id) == (2, 2, None)
    assert tokenizer.encode("<pad></s>") == [1, 2]
    assert tokenizer.encode("<s>") == [IDS["<"], IDS["s"], IDS[">"]]
    assert tokenizer.encode("<mask>")[0] == IDS["<"]


def test_a_vocabulary_without_mask(tmp_path, backend):
    ids = {piece: index for piece, index in IDS.items() if piece != "<mask>"}
    assert load_tokenizer(write_pair(tmp_path, ids)).mask_id is None


@pytest.mark.parametrize("text", TRICKY)
def test_both_backends_from_either_kind_of_file(tmp_path, text):
    pairs = [list(pair) for pair in MERGES]
    directories = [
        write_pair(tmp_path / "two_files"),
        write(tmp_path / "strings", tokenizer=tokenizer_json()),
        write(tmp_path / "pairs", tokenizer=tokenizer_json(model__merges=pairs)),
    ]
    loaded = [tokenizer for directory in directories for tokenizer in both(directory)]
    assert len({tuple(tokenizer.encode(text)) for tokenizer in loaded}) == 1


def test_added_tokens_outside_the_vocabulary_of_the_model(tmp_path, backend):
    spec = tokenizer_json()
    spec["added_tokens"].append({"id": len(IDS), "content": "<new>", "lstrip": True})
    tokenizer = load_tokenizer(write(tmp_path, tokenizer=spec))
    assert tokenizer.encode("t <new>t") == [IDS["t"], 321, IDS["t"]]
    assert tokenizer.vocab_size == 322 and tokenizer.token_id("<new>") == 321


PARTS = st.sampled_from(["<mask>", "<s>", "</s>", "<pad>", "<unk>", "<", "mask>"])
WORDS = st.sampled_from([" ", "\x1c", "\u3000", "the", "film's", "'ll", "\ud83d", "\ude00", "9"])
TEXT = st.text(st.characters(exclude_categories=["Cn", "Co"]), max_size=5)
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return both(write_pair(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def oracle():
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle is not installed")
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json()))


@RELAXED
@given(st.lists(PARTS | WORDS | TEXT, max_size=12).map("".join))
def test_random_text_as_the_package_reads_tokenizer_json(small, oracle, text):
    scalar = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    expected = oracle.encode(scalar, add_special_tokens=False).ids
    assert small[0].encode(text) == small[1].encode(text) == expected


def test_words_and_items_that_are_not_one_token(tmp_path, backend):
    tokenizer = load_tokenizer(write_pair(tmp_path))
    with pytest.raises(TokenizerError) as caught:
        tokenizer.word_id(" zq")
    assert caught.value.message == "label word ' zq' is 3 tokens: 'Ġ', 'z', 'q'"
    assert caught.value.hint == "choose one of one token, with its space, as ' great'"
    with pytest.raises(TokenizerError, match="label word '' is 0 tokens: none"):
        tokenizer.word_id("")
    with pytest.raises(TokenizerError, match="the vocabulary of 321 items has no 'Ġzq'"):
        tokenizer.token_id("Ġzq")


def test_missing_files(tmp_path):
    assert refusal(tmp_path / "nowhere").startswith(f"cannot read {tmp_path / 'nowhere'}")
    assert "vocab.json: FileNotFoundError(2, 'No such file" in refusal(write(tmp_path))
    assert "merges.txt: FileNotFoundError" in refusal(write(tmp_path, vocab=IDS))


def test_missing_specials(tmp_path, backend):
    ids = {("<S>" if piece == "<s>" else piece): index for piece, index in IDS.items()}
    assert refusal(write_pair(tmp_path, ids)) == "the vocabulary of 321 items has no '<s>'"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("{", "vocab.json: JSONDecodeError('Expecting property name"),
        ("[" * 100_000, "vocab.json: RecursionError("),
        ('{"a": ' + "9" * 5000 + "}", "vocab.json: ValueError("),
        ([1, 2], "vocab.json: TypeError("),
        (IDS | {"new": 400}, "the ids of 322 vocabulary items are not 0 to 321, each once"),
        (IDS | {"new": 5}, "the ids of 322 vocabulary items are not 0 to 321, each once"),
        (IDS | {"new": 321.0}, "the ids of 322 vocabulary items are not 0 to 321, each once"),
        (IDS | {"new": []}, "the ids of 322 vocabulary items are not 0 to 321, each once"),
        ({"<s>": 0, "a": 1}, "255 of the 256 byte characters are not in the vocabulary"),
        (IDS | {"": 321}, "a vocabulary item is empty or not Unicode text"),
        (IDS | {"\udead": 321}, "a vocabulary item is empty or not Unicode text"),
    ],
)
def test_damaged_vocabularies(tmp_path, backend, ids, message):
    directory = write_pair(tmp_path)
    assert message in refusal(write(directory, vocab=ids))


@pytest.mark.parametrize("line", ["t zz", "zz t", "t q", "t", "t h e", "t  h"])
def test_damaged_merges(tmp_path, backend, line):
    directory = write_pair(tmp_path)
    (directory / "merges.txt").write_text(f"#version: 0.2\nh e\n{line}\n")
    assert f"merge {line!r} does not make a vocabulary item from two" in refusal(directory)


def test_files_that_are_not_utf8(tmp_path):
    directory = write_pair(tmp_path)
    (directory / "merges.txt").write_bytes(b"\xff\xfe")
    assert "merges.txt: UnicodeDecodeError(" in refusal(directory)
    assert "config.json: TypeError(" in refusal(write(directory, config=[1]))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "model.type is 'WordPiece'"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}, "model.type is 'Unigram'"),
        ({"model__dropout": 0.1}, "model.dropout is 0.1"),
        ({"model__byte_fallback": True}, "model.byte_fallback is True"),
        ({"model__ignore_merges": True}, "model.ignore_merges is True"),
        ({"model__continuing_subword_prefix": "##"}, "model.continuing_subword_prefix is '##'"),
        ({"model__end_of_word_suffix": "</w>"}, "model.end_of_word_suffix is '</w>'"),
        ({"pre_tokenizer": None}, "pre_tokenizer.type is None"),
        ({"pre_tokenizer__type": "Metaspace"}, "pre_tokenizer.type is 'Metaspace'"),
        ({"pre_tokenizer__add_prefix_space": True}, "pre_tokenizer.add_prefix_space is True"),
        ({"pre_tokenizer__use_regex": False}, "pre_tokenizer.use_regex is False"),
        ({"normalizer": {"type": "NFC"}}, "tokenizer.normalizer is {'type': 'NFC'}"),
        ({"added_tokens": [{"id": 0, "content": "<s>", "rstrip": True}]}, ".rstrip is True"),
        ({"added_tokens": [{"id": 0, "content": "<s>", "single_word": True}]}, ".single_word is"),
    ],
)
def test_a_tokenizer_json_of_another_kind(tmp_path, backend, changes, found):
    directory = write(tmp_path, tokenizer=tokenizer_json(**changes))
    assert found in refusal(directory)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}", "tokenizer.json: KeyError('model')"),
        ("[]", "tokenizer.json: TypeError("),
        (tokenizer_json(model="BPE"), "tokenizer.json: AttributeError("),
        (tokenizer_json(model__vocab=[]), "tokenizer.json: TypeError("),
        (tokenizer_json(model__merges=[5]), "tokenizer.json: TypeError("),
        (tokenizer_json(model__merges=[["t"]]), "merge 't' does not make"),
        (tokenizer_json(model__merges=[["t", ["h"]]]), "does not make a vocabulary item from two"),
        (tokenizer_json(added_tokens=[{"id": 9}]), "tokenizer.json: KeyError('content')"),
        (tokenizer_json(added_tokens=[{"id": 9, "content": "<s>"}]), "not 0 to 320, each once"),
        (tokenizer_json(added_tokens=[{"id": 321, "content": ""}]), "is empty or not Unicode"),
    ],
)
def test_a_damaged_tokenizer_json(tmp_path, backend, spec, message):
    assert message in refusal(write(tmp_path, tokenizer=spec))


# The real vocabularies


@pytest.fixture(scope="module", params=["roberta", "opt"])
def real(request, tmp_path_factory):
    """Both backends on a real vocabulary, and its name."""
    source = VOCABULARIES / request.param
    if not source.is_dir():
        pytest.skip("compares with transformers' ids of real vocabularies (../shared/tokenizers)")
    directory = tmp_path_factory.mktemp(request.param)
    for name in ("vocab.json", "merges.txt"):
        (directory / name).symlink_to(source.resolve() / name)
    write(directory, config={"model_type": request.param})
    return request.param, both(directory)


def test_golden_ids_of_transformers(real):
    family, backends = real
    files = sorted((VOCABULARIES / "golden").glob(f"{family}_*.json"))
    rows = [row for path in files for row in json.loads(path.read_text(encoding="utf-8"))]
    assert len(rows) == {"roberta": 891, "opt": 991}[family]
    for tokenizer in backends:
        last = [tokenizer.eos_id] if family == "roberta" else []
        for row in rows:
            assert [tokenizer.bos_id, *tokenizer.encode(row["text"]), *last] == row["ids"]


def test_golden_label_words(real):
    family, backends = real
    rows = json.loads((VOCABULARIES / "golden" / "label_words.json").read_text())
    assert rows
    for word, ids in rows.items():
        for tokenizer in backends:
            assert tokenizer.encode(word) == ids[family]
            if len(ids[family]) == 1:
                assert [tokenizer.word_id(word)] == ids[family]


@pytest.mark.exhaustive
def test_sst2_sentences(real):
    path = DATA / "glue" / "SST-2" / "train.tsv"
    if not path.is_file():
        pytest.skip("compares both backends on SST-2's sentences (../shared/data)")
    rows = path.read_text(encoding="utf-8").splitlines()[1::5]
    packaged, own = real[1]
    assert len(rows) > 13_000
    for row in rows:
        assert own.encode(row) == packaged.encode(row)


@RELAXED
@given(st.lists(PARTS | WORDS | TEXT, max_size=12).map("".join))
def test_random_text_in_a_real_vocabulary(real, text):
    packaged, own = real[1]
    assert own.encode(text) == packaged.encode(text)
