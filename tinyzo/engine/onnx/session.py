"""A graph in a file as a session of ONNX Runtime, as an app opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyzo.engine.onnx.runtime import check_runtime, new_session
from tinyzo.errors import ConfigError
from tinyzo.packages import in_a_line


class Session:
    """A graph that can be run.

    threads: of the runtime; None: as many as it wants
    raises:  ConfigError where there is no ONNX Runtime, or when it refuses the graph
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        check_runtime()
        self._path = path
        try:
            self._session: Any = new_session(path, threads)
        except Exception as error:  # the runtime's own have no class in common
            raise self._refused(error) from error

    def run(self, outputs: Sequence[str], given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Some outputs, by name.

        raises: ConfigError for inputs that the graph does not take
        """
        try:
            found: list[np.ndarray] = self._session.run(outputs, given)
        except Exception as error:
            raise self._refused(error) from error
        return found

    def _refused(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self._path}: ONNX Runtime refuses it: {in_a_line(error)}",
            "tinyzo inspect says what it takes",
        )
