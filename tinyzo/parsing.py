"""JSON and TOML from files that may be damaged or hostile."""

import json
import sys
from pathlib import Path
from typing import Any

from tinyzo.errors import ConfigError, refuse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def is_natural(value: object) -> bool:
    return type(value) is int and value >= 0  # isinstance would let True pass


def parse_json(data: bytes, path: Path, **hooks: Any) -> dict[str, Any]:
    """The object in `data`, parsed as strictly as by Rust's serde_json; no name may repeat."""
    try:
        if not data.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        value = json.loads(data.decode(), object_pairs_hook=_each_once, **hooks)
        json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
    except (ValueError, RecursionError) as error:
        refuse(path, f"its JSON is malformed: {error}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.80} is there twice")
        found[name] = value
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    raises: ConfigError when it cannot be read or parsed
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", "a file of lines such as lr = 1e-6") from None
