"""A sweep in MLflow: one parent, one nested run a trial, found again after a restart and never made twice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sysdesign.errors import ServiceError
from sysdesign.tracking.runs import Run, RunLog, experiment_id


def parent_run(client: MlflowClient, study: str, name: str) -> RunLog:
    """The sweep's run: the one this study already has, or the run that `mlflow run` made, or a new one.

    When a sweep is resumed through `mlflow run`, the run made for that command only points to the sweep's.
    Raises ServiceError when no run can be made.
    """
    tags = {"sweep.study": study, "sysdesign.stage": "sweep"}
    adopted = os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        if found := _find(client, f"tags.`sweep.study` = '{study}' and tags.`sysdesign.stage` = 'sweep'"):
            client.update_run(found, status="RUNNING")
            if adopted and adopted != found:
                note = f"Went on with the sweep of run `{found}`."
                RunLog(client, adopted).tags({"mlflow.runName": f"{name}, resumed", "mlflow.note.content": note, "sweep.resumes": found})
                client.set_terminated(adopted, "FINISHED")
            return RunLog(client, found)
        log = RunLog(client, adopted or _create(client, name, {}))
        for tag, value in {"mlflow.runName": name, **tags}.items():
            client.set_tag(log.run, tag, value)
    except Exception as err:  # every store has its own family of errors
        do = "check the tracking store, or unset MLFLOW_TRACKING_URI and MLFLOW_RUN_ID"
        raise ServiceError("MLflow", f"a run must be created ({str(err).splitlines()[0][:160]})", do, name) from None
    return log


class TrialRuns:
    """`sysdesign.sweep.conductor.Chronicle` into nested runs. Tag `sweep.trial` is `<study>:<number>`, and finds a run again."""

    def __init__(self, client: MlflowClient, parent: RunLog, study: str, show: Any = None) -> None:
        """`show(trial, result)`: called after a trial has ended, for the terminal."""
        self.client, self.parent, self.study, self.show = client, parent, study, show
        self.logs: dict[int, RunLog] = {}
        self._seen: dict[int, dict[str, int]] = {}  # trial -> metric -> last step that was logged

    def begin(self, trial: int, values: Mapping[str, Any], *, again: bool) -> None:
        """Open the trial's run. `again`: a driver before this one may have opened it; then nothing is logged twice."""
        shown = (
            f"{path.rpartition('.')[2]}={v:.3g}" if isinstance(v, float) else f"{path.rpartition('.')[2]}={v}" for path, v in values.items()
        )
        tag, name = f"{self.study}:{trial}", f"trial {trial}: {' '.join(shown)}"[:120]
        found = _find(self.client, f"tags.`sweep.trial` = '{tag}'") if again else None
        tags = {"sweep.trial": tag, "mlflow.parentRunId": self.parent.run}
        log = RunLog(self.client, found or _create(self.client, name, tags))
        self.logs[trial], self._seen[trial] = log, {}
        if found:
            log._try(lambda: self.client.update_run(found, status="RUNNING"))
            log._try(lambda: self._recall(trial, found))
        log.tags({"sweep.state": "running", "sysdesign.stage": "trial"})
        log.params(values)

    def event(self, trial: int, event: Any) -> None:
        """Metrics of a step, or a text."""
        log, seen = self.logs[trial], self._seen[trial]
        if event.name:
            log.text(event.text, event.name)
        step = event.step or 0
        fresh = {name: value for name, value in event.metrics.items() if step > seen.get(name, -1)}
        if fresh:
            log.metrics(fresh, step)
            seen |= dict.fromkeys(fresh, step)

    def end(self, trial: int, result: Any) -> None:
        """Close the run: complete and pruned trials are FINISHED, failed ones FAILED; the tag `sweep.state` tells them apart."""
        log, seen = self.logs.pop(trial), self._seen.pop(trial)
        costs = {
            "cost/trial_seconds": result.seconds,
            "cost/trial_usd": result.cost_usd,
            "cost/overhead_seconds": result.seconds - result.work_s,
        }
        if result.end != "complete" or not result.work_s:
            del costs["cost/overhead_seconds"]
        log.metrics({name: value for name, value in {**result.metrics, **costs}.items() if name not in seen})
        done = {f"sweep.artifact.{stage}": folder for stage, folder in result.artefacts.items()}
        log.tags(
            {"sweep.state": result.end, "sweep.reason": result.reason or "ran to its end", "sweep.cached": " ".join(result.cached), **done}
        )
        if result.reason:
            log.tags({"mlflow.note.content": f"**{result.end}**: {result.reason}"})
        log._try(lambda: self.client.set_terminated(log.run, "FAILED" if result.end == "failed" else "FINISHED"))
        if self.show:
            self.show(trial, result)

    def abandon(self) -> None:
        """Runs of trials that an interrupt cut off: the next driver goes on with them."""
        for log in self.logs.values():
            log.tags({"sweep.state": "interrupted"})
            log._try(lambda log=log: self.client.set_terminated(log.run, "KILLED"))

    def _recall(self, trial: int, run: Run) -> None:
        for name in self.client.get_run(run).data.metrics:
            steps = [entry.step for entry in self.client.get_metric_history(run, name)]
            self._seen[trial][name] = max(steps, default=-1)


def close(log: RunLog, status: str) -> None:
    """End the sweep's run: FINISHED, FAILED or KILLED."""
    log._try(lambda: log.client.set_terminated(log.run, status))


def attach(log: RunLog, folder: Path) -> None:
    """Upload the sweep's report to its run, and show its pictures among the charts."""
    for picture in sorted(folder.glob("*.png")):
        log.image(picture, picture.stem)
    log._try(lambda: log.client.log_artifacts(log.run, str(folder), "sweep"))


def _find(client: MlflowClient, query: str) -> Run | None:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, query, max_results=1, order_by=["start_time ASC"])
    return str(found[0].info.run_id) if found else None


def _create(client: MlflowClient, name: str, tags: Mapping[str, str]) -> Run:
    """A run with its tags from the first moment: a kill cannot come between."""
    about = {"mlflow.user": os.environ.get("USER") or "user", "mlflow.source.name": "sysdesign", "mlflow.source.type": "PROJECT"}
    return str(client.create_run(experiment_id(client), tags={**about, **tags}, run_name=name).info.run_id)
