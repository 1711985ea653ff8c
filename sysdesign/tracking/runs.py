"""MLflow at the edge: a store that is ready, one run a stage, and a log that never kills the work it describes.

Failing to set up stops the command (nobody wants an unrecorded experiment by accident); failing to log during a run is
reported once and never raised, because a tracking server that blinks must not end a training that costs money.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its session id races between parallel processes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default waits for minutes on a dead server
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import psutil
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from sysdesign.errors import ServiceError, SysdesignError, interrupted

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

PARAM_LIMIT = 6000  # characters a parameter value may have in MLflow
PROCESS = "sysdesign.process"  # tag: host, pid and start time of the process that a run belongs to
HOST = f"{platform.node()}/{uuid.getnode():x}"  # two rented machines may both be called `localhost`
Run = str  # a run id


def connect(root: Path) -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI, or of `sqlite:///<root>/mlflow.db`, which is created if it is not there.

    Raises ServiceError when the store does not answer.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    do = "start the server, or unset MLFLOW_TRACKING_URI to use the local mlflow.db"
    try:
        if uri.startswith("sqlite:///"):
            return _open_sqlite(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except ModuleNotFoundError as err:
        do = f"pip install {'psycopg[binary]' if 'psycopg' in str(err) else err.name}"
        raise ServiceError("MLFLOW_TRACKING_URI", f"its database driver must be installed ({err})", do, uri.partition("@")[0]) from None
    except Exception as err:  # every store has its own family of errors
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise ServiceError("MLFLOW_TRACKING_URI", f"the tracking store must answer ({reason[:160]})", do, uri.rpartition("@")[2]) from None
    return client


def _open_sqlite(uri: str) -> MlflowClient:
    """One process at a time makes the tables: two that start together on a new file would both try, and one would die."""
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    with FileLock(f"{path}.lock", timeout=120), sqlite3.connect(path, timeout=30) as database:
        database.execute("PRAGMA journal_mode=WAL")  # persists; readers no longer block the writer
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def is_local() -> bool:
    """Whether the tracking store is this machine's own, so that uploading artefacts to it would only copy them."""
    return mlflow.get_tracking_uri().startswith(("sqlite:", "file:"))


class RunLog:
    """`records.MetricLog` into one MLflow run; what fails is said once on stderr."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client, self.run, self._failed = client, run, False

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step or 0) for name, value in values.items()]
        self._try(lambda: self.client.log_batch(self.run, metrics=batch))

    def image(self, path: Path, key: str, step: int = 0) -> None:
        from PIL import Image

        with Image.open(path) as picture:
            self._try(lambda: self.client.log_image(self.run, picture.convert("RGB"), key=key, step=step))

    def file(self, path: Path, folder: str = "") -> None:
        self._try(lambda: self.client.log_artifact(self.run, str(path), folder or None))

    def text(self, text: str, name: str) -> None:
        self._try(lambda: self.client.log_text(self.run, text, name))

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters that the run does not have yet: `mlflow run` logged the flags already, and a second spelling raises."""

        def send() -> None:
            there = self.client.get_run(self.run).data.params
            new = [Param(k, str(v)[:PARAM_LIMIT]) for k, v in values.items() if k not in there]
            for start in range(0, len(new), 100):
                self.client.log_batch(self.run, params=new[start : start + 100])

        self._try(send)

    def tags(self, values: Mapping[str, Any]) -> None:
        self._try(lambda: self.client.log_batch(self.run, tags=[RunTag(k, str(v)) for k, v in values.items()]))

    def _try(self, send: Any) -> None:
        try:
            send()
        except Exception as err:
            if not self._failed:
                self._failed = True
                print(f"tracking: could not log to run {self.run} ({str(err).splitlines()[0][:160]}) - the work goes on", file=sys.stderr)


@contextmanager
def run(client: MlflowClient, name: str, *, parent: Run | None = None, tags: Mapping[str, Any] | None = None) -> Iterator[RunLog]:
    """One MLflow run, ended as FINISHED, FAILED or KILLED.

    With no parent it adopts the run that `mlflow run` created for this process, if any; children never do.
    """
    adopted = os.environ.pop("MLFLOW_RUN_ID", None) if parent is None else None
    labels = {"mlflow.runName": name, **(tags or {})}
    try:
        if adopted:
            current = adopted
            client.update_run(current, status="RUNNING", name=name)
        else:
            experiment = experiment_id(client)
            extra = {"mlflow.parentRunId": parent} if parent else {}
            user = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "sysdesign", "mlflow.source.type": "PROJECT"}
            current = client.create_run(experiment, tags=user | extra, run_name=name).info.run_id
    except Exception as err:
        do = "check the tracking store, or unset MLFLOW_TRACKING_URI and MLFLOW_RUN_ID"
        raise ServiceError("MLflow", f"a run must be created ({str(err).splitlines()[0][:160]})", do, name) from None
    log = RunLog(client, current)
    log.tags(labels | {PROCESS: _process(os.getpid())})
    if parent is None:
        log._try(lambda: _end_the_dead(client, current))
    try:
        yield log
    except BaseException as err:
        stopped = isinstance(err, SystemExit) or interrupted(err)
        if isinstance(err, SysdesignError):
            log.tags({"sysdesign.error": str(err)[:4000], "mlflow.note.content": f"**{type(err).__name__}** {err}"})
        log._try(lambda: client.set_terminated(current, "KILLED" if stopped else "FAILED"))
        raise
    else:
        log._try(lambda: client.set_terminated(current, "FINISHED"))


def _process(pid: int) -> str:
    """Names one process of one machine for ever: pids are used again, start times are not."""
    return f"{HOST} {pid} {psutil.Process(pid).create_time():.0f}"


def _end_the_dead(client: MlflowClient, current: Run) -> None:
    """Runs of this machine whose process was killed before it could say so would show as RUNNING for ever."""
    experiment = client.get_run(current).info.experiment_id
    query = f"status = 'RUNNING' and tags.`{PROCESS}` like '{HOST} %'"
    for run in client.search_runs([experiment], query, max_results=100):
        process = run.data.tags[PROCESS]
        pid = int(process.split()[-2])
        try:
            alive = _process(pid) == process
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            client.set_tag(run.info.run_id, "sysdesign.error", "its process was killed")
            client.set_terminated(run.info.run_id, "KILLED")


def experiment_id(client: MlflowClient) -> str:
    """The experiment that MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME names (made if new), else the default one."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
