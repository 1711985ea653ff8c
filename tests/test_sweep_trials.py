"""Trials run in processes of their own, and every end has its reason."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import trial
from sysdesign.config.sweep import SweepSpec
from sysdesign.errors import LimitError
from sysdesign.sweep import local
from sysdesign.sweep.book import open_book
from sysdesign.sweep.conductor import Conductor
from sysdesign.sweep.trial import Event, Request, Result, read_result, write
from sysdesign.train import ranks
from tests import sweep_world as world

ROOT = world.ROOT
PRINT = "f" * 12


class Kept:
    """A chronicle that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.results: dict[int, Result] = {}

    def begin(self, trial: int, values: Mapping[str, Any], *, again: bool) -> None:
        self.calls.append(("again" if again else "begin", trial))

    def event(self, trial: int, event: Event) -> None:
        self.calls.append(("event", trial))

    def end(self, trial: int, result: Result) -> None:
        self.results[trial] = result


def run_here(spec: SweepSpec, folder: Path, usd_per_hour: float = 0.0) -> tuple[Kept, Conductor]:
    kept = Kept()
    with open_book(spec, PRINT, folder) as book:
        conductor = Conductor(book, kept, folder, world.request, usd_per_hour)
        local.run(conductor, spec.runner, ROOT)  # type: ignore[arg-type]
    return kept, conductor


def test_trials_run_in_processes_and_pruned_ones_are_stopped(tmp_path: Path) -> None:
    spec = world.spec(budget={"trials": 6}, runner={"kind": "optuna", "workers": 2}, pruning={"kind": "asha", "factor": 2}, seed=3)
    kept, conductor = run_here(spec, tmp_path)
    ends = [kept.results[n].end for n in range(6)]
    assert set(ends) == {"complete", "pruned"}, ends
    assert conductor.stopped == "6 trials are done"
    ran = (tmp_path / "trials/ran.txt").read_text().split()
    assert sorted(map(int, ran)) == [n for n, end in enumerate(ends) if end == "complete"]
    assert all("behind the others at report" in r.reason for r in kept.results.values() if r.end == "pruned")


@pytest.mark.parametrize(
    ("kind", "end", "said"),
    [("killed", "pruned", "out of memory: killed twice by signal 9"), ("crash", "failed", "code 1 and no result: no such thing")],
)
def test_a_crash_is_contained_and_has_its_reason(kind: str, end: str, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "0000"
    write(folder / "request.json", world.request(0, {"train.lora.rank": 4, "train.learning_rate": 1e-3, "fault": kind}))
    asked = Request.model_validate_json((folder / "request.json").read_bytes())
    process = local.start(asked, folder, ROOT, {})
    result = local.ended(process)
    if result is None:  # a kill is tried once more
        again = local.start(asked, folder, ROOT, {})
        again.killed = 1
        result = local.ended(again)
    assert result and result.end == end and said in result.reason


def _alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", ["pruned", "driver gone"])
def test_all_processes_of_a_training_end_with_its_trial(end: str, tmp_path: Path) -> None:
    folder = tmp_path / "0000"
    asked = world.request(0, {"train.lora.rank": 4, "train.learning_rate": 1e-3, "processes": 2})
    write(folder / "request.json", asked)
    (tmp_path / "temporary").mkdir()
    process = local.start(asked, folder, ROOT, {"TMPDIR": str(tmp_path / "temporary")})
    while not (heard := process.tail.news()) and process.popen.poll() is None:  # the first process's score, the others wait for it
        time.sleep(0.05)
    assert heard and heard[0].step == 1, (folder / "output.txt").read_text()
    numbers = [int(path.name) for path in (folder / "ranks").iterdir()]
    assert len(numbers) == 2 and all(map(_alive, numbers))
    if end == "pruned":
        process.kill()
        assert not any(map(_alive, numbers))  # at once: the next trial takes their GPUs
        assert not list((tmp_path / "temporary").iterdir()), "nobody would remove it"
        return
    assert process.popen.stdin
    process.popen.stdin.close()
    deadline = time.monotonic() + 60
    while any(map(_alive, numbers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, numbers))


def test_a_trial_ends_with_its_driver(tmp_path: Path) -> None:
    folder = tmp_path / "0000"
    write(folder / "request.json", world.request(0, {"train.lora.rank": 4, "train.learning_rate": 1e-3}))
    process = local.start(Request.model_validate_json((folder / "request.json").read_bytes()), folder, ROOT, {})
    assert process.popen.stdin
    process.popen.stdin.close()  # what the kernel does when the driver is gone
    assert process.popen.wait(timeout=60) == 1 and read_result(folder) is None


def test_too_many_failures_stop_the_sweep(tmp_path: Path) -> None:
    with open_book(world.spec(budget={"trials": 9, "failures": 2}), PRINT, tmp_path) as book:
        conductor = Conductor(book, Kept(), tmp_path, world.request, 0.0)
        first = conductor.take()
        assert first
        conductor.finish(first.number, Result(end="failed", reason="no base"))
        second = conductor.take()
        assert second
        with pytest.raises(LimitError, match="stops after 2 failed trials .trial 1: no base"):
            conductor.finish(second.number, Result(end="failed", reason="no base"))
        assert book.counted() == 0


def test_equal_values_are_answered_from_the_first(tmp_path: Path) -> None:
    spec = world.spec(space={"train.lora.rank": {"kind": "choice", "values": [4, 8]}}, budget={"trials": 6}, sampler="random")
    with open_book(spec, PRINT, tmp_path) as book:
        kept = Kept()
        conductor = Conductor(book, kept, tmp_path, world.request, 0.0)
        ran = []
        while asked := conductor.take():
            ran.append(asked.number)
            conductor.finish(asked.number, Result(end="complete", metrics={"train/val_loss_best": 1.0}, work_s=1.0))
        assert len(ran) == 2 and len(kept.results) == 6
        assert sum(r.reason.startswith("same values as trial") for r in kept.results.values()) == 4


def test_a_real_trial_makes_reuses_and_ends_with_a_reason(tmp_path: Path) -> None:
    flags = {"runtime.store": str(tmp_path / "store"), "diagrams.count": "1", "diagrams.held_out_share": "0"}
    asked = Request(study="s", number=0, profile="rehearsal", flags=flags, values={}, stages=("diagrams",))
    write(tmp_path / "0/request.json", asked)
    first = trial.run_trial(asked, tmp_path / "0")
    assert first.end == "complete" and first.metrics["diagrams/count"] == 1 and first.work_s > 0
    again = trial.run_trial(asked, tmp_path / "0")
    assert again.cached == ("diagrams",) and again.artefacts == first.artefacts
    assert trial.ending(LimitError("train", "a step needed more GPU memory than planned", "lower train.batch")).end == "pruned"
    assert trial.ending(LimitError("train, step 3", "gradients must stay finite", "lower train.learning_rate")).end == "pruned"
    assert trial.ending(MemoryError("1 GiB")).reason == "out of memory: 1 GiB"
    assert trial.ending(LimitError("/disk", "the disk must have room", "free space")).end == "failed"
    assert trial.ending(ranks._ended(1, -9)).end == "pruned"  # as the kernel does when memory is short
    assert trial.ending(ranks._ended(1, -11)).end == "failed"
