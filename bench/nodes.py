"""4 to 1,024 nodes that train one model and tell each other seeds and losses: on paper, simulated.

    python bench/nodes.py --steps 4000 --out bench/results/nodes.jsonl    # a line a case, 10 s

Every node evaluates one query of its own in each step (queries), or its part of 64 rows (rows),
sends its losses, waits, and adds all terms of the step. Times are of RoBERTa-large in float32.
Each line holds the seconds of a step on paper and simulated; SOURCES says of each number that goes
in whether it was measured, is published elsewhere or is assumed. All results are modelled.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

NODES = (4, 16, 64, 256, 1024)
SHARES = ("queries", "rows")
KEPT = {"all": 1.0, "fastest 90 %": 0.9}  # the part of the nodes that a step waits for
PARAMETERS = 355_412_057
ROW, FIXED = 0.296, 0.635  # s a step: of a row, and of the noise whatever the rows are
TERM = 0.146  # s to add one term to all weights
BATCH = {"queries": 8, "rows": 64}
SPREAD = 0.117  # standard deviation of the logarithm of a step's seconds
HEADER, LOSS = 24, 8  # bytes: of a rank, and of each loss
BACKPROPAGATION = 1.62  # seconds of a step of Adam over those of MeZO, 8 rows
RESTART = 60.0  # s until a node that failed, or a job, goes on from its snapshot
DAY = 86_400.0
SOURCES = {
    "ROW, FIXED": "measured: steps of 8 and 64 rows, avx512-2-cores.jsonl, a line through both",
    "TERM": "measured: 0.41 ns an element, float32, docs/speed.md, times the parameters",
    "SPREAD": "measured: 116 steps of roberta-tiny, one run, two busy cores; taken for nodes",
    "HEADER, LOSS": "measured: 32 bytes a rank with one loss; with two, by the format",
    "BACKPROPAGATION": "measured: avx2-2-cores-pocketllm.jsonl, Adam 13.0 s, MeZO 8.03 s",
    "RESTART": "assumed",
    "10 GbE": "20 us between applications: Hurwitz and Feng, Hot Interconnects 11; a node fails "
    "in 264 days: Llama 3, 419 failures of 2,048 nodes in 54 days; spread assumed",
    "1 GbE": "assumed: 50 us, 0.9 Gb/s; failures as above",
    "Wi-Fi": "half of packets over 20 ms, a tenth over 100 ms: WiFi can be the weakest link of "
    "round trip network latency in the wild, 47 access points; the rest assumed",
    "4G": "60 ms: OpenSignal 2017, 57 to 70 ms; 8.6 Mb/s up: Ookla 2018; the rest assumed",
}


@dataclass(frozen=True)
class Network:
    """What lies between nodes.

    latency, tail: median seconds of a hop, standard deviation of their logarithm; is_tree: whether
    log2 N hops gather and spread (or 1 to a server and 1 back); bandwidth: bytes a second of a
    node; lost: the part of messages sent again after `timeout` seconds; mtbf: s to a node's failure
    """

    latency: float
    tail: float
    bandwidth: float
    is_tree: bool
    lost: float = 0.0
    timeout: float = 0.0
    mtbf: float = 264 * DAY

    def hops(self, nodes: int) -> int:
        return math.ceil(math.log2(nodes)) if self.is_tree else 2


NETWORKS = {
    "10 GbE": Network(20e-6, 0.3, 1.1e9, is_tree=True),
    "1 GbE": Network(50e-6, 0.3, 1.1e8, is_tree=True),
    "Wi-Fi": Network(20e-3, 1.256, 1.2e7, is_tree=False, lost=1e-3, timeout=1.0, mtbf=DAY),
    "4G": Network(30e-3, 1.0, 1.08e6, is_tree=False, lost=5e-3, timeout=10.0, mtbf=DAY / 24),
}


@dataclass(frozen=True)
class Case:
    """So many nodes on a network that share queries or rows, and the part that is waited for."""

    network: Network
    nodes: int
    share: str
    kept: float = 1.0

    @property
    def awaited(self) -> int:
        return math.ceil(self.kept * self.nodes)

    @property
    def compute(self) -> float:
        """Median seconds of a node's passes; of rows, one micro-batch is the least there is."""
        rows = BATCH[self.share]
        return FIXED + ROW * (rows if self.share == "queries" else rows / min(rows, self.nodes))

    @property
    def after(self) -> float:
        """Seconds that no wait changes: all losses to each node, and all terms to the weights.

        A node's own passes include the addition of one term.
        """
        heard = self.nodes * (HEADER + 2 * LOSS) / self.network.bandwidth
        return heard + (self.awaited - 1) * TERM * (self.share == "queries")

    @property
    def trip(self) -> float:
        return self.network.hops(self.nodes) * self.network.latency


# -- on paper ----------------------------------------------------------------------------------

NORMAL = NormalDist()
SCORES = np.linspace(-6, 6, 601)  # to where no trip of 1,024 nodes goes
WEIGHTS = np.exp(-(SCORES**2) / 2) / np.exp(-(SCORES**2) / 2).sum()
phi = np.vectorize(NORMAL.cdf, otypes=[float])


def arrived(case: Case, times: np.ndarray) -> np.ndarray:
    """The probability that a node's losses are there: F(t) of compute and a trip, both log-normal,
    and of a time-out where the message was lost."""
    trips = case.trip * np.exp(case.network.tail * SCORES)
    logs = np.linspace(-8, 8, 2001)
    table = phi(logs)

    def on_time(t: np.ndarray) -> np.ndarray:
        left = np.maximum(t[:, None] - trips, 1e-300)
        return np.interp(np.log(left / case.compute) / SPREAD, logs, table) @ WEIGHTS

    lost = case.network.lost
    return (1 - lost) * on_time(times) + lost * on_time(times - case.network.timeout)


def step_survival(case: Case, times: np.ndarray) -> np.ndarray:
    """P(T > t): fewer than the awaited nodes are there, a binomial tail."""
    p, n = np.clip(arrived(case, times), 1e-300, 1 - 1e-16), case.nodes
    few = np.arange(case.awaited)
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in few]
    logs = np.array(ways) + np.outer(np.log(p), few) + np.outer(np.log1p(-p), n - few)
    return np.minimum(np.exp(logs).sum(axis=1), 1.0)


def on_paper(case: Case) -> float | None:
    """Expected seconds of a step with its failures; None if less than one try in 20 gets through.

    Who waits for all begins the step anew after each failure of any node (memoryless, rate N/mtbf):
    (1 - f) / f (1 / rate + RESTART) with f = E[exp(-rate T)]. Who waits for some goes on.
    """
    longest = case.compute * math.exp(6 * SPREAD) + case.network.timeout
    longest += case.trip * math.exp(6 * case.network.tail)
    times = np.r_[0.0, np.geomspace(case.compute / 100, longest, 2500)]
    survival = step_survival(case, times)
    if case.kept < 1:
        return float(np.trapezoid(survival, times)) + case.after
    rate = case.nodes / case.network.mtbf
    kept = np.trapezoid(rate * np.exp(-rate * times) * survival, times)
    f = (1 - kept) * math.exp(-rate * case.after)
    return float((1 - f) / f * (1 / rate + RESTART)) if f >= 0.05 else None


# -- simulated ---------------------------------------------------------------------------------


def simulated(case: Case, steps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Mean seconds of a step, and the standard error of this mean."""
    seconds = np.array([one_step(case, rng) for _ in range(steps)])
    return float(seconds.mean()), float(seconds.std(ddof=1) / math.sqrt(steps))


def one_step(case: Case, rng: np.random.Generator) -> float:
    spent = 0.0
    while True:
        took = attempt(case, rng)
        failed = rng.exponential(case.network.mtbf, case.nodes).min()
        if case.kept < 1 or failed > took:
            return spent + took
        spent += failed + RESTART


def attempt(case: Case, rng: np.random.Generator) -> float:
    net, n = case.network, case.nodes
    there = case.compute * np.exp(SPREAD * rng.standard_normal(n))
    there += case.trip * np.exp(net.tail * rng.standard_normal(n))
    there += net.timeout * (rng.random(n) < net.lost)
    return float(np.partition(there, case.awaited - 1)[case.awaited - 1]) + case.after


# -- cases -------------------------------------------------------------------------------------


def alone(case: Case) -> float:
    """Seconds of the same step, with all its queries or rows, on one node."""
    one = Case(case.network, 1, case.share)
    return one.compute * (case.awaited if case.share == "queries" else 1)


def rivals(network: Network, nodes: int) -> dict[str, float]:
    """Seconds of a step that sends gradients in a ring, and of exchanging weights with a server
    whose link is 1.1 GB/s; both wait for nobody."""
    size, hops = 4 * PARAMETERS, 2 * (nodes - 1)
    ring = hops / nodes * size / network.bandwidth + hops * network.latency
    compute = BACKPROPAGATION * (FIXED + ROW * BATCH["queries"])
    weights = 2 * max(size / network.bandwidth, nodes * size / 1.1e9)
    return {"gradients": compute + ring, "weights": weights}


def cases(steps: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of the results."""
    for name, network in NETWORKS.items():
        for nodes, share, (policy, kept) in (
            (n, s, k) for n in NODES for s in SHARES for k in KEPT.items()
        ):
            if share == "rows" and kept < 1:
                continue  # a mean without some rows is of another loss
            case = Case(network, nodes, share, kept)
            paper, mean, error = on_paper(case), None, None
            if paper is not None:  # else a simulation would not end
                mean, error = simulated(case, steps, np.random.default_rng([seed, nodes]))
            yield {"network": name, "nodes": nodes, "share": share, "waits_for": policy,
                   "paper": paper, "simulated": mean, "error": error, "steps": steps,
                   "compute": case.compute, "after": case.after,
                   "speedup": paper and alone(case) / paper, "bytes": HEADER + 2 * LOSS,
                   **rivals(network, nodes)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="simulated a case (1000)")
    parser.add_argument("--out", type=Path, required=True, help="a new file of JSON lines")
    options = parser.parse_args()
    lines = [{"sources": SOURCES}, *cases(options.steps)]
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
