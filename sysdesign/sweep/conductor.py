"""Between the book and a runner: which trial runs next, what its events mean, how its end is written down.

Both runners go through these three calls (`take`, `hear`, `finish`), so numbering, pruning, budgets and resume cannot differ
between one machine and a cluster.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sysdesign.errors import ConfigError, LimitError
from sysdesign.sweep import budget
from sysdesign.sweep.book import Book
from sysdesign.sweep.trial import EVENTS, OUTPUT, REQUEST, RESULT, SCRATCH, Event, Request, Result, read_result, write


class Chronicle(Protocol):
    """Where trials are shown to a person. Called by the driver alone; what it cannot log must not stop a sweep."""

    def begin(self, trial: int, values: Mapping[str, Any], *, again: bool) -> None: ...
    def event(self, trial: int, event: Event) -> None: ...
    def end(self, trial: int, result: Result) -> None: ...


class Conductor:
    """One sweep in progress. `request` turns a trial's number and values into what its process is to do."""

    def __init__(
        self, book: Book, chronicle: Chronicle, folder: Path, request: Callable[[int, Mapping[str, Any]], Request], usd_per_hour: float
    ) -> None:
        self.book, self.chronicle, self.folder, self.request, self.usd_per_hour = book, chronicle, folder, request, usd_per_hour
        self.stopped = ""  # why no further trial starts
        self._running: dict[int, float] = {}  # trial -> when it started, monotonic seconds
        self._earlier: dict[int, float] = {}  # seconds of attempts that a kill ended
        self._steps: dict[int, set[int]] = {}
        self._failures: list[str] = []

    def place(self, trial: int) -> Path:
        """The folder of a trial."""
        return self.folder / "trials" / f"{trial:04d}"

    def take(self) -> Request | None:
        """The next trial that has to run; None when there is none, for now or for good (`stopped` says why)."""
        while not self.stopped:
            again = bool(self.book.orphans)
            so_far = budget.spent(self.book, self.usd_per_hour)
            if reason := budget.refusal(self.book.spec.budget, so_far, len(self._running), fresh=not again):
                # the last of the running trials may fail and give its place back
                self.stopped = "" if self._running and "trials are done" in reason else reason
                return None
            trial = self.book.next()
            values, folder = self.book.values(trial), self.place(trial)
            self._earlier[trial] = _lasted(folder) if again else 0.0
            self._running[trial] = time.monotonic()
            self.chronicle.begin(trial, values, again=again)
            if again and (result := read_result(folder)):  # it had ended, and the driver died before writing that down
                self._replay(trial)
                self.finish(trial, result)
            elif (twin := self.book.twin(trial)) is not None and (known := self.book.result(twin)):
                self.finish(
                    trial,
                    known.model_copy(update={"reason": f"same values as trial {twin}", "work_s": 0.0, "seconds": 0.01, "cost_usd": 0.0}),
                )
            else:
                request = self.request(trial, values)
                write(folder / REQUEST, request)
                return request
        return None

    def hear(self, trial: int, event: Event) -> bool:
        """Log an event; True when the trial should be stopped because it fell behind."""
        self.chronicle.event(trial, event)
        metric, _ = self.book.spec.rung()
        if not event.step or metric not in event.metrics:
            return False
        steps = self._steps.setdefault(trial, set())
        steps.add(event.step)
        # reports are numbered, not measured in steps: axes such as the batch change what a step is
        return self.book.report(trial, sum(step <= event.step for step in steps), event.metrics[metric])

    def finish(self, trial: int, result: Result) -> None:
        """Write down how a trial ended. Raises LimitError when too many failed, ConfigError when nobody logs the objective.

        First the file, then the run, the study last: a kill in between leaves a running trial with its result, which the next
        driver only writes down again.
        """
        seconds = time.monotonic() - self._running.pop(trial) + self._earlier.pop(trial, 0.0)
        if not result.seconds:
            api = sum(value for name, value in result.metrics.items() if name.endswith("/api_usd"))
            cost = round(seconds / 3600 * self.usd_per_hour + api, 6)
            result = result.model_copy(update={"seconds": round(seconds, 2), "cost_usd": cost})
        result = self.book.judge(result)
        write(self.place(trial) / RESULT, result)
        self.chronicle.end(trial, result)
        self.book.tell(trial, result)
        if result.end == "pruned":
            _sweep_up(self.place(trial))
        if result.end == "failed":
            self._failures.append(f"trial {trial}: {result.reason}")
        if result.reason.startswith("nobody logged"):
            do = "name one of them as the objective, under another name of the sweep"
            raise ConfigError(self.book.spec.name, f"the objective must be a metric of every trial ({result.reason})", do)
        if len(self._failures) >= self.book.spec.budget.failures:
            law = f"a sweep stops after {len(self._failures)} failed trials ({self._failures[-1]})"
            raise LimitError(self.book.spec.name, law, f"mend the cause ({self.place(trial) / OUTPUT}) and run the same command again")

    def fell_behind(self, trial: int) -> Result:
        """The result of a trial that was told to stop."""
        return Result(end="pruned", reason=f"behind the others at report {len(self._steps.get(trial, ()))}")

    def _replay(self, trial: int) -> None:
        from sysdesign.sweep.trial import Tail

        for event in Tail(self.place(trial) / EVENTS).news():
            self.hear(trial, event)


def _sweep_up(folder: Path) -> None:
    """Remove the half-made artefacts of a trial that will not go on: at full size they are gigabytes of checkpoints."""
    try:
        half_made = (folder / SCRATCH).read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for path in map(Path, half_made):
        if path.parent.name == ".work":
            shutil.rmtree(path, ignore_errors=True)


def _lasted(folder: Path) -> float:
    """Seconds between the start and the last sign of life of an attempt whose driver was killed."""
    signs = [folder / name for name in (EVENTS, OUTPUT, RESULT)]
    try:
        return max(0.0, max(p.stat().st_mtime for p in signs if p.exists()) - (folder / REQUEST).stat().st_mtime)
    except (OSError, ValueError):
        return 0.0
