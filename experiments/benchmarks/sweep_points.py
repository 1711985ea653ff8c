"""Trains the rehearsal sweep's own trials over a grid of rank and rate, some with several seeds: the ground of `sweep_samplers`.

    python -m experiments.benchmarks.sweep_points [FOLDER]

Settings, questions and scores are those of experiments/rehearsal.yaml; data and base are made once in FOLDER (default artifacts).
Each trial is the train stage and the validation questions, in this process and to its end. Adds to
experiments/reports/sweep_points.jsonl what is not in it yet, so that it can be stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pipelines import probe
from pipelines.command import open_store
from pipelines.sweep import part, prepare
from sysdesign.config.root import Config
from sysdesign.config.sweep import INTERIM, Choice, Pruning, Span, SweepSpec
from sysdesign.flow import find_stage, inputs_of
from sysdesign.profiles import resolve
from sysdesign.records import NullLog
from sysdesign.sweep.spec import merge, read_spec

ROOT = Path(__file__).parents[2]
SPEC, POINTS = ROOT / "experiments/rehearsal.yaml", ROOT / "experiments/reports/sweep_points.jsonl"
RANK, RATE = "train.lora.rank", "train.learning_rate"
RATES, SEEDS = 6, 3  # rates of each rank; seeds of the repeated ones


class Curve(NullLog):
    """Keeps the validation losses and the scores on a few questions that a training reports."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.scores: dict[int, float] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        for name, kept in (("train/val_loss", self.losses), (f"{INTERIM}score", self.scores)):
            if step and name in values:
                kept[step] = round(values[name], 5)


def grid(spec: SweepSpec) -> Iterator[tuple[int, float, int]]:
    """(rank, rate, seed): every rank's rates lie between those of the rank before; each sixth setting is repeated with other seeds."""
    ranks, rates = spec.space[RANK], spec.space[RATE]
    assert isinstance(ranks, Choice) and isinstance(rates, Span)
    decades = math.log10(rates.high / rates.low)
    cells = [
        (rank, float(f"{rates.low * 10 ** (decades * (index + (row + 0.5) / len(ranks.values)) / RATES):.3g}"))
        for index in range(RATES)
        for row, rank in enumerate(ranks.values)
    ]
    for index, (rank, rate) in enumerate(cells):
        yield from ((rank, rate, seed) for seed in range(SEEDS if index % 6 == 2 else 1))


def main(folder: str) -> None:
    from sysdesign.train.stage import train

    spec = read_spec(SPEC, {})
    assert isinstance(spec.pruning, Pruning)
    base: Config = resolve(Config, spec.profile, merge(spec, {"runtime.store": folder}, {}))
    store = open_store(base)
    prepare(spec, base, store)
    inputs = inputs_of(find_stage("train"), base, store, spec.profile)
    done = [json.loads(line) for line in POINTS.read_text().splitlines()] if POINTS.exists() else []
    if any(one["data"] != inputs["dataset"].digest[:12] for one in done):
        sys.exit(f"{POINTS}: its points were trained on other data - move the file away to start over")
    known = {(one["rank"], one["rate"], one["seed"]) for one in done}
    asked = {"max_tokens": spec.objective.probe_tokens, "group": spec.objective.group}
    few, many = (probe.questions(inputs["dataset"], part(spec), n) for n in (spec.pruning.probes, spec.objective.probes))
    interim = partial(probe.interim, rows=few, part=part(spec), **inputs, **asked)
    for rank, rate, seed in grid(spec):
        if (rank, rate, seed) in known:
            continue
        config: Config = resolve(Config, spec.profile, merge(spec, {"runtime.store": folder}, {RANK: rank, RATE: rate}))
        out, log, cpu = store.root / ".points", Curve(), time.process_time()
        shutil.rmtree(out, ignore_errors=True)
        train(config.train, seed=seed, out=out, log=log, runtime=config.runtime, probe=interim, **inputs)
        found = probe.score(many, train=replace(inputs["base"], path=out), **inputs, runtime=config.runtime, **asked)
        shutil.rmtree(out)
        log.scores[config.train.max_steps] = round(found["probe/score"], 5)
        point = {
            "rank": rank,
            "rate": rate,
            "seed": seed,
            "scores": log.scores,
            "se": round(found["probe/score_se"], 5),
            "losses": log.losses,
        }
        with POINTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**point, "data": inputs["dataset"].digest[:12], "cpu_s": round(time.process_time() - cpu, 1)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "artifacts")
