"""Runs trials wherever a Ray cluster has room, through Ray Tune: Ray places and restarts them, the book decides.

Ray's own OptunaSearch is not used, because (ray 2.60) it records stopped trials as complete, writes the storage's password into
its checkpoints, and runs finished trials again after `Tuner.restore`. Here Tune's searcher asks the conductor for the next trial
and its scheduler asks it whether to stop one, so nothing has to be restored: the study is the only memory.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")  # a trial that falls behind is stopped at the report that shows it
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune's ends `fit` as if all trials were done

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sysdesign.config.sweep import RayRunner
from sysdesign.errors import ServiceError
from sysdesign.sweep import local
from sysdesign.sweep.address import WHERE, require_cluster
from sysdesign.sweep.conductor import Conductor
from sysdesign.sweep.trial import Event, Request, Result

RESTARTS = 3  # of one trial whose node or worker went away
OBJECT_STORE_BYTES = 100 * 2**20  # nothing passes through it
SCORE = "score_reported"  # Tune insists on a metric; the book does not look at it


def run(conductor: Conductor, runner: RayRunner, root: Path, folder: Path) -> None:
    """Run trials on the cluster until the conductor has none left.

    Raises ServiceError when the cluster does not answer or is too small, and what the conductor raises.
    """
    with _connected(runner):
        require_room(runner, ray.nodes())
        search = _Search(conductor)
        # one bundle, so all of a trial's GPUs are in one machine, and Ray names them in the trial's CUDA_VISIBLE_DEVICES
        resources = {"cpu": runner.cpus, "gpu": runner.gpus} if runner.gpus else {"cpu": runner.cpus}
        storage = str((folder / "ray").resolve())
        restarts = tune.FailureConfig(max_failures=RESTARTS)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, root=str(root), folder=str(folder.resolve())), resources),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=-1,
                search_alg=search,
                scheduler=_Judge(search),
                max_concurrent_trials=runner.workers,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=storage, verbose=0, failure_config=restarts),
        )
        tuner.fit()
        if search.error:
            raise search.error


class _Search(Searcher):
    """Tune's source of trials. Nothing of it is ever written to disk: the conductor holds the study, and with it a password."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.conductor: Conductor | None = conductor
        self.numbers: dict[str, int] = {}  # Tune's trial id -> the study's number
        self.heard: dict[int, int] = {}  # events a trial has reported
        self.results: dict[int, Result] = {}
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "conductor": None, "error": None, "results": {}}

    def __deepcopy__(self, memo: Any) -> _Search:
        return self  # Tune copies its arguments; there is one study

    def suggest(self, trial_id: str) -> Any:
        """The next request; FINISHED when there is none for good, None when a running trial may still give its place back."""
        if self.error or self.conductor is None:
            return Searcher.FINISHED
        try:
            request = self.conductor.take()
        except Exception as err:
            self.error = err
            return Searcher.FINISHED
        if request is None:
            return Searcher.FINISHED if self.conductor.stopped else None
        self.numbers[trial_id] = request.number
        return {"request": request.model_dump_json()}

    def hear(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Events of a trial; True when it should stop. A trial that Ray restarted reports all its events again from the first."""
        number = self.numbers[trial_id]
        if "result" in result:
            self.results[number] = Result.model_validate_json(result["result"])
        if self.conductor is None or self.error:
            return True
        behind = [self.conductor.hear(number, Event.model_validate(event)) for event in json.loads(result.get("events", "[]"))]
        if any(behind) and number not in self.results:
            self.results[number] = self.conductor.fell_behind(number)
            return True
        return False

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers.pop(trial_id)
        if self.conductor is None or self.error:
            return
        lost = Result(end="failed", reason=f"its worker was lost {RESTARTS + 1} times")
        try:
            self.conductor.finish(number, self.results.pop(number, lost))
        except Exception as err:
            self.error = err

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("kept in the study\n", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None: ...


class _Judge(FIFOScheduler):
    """Tune's scheduler: the study's pruner decides, so that a restart forgets no rung. Ray's own ASHA lives in memory only."""

    def __init__(self, search: _Search) -> None:
        super().__init__()
        self.search = search

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(TrialScheduler.STOP if self.search.hear(trial.trial_id, result) else TrialScheduler.CONTINUE)


def _name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"


def _trial(config: dict[str, Any], root: str, folder: str) -> None:
    """On a worker: the trial's own process, as on one machine, and its events reported as they come."""
    request = Request.model_validate_json(config["request"])
    place = Path(folder) / "trials" / f"{request.number:04d}"
    env = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}
    process = local.start(request, place, Path(root), env)
    try:
        while True:
            gone = process.popen.poll()
            if events := process.tail.news():
                tune.report({"events": json.dumps([e.model_dump(mode="json") for e in events]), SCORE: 0.0})
            if gone is not None:
                result = local.ended(process)
                if result is not None:
                    tune.report({"result": result.model_dump_json(), SCORE: 0.0})
                    return
                killed = process.killed + 1
                process = local.start(request, place, Path(root), env)
                process.killed = killed
            time.sleep(local.POLL_S)
    finally:
        process.kill()


def require_room(runner: RayRunner, nodes: list[dict[str, Any]]) -> None:
    """Raises ServiceError unless some machine can hold a trial: Ray would wait for one without a word. `nodes`: as Ray lists them."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    rooms = [(found.get("GPU", 0.0), found.get("CPU", 0.0)) for found in alive]
    if not any(gpus >= runner.gpus and cpus >= runner.cpus for gpus, cpus in rooms):
        shown = ", ".join(sorted({f"{gpus:g} GPUs and {cpus:g} CPUs" for gpus, cpus in rooms}))
        law = f"one machine must have the {runner.gpus:g} GPUs and {runner.cpus:g} CPUs of a trial; the cluster's have {shown}"
        raise ServiceError("runner.gpus", law, "lower runner.gpus or runner.cpus, or start a larger machine first")


@contextmanager
def _connected(runner: RayRunner) -> Iterator[None]:
    """A driver of the cluster at `runner.address`, or of one on this machine that ends with the sweep.

    Raises ServiceError.
    """
    require_cluster(runner.address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not runner.address:
        # alone on this machine and bound to it; a token would be one more credential on disk
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        cpus = max(1, round(runner.workers * runner.cpus))
        quiet |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    polite = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=runner.address or "local", **quiet)
    except Exception as err:  # ray raises its own, gRPC's and the operating system's errors here
        law = f"the cluster must accept this driver ({str(err).splitlines()[0][:160]})"
        do = "use the same Python and Ray on all machines, and the cluster's RAY_AUTH_MODE"
        raise ServiceError(WHERE, law, do, runner.address or "local") from None
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, polite)  # Ray's handler aborts the process, and no run would be closed
        yield
    finally:
        ray.shutdown()
