"""Writes the golden files beside it: what transformers computes, for the tests to compare with.

    PYTHONPATH=. python tests/golden/make_golden.py     # with torch 2, transformers 5; not in CI

Each model runs twice, in float64 and in float32. The float64 results are kept, rounded to
float32, as `<stage>`, and the largest error of the float32 run as `<stage>.error`: what the
reference's own arithmetic loses is the unit of the tests' tolerances. The weights are not kept,
seeded.py makes them again. configs.json has what transformers writes as config.json, with every
field at its default. Written with torch 2.13.0 and transformers 5.23.0, on one thread.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from seeded import REAL, TINY, TRAINED_OPT, Case, windows
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, OPTConfig, RobertaConfig

from tinyzo.dtypes import widen

HERE = Path(__file__).resolve().parent
KINDS = {
    "roberta": (RobertaConfig, AutoModelForMaskedLM),
    "opt": (OPTConfig, AutoModelForCausalLM),
}
SDPA = {"attn_implementation": "sdpa"}  # OPT's "eager" has a float32 softmax in a float64 model


def build(case: Case) -> torch.nn.Module:
    """The reference model, every parameter seeded by its own name."""
    config, auto = KINDS[case.config["model_type"]]
    model = auto.from_config(config(**case.config), **SDPA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(widen(case.tensor(name, tuple(parameter.shape)))))
    return model


def trace(model: torch.nn.Module, sequences: list[list[int]]) -> dict[str, np.ndarray]:
    """What the model computes, stage by stage, its sequences one after another: f64[N, D]."""
    seen: dict[str, list[torch.Tensor]] = {"embed": [], "head": []}
    body = getattr(model.base_model, "decoder", getattr(model.base_model, "encoder", None))
    layers = body.layers if hasattr(body, "layers") else body.layer
    layers[0].register_forward_pre_hook(lambda _, x: seen["embed"].append(x[0][0]))
    for i, layer in enumerate(layers):
        outputs = seen.setdefault(f"layer{i}", [])
        layer.register_forward_hook(lambda _, x, y, outputs=outputs: outputs.append(y[0]))
    projection = model.get_output_embeddings()
    projection.register_forward_pre_hook(lambda _, x: seen["head"].append(x[0][0]))
    with torch.no_grad():
        seen["logits"] = [model.eval()(torch.tensor([ids])).logits[0] for ids in sequences]
    return {stage: torch.cat(parts).double().numpy() for stage, parts in seen.items()}


def golden(model: torch.nn.Module, sequences: list[list[int]]) -> dict[str, np.ndarray]:
    """Every stage in float64, rounded to float32, and the largest error of float32."""
    single = trace(model, sequences)
    exact = trace(model.double(), sequences)
    errors = {f"{stage}.error": np.abs(single[stage] - exact[stage]).max() for stage in exact}
    return {name: value.astype(np.float32) for name, value in {**exact, **errors}.items()}


def main() -> None:
    torch.set_num_threads(1)
    defaults = {family: config().to_dict() for family, (config, _) in KINDS.items()}
    (HERE / "configs.json").write_text(json.dumps(defaults, indent=1) + "\n")
    for name, case in TINY.items():
        np.savez_compressed(HERE / f"{name}.npz", **golden(build(case), case.sequences))
    for name, case in REAL.items():
        found = golden(build(case), case.sequences)
        kept = {
            "logits": found["logits"][:, case.columns],
            "logits.error": found["logits.error"],
            "peak": np.abs(found["logits"]).max(),
        }
        np.savez_compressed(HERE / f"{name}.npz", **kept)
    trained = AutoModelForCausalLM.from_pretrained(TRAINED_OPT, **SDPA)
    np.savez_compressed(HERE / "trained_opt.npz", **golden(trained, windows()[:10]))


if __name__ == "__main__":
    main()
