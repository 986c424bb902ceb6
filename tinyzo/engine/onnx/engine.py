"""ONNX Runtime as the engine: each pass is one graph that a session runs, weights where they lie.

A view records a pass as a graph, and runs it when its scores are asked for. A graph holds neither
weights nor a batch: these are its inputs, so a pass of the same model with as many probes is the
same graph, and one session runs it, for batches of any size. The graph is kept: from the second
pass on, a verb only looks up what it has added. Weights are read where they lie (places.py).

Before each pass a mapped file is compared with what was opened, as streamed reading does. What
cannot be caught: a file that is written into while a pass runs, which gives wrong numbers, and one
that is cut off then, which ends the process (SIGBUS). Replace a file in use; never write into it.

The runtime sums in an order that hangs on the number of threads. With as many of them a loss is the
same bits each time; with others its last bits may differ, and so do the coefficients of steps. The
journal has these coefficients, so a run is replayed to the bit with any number, and on any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from tinyzo.engine.numpy_engine import NumpyEngine
from tinyzo.engine.onnx.recorded import OnnxView
from tinyzo.engine.onnx.recording import Program, Recording
from tinyzo.engine.onnx.runtime import (
    QUIET,
    Latest,
    Sessions,
    check_runtime,
    errors_of_a_pass,
    new_session,
)
from tinyzo.engine.terms import Probe
from tinyzo.engine.threads import ENGINES, Pool, new_lock
from tinyzo.engine.weights import Parameters
from tinyzo.machine.cpus import default_threads
from tinyzo.machine.memory import give_back_large_arrays


class OnnxEngine(NumpyEngine):
    """An Engine that runs each pass as a graph, one at a time; a fold is NumPy's.

    threads: of the runtime; None: one on each fast CPU
    raises:  ConfigError where there is no ONNX Runtime
    """

    name = "onnx"

    def __init__(self, threads: int | None = None) -> None:
        check_runtime()
        self._lock = new_lock(ENGINES)
        self.threads = threads or default_threads()
        self._recordings: Latest[Recording] = Latest()
        self._sessions = Sessions()
        self._runner = Pool(1)
        give_back_large_arrays()  # the runtime makes some outside of what it manages itself

    def view(self, weights: Parameters, probes: Sequence[Probe]) -> OnnxView:  # type: ignore[override]
        return OnnxView(weights, probes, self)

    def recording(self, key: object) -> Recording:
        """The graph of all passes that have this in common, by what they have done so far."""
        with self._lock:
            return self._recordings.get(key, Recording)

    def run(self, program: Program, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """The program's output.

        A signal's handler that raises, such as Ctrl-C's, ends the run after the node it is at.
        raises: ConfigError when the runtime refuses the graph; MemoryError when it gets no memory
        """
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = QUIET
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self._lock:
            task = self._runner.submit(self._run, program, feeds, options)
            try:
                task.wait()
            except BaseException:
                options.terminate = True
                task.wait()  # it reads memory that others may change after this
                raise
            return task.result()

    def _run(self, program: Program, feeds: dict[str, np.ndarray], options: Any) -> np.ndarray:
        import onnxruntime

        new = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        with errors_of_a_pass():
            session = self._sessions.get(program.model, partial(self._new_session, program.model))
            given = {name: new(feeds[name], kind) for name, kind in program.inputs.items()}
            (found,) = session.run_with_ort_values([program.output], given, options)
            return cast(np.ndarray, found.numpy())

    def _new_session(self, model: bytes) -> Any:
        return new_session(model, self.threads)
