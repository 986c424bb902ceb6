"""The tokenizer face: both backends alike, the real vocabularies, and every refusal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from broken import break_package
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import DATA, VOCABULARIES, are_published
from small_bpe import IDS, MERGES
from tokenizer_folders import (
    SPECIALS,
    fast,
    numbered,
    pair,
    token,
    tokenizer_json,
    write_folder,
)

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


def write(directory: Path, files=None, **others) -> Path:
    """A folder of vocab.json and merges.txt, or of these files; others by stem."""
    named = {f"{stem}.json": content for stem, content in others.items()}
    return write_folder(directory, (pair() if files is None else files) | named)


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
    tokenizer = load_tokenizer(write(tmp_path))
    assert tokenizer.backend == backend
    assert tokenizer.vocab_size == len(IDS) == 4 + 256 + 60 + 1
    roles = ("bos_id", "eos_id", "mask_id")
    assert [getattr(tokenizer, role) for role in roles] == [0, 2, 320]
    ids = tokenizer.encode("the q \t<mask>")
    assert ids == [IDS["t"], IDS["he"], IDS["Ġ"], IDS["q"], 320]
    assert tokenizer.token_id("Ġthe") == IDS["Ġthe"] == tokenizer.word_id(" the")


def test_the_environment_and_a_missing_package_choose_the_backend(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("TINYZO_NO_TOKENIZERS", "1")
    assert load_tokenizer(tmp_path).backend == "bpe"
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # what makes `import` raise
    for value in ("", "0", "no"):
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
    write(tmp_path)
    for _ in range(2):
        assert load_tokenizer(tmp_path).backend == "bpe"
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"tinyzo: tokenizers cannot be used \(\w+Error: .*\): our own BPE .*", line)


def test_opt_has_two_specials_and_begins_with_the_end(tmp_path, backend):
    tokenizer = load_tokenizer(write(tmp_path, config={"model_type": "opt"}))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id) == (2, 2, None)
    assert tokenizer.encode("<pad></s>") == [1, 2]
    assert tokenizer.encode("<s>") == [IDS["<"], IDS["s"], IDS[">"]]
    assert tokenizer.encode("<mask>")[0] == IDS["<"]


def test_a_vocabulary_without_mask(tmp_path, backend):
    ids = {piece: index for piece, index in IDS.items() if piece != "<mask>"}
    settings = {"mask_token": None}
    assert load_tokenizer(write(tmp_path, pair(ids), tokenizer_config=settings)).mask_id is None
    assert load_tokenizer(write(tmp_path / "added", pair(ids))).mask_id == len(ids)


@pytest.mark.parametrize("text", TRICKY)
def test_both_backends_from_either_kind_of_file(tmp_path, text):
    strings = tokenizer_json(model__merges=[" ".join(merge) for merge in MERGES])
    directories = [
        write(tmp_path / "two_files"),
        write(tmp_path / "strings", fast(strings)),
        write(tmp_path / "pairs", fast()),
    ]
    loaded = [tokenizer for directory in directories for tokenizer in both(directory)]
    assert len({tuple(tokenizer.encode(text)) for tokenizer in loaded}) == 1


def test_added_tokens_outside_the_vocabulary_of_the_model(tmp_path, backend):
    spec = tokenizer_json()
    spec["added_tokens"] += numbered(token("<new>", lstrip=True))
    tokenizer = load_tokenizer(write(tmp_path, fast(spec)))
    assert tokenizer.encode("t <new>t") == [IDS["t"], 321, IDS["t"]]
    assert tokenizer.vocab_size == 322 and tokenizer.token_id("<new>") == 321


PARTS = st.sampled_from(["<mask>", "<s>", "</s>", "<pad>", "<unk>", "<", "mask>"])
WORDS = st.sampled_from([" ", "\x1c", "\u3000", "the", "film's", "'ll", "\ud83d", "\ude00", "9"])
TEXT = st.text(st.characters(exclude_categories=["Cn", "Co"]), max_size=5)
TEXT_CHARACTERS = st.characters(exclude_categories=["Cn", "Co", "Cs"])
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return both(write(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def oracle():
    pytest.importorskip("tokenizers", reason="the oracle is not installed")
    return package_itself(tokenizer_json())


def package_itself(spec: dict) -> Any:
    """The package's own tokenizer; merges are written as its old versions want them, too."""
    import tokenizers

    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]
    ]
    return tokenizers.Tokenizer.from_str(
        json.dumps(spec | {"model": spec["model"] | {"merges": merges}})
    )


@RELAXED
@given(st.lists(PARTS | WORDS | TEXT, max_size=12).map("".join))
def test_random_text_as_the_package_reads_tokenizer_json(small, oracle, text):
    scalar = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    expected = oracle.encode(scalar, add_special_tokens=False).ids
    assert small[0].encode(text) == small[1].encode(text) == expected


CONTENTS = st.sampled_from(["<m>", "new", " new", "\u0301", "é ", "  ", "<", "m>", "9", "a\u200d"])
FLAGS = st.fixed_dictionaries(
    dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), st.booleans())
)
NEW_TOKENS = st.dictionaries(CONTENTS | st.text(TEXT_CHARACTERS, min_size=1, max_size=3), FLAGS)
AROUND = st.sampled_from([" ", "\u3000", "a", "_", "é", "\x1c", "new", "<m>", "the <mask>"])


@settings(RELAXED, max_examples=40)
@given(NEW_TOKENS, st.integers(0, len(MERGES)), st.booleans(), st.data())
def test_random_vocabularies_and_added_tokens(tmp_path, tokens, count, prefix_space, data):
    """Both backends, and the package reading tokenizer.json itself."""
    ids = {piece: number for piece, number in IDS.items() if number < 260 + count}
    ids["<mask>"] = len(ids)
    added = [*SPECIALS]
    for content, flags in tokens.items():
        flags["lstrip"] &= not content[0].isspace()
        ids.setdefault(content, len(ids))
        added.append({"content": content, **flags})
    listed = [{"id": ids[one["content"]], **one} for one in added]
    spec = tokenizer_json(
        model__vocab=ids,
        model__merges=[[*merge] for merge in MERGES if {*merge, "".join(merge)} <= ids.keys()],
        added_tokens=sorted(
            {one["content"]: one for one in listed}.values(), key=lambda t: t["id"]
        ),
        pre_tokenizer__add_prefix_space=prefix_space,
    )
    settings = {"add_prefix_space": prefix_space, "tokenizer_class": "PreTrainedTokenizerFast"}
    packaged, own = both(write(tmp_path, fast(spec), tokenizer_config=settings))
    parts = st.sampled_from([*tokens, " "]) | AROUND | TEXT
    text = data.draw(st.lists(parts, max_size=10).map("".join)).encode(errors="replace").decode()
    assert own.encode(text) == packaged.encode(text) == oracle_ids(spec, text)


def oracle_ids(spec: dict, text: str) -> list[int]:
    ids: list[int] = package_itself(spec).encode(text, add_special_tokens=False).ids
    return ids


def test_words_and_items_that_are_not_one_token(tmp_path, backend):
    tokenizer = load_tokenizer(write(tmp_path))
    with pytest.raises(TokenizerError) as caught:
        tokenizer.word_id(" zq")
    assert caught.value.message == "label word ' zq' is 3 tokens: 'Ġ', 'z', 'q'"
    assert caught.value.hint == "choose one of one token, with its space, as ' great'"
    with pytest.raises(TokenizerError, match="label word '' is 0 tokens: none"):
        tokenizer.word_id("")
    with pytest.raises(TokenizerError, match="the vocabulary of 321 items has no 'Ġzq'"):
        tokenizer.token_id("Ġzq")


@pytest.mark.parametrize("text", [*TRICKY[1:2], " It was\n", "naïve 日本語 😀", "<mask", ""])
def test_ids_say_their_text(tmp_path, backend, text):
    tokenizer = load_tokenizer(write(tmp_path))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    ends = (tokenizer.bos_id, tokenizer.mask_id, tokenizer.eos_id)
    assert tokenizer.decode([ends[0], *ids, *ends[1:]]) == text


def test_half_a_letter_and_an_added_token(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path))
    *begin, _ = tokenizer.encode("a\u0416")
    assert tokenizer.decode(begin) == "a\ufffd"
    assert tokenizer.decode([tokenizer.token_id("<unk>"), *begin[:1]]) == "<unk>a"


def test_missing_files(tmp_path):
    missing = "No such file or directory"
    assert refusal(tmp_path / "nowhere") == f"{tmp_path / 'nowhere' / 'vocab.json'}: {missing}"
    assert refusal(write(tmp_path, {})) == f"{tmp_path / 'vocab.json'}: {missing}"
    assert refusal(write(tmp_path, {"vocab.json": IDS})) == f"{tmp_path / 'merges.txt'}: {missing}"


@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "tokenizer_config.json"])
def test_a_link_to_nothing_and_what_is_no_file(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).symlink_to(tmp_path / "gone")
    assert refusal(tmp_path) == f"{tmp_path / name}: No such file or directory"
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert refusal(tmp_path) == f"{tmp_path / name}: it is not a file"


def test_a_pointer_of_git_lfs(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert refusal(write(tmp_path, pair(merges=pointer))).endswith(
        "merges.txt: it is a git-lfs pointer, not the file"
    )


def test_missing_specials(tmp_path, backend):
    ids = {("<S>" if piece == "<s>" else piece): index for piece, index in IDS.items()}
    for files in (pair(ids), fast(tokenizer_json(model__vocab=ids, added_tokens=[]))):
        directory = write(tmp_path, files, tokenizer_config={"tokenizer_class": None})
        assert refusal(directory) == f"{directory}: the vocabulary of 321 items has no '<s>'"
    generic = {"tokenizer_class": "PreTrainedTokenizerFast"}
    assert "321 items has no '<s>'" in refusal(write(tmp_path, files, tokenizer_config=generic))


NOT_EACH_ONCE = "vocab.json: the ids of 322 vocabulary items are not 0 to 321, each once"
NO_TEXT = "a vocabulary item is empty or not Unicode text"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("{", "vocab.json: its JSON is damaged: Expecting property name"),
        ("[" * 100_000, "vocab.json: its JSON is damaged: "),
        ('{"a": ' + "9" * 5000 + "}", "vocab.json: its JSON is damaged: "),
        ([1, 2], "vocab.json: not a JSON object"),
        (IDS | {"new": 400}, NOT_EACH_ONCE),
        (IDS | {"new": 5}, NOT_EACH_ONCE),
        (IDS | {"new": 321.0}, NOT_EACH_ONCE),
        (IDS | {"new": []}, NOT_EACH_ONCE),
        ({"<s>": 0, "a": 1}, "255 of the 256 byte characters are not in the vocabulary"),
        (IDS | {"": 321}, NO_TEXT),
        (IDS | {"\udead": 321}, NO_TEXT),
    ],
)
def test_damaged_vocabularies(tmp_path, backend, ids, message):
    assert message in refusal(write(tmp_path, pair(ids)))


@pytest.mark.parametrize("line", ["t zz", "zz t", "t q", "t", "t h e", "t  h"])
def test_damaged_merges(tmp_path, backend, line):
    directory = write(tmp_path, pair(merges=f"#version: 0.2\nh e\n{line}\n"))
    assert f"merge {line!r} does not make a vocabulary item from two" in refusal(directory)


def test_files_that_are_not_utf8(tmp_path):
    directory = write(tmp_path, pair(merges=b"\xff\xfe"))
    assert refusal(directory) == f"{directory / 'merges.txt'}: the text is UTF-16"
    assert "config.json: not a JSON object" in refusal(write(directory, config=[1]))


def test_files_that_are_too_large(tmp_path, monkeypatch):
    nested = '{"model": [' + "[[]]," * 400_000 + "[]]}"
    message = refusal(write(tmp_path, {"tokenizer.json": nested}))
    assert message.endswith("1,200,005 parts in 2,000,015 bytes would take too much memory")
    many = "#version: 0.2\n" + "t h\n" * 600_000
    assert "too much memory" in refusal(write(tmp_path / "many", pair(merges=many)))
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 40)
    assert refusal(tmp_path).endswith("tokenizer.json: over 64 MB, which no tokenizer has")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "model: type is 'WordPiece'"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}, "model: type is 'Unigram'"),
        ({"pre_tokenizer__type": "Metaspace"}, "pre_tokenizer: type is 'Metaspace'"),
        ({"post_processor": {"type": "Mine"}}, "post_processor.type is 'Mine'"),
    ],
)
def test_a_tokenizer_json_of_another_kind(tmp_path, backend, changes, found):
    assert found in refusal(write(tmp_path, fast(tokenizer_json(**changes))))


FLAG = {"content": "<s>", "lstrip": 1}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}", "tokenizer.json: KeyError('model')"),
        ("[]", "tokenizer.json: not a JSON object"),
        (tokenizer_json(model="BPE"), "tokenizer.json: AttributeError("),
        (tokenizer_json(model__vocab=[]), "tokenizer.json: TypeError("),
        (tokenizer_json(model__merges=[5]), "tokenizer.json: TypeError("),
        (tokenizer_json(model__merges=[["t"]]), "merge 't' does not make"),
        (tokenizer_json(model__merges=[["t", ["h"]]]), "does not make a vocabulary item from two"),
        (tokenizer_json(added_tokens=[{"id": 9}]), "tokenizer.json: an added token is {'id': 9}"),
        (tokenizer_json(added_tokens=[{"id": 9, "content": "<s>"}]), "transformers gives 0"),
        (tokenizer_json(added_tokens=[{"id": True, "content": "<s>"}]), "the id of '<s>' is True"),
        (tokenizer_json(added_tokens=[{"id": 321, "content": ""}]), "is empty or not Unicode"),
        (tokenizer_json(added_tokens=[{"id": 0, **FLAG}]), "an added token is {'id': 0"),
    ],
)
def test_a_damaged_tokenizer_json(tmp_path, backend, spec, message):
    assert message in refusal(write(tmp_path, fast(spec)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens", {"<e1>": "321"}, "the id of '<e1>' is '321'"),
        ("tokenizer_config", {"added_tokens_decoder": {"x": token("<e1>")}}, "ValueError("),
        ("tokenizer_config", {"added_tokens_decoder": [1]}, "tokenizer_config.json: AttributeE"),
        (
            "tokenizer_config",
            {"pad_token": token(" x", lstrip=True)},
            "added token ' x' has lstrip and begins with white space itself",
        ),
        ("tokenizer_config", {"mask_token": 5}, "tokenizer_config.json: TypeError("),
        ("tokenizer_config", {"mask_token": {"lstrip": True}}, "an added token is {'lstrip': True"),
        ("tokenizer_config", {"extra_special_tokens": 5}, "tokenizer_config.json: TypeError("),
        (
            "tokenizer_config",
            {"extra_special_tokens": ["<e1>"], "additional_special_tokens": ["<e2>"]},
            "both additional_special_tokens and extra_special_tokens are there",
        ),
    ],
)
def test_damaged_settings(tmp_path, backend, name, content, message):
    assert message in refusal(write(tmp_path, **{name: content}))


# The real vocabularies


@pytest.fixture(scope="module", params=["roberta", "opt"])
def real(request, tmp_path_factory):
    """Both backends on a real vocabulary, and its name."""
    source = VOCABULARIES / request.param
    if not are_published(VOCABULARIES):
        pytest.skip("compares with transformers' ids of real vocabularies (../shared/tokenizers)")
    directory = tmp_path_factory.mktemp(request.param)
    files = {name: (source / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    write(directory, files, config={"model_type": request.param})
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
