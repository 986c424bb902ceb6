"""JSON and TOML from files that may be damaged or hostile."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from tinyzo.errors import ConfigError, refuse
from tinyzo.system import os_errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
        json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
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


def read_json(path: Path) -> JsonObject:
    """The object in a JSON file of a model.

    raises: ConfigError when the file cannot be read, is not JSON, or is not an object
    """
    value = _parse_file(path, json.loads, f"a model has a readable {path.name}")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object", f"copy {path.name} from the model's page")
    return value


def read_toml(path: Path) -> JsonObject:
    """A TOML file as a dictionary.

    raises: ConfigError when it cannot be read or parsed
    """
    value: JsonObject = _parse_file(path, tomllib.loads, "a file of lines such as lr = 1e-6")
    return value


def _parse_file(path: Path, parse: Callable[[str], Any], hint: str) -> Any:
    """raises: ConfigError, with the hint, for a file that cannot be read or parsed"""
    try:
        with os_errors(ConfigError, path, hint):
            text = path.read_text(encoding="utf-8")
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", hint) from None
