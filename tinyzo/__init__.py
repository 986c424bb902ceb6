"""tinyzo: fine-tuning of RoBERTa and OPT with forward passes only, in NumPy.

Dimensions in shape comments, everywhere:

    P probes   N packed tokens   B sequences   T, S query and key positions   D width
    H heads    K head width      F feed-forward width   V vocabulary   L layers   R rank

Weights are [out, in]. Parameters keep the checkpoint's own names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tinyzo.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NumericError,
    RunError,
    ShapeError,
    TinyzoError,
    TokenizerError,
    UsageError,
)

__version__ = "0.2.0"
__all__ = ["Model", "Probe", "Run", "Settings", "Weights", "__version__", "evaluate", "generate"]
__all__ += ["export_onnx", "finetune", "load", "mezo_step", "noise", "predict", "replay", "report"]
__all__ += ["CheckpointError", "ConfigError", "DataError", "NumericError", "RunError", "zo_step"]
__all__ += ["ShapeError", "TinyzoError", "TokenizerError", "UsageError", "share"]

# Where a name lives; its module is imported when the name is first asked for.
_API = ["evaluate", "export_onnx", "finetune", "generate", "load", "predict", "replay", "report"]
_HOMES = dict.fromkeys([*_API, "share"], "tinyzo.runs.api") | {
    "Model": "tinyzo.models.model",
    "Probe": "tinyzo.engine.terms",
    "Run": "tinyzo.runs.run",
    "Settings": "tinyzo.runs.settings",
    "Weights": "tinyzo.engine.weights",
    "mezo_step": "tinyzo.zo.mezo",
    "noise": "tinyzo.engine.noise",
    "zo_step": "tinyzo.zo.estimators",
}

if TYPE_CHECKING:  # the same, for type checkers and editors
    from tinyzo.engine.noise import noise
    from tinyzo.engine.terms import Probe
    from tinyzo.engine.weights import Weights
    from tinyzo.models.model import Model
    from tinyzo.runs.api import evaluate, export_onnx, finetune, generate  # isort: skip
    from tinyzo.runs.api import load, predict, replay, report, share  # isort: skip
    from tinyzo.runs.run import Run
    from tinyzo.runs.settings import Settings
    from tinyzo.zo.estimators import zo_step
    from tinyzo.zo.mezo import mezo_step
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'tinyzo' has no attribute {name!r}")
        return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))

    def __dir__() -> list[str]:
        return sorted(globals().keys() | set(__all__))
