"""Kills sweeps and counts: SIGKILL of the driver at three points on both runners, and the loss of a node of a Ray cluster.

    python -m experiments.benchmarks.sweep_survival [optuna] [ray] [nodes]

Trials are those of `tests/sweep_world.py`: real processes, a real study and real MLflow runs around an objective that takes a moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECRET = "canary-4711"
KILLS = ("begin:3", "event:25", "end:6")
TRIALS = 12


def drive(folder: Path, runner: str, kill: str = "") -> int:
    env = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }
    command = [sys.executable, "-m", "tests.sweep_world", "drive", str(folder), runner, *([kill] if kill else [])]
    with (folder / "driver.txt").open("ab") as output:
        return subprocess.run(command, cwd=ROOT, env=env, stdout=output, stderr=output, timeout=550).returncode


def prepare(folder: Path, runner: dict[str, object]) -> None:
    (folder / "spec.json").write_text(json.dumps({"budget": {"trials": TRIALS}}))
    (folder / "runner.json").write_text(json.dumps(runner))


def verdict(folder: Path) -> str:
    """What the study, the file that each trial adds a line to, and MLflow say; "whole" only when all three agree."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs(["0"], max_results=1000)
    trials = [run for run in runs if "sweep.trial" in run.data.tags]
    numbers = sorted(int(run.data.tags["sweep.trial"].rpartition(":")[2]) for run in trials)
    ran = sorted(map(int, (folder / "trials/ran.txt").read_text().split()))
    repeated = sum(
        len(s) - len(set(s)) for s in ([e.step for e in client.get_metric_history(r.info.run_id, "train/val_loss")] for r in trials)
    )
    open_runs = sum(run.info.status != "FINISHED" for run in runs)
    leaks = [p for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    whole = numbers == list(range(TRIALS)) == ran and not repeated and not open_runs and not leaks and len(runs) == TRIALS + 1
    return (
        f"{'whole' if whole else 'NOT WHOLE'}: {len(set(ran))}/{TRIALS} trials ran, "
        f"{len(ran) - len(set(ran))} twice; {len(trials)} nested runs, "
        f"{open_runs} not finished, {repeated} steps logged twice; {len(leaks)} files with the secret"
    )


def killed(runner: str) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, started = Path(name), time.monotonic()
        prepare(folder, {"workers": 2})
        codes = [drive(folder, runner, kill) for kill in KILLS]
        assert codes == [-signal.SIGKILL] * len(KILLS), (codes, (folder / "driver.txt").read_text()[-2000:])
        code = drive(folder, runner)
        assert code == 0, (folder / "driver.txt").read_text()[-3000:]
        print(f"{runner}, driver killed at {', '.join(KILLS)}: {verdict(folder)}; {time.monotonic() - started:.0f} s", flush=True)


@contextmanager
def cluster() -> Iterator[object]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20})
    try:
        yield made
    finally:
        made.shutdown()


def node_lost() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, cluster() as made:
        folder, started = Path(name), time.monotonic()
        nodes = [made.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(3)]  # type: ignore[attr-defined]
        prepare(folder, {"workers": 3, "address": made.address})  # type: ignore[attr-defined]
        env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_TRACKING_PASSWORD": SECRET}
        with (folder / "driver.txt").open("ab") as output:
            command = [sys.executable, "-m", "tests.sweep_world", "drive", str(folder), "ray"]
            driver = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
            ran = folder / "trials/ran.txt"
            while driver.poll() is None and not (ran.exists() and len(ran.read_text().split()) >= 3):
                time.sleep(0.1)
            made.remove_node(nodes[0], allow_graceful=False)  # type: ignore[attr-defined]
            lost = len(ran.read_text().split()) if ran.exists() else 0
            code = driver.wait(timeout=550)
        assert code == 0, (folder / "driver.txt").read_text()[-3000:]
        print(f"ray, three nodes, one lost after {lost} trials: {verdict(folder)}; {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    for what in sys.argv[1:] or ("optuna", "ray", "nodes"):
        node_lost() if what == "nodes" else killed(what)
