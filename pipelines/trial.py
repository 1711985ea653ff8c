"""One trial of a sweep in a process of its own: a request in its folder becomes stages run or reused, and a score.

Started by `sysdesign.sweep`, not by hand. It tells what happens through files and ends when its driver does.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import probe
from pipelines.command import open_store, stage_function
from sysdesign.config.root import Config
from sysdesign.errors import LimitError, SysdesignError
from sysdesign.profiles import resolve
from sysdesign.records import MetricLog, append_jsonl
from sysdesign.sweep.trial import EVENTS, REQUEST, RESULT, SCRATCH, Event, Request, Result, write

if TYPE_CHECKING:
    from sysdesign.artifacts import Store
    from sysdesign.flow import Outcome


JUDGED = ("train", "export", "evaluate")  # the stages that a trial is about; the others are its ground


class Journal:
    """`records.MetricLog` into the trial's events; pictures and files stay in the artefacts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        append_jsonl(self.path, Event(step=step, metrics=finite))

    def image(self, path: Path, key: str, step: int = 0) -> None: ...
    def file(self, path: Path, folder: str = "") -> None: ...

    def text(self, text: str, name: str) -> None:
        append_jsonl(self.path, Event(name=name, text=text[:20_000]))


def die_with_driver() -> None:
    """End this process when its standard input closes, as it does when the driver ends, however it ends."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def make(name: str, config: Config, store: Store, profile: str, log: MetricLog, **more: Any) -> Outcome:
    """Run or reuse one stage, without a tracking run of its own. `more`: for the stage's function alone; it must not change its result."""
    from sysdesign import flow

    stage = flow.find_stage(name)
    return flow.run(stage, partial(stage_function(name), **more), config, store, flow.inputs_of(stage, config, store, profile), log)


def run_trial(request: Request, folder: Path) -> Result:
    """Run or reuse the stages, then ask the validation questions if the objective is a probe. Raises what a stage raises."""
    from sysdesign import flow

    config: Config = resolve(Config, request.profile, request.flags)
    store, log = open_store(config), Journal(folder)
    metrics: dict[str, float] = {}
    artefacts: dict[str, Any] = {}
    asked: dict[str, Any] = {"max_tokens": request.probe_tokens, "group": request.group}
    cached, work_s = [], 0.0
    for name in request.stages:
        stage = flow.find_stage(name)
        inputs = flow.inputs_of(stage, config, store, request.profile)
        key = flow.address(stage, config, inputs)
        with (folder / SCRATCH).open("a", encoding="utf-8") as scratch:
            scratch.write(f"{store.root / '.work'}/{name}-{key[:12]}\n")
        more: dict[str, Any] = {}
        if name == "train" and request.probes:
            rows = probe.questions(inputs["dataset"], request.part, request.probes)  # before hours of training
        if name == "train" and request.interim:
            few = probe.questions(inputs["dataset"], request.part, request.interim)
            more["probe"] = partial(probe.interim, rows=few, dataset=inputs["dataset"], base=inputs["base"], part=request.part, **asked)
        outcome = make(name, config, store, request.profile, log, **more)
        artefacts[name] = outcome.artifact
        found = outcome.artifact.manifest.metrics
        if outcome.cached:
            cached.append(name)
            found = {metric: value for metric, value in found.items() if not metric.endswith("/api_usd")}  # whoever made it paid
        else:
            work_s += outcome.seconds
        if name in JUDGED or not outcome.cached:
            metrics |= found
    if request.probes:
        started = time.monotonic()
        made = {name: artefacts[name] for name in ("train", "dataset", "base")}
        metrics |= probe.score(rows, **made, runtime=config.runtime, **asked)
        work_s += time.monotonic() - started
    return Result(
        end="complete",
        metrics=metrics,
        artefacts={n: a.path.name for n, a in artefacts.items()},
        cached=tuple(cached),
        work_s=round(work_s, 2),
    )


def ending(error: Exception) -> Result:
    """How a trial ends that raised: what its own values caused is pruned with the reason, everything else has failed."""
    name, reason = type(error).__name__, " ".join(str(error).split())[:500]
    if name == "OutOfMemoryError" or isinstance(error, MemoryError):
        return Result(end="pruned", reason=f"out of memory: {reason}")
    crashed = isinstance(error, LimitError) and error.where.startswith("train, process") and error.got != "exit code -9"
    if isinstance(error, LimitError) and error.where.startswith("train") and not crashed:  # memory, or a loss that is no longer finite
        return Result(end="pruned", reason=reason)
    return Result(end="failed", reason=reason if isinstance(error, SysdesignError) else f"{name}: {reason}")


def main(folder: Path) -> None:
    """Run the request in `folder` and leave a result there, whatever happens."""
    die_with_driver()
    request = Request.model_validate_json((folder / REQUEST).read_bytes())
    try:
        result = run_trial(request, folder)
    except Exception as error:
        import traceback

        traceback.print_exc()  # into the trial's output file
        result = ending(error)
    write(folder / RESULT, result)
    sys.stdout.flush()
    os._exit(0)  # the libraries' threads and exit handlers cost a second and change nothing


if __name__ == "__main__":
    main(Path(sys.argv[1]))
