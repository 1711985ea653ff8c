"""Does the chosen sampler find more than random search with the same trials? On a surrogate of real trials, over many seeds.

    python -m experiments.benchmarks.sweep_samplers artifacts/.sweeps/rehearsal [seeds]

The surrogate is a Gaussian process over (log2 rank, log10 rate), fitted to every complete trial of a rehearsal sweep; both samplers
get 30 trials on it, through the same code that a sweep uses, and what counts is the best loss found.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.config.sweep import SweepSpec

TRIALS = 30
RATE, RANK = "train.learning_rate", "train.lora.rank"


def real_trials(folder: Path) -> tuple[Any, Any]:
    """(n, 2) of log2 rank and log10 rate, and (n,) losses."""
    points, losses = [], []
    for place in sorted((folder / "trials").iterdir()):
        if (place / "result.json").exists():
            result, request = (json.loads((place / f"{name}.json").read_text()) for name in ("result", "request"))
            if result["end"] == "complete":
                points.append([np.log2(request["values"][RANK]), np.log10(request["values"][RATE])])
                losses.append(result["metrics"]["train/val_loss_best"])
    return np.array(points), np.array(losses)


def surrogate(points: Any, losses: Any) -> tuple[Any, float]:
    """The fitted surface and its error when one trial at a time is left out (R2)."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    kernel = ConstantKernel(1.0) * RBF([2.0, 0.5], (0.2, 20.0)) + WhiteKernel(1e-3, (1e-5, 1e-1))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0, n_restarts_optimizer=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = cross_val_predict(model, points, losses, cv=LeaveOneOut())
        model.fit(points, losses)
    return model, float(1 - ((predicted - losses) ** 2).sum() / ((losses - losses.mean()) ** 2).sum())


def best_found(model: Any, sampler: str, seed: int) -> float:
    """The lowest loss after 30 trials of that sampler, as a sweep would ask for them."""
    import optuna

    from sysdesign.sweep.book import _suggest
    from sysdesign.sweep.study import sampler as make

    space = {RANK: {"kind": "choice", "values": [4, 8, 16, 32]}, RATE: {"kind": "float", "low": 2e-4, "high": 2e-2, "log": True}}
    spec = SweepSpec.model_validate(
        {
            "question": "Does the sampler beat random search?",
            "name": "samplers",
            "budget": {"trials": TRIALS},
            "space": space,
            "pruning": {"kind": "none"},
            "objective": {"metric": "train/val_loss_best", "direction": "minimize"},
            "sampler": sampler,
            "seed": seed,
        }
    )
    study = optuna.create_study(direction="minimize", sampler=make(spec, 0))
    for number in range(TRIALS):
        study.sampler = make(spec, number)
        trial = study.ask()
        for path, axis in spec.space.items():
            _suggest(trial, path, axis)
        at = [[np.log2(trial.params[RANK]), np.log10(trial.params[RATE])]]
        study.tell(trial, float(model.predict(np.array(at))[0]))
    return float(study.best_value)


def main(folder: Path, seeds: int) -> None:
    points, losses = real_trials(folder)
    model, r2 = surrogate(points, losses)
    print(f"{len(losses)} real trials, loss {losses.min():.3f} to {losses.max():.3f}; left-one-out R2 of the surrogate {r2:.2f}")
    found = {name: np.array([best_found(model, name, seed) for seed in range(seeds)]) for name in ("random", "tpe", "gp")}
    draws = np.random.default_rng(0)
    for name in ("tpe", "gp"):
        gain = found["random"] - found[name]
        means = gain[draws.integers(0, seeds, (10_000, seeds))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        mean = found[name].mean()
        interval = f"95 % interval {low:.4f} to {high:.4f}, {seeds} seeds"
        print(f"{name}: {mean:.4f} against random {found['random'].mean():.4f}; gain {gain.mean():.4f} ({interval})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
