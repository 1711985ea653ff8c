"""Trains real rehearsal trials over a grid of rank and rate, some with several seeds: the ground of `sweep_samplers`.

    python -m experiments.benchmarks.sweep_points [FOLDER]

Settings are those of sweep_points.yaml beside this file; data and base are made once in FOLDER (default artifacts). Each trial is the train
stage itself, in this process. Adds to experiments/reports/sweep_points.jsonl what is not in it yet, so that it can be stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pipelines.command import open_store
from pipelines.sweep import prepare
from sysdesign.config.root import Config
from sysdesign.config.sweep import Choice, Span, SweepSpec
from sysdesign.flow import find_stage, inputs_of
from sysdesign.profiles import resolve
from sysdesign.records import NullLog
from sysdesign.sweep.spec import merge, read_spec

ROOT = Path(__file__).parents[2]
SPEC, POINTS = ROOT / "experiments/benchmarks/sweep_points.yaml", ROOT / "experiments/reports/sweep_points.jsonl"
RANK, RATE = "train.lora.rank", "train.learning_rate"
RATES, SEEDS = 8, 4  # rates of each rank; seeds of the repeated ones


class Curve(NullLog):
    """Keeps the validation losses that the stage reports."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step and "train/val_loss" in values:
            self.losses[step] = round(values["train/val_loss"], 5)


def grid(spec: SweepSpec) -> Iterator[tuple[int, float, int]]:
    """(rank, rate, seed): every rank's rates lie between those of the rank before; the middle ones are repeated with other seeds."""
    ranks, rates = spec.space[RANK], spec.space[RATE]
    assert isinstance(ranks, Choice) and isinstance(rates, Span)
    decades = math.log10(rates.high / rates.low)
    cells = [
        (rank, float(f"{rates.low * 10 ** (decades * (index + (row + 0.5) / len(ranks.values)) / RATES):.3g}"))
        for index in range(RATES)
        for row, rank in enumerate(ranks.values)
    ]
    yield from ((rank, rate, 0) for rank, rate in cells)
    yield from ((rank, rate, seed) for rank, rate in cells[2::6] for seed in range(1, SEEDS))


def main(folder: str) -> None:
    from sysdesign.train.stage import train

    spec = read_spec(SPEC, {})
    base: Config = resolve(Config, spec.profile, merge(spec, {"runtime.store": folder}, {}))
    store = open_store(base)
    prepare(spec, base, store)
    inputs = inputs_of(find_stage("train"), base, store, spec.profile)
    done = [json.loads(line) for line in POINTS.read_text().splitlines()] if POINTS.exists() else []
    if any(one["data"] != inputs["dataset"].digest[:12] for one in done):
        sys.exit(f"{POINTS}: its points were trained on other data - move the file away to start over")
    known = {(one["rank"], one["rate"], one["seed"]) for one in done}
    for rank, rate, seed in grid(spec):
        if (rank, rate, seed) in known:
            continue
        config: Config = resolve(Config, spec.profile, merge(spec, {"runtime.store": folder}, {RANK: rank, RATE: rate}))
        out, log, cpu = store.root / ".points", Curve(), time.process_time()
        shutil.rmtree(out, ignore_errors=True)
        report = train(config.train, seed=seed, out=out, log=log, runtime=config.runtime, **inputs)
        shutil.rmtree(out)
        point = {"rank": rank, "rate": rate, "seed": seed, "best": report.val_loss_best, "curve": log.losses}
        with POINTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**point, "data": inputs["dataset"].digest[:12], "cpu_s": round(time.process_time() - cpu, 1)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "artifacts")
