"""A sweep whose trials take a moment: `python -m tests.sweep_world FOLDER` is a trial, `... drive ROOT RUNNER [KILL]` a driver,
`... drives ROOT RUNNER KILL ...` several, one after the other.

Each trial runs ten steps of a curve that depends on its values, writes every step into its events and, once, its number into
`ran.txt`. The driver kills itself where KILL says, as `event:2` (second event heard) or `end:1`, with SIGKILL, or with `end:1:SIGINT`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sysdesign.config.sweep import SweepSpec
from sysdesign.records import append_jsonl
from sysdesign.sweep.trial import EVENTS, REQUEST, RESULT, Event, Request, Result, write

ROOT = Path(__file__).parents[1]
STEPS = 10


def spec(**changes: Any) -> SweepSpec:
    """Rank and rate against a loss; eight trials, no pruning unless asked."""
    about: dict[str, Any] = {
        "question": "Which rank and rate give the lowest loss?",
        "name": "world",
        "profile": "rehearsal",
        "objective": {"metric": "train/val_loss_best", "direction": "minimize"},
        "budget": {"trials": 8},
        "pruning": {"kind": "none"},
        "space": {
            "train.lora.rank": {"kind": "choice", "values": [4, 8, 16, 32]},
            "train.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
        },
    }
    return SweepSpec.model_validate(about | changes)


def loss(values: Mapping[str, Any], step: int) -> float:
    """Lowest at rank 16 and rate 1e-3, falling with the steps."""
    import math

    away = abs(math.log2(values["train.lora.rank"] / 16)) + abs(math.log10(values["train.learning_rate"] / 1e-3))
    return 1.0 + away + 2.0 / (1 + step)


def request(trial: int, values: Mapping[str, Any], study: str = "world") -> Request:
    return Request(study=study, number=trial, profile="rehearsal", flags={}, values=dict(values), stages=(), module="tests.sweep_world")


def run_trial(folder: Path) -> None:
    from pipelines.trial import Journal, die_with_driver

    die_with_driver()
    asked = Request.model_validate_json((folder / REQUEST).read_bytes())
    if processes := asked.values.get("processes"):
        import torch.distributed  # noqa: F401  (once, not in every process)

        from sysdesign.train import ranks

        ranks.START = "fork"
        ranks.spread(partial(run_rank, folder=folder), processes, cuda=False, log=Journal(folder), meeting=folder / "meeting")
    with (folder / "gpus.txt").open("w") as gpus:
        gpus.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    fault = asked.values.get("fault", "")
    for step in range(1, STEPS + 1):
        append_jsonl(folder / EVENTS, Event(step=step, metrics={"train/val_loss": loss(asked.values, step)}))
        time.sleep(0.03)
        if step == 3 and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 3 and fault == "crash":
            sys.exit("no such thing")
    with (folder.parent / "ran.txt").open("a") as ran:
        ran.write(f"{asked.number}\n")
    score = float("nan") if fault == "nan" else loss(asked.values, STEPS)
    write(folder / RESULT, Result(end="complete", metrics={"train/val_loss_best": score, "train/steps": STEPS}, work_s=0.3))


def run_rank(rank: Any, log: Any, *, folder: Path) -> None:
    """One process of a training that never ends by itself; the first one reports once, when all are there."""
    (folder / "ranks").mkdir(exist_ok=True)
    (folder / "ranks" / str(os.getpid())).touch()
    rank.meet()
    log.metrics({"train/val_loss": 1.0}, 1)
    while rank.index == 0:
        time.sleep(1)
    rank.meet()


class Fuse:
    """Calls through to the real chronicle, and ends the driver at one of its calls."""

    def __init__(self, inner: Any, kill: str) -> None:
        self.inner, self.kill, self.count = inner, kill, 0

    def _burn(self, call: str) -> None:
        where, number, name, *_ = [*self.kill.split(":"), "", ""]
        self.count += where == call
        if number and self.count == int(number):
            os.kill(os.getpid(), signal.Signals[name or "SIGKILL"])

    def begin(self, trial: int, values: Mapping[str, Any], *, again: bool) -> None:
        self._burn("begin")
        self.inner.begin(trial, values, again=again)

    def event(self, trial: int, event: Event) -> None:
        self.inner.event(trial, event)
        self._burn("event")

    def end(self, trial: int, result: Result) -> None:
        self._burn("before-end")
        self.inner.end(trial, result)
        self._burn("end")


def drive(root: Path, runner: str, kill: str = "") -> None:
    from sysdesign.sweep.book import open_book
    from sysdesign.sweep.conductor import Conductor
    from sysdesign.tracking import runs, trials

    wanted = spec(**json.loads((root / "spec.json").read_text()), runner={"kind": runner, **json.loads((root / "runner.json").read_text())})
    client = runs.connect(root)
    with open_book(wanted, "f" * 12, root) as book:
        parent = trials.parent_run(client, book.uid, "sweep world")
        chronicle = Fuse(trials.TrialRuns(client, parent, book.uid), kill)
        conductor = Conductor(book, chronicle, root, lambda n, v: request(n, v, book.uid), usd_per_hour=0.0)
        if runner == "ray":
            from sysdesign.sweep import cluster

            cluster.run(conductor, wanted.runner, ROOT, root)  # type: ignore[arg-type]
        else:
            from sysdesign.sweep import local

            local.run(conductor, wanted.runner, ROOT)  # type: ignore[arg-type]
        trials.close(parent, "FINISHED")


def drives(root: Path, runner: str, kills: Sequence[str]) -> list[int]:
    """One driver after the other, each in a process of its own, and how they ended. Forked, because imports take longer than the sweep."""
    import sysdesign.sweep.conductor
    import sysdesign.sweep.local
    import sysdesign.tracking.trials  # noqa: F401

    codes = []
    for kill in kills:
        if (child := os.fork()) == 0:
            drive(root, runner, kill)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


if __name__ == "__main__":
    if sys.argv[1] == "drives":
        print(json.dumps(drives(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])))
    elif sys.argv[1] == "drive":
        from pipelines.command import errors_as_lines

        with errors_as_lines():
            drive(Path(sys.argv[2]), *sys.argv[3:])
    else:
        run_trial(Path(sys.argv[1]))
