"""The byte-level BPE against values made by hand, a slow merge loop, and the tokenizers package."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bpe import CHARACTER, IDS, MERGES, merge_slowly, spell

from tinyzo.text.bpe import BYTE_OF, WHITE_SPACE, AddedToken, BytePairEncoder, word_pattern


def by_hand(merges: list[str], *added: AddedToken) -> BytePairEncoder:
    """An encoder whose ids are the bytes, then the merges, as "b c", then what is added."""
    pairs = [tuple(merge.split()) for merge in merges]
    merged = dict.fromkeys(map("".join, pairs))
    pieces = [*map(CHARACTER.get, range(256)), *merged, *(token.content for token in added)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    return BytePairEncoder(ids, pairs, added)


def test_byte_characters_are_gpt2s():
    assert {BYTE_OF[c] for c in BYTE_OF} == set(range(256))
    assert [CHARACTER[b] for b in b" \n\0\x7f\xad!~"] == ["Ġ", "Ċ", "Ā", "ġ", "Ń", "!", "~"]
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle is not installed")
    assert sorted(BYTE_OF) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'm we'll  IT'S", ["I", "'m", " we", "'ll", " ", " IT", "'", "S"]),
        ("'s't're've'm'll'd'x", ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'", "x"]),
        ("a \n\n b ", ["a", " \n\n", " b", " "]),
        ("x12.5 !?y", ["x", "12", ".", "5", " !?", "y"]),
        ("²Ⅷ٣ ½一", ["²Ⅷ٣", " ½", "一"]),  # numbers that \d is not; a letter that isnumeric()
        ("e\u0301_a", ["e", "\u0301_", "a"]),  # neither a mark nor _ is a letter
        ("a\x1cb \x1f", ["a", "\x1c", "b", " \x1f"]),  # white space to Python, not to Unicode
        ("a\x85\xa0\u3000b", ["a", "\x85\xa0", "\u3000", "b"]),
        ("a \u180e\u200b", ["a", " \u180e\u200b"]),  # not white space
        ("𝒜𝟙 𐐀", ["𝒜", "𝟙", " 𐐀"]),
    ],
)
def test_words(text, words):
    assert word_pattern().findall(text) == words


@pytest.mark.parametrize("end", [0x3000, pytest.param(0x110000, marks=pytest.mark.exhaustive)])
def test_every_assigned_character_is_classed_as_tokenizers_does(end):
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle is not installed")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    unassigned = ("Cn", "Cs", "Co")
    assigned = [c for c in map(chr, range(end)) if unicodedata.category(c) not in unassigned]
    assert len(assigned) > end / 8
    # Beside a letter and a number, a letter, a number and a space join differently.
    text = "".join(f"a{c}1{c}" for c in assigned)
    expected = [span for _, span in byte_level.pre_tokenize_str(text)]
    assert [word.span() for word in word_pattern().finditer(text)] == expected


def test_white_space_is_unicodes():
    python = {c for c in map(chr, range(0x110000)) if c.isspace()}
    assert set(WHITE_SPACE) == python - set("\x1c\x1d\x1e\x1f")


def test_merges_go_by_rank_then_from_the_left():
    encoder = by_hand(["b c", "a b", "a bc", "a a"])
    assert encoder.encode("abc") == [258]  # bc first, then a+bc; a+b is never made
    assert encoder.encode("ab") == [257]
    assert encoder.encode("aaa") == [259, 97]
    assert encoder.encode("abab bc") == [257, 257, 32, 256]


def test_a_new_pair_of_lower_rank_goes_before_the_old_ones():
    # GPT-2's loop merges every "a b" of a word at once and would give "ab ab".
    assert by_hand(["ab a", "a b"]).encode("abab") == [256, 98]


def test_bytes_without_merges_are_ids_of_bytes():
    assert by_hand([]).encode("é 😀") == [*"é 😀".encode()]
    assert by_hand([]).encode("") == []


@settings(deadline=None)
@given(st.text(st.sampled_from("abthe is'9é日\n ."), max_size=40))
def test_the_heap_merges_as_the_definition(text):
    ranks = {pair: rank for rank, pair in enumerate(MERGES)}
    expected = [
        IDS[piece]
        for word in word_pattern().findall(text)
        for piece in merge_slowly(list(spell(word)), ranks)
    ]
    assert BytePairEncoder(IDS, MERGES).encode(text) == expected


def test_a_word_as_long_as_a_file():
    encoder = by_hand(["a b", "ab ab", "x x"])
    assert encoder.encode("ab" * 50_001) == [257] * 25_000 + [256]
    assert encoder.encode("x" * 100_001) == [258] * 50_000 + [120]


def test_results_are_not_shared_with_the_cache():
    encoder = by_hand(["a b"])
    encoder.encode("ab").append(7)
    assert encoder.encode("ab") == [256]


def test_specials_are_cut_out_longest_first_and_swallow_white_space_on_their_left():
    encoder = by_hand([], AddedToken("<m>", lstrip=True), AddedToken("<s>"), AddedToken("<s>>"))
    m, s, longer = 256, 257, 258
    assert encoder.encode("a <s> <s>>") == [97, 32, s, 32, longer]
    assert encoder.encode(" \t\u3000<m> <m>.<m> ") == [m, m, 46, m, 32]
    assert encoder.encode("<s> <m>") == [s, m]
    assert encoder.encode("\x1c <m") == [0x1C, 32, *b"<m"]
    assert encoder.encode("\x1c <m>") == [0x1C, m]  # U+001C is no white space


def test_an_added_token_swallows_white_space_on_its_right():
    encoder = by_hand([], AddedToken("<m>", rstrip=True), AddedToken(" x"), AddedToken("  "))
    m, x, two = 256, 257, 258
    assert encoder.encode("<m> \t\u3000a<m> x") == [m, 97, m, x]
    assert encoder.encode("<m>\x1c ") == [m, 0x1C, 32]
    assert encoder.encode("<m>   x") == [m, two, x]  # a token found in what was swallowed stays


@pytest.mark.parametrize("beside", ["a", "9", "_", "é", "一", "\u0301", "\u200d", "Ⅷ", "Ⓐ", "🅰"])
def test_a_single_word_is_not_found_inside_another(beside):
    encoder = by_hand([], AddedToken("<m>", single_word=True), AddedToken("m"))
    assert 256 not in encoder.encode(f"{beside}<m>") + encoder.encode(f"<m>{beside}")
    assert encoder.encode("-<m> <m>²") == [45, 256, 32, 256, *"²".encode()]


def test_normalized_tokens_are_found_in_what_the_others_leave():
    encoder = by_hand([], AddedToken("ab", normalized=True), AddedToken("bc"), AddedToken("b"))
    bc, b = 257, 258
    assert encoder.encode("abc ab") == [97, bc, 32, 97, b]
    assert by_hand([], AddedToken("ab", normalized=True)).encode("abab") == [256, 256]


def test_a_space_before_each_stretch_that_begins_without_one():
    ids = {CHARACTER[byte]: byte for byte in range(256)} | {"<m>": 256}
    encoder = BytePairEncoder(ids, [], [AddedToken("<m>")], prefix_space=True)
    assert encoder.encode("a<m>b<m> c<m>\n") == [32, 97, 256, 32, 98, 256, 32, 99, 256, 32, 10]
    assert encoder.encode("") == [] and encoder.encode("<m>") == [256]


@pytest.mark.exhaustive
def test_what_is_of_a_word_to_tokenizers():
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle is not installed")
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE({"X": 0, "-": 1}, []))
    oracle.add_tokens([tokenizers.AddedToken("X", single_word=True)])
    encoder = by_hand([], AddedToken("X", single_word=True))
    for character in map(chr, range(0x40000)):
        if unicodedata.category(character) not in ("Cn", "Cs", "Co"):
            is_word = 0 not in oracle.encode(f"{character}-X{character}").ids
            assert (256 not in encoder.encode(f"X{character}")) == is_word or character == "X"


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=60))
def test_random_text_as_tokenizers(text):
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle is not installed")
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE(IDS, MERGES))
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert BytePairEncoder(IDS, MERGES).encode(text) == oracle.encode(text).ids
