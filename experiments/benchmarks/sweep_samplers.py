"""Which sampler finds most with 30 trials? On a surrogate of real rehearsal trials, with their noise, over many repetitions.

    python -m experiments.benchmarks.sweep_samplers score|loss [REPETITIONS] [SAMPLER ...]

The surrogate is a Gaussian process over (log2 rank, log10 rate), fitted to what the trials in
experiments/reports/sweep_points.jsonl reported (`sweep_points` trains them): their scores on validation questions, which the
rehearsal sweep is about, or the log of their validation losses. A trial's curve is the surrogate's plus the deviation of one real
trial from its equals with other seeds. Samplers and pruners run through the sweep's own book. What counts is not what the winner
showed, but the noise-free value at its settings, away from the best there is (regret). The interval is of the paired difference
to random search, by bootstrap over repetitions.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from itertools import groupby
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from experiments.benchmarks.sweep_points import POINTS, RANK, RATE, SPEC
from sysdesign.config.sweep import Choice, Span, SweepSpec
from sysdesign.sweep.book import Book
from sysdesign.sweep.spec import read_spec
from sysdesign.sweep.study import pruner, sampler
from sysdesign.sweep.trial import Result

TRIALS, FINE = 30, 801
NONE, BAND = {"kind": "none"}, {"kind": "hyperband", "metric": "train/val_loss", "direction": "minimize", "factor": 2}
WAYS: dict[str, tuple[str, dict[str, Any], bool]] = {  # name -> sampler, pruning, whether pruned work buys further trials
    "random": ("random", NONE, False),
    "tpe": ("tpe", NONE, False),
    "gp": ("gp", NONE, False),
    "tpe+hyperband": ("tpe", BAND, False),
    "tpe+hyperband, same work": ("tpe", BAND, True),
}


class Surrogate:
    """What a trial would report at any rank and rate. `curve`: (ranks, FINE, reports) noise-free losses, or scores below zero, on a fine
    grid of rates: lower is better in both."""

    def __init__(self, spec: SweepSpec, points: list[dict[str, Any]], about: str) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

        ranks, rates = spec.space[RANK], spec.space[RATE]
        assert isinstance(ranks, Choice) and isinstance(rates, Span)
        self.ranks = list(ranks.values)
        self.rates = np.linspace(np.log10(rates.low), np.log10(rates.high), FINE)
        at = np.array([[np.log2(p["rank"]), np.log10(p["rate"])] for p in points])
        seen = np.array([_curve(p, about) for p in points])
        there, back = (np.log, np.exp) if about == "loss" else (np.array, np.array)
        kernel = ConstantKernel(1.0) * Matern([2.0, 0.5], (0.1, 20.0), nu=1.5) + WhiteKernel(1e-2, (1e-5, 1.0))
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0, n_restarts_optimizer=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = [f"{p['rank']} {p['rate']}" for p in points]
            predicted = back(cross_val_predict(model, at, there(seen), groups=cells, cv=LeaveOneGroupOut()))
            model.fit(at, there(seen))
        self.r2 = float(1 - ((predicted - seen)[:, -1] ** 2).sum() / ((seen - seen.mean(axis=0))[:, -1] ** 2).sum())
        everywhere = np.array([[np.log2(rank), rate] for rank in self.ranks for rate in self.rates])
        self.curve = back(model.predict(everywhere)).reshape(len(self.ranks), FINE, -1)
        self.deviations = np.array(_deviations(points, about))
        self.lowest = self.curve[..., -1].min()

    def at(self, values: dict[str, Any]) -> Any:
        """(reports,) noise-free values at a trial's settings."""
        lines = self.curve[self.ranks.index(values[RANK])]
        return np.array([np.interp(np.log10(values[RATE]), self.rates, line) for line in lines.T])


def _curve(point: dict[str, Any], about: str) -> Any:
    return np.array(list(point["losses"].values())) if about == "loss" else -np.array(list(point["scores"].values()))


def _deviations(points: list[dict[str, Any]], about: str) -> list[Any]:
    """(reports,) each: how real trials differ from the mean of their equals, widened by what the mean took of it."""
    found = []
    for _, group in groupby(sorted(points, key=lambda p: (p["rank"], p["rate"])), key=lambda p: (p["rank"], p["rate"])):
        curves = np.array([_curve(p, about) for p in group])
        if len(curves) > 1:
            found += list((curves - curves.mean(axis=0)) * np.sqrt(len(curves) / (len(curves) - 1)))
    return found


def search(base: SweepSpec, truth: Surrogate, way: str, repetition: int) -> tuple[float, float]:
    """Regret of what the sweep would hand over, and the work it took in whole trials."""
    import optuna

    kind, pruning, refill = WAYS[way]
    spec = SweepSpec.model_validate(
        {
            **base.model_dump(),
            "objective": {"metric": "train/val_loss_best", "direction": "minimize"},
            "sampler": kind,
            "pruning": pruning,
            "seed": repetition,
            "budget": {"trials": TRIALS},
        }
    )
    study = optuna.create_study(
        direction="minimize", sampler=sampler(spec, 0), pruner=pruner(spec.pruning), study_name=f"repetition {repetition}"
    )
    study.set_user_attr("uid", "surrogate")
    book, noise, work = Book(spec, study), np.random.default_rng(repetition), 0.0
    while work < TRIALS if refill else book.counted() < TRIALS:
        trial = book.next()
        curve = truth.at(book.values(trial)) + truth.deviations[noise.integers(len(truth.deviations))]
        stopped = False
        for step, value in enumerate(curve, 1):
            work += 1 / len(curve)
            if stopped := step < len(curve) and book.report(trial, step, float(value)):
                break
        book.tell(trial, Result(end="pruned" if stopped else "complete", metrics={spec.objective.metric: float(curve[-1])}))
    best = book.best()
    assert best is not None
    return float(truth.at(book.values(best.number))[-1] - truth.lowest), work


def main(about: str, repetitions: int, ways: list[str]) -> None:
    points = [json.loads(line) for line in POINTS.read_text().splitlines()]
    base = read_spec(SPEC, {})
    truth = Surrogate(base, points, about)
    ends = [abs(float(_curve(p, about)[-1])) for p in points]
    row, column = np.unravel_index(truth.curve[..., -1].argmin(), truth.curve.shape[:2])
    settings, at = len({(p["rank"], p["rate"]) for p in points}), f"rank {truth.ranks[row]}, rate {10 ** truth.rates[column]:.2g}"
    print(
        f"{len(points)} real trials at {settings} settings, {about} {min(ends):.3f} to {max(ends):.3f}; "
        f"noise of one trial {truth.deviations[:, -1].std():.3f}; surrogate's R2 at settings left out {truth.r2:.2f}; "
        f"its best {about} {abs(truth.lowest):.3f} at {at}"
    )
    found: dict[str, Any] = {}
    draws = np.random.default_rng(0)
    for way in ways:
        every = np.array([search(base, truth, way, repetition) for repetition in range(repetitions)])
        found[way] = every[:, 0]
        gain = found["random"] - found[way]
        low, high = np.quantile(gain[draws.integers(0, repetitions, (10_000, repetitions))].mean(axis=1), [0.025, 0.975])
        print(
            f"{way:25} regret mean {every[:, 0].mean():.4f} median {np.median(every[:, 0]):.4f}, work {every[:, 1].mean():.1f} trials; "
            f"gain over random {gain.mean():+.4f} (95 % interval {low:+.4f} to {high:+.4f}, {repetitions} repetitions)",
            flush=True,
        )


if __name__ == "__main__":
    chosen = [way for way in sys.argv[3:] if way != "random"] or list(WAYS)[1:]
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200, ["random", *chosen])
