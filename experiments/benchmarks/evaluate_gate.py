"""Simulated models with a known true gain -> how often the gate promotes, rejects, or says that it does not know.

    python -m experiments.benchmarks.evaluate_gate [simulations]

Each simulation draws 75 graphs of four yes/no probes with a shared difficulty a graph, answers of a base and a tuned model whose true
gain is set, and passes the scores through the code the stage uses. All guardrails are given as held, so the figures are those of the
primary endpoint alone; "ten attempts" trains ten models that are not better on one probe set and counts whether any passed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Any

from sysdesign.config.evaluate import Gate
from sysdesign.evaluate.bootstrap import Difference, Estimate, difference, power_of, spend
from sysdesign.evaluate.gate import Evidence, decide

GRAPHS, PER_GRAPH, BASE = 75, 4, 0.45
HELD = Difference(mean=0.0, n=30, clusters=30, alphas=(0.05,), lows=(0.0,), highs=(0.0,))


def scores(rng: Any, gain: float, graphs: int, spread: float) -> tuple[list[float], list[float], list[str]]:
    """(tuned, base, clusters). Difficulty and gain vary by graph, uniformly, so that no chance leaves 0 to 1 and the gain is exact."""
    base = BASE + rng.uniform(-spread, spread, graphs)
    tuned = base + gain + rng.uniform(-spread / 2, spread / 2, graphs)
    new = rng.random((PER_GRAPH, graphs)) < tuned
    old = rng.random((PER_GRAPH, graphs)) < base
    clusters = [f"g{i}" for i in range(graphs)] * PER_GRAPH
    return new.astype(float).ravel().tolist(), old.astype(float).ravel().tolist(), clusters


def outcomes(
    gain: float, simulations: int, *, seed: int, graphs: int = GRAPHS, spread: float = 0.2, attempt: int = 1
) -> tuple[Counter[str], float]:
    """Verdicts over all simulations, and the mean power that the power statement claims for this gain."""
    import numpy as np

    gate = Gate(draws=2_000 if attempt == 1 else 6_000, min_graphs=2, min_probes=1)
    found: Counter[str] = Counter()
    claimed = 0.0
    for number in range(simulations):
        new, old, clusters = scores(np.random.default_rng((seed, number)), gain, graphs, spread)
        alphas = [spend(gate.alpha, k) for k in range(1, attempt + 1)]
        measured = difference(new, old, clusters, alphas=alphas, draws=gate.draws, seed=number)
        assert measured is not None and measured.se is not None
        claimed += power_of(measured.se, alpha=alphas[-1], effect=gain - gate.margin)
        shape = Estimate(mean=1.0, low=1.0, high=1.0, n=100, clusters=75)
        evidence = Evidence(
            gain=measured,
            headline=HELD,
            hallucination=HELD,
            format_validity=shape,
            families={"all": HELD},
            leaks=0,
            parity=True,
            ships=True,
            unanswered=0.0,
        )
        found[decide(evidence, gate, attempt=attempt).verdict] += 1
    return found, claimed / simulations


def series(simulations: int, *, seed: int, gain: float = 0.03, attempts: int = 8, spending: bool = True, draws: int = 6_000) -> int:
    """In how many series at least one of `attempts` models was promoted, each of true gain `gain`, all tried on one probe set.

    `spending` False gives every try the first one's error rate: what a gate that does not count would do.
    """
    import numpy as np

    gate = Gate(draws=draws, min_graphs=2, min_probes=1, max_attempts=attempts)
    shape = Estimate(mean=1.0, low=1.0, high=1.0, n=100, clusters=75)
    promoted = 0
    for number in range(simulations):
        rng = np.random.default_rng((seed, number))
        base = BASE + rng.uniform(-0.2, 0.2, GRAPHS)
        old = rng.random((PER_GRAPH, GRAPHS)) < base  # the base is measured once, for all that are tried
        for attempt in range(1, attempts + 1):
            new = rng.random((PER_GRAPH, GRAPHS)) < base + gain + rng.uniform(-0.1, 0.1, GRAPHS)
            answers = [found.astype(float).ravel().tolist() for found in (new, old)]
            clusters = [f"g{i}" for i in range(GRAPHS)] * PER_GRAPH
            alphas = [spend(gate.alpha, k) for k in range(1, attempts + 1)]
            measured = difference(answers[0], answers[1], clusters, alphas=alphas, draws=gate.draws, seed=number)
            evidence = Evidence(
                gain=measured, headline=HELD, hallucination=HELD, format_validity=shape, families={"all": HELD}, leaks=0, parity=True,
                ships=True, unanswered=0.0,
            )  # fmt: skip
            if decide(evidence, gate, attempt=attempt if spending else 1).verdict == "promote":
                promoted += 1
                break
    return promoted


def main(simulations: int) -> None:
    print(f"{simulations} simulations each; {GRAPHS} graphs x {PER_GRAPH} probes, base {BASE}, margin 0.03, alpha 0.05 over all attempts")
    print("| true gain | promote | 95 % interval | claimed power | reject | inconclusive |\n|---|---|---|---|---|---|")
    for gain in (-0.05, 0.0, 0.03, 0.06, 0.10, 0.15, 0.20):
        found, claimed = outcomes(gain, simulations, seed=11)
        rate = found["promote"] / simulations
        half = 1.96 * math.sqrt(max(rate * (1 - rate), 1e-9) / simulations)
        shares = f"{found['reject'] / simulations:.1%} | {found['inconclusive'] / simulations:.1%}"
        print(f"| {gain:+.2f} | {rate:.1%} | ±{half:.1%} | {claimed:.1%} | {shares} |")
    for graphs in (10, 20, 40, 150):
        found, _ = outcomes(0.03, simulations, seed=12, graphs=graphs)
        print(f"{graphs} graphs, gain at the margin: promoted {found['promote'] / simulations:.1%}")
    for gain in (0.0, 0.03):
        once, freely = (series(simulations, seed=31, gain=gain, spending=spending) for spending in (True, False))
        counted = f"at least one promoted in {once / simulations:.1%} of series; without counting attempts {freely / simulations:.1%}"
        print(f"eight models of true gain {gain:+.2f} on one probe set: {counted}", flush=True)
    passed = 0
    for number in range(simulations):
        passed += any(outcomes(0.03, 1, seed=1_000 + 100 * number + k, attempt=k)[0]["promote"] for k in range(1, 9))
    print(f"eight attempts at the margin: at least one promoted in {passed / simulations:.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
