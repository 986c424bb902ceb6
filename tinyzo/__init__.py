"""tinyzo: fine-tuning of RoBERTa and OPT with forward passes only, in NumPy.

Dimensions in shape comments, everywhere:

    P probes   N packed tokens   B sequences   T, S query and key positions   D width
    H heads    K head width      F feed-forward width   V vocabulary   L layers   R rank

Weights are [out, in]. Parameters keep the checkpoint's own names.
"""

__version__ = "0.1.0"

from tinyzo.engine.noise import noise
from tinyzo.models.model import load
from tinyzo.runs.api import finetune

__all__ = ["finetune", "load", "noise"]
