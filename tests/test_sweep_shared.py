"""A study on a PostgreSQL server: one driver at a time, killed and resumed, and its password nowhere.

Needs a server: SYSDESIGN_TEST_POSTGRES=postgresql+psycopg://USER:PASSWORD@HOST/NAME, and the extra `postgres`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from tests import sweep_world as world

URL = os.environ.get("SYSDESIGN_TEST_POSTGRES", "")
pytestmark = pytest.mark.skipif(not URL, reason="no PostgreSQL server in SYSDESIGN_TEST_POSTGRES")


def driver(folder: Path, kill: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sweep_world", "drive", str(folder), "optuna", *([kill] if kill else [])]
    env = os.environ | {"SWEEP_STORAGE": URL}
    return subprocess.Popen(command, cwd=world.ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def command_lines() -> bytes:
    """Of every process that this user may see."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return b"\n".join(found)


def test_a_shared_study_has_one_driver_survives_kills_and_hides_its_password(tmp_path: Path, tracking_uri: str) -> None:
    secret = (urlsplit(URL).password or "").encode()
    assert secret, "the test looks for the address's password"
    name = f"shared-{os.getpid()}-{int(time.time())}"
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:  # two machines of a team: nothing shared but the server
        folder.mkdir()
        (folder / "spec.json").write_text(json.dumps({"name": name, "budget": {"trials": 4}, "storage_env": "SWEEP_STORAGE"}))
        (folder / "runner.json").write_text('{"workers": 2}')
    first = driver(folders[0], "event:9")
    while not (folders[0] / "trials").exists() and first.poll() is None:  # it holds the study
        time.sleep(0.1)
    first.send_signal(signal.SIGSTOP)  # alive, and no faster than the second one
    seen = command_lines()
    second = driver(folders[1])
    _, said = second.communicate(timeout=120)
    assert second.returncode and "one driver at a time runs a study" in said
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == -signal.SIGKILL, first.communicate()[1]
    last = driver(folders[0])
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    assert secret not in seen
    assert secret.decode() not in said + errors
    client = MlflowClient(tracking_uri)
    trials = [run for run in client.search_runs(["0"]) if "sweep.trial" in run.data.tags]
    assert sorted(int(run.data.tags["sweep.trial"].rpartition(":")[2]) for run in trials) == [0, 1, 2, 3]
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert sorted(map(int, (folders[0] / "trials/ran.txt").read_text().split())) == [0, 1, 2, 3]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]
