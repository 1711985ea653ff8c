"""Simulated models with a known true gain -> how often the gate promotes, rejects, or says that it does not know.

    python -m experiments.benchmarks.evaluate_gate [simulations]

Each simulation draws 75 graphs of four yes/no probes with a shared difficulty a graph, answers of a base and a tuned model whose true
gain is set, and passes the scores through the code the stage uses. All guardrails are given as held, so the figures are those of the
primary endpoint alone. A series trains eight models of one true gain, tries them one after the other on one probe set against one base,
and counts whether any passed; "lopsided" models gain a little on most graphs and lose everything on a few.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, Literal

from sysdesign.config.evaluate import Gate
from sysdesign.evaluate.bootstrap import Difference, Estimate, difference, power_of, spend, t_quantile
from sysdesign.evaluate.gate import Evidence, decide

GRAPHS, PER_GRAPH, BASE = 75, 4, 0.45
LOST = 0.08  # share of graphs on which a lopsided model loses everything
Shape = Literal["yes or no", "lopsided"]
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
        claimed += power_of(measured.se, graphs, alpha=alphas[-1], effect=gain - gate.margin)
        found[decide(_evidence(measured), gate, attempt=attempt).verdict] += 1
    return found, claimed / simulations


def tried(rng: Any, gain: float, attempts: int, shape: Shape) -> tuple[list[list[float]], list[float]]:
    """Scores of `attempts` models, and of the one base that all of them are held against."""
    if shape == "yes or no":
        base = BASE + rng.uniform(-0.2, 0.2, GRAPHS)
        old = rng.random((PER_GRAPH, GRAPHS)) < base
        models = [rng.random((PER_GRAPH, GRAPHS)) < base + gain + rng.uniform(-0.1, 0.1, GRAPHS) for _ in range(attempts)]
        return [model.astype(float).ravel().tolist() for model in models], old.astype(float).ravel().tolist()
    level = rng.uniform(0.65, 0.85, (PER_GRAPH, GRAPHS))
    more = (gain + LOST * 0.75) / (1 - LOST)  # so that the mean over all graphs is exactly `gain`
    better = [(level + more + rng.uniform(-0.05, 0.05, (PER_GRAPH, GRAPHS))) * (rng.random(GRAPHS) >= LOST) for _ in range(attempts)]
    return [model.ravel().tolist() for model in better], level.ravel().tolist()


def series(
    simulations: int, *, seed: int, gain: float = 0.03, attempts: int = 8, draws: int = 6_000, shape: Shape = "yes or no"
) -> tuple[int, int]:
    """In how many series at least one of `attempts` models was promoted, each of true gain `gain`, all tried on one probe set.

    First by the gate, then by one that does not count attempts: every try has the first one's error rate.
    """
    import numpy as np

    gate = Gate(draws=draws, min_graphs=2, min_probes=1, max_attempts=attempts)
    clusters = [f"g{i}" for i in range(GRAPHS)] * PER_GRAPH
    alphas = [spend(gate.alpha, k) for k in range(1, attempts + 1)]
    counted = freely = 0
    for number in range(simulations):
        models, old = tried(np.random.default_rng((seed, number)), gain, attempts, shape)
        found = [_evidence(difference(new, old, clusters, alphas=alphas, draws=gate.draws, seed=number)) for new in models]
        counted += any(decide(one, gate, attempt=k).verdict == "promote" for k, one in enumerate(found, 1))
        freely += any(decide(one, gate).verdict == "promote" for one in found)
    return counted, freely


def student(simulations: int, *, seed: int, gain: float = 0.03, attempts: int = 8) -> int:
    """As `series` of yes-or-no models, by Student's t alone: the gate's bounds are never narrower, and this is a hundred times as fast."""
    import numpy as np

    quantiles = np.array([t_quantile(1 - spend(Gate().alpha, k), GRAPHS - 1) for k in range(1, attempts + 1)])
    promoted = 0
    for number in range(simulations):
        models, old = tried(np.random.default_rng((seed, number)), gain, attempts, "yes or no")
        gains = (np.array(models) - np.array(old)).reshape(attempts, PER_GRAPH, GRAPHS).mean(axis=1)  # of each graph
        lows = gains.mean(axis=1) - quantiles * gains.std(axis=1, ddof=1) / GRAPHS**0.5
        promoted += bool((lows > Gate().margin).any())
    return promoted


def _evidence(gain: Difference | None) -> Evidence:
    shape = Estimate(mean=1.0, low=1.0, high=1.0, n=100, clusters=75)
    return Evidence(
        gain=gain, headline=HELD, hallucination=HELD, format_validity=shape, families={"all": HELD}, leaks=0, parity=True, ships=True,
        unanswered=0.0,
    )  # fmt: skip


def main(simulations: int) -> None:
    print(f"{simulations} simulations each; {GRAPHS} graphs x {PER_GRAPH} probes, base {BASE}, margin 0.03, alpha 0.05 over all attempts")
    print("| true gain | promote, 95 % interval | claimed power | reject | inconclusive |\n|---|---|---|---|---|")
    for gain in (-0.05, 0.0, 0.03, 0.06, 0.10, 0.15, 0.20):
        found, claimed = outcomes(gain, simulations, seed=11)
        shares = f"{found['reject'] / simulations:.1%} | {found['inconclusive'] / simulations:.1%}"
        print(f"| {gain:+.2f} | {_share(found['promote'], simulations)} | {claimed:.1%} | {shares} |", flush=True)
    for graphs in (10, 20, 40, 150):
        found, _ = outcomes(0.03, simulations, seed=12, graphs=graphs)
        print(f"{graphs} graphs, gain at the margin: promoted {found['promote'] / simulations:.1%}")
    for shape, gain in (("yes or no", 0.0), ("yes or no", 0.03), ("lopsided", 0.03)):
        counted, freely = series(simulations, seed=31, gain=gain, shape=shape)
        said = f"at least one promoted in {_share(counted, simulations)} of series; without counting attempts {freely / simulations:.1%}"
        print(f"eight {shape} models of true gain {gain:+.2f} on one probe set: {said}", flush=True)
    found = _share(student(20 * simulations, seed=32), 20 * simulations)
    print(f"the same at the margin by Student's t alone, {20 * simulations:,} series: {found}")


def _share(count: int, of: int) -> str:
    """With its exact two-sided 95 % interval (Clopper and Pearson)."""
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci()
    return f"{count / of:.1%} [{found.low:.1%}, {found.high:.1%}]"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
