"""What a run holds in memory: planned before it is allocated, and measured.

The peak is VmHWM of /proc/self/status, the largest resident set of this process: ru_maxrss
survives exec and would count the parent's too.
"""

from __future__ import annotations

from pathlib import Path

from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.engine.weights import TILE
from tinyzo.models.model import Model

STATUS = Path("/proc/self/status")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes (VmHWM, VmRSS, RssAnon, RssFile, ...); 0 if none."""
    if not STATUS.exists():
        return 0
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_bytes() -> int:
    """The largest resident set so far."""
    if peak := status_bytes("VmHWM"):
        return peak
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plan(model: Model, tokens: int, longest: int, probes: int = 2) -> dict[str, int]:
    """Bytes that a step on `tokens` packed tokens will hold, part by part.

    interpreter: what is resident now, less the weights: Python, NumPy, tokenizer, data
    tiles: w, z and the work of making z, and one tile of projections for each probe
    activations: at the widest point, the feed-forward layer or the attention of one segment
    """
    config = model.config
    d = config.hidden_size
    f = getattr(config, "intermediate_size", None) or config.ffn_dim
    tile = max(TILE, d)
    attention = config.num_attention_heads * min(longest, QUERIES) * longest
    weights = model.weights.nbytes()
    return {
        "interpreter": max(0, status_bytes("VmRSS") - weights),
        "weights": weights,
        "tiles": 4 * (8 * tile + probes * tokens * max(1, tile // d)),
        "activations": 4 * probes * (tokens * max(4 * d + 2 * f, 9 * d) + 2 * attention),
    }
