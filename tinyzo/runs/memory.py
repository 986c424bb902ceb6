"""What a run holds in memory: planned before it is allocated, and measured.

The peak is VmHWM of /proc/self/status, the largest resident set of this process: ru_maxrss
survives exec and would count the parent's too.
"""

from __future__ import annotations

from pathlib import Path

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
    the rest, the engine's own: tiles in work, activations at the widest point, compiled code
    """
    config, weights = model.config, model.weights.nbytes()
    widths = config.hidden_size, getattr(config, "intermediate_size", None) or config.ffn_dim
    arrays = model.weights.engine.plan(probes, tokens, *widths, config.num_attention_heads, longest)
    interpreter = max(0, status_bytes("VmRSS") - weights)
    return {"interpreter": interpreter, "weights": weights, **arrays}
