"""What is planned against what is measured, in processes of their own."""

from __future__ import annotations

import json
import re

import pytest
from folders import rows, shell, write_jsonl
from tiny import tiny_opt, tiny_roberta

from tinyzo.engine.numpy_engine import QUERIES
from tinyzo.runs import memory

SHARE = 0.15  # measured when this was written: 0.5 to 8 %
needs_proc = pytest.mark.skipif(not memory.STATUS.exists(), reason="no /proc to read the peak from")


@needs_proc
@pytest.mark.parametrize("model", ["roberta-tiny", "opt-tiny"])
@pytest.mark.parametrize(
    "options",
    [(), ("--batch-size", "120"), ("--batch-size", "2", "--dtype", "f32"), ("--engine", "numpy")],
)
def test_the_plan_is_what_a_run_then_holds(tmp_path, model, options):
    process = shell(
        "finetune", "--model", model, "--steps", "2", "--output", "run", "--json", *options,
        cwd=tmp_path,
    )  # fmt: skip
    output, log = process.communicate()
    assert process.returncode == 0, log
    peak = json.loads(output)["peak_bytes"]
    parts = [int(n) for n in re.findall(r" (\d+) MB", re.search("memory plan: .*", log)[0])]
    planned = parts[-1] << 20
    print(planned / 1e6, peak / 1e6)
    assert abs(planned - peak) < SHARE * peak, (planned / 1e6, peak / 1e6)
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=3)  # each is rounded


@needs_proc
def test_micro_batches_bound_the_peak(tmp_path):
    """A batch of 1,500 tokens at once or in parts; the parts need little more than one."""
    data = write_jsonl(tmp_path / "rows.jsonl", rows(200))
    peaks = []
    for tokens in ("4096", "150"):
        process = shell(
            "finetune", "--task", "reviews", "--data", data, "--steps", "1", "--batch-size", "100",
            "--limit", "1", "--eval-every", "9", "--micro-batch-tokens", tokens, "--json",
            "--output", tokens, cwd=tmp_path,
        )  # fmt: skip
        output, log = process.communicate()
        assert process.returncode == 0, log
        peaks.append(json.loads(output)["peak_bytes"])
    assert peaks[0] - peaks[1] > 10 << 20, peaks


def test_fields_of_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert memory.status_bytes("VmHWM") == 0
    assert memory.peak_bytes() > 1 << 20  # from getrusage, as on macOS
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nRssAnon:\t 12 kB\n")
    assert memory.status_bytes("VmHWM") == memory.peak_bytes() == 2 << 20
    assert memory.status_bytes("RssAnon") == 12 << 10
    assert memory.status_bytes("RssShmem") == 0


@pytest.mark.parametrize("make", [tiny_roberta, tiny_opt])
def test_parts_grow_as_they_should(make):
    model = make()
    base, wide, both = (memory.plan(model, *n) for n in ((64, 8, 1), (128, 8, 1), (64, 8, 2)))
    assert base.keys() == {"interpreter", "weights", "tiles", "activations"}
    assert base["weights"] == model.weights.nbytes()
    assert base["activations"] < wide["activations"] < 2 * base["activations"]
    assert both["activations"] == 2 * base["activations"]
    long, longer = (memory.plan(model, 4096, n, 1)["activations"] for n in (QUERIES, 2 * QUERIES))
    heads = model.config.num_attention_heads
    assert longer - long == 4 * 2 * heads * QUERIES * QUERIES  # scores of one block of queries
