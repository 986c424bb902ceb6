"""ONNX Runtime itself: whether it is here, its sessions, and what it raises.

A session is a graph that the runtime has made ready. Opening one takes longer than most passes, so
the latest are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import ref

from tinyzo.engine.threads import POOLS
from tinyzo.errors import ConfigError
from tinyzo.packages import in_a_line, is_missing

T = TypeVar("T")
LEAST = (1, 23)  # before it no Attention, as ONNX has it
KEPT = 8  # graphs, and sessions: a run with evaluations has three or four
QUIET = 4  # of the runtime's log: what ends the process; all else is raised too


def check_runtime() -> None:
    """raises: ConfigError where there is no ONNX Runtime, or one that cannot be used"""
    why = "engine 'onnx' cannot be had here"
    install = "pip install 'tinyzo[onnx]' (Termux: pkg install python-onnxruntime)"
    way_out = f"{install}, or take --engine numpy"
    try:
        import onnxruntime

        version = str(onnxruntime.__version__)
    except Exception as error:
        if is_missing(error, "onnxruntime"):
            raise ConfigError(f"{why}: ONNX Runtime is not installed", way_out) from None
        raise ConfigError(f"{why} ({in_a_line(error)})", way_out) from None
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        least = ".".join(map(str, LEAST))
        raise ConfigError(f"{why}: ONNX Runtime {version} is older than {least}", way_out)


def new_session(model: bytes | Path, threads: int | None) -> Any:
    """A session that copies no weights, and takes no more memory than it has to.

    Prepacking would copy all of them. The runtime's plan of its memory (`mem_pattern`) is of
    one size of batch, and takes more.

    model:   a graph, or the file that has it
    threads: of the runtime; None: as many as it wants
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = QUIET
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def errors_of_a_pass() -> Iterator[None]:
    """What the runtime raises in a pass, as errors of ours; its own have no class in common."""
    try:
        yield
    except Exception as error:
        if is_of_memory(error):
            raise MemoryError(in_a_line(error)) from error
        raise refused(error) from error


def refused(error: Exception) -> ConfigError:
    """What the runtime raised of a graph, as an error of ours."""
    import onnxruntime

    found = f"ONNX Runtime {onnxruntime.__version__} refuses a pass: {in_a_line(error)}"
    return ConfigError(found, "try another version of onnxruntime, or take --engine numpy")


def is_of_memory(error: Exception) -> bool:
    """Whether the runtime got no memory, which it tells by words alone."""
    return any(words in str(error) for words in ("bad_alloc", "Failed to allocate memory"))


class Latest(Generic[T]):
    """What was made for the keys that were asked for last."""

    def __init__(self) -> None:
        self._made: OrderedDict[object, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            if len(self._made) == KEPT:
                self._made.popitem(last=False)
            self._made[key] = make()
        self._made.move_to_end(key)
        return self._made[key]


class Sessions(Latest[Any]):
    """Sessions by the bytes of their graphs, whose threads end before a fork, as those of a Pool.

    They are made again when they are needed, in both processes.
    """

    def __init__(self) -> None:
        super().__init__()
        POOLS.append(ref(self, POOLS.remove))

    def stop(self) -> None:
        """End all; none runs, since a pass holds the engine's lock."""
        self._made.clear()

    def acquire(self) -> None:
        """What a fork does to a lock."""
        self.stop()

    def release(self) -> None:
        """Nothing is to be done after it."""
