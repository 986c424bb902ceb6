"""JSON and TOML: what is read, and what is said of a file that cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyzo.errors import CheckpointError, ConfigError
from tinyzo.parsing import is_natural, parse_json, read_json, read_toml

PATH = Path("folder/index.json")


@pytest.mark.parametrize("value", [0, 1, 2**70])
def test_natural_numbers(value: object) -> None:
    assert is_natural(value)


@pytest.mark.parametrize("value", [-1, 1.0, True, False, "1", None, (1,)])
def test_what_is_no_natural_number(value: object) -> None:
    assert not is_natural(value)


def test_strict_json_is_read() -> None:
    data = '{"a": [1, 2.5, null], "é😀": {"a": "\\u00e9"}}'.encode()
    assert parse_json(data, PATH) == {"a": [1, 2.5, None], "é😀": {"a": "é"}}


def test_values_may_be_nested_as_deep_as_for_serde_json() -> None:
    assert parse_json(b'{"a":' + b"[" * 126 + b'"b"' + b"]" * 126 + b"}", PATH)
    assert parse_json(b'{"a":' * 126 + b'{"b": "c"}' + b"}" * 126, PATH)


def test_numbers_may_become_something_else() -> None:
    found = parse_json(b'{"a": 1, "b": [-2.5, NaN]}', PATH, number=lambda text: f"<{text}>")
    assert found == {"a": "<1>", "b": ["<-2.5>", "<NaN>"]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it does not start with '{'"),
        (b" {}", "it does not start with '{'"),
        (b"[]", "it does not start with '{'"),
        (b"{", "Expecting property name"),
        (b"{}{}", "Extra data"),
        (b'{"a": 1, "a": 1}', "'a' is there twice"),
        (b'{"b": {"a": 1, "a": 2}}', "'a' is there twice"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": "\xff"}', "'utf-8' codec can't decode"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"a":' * 128 + b"1" + b"}" * 128, "its values are nested more than 127 deep"),
        (
            b'{"a":' + b"[" * 127 + b"1" + b"]" * 127 + b"}",
            "its values are nested more than 127 deep",
        ),
        (b'{"\\udc00": 1}', "surrogates not allowed"),
        (b'{"a": [{"b": ["\\ud800"]}]}', "surrogates not allowed"),
    ],
)
def test_json_that_is_malformed_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_json(data, PATH)
    assert caught.value.message.startswith(f"{PATH}: its JSON is malformed: ")
    assert reason in caught.value.message
    assert "damaged" in caught.value.hint


# -- files ---------------------------------------------------------------------------------


def test_a_json_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1, "é": NaN, "a": 2}', encoding="utf-8")
    found = read_json(tmp_path / "config.json")
    assert found["a"] == 2 and found["é"] != found["é"]


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"{", "Expecting property name", "a model has a readable c.json"),
        (b"\xff", "'utf-8' codec can't decode", "a model has a readable c.json"),
        (b"[]", "not a JSON object", "copy c.json from the model's page"),
    ],
)
def test_a_json_file_that_is_not_one(tmp_path: Path, data: bytes, message: str, hint: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_json(path)
    assert caught.value.message.startswith(f"{path}: {message}")
    assert caught.value.hint == hint


@pytest.mark.parametrize("content", [b"lr = ", b"lr 1", b"\xff", b"a = 1\na = 2"])
def test_toml_that_cannot_be_parsed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint == "a file of lines such as lr = 1e-6"


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("lr = 1e-6\r\n[a]\r\nb = ['é']\r\n", encoding="utf-8")
    assert read_toml(tmp_path / "c.toml") == {"lr": 1e-6, "a": {"b": ["é"]}}


@pytest.mark.parametrize("read", [read_json, read_toml])
def test_a_file_that_cannot_be_opened_is_named_with_the_reason(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    for path, reason in (
        (tmp_path / "absent", "No such file or directory"),
        (tmp_path, "it is not a file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert caught.value.message == f"{path}: {reason}"


# -- files that would cost much -------------------------------------------------------------------


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("read", "text", "limit"), [(read_json, b"{}", 1 << 20), (read_toml, b"a = 1\n", 128 << 10)]
)
def test_a_file_larger_than_any_is_refused(
    tmp_path: Path, read: Callable[[Path], object], text: bytes, limit: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(text + b" " * (limit - len(text)))
    read(path)
    path.write_bytes(text + b" " * (limit - len(text) + 1))
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.message == f"{path}: it has more than {limit} bytes"


def test_a_file_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"a": 1}')
    assert read_json(path, limit=8) == {"a": 1}
    with pytest.raises(ConfigError, match="it has more than 7 bytes"):
        read_json(path, limit=7)


@pytest.mark.parametrize(
    ("read", "data", "reason"),
    [
        (read_json, b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 127 deep"),
        (read_json, b'{"model_type": "\\ud800"}', "surrogates not allowed"),
        (read_json, b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (read_toml, b"a" + b".a" * 101 + b" = 1", "a line has more than 100 dots"),
        (read_toml, b"a = " + b"[" * 300 + b"]" * 300, "deep"),
    ],
)
def test_what_would_take_long_or_cannot_be_printed_is_refused(
    tmp_path: Path, read: Callable[[Path], object], data: bytes, reason: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}: ") and reason in caught.value.message


@pytest.mark.parametrize("read", [read_json, read_toml])
def test_a_pipe_is_refused_instead_of_waited_for(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: it is not a file"):
        read(tmp_path / "pipe")
