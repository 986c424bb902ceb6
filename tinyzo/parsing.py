"""JSON and TOML from files that may be damaged or hostile."""

import json
import pkgutil
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

from tinyzo.errors import ConfigError, refuse
from tinyzo.system import read_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What is parsed is small, since what becomes of a byte may take 40. A model of 8,000 tensors, which
# none of ours has, is listed in 1 MB; a configuration has a few kB.
MAX_BYTES = 1 << 20
_MAX_TOML_BYTES = 128 << 10
_MAX_DOTS = 100  # in a line of TOML: tomllib takes the square of it in time and memory
_DEEPEST = 127  # lists and objects within one another, as for serde_json

# `Any` in what follows: only who reads a file knows what its fields should be, and checks them.
JsonObject = dict[str, Any]


def is_natural(value: object) -> TypeGuard[int]:
    """True for 0, 1, 2, ..., but not for a bool."""
    return type(value) is int and value >= 0


def parse_json(
    data: bytes, path: Path, number: Callable[[str], object] | None = None
) -> JsonObject:
    """The object in `data`, parsed as strictly as by Rust's serde_json; no name may repeat.

    number: what becomes of the text of a number; None: an int or a float
    raises: CheckpointError that names `path`
    """
    try:
        if not data.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        value: JsonObject = json.loads(
            data.decode(),
            object_pairs_hook=each_name_once,
            parse_int=number,
            parse_float=number,
            parse_constant=number,
        )
        _check_values(value)
    except (ValueError, RecursionError) as error:
        refuse(path, f"its JSON is malformed: {error}")
    return value


def each_name_once(pairs: list[tuple[str, Any]]) -> JsonObject:
    found: JsonObject = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.80} is there twice")
        found[name] = value
    return found


def _check_values(value: object) -> None:
    """raises: ValueError for text with half a surrogate pair, and for values nested too deep"""
    level = [value]
    for _ in range(_DEEPEST + 1):  # one more for what is inside of the deepest, which has nothing
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(f"its values are nested more than {_DEEPEST} deep")


def _inside(value: object) -> Iterable[object]:
    match value:
        case str():
            value.encode()
        case dict():
            return chain(value, value.values())
        case list():
            return value
    return ()


def read_json(path: Path, limit: int = MAX_BYTES) -> JsonObject:
    """The object in a JSON file of a model.

    limit: bytes
    raises: ConfigError when the file cannot be read, is larger, is not JSON, or is not an object
    """
    value = _parse_file(path, json.loads, limit, f"a model has a readable {path.name}")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object", f"copy {path.name} from the model's page")
    return value


def read_toml(path: Path) -> JsonObject:
    """A TOML file as a dictionary.

    raises: ConfigError when it cannot be read or parsed
    """
    hint = "a file of lines such as lr = 1e-6"
    value: JsonObject = _parse_file(path, _parse_toml, _MAX_TOML_BYTES, hint)
    return value


def own_toml(name: str) -> JsonObject:
    """A TOML file of the package itself, which may be in a ZIP. name: such as "text/tasks.toml"."""
    data = pkgutil.get_data("tinyzo", name) or b""
    return tomllib.loads(data.decode())


def _parse_toml(text: str) -> JsonObject:
    if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {_MAX_DOTS} dots")
    return tomllib.loads(text)


def _parse_file(path: Path, parse: Callable[[str], Any], limit: int, hint: str) -> Any:
    """raises: ConfigError, with the hint, for a file that cannot be read or parsed"""
    try:
        text = _read_text(path, limit, hint)
        value = parse(text)
        _check_values(value)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", hint) from None
    return value


def _read_text(path: Path, limit: int, hint: str) -> str:
    """The text of a file, without a byte order mark."""
    data = read_file(path, ConfigError, hint, limit + 1)
    if len(data) > limit:
        raise ConfigError(f"{path}: it has more than {limit} bytes", hint)
    return data.decode("utf-8-sig")
