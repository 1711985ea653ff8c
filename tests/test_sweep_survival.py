"""A sweep that is killed loses no trial, runs none twice, and writes no secret."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sysdesign.errors import ConfigError, ServiceError, ToolError
from sysdesign.sweep.book import open_book
from tests import sweep_world as world

ROOT = world.ROOT
PRINT = "f" * 12
KILLS = ("begin:2", "event:9", "end:1")


def drive(mode: str, folder: Path, runner: str, *kills: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.sweep_world", mode, str(folder), runner, *kills]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)


def runs_of(client: MlflowClient) -> tuple[list[Any], list[Any]]:
    found = client.search_runs(["0"], max_results=1000)
    return [r for r in found if "sweep.trial" in r.data.tags], [r for r in found if "sweep.trial" not in r.data.tags]


def test_killed_at_three_points_and_resumed_nothing_is_lost_or_run_twice(tmp_path: Path, tracking_uri: str) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"budget": {"trials": 5}}))
    (tmp_path / "runner.json").write_text('{"workers": 2}')
    env = os.environ | {"MLFLOW_TRACKING_PASSWORD": "canary-4711", "OPENAI_API_KEY": "canary-4711"}
    done = drive("drives", tmp_path, "optuna", *KILLS, "", env=env)
    assert json.loads(done.stdout) == [-signal.SIGKILL] * 3 + [0], done.stderr
    assert sorted(map(int, (tmp_path / "trials/ran.txt").read_text().split())) == [0, 1, 2, 3, 4]
    client = MlflowClient(tracking_uri)
    trials, parents = runs_of(client)
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert sorted(int(r.data.tags["sweep.trial"].rpartition(":")[2]) for r in trials) == [0, 1, 2, 3, 4]
    for run in trials:
        assert run.info.status == "FINISHED" and run.data.tags["sweep.state"] == "complete"
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        curve = [entry.step for entry in client.get_metric_history(run.info.run_id, "train/val_loss")]
        assert curve == list(range(1, 11))
        assert set(run.data.params) == {"train.lora.rank", "train.learning_rate"}
        assert re.fullmatch(r"trial \d: rank=\d+ learning_rate=0\.\d+", run.info.run_name)
        assert run.data.metrics["cost/trial_seconds"] > 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not [path for path in written if b"canary-4711" in path.read_bytes()]


def test_the_address_of_a_shared_storage_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_STORAGE", "postgresql+psycopg://me:canary-4711@127.0.0.1:9/studies")
    with pytest.raises((ServiceError, ToolError)) as caught, open_book(world.spec(storage_env="SWEEP_STORAGE"), PRINT, tmp_path):
        pass
    assert "canary" not in str(caught.value) and "SWEEP_STORAGE" in str(caught.value)
    monkeypatch.delenv("SWEEP_STORAGE")
    with (
        pytest.raises(ConfigError, match="must name a variable that is set"),
        open_book(world.spec(storage_env="SWEEP_STORAGE"), PRINT, tmp_path),
    ):
        pass


def test_ray_runs_the_same_study_after_interrupts_and_writes_no_secret(tmp_path: Path, tracking_uri: str) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"budget": {"trials": 4}, "pruning": {"kind": "asha", "factor": 2}, "seed": 3}))
    (tmp_path / "runner.json").write_text('{"workers": 2, "gpus": 2}')
    env = os.environ | {"MLFLOW_TRACKING_PASSWORD": "canary-4711", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    env |= {"RAY_OVERRIDE_RESOURCES": '{"GPU": 4}'}  # as Ray counts them; no trial here uses one
    sessions = Path(tempfile.gettempdir()) / "ray"
    older = set(sessions.glob("session_*"))
    for kill in ("event:5:SIGINT", "event:9:SIGTERM"):
        ended = drive("drive", tmp_path, "ray", kill, env=env)
        assert ended.returncode == 130 and ended.stderr == "stopped: what was finished is kept; the same command goes on from here\n"
    done = drive("drive", tmp_path, "ray", env=env)
    assert done.returncode == 0, done.stderr
    shares = {path.read_text() for path in (tmp_path / "trials").glob("*/gpus.txt")}
    assert shares <= {"0,1", "2,3"} and shares, shares
    trials, parents = runs_of(MlflowClient(tracking_uri))
    assert sorted(int(r.data.tags["sweep.trial"].rpartition(":")[2]) for r in trials) == [0, 1, 2, 3]
    assert {r.info.status for r in [*trials, *parents]} == {"FINISHED"}
    complete = [int(r.data.tags["sweep.trial"].rpartition(":")[2]) for r in trials if r.data.tags["sweep.state"] == "complete"]
    assert sorted(map(int, (tmp_path / "trials/ran.txt").read_text().split())) == sorted(complete)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("tuner.pkl" in path.name for path in written)
    rays = [path for made in set(sessions.glob("session_*")) - older for path in made.rglob("*") if path.is_file()]
    assert any("raylet" in path.name for path in rays)
    written += rays
    assert not [path for path in written if b"canary-4711" in path.read_bytes()]
