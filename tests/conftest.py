"""Shared by all tests: an MLflow database made once, and a way to run the project's commands as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def template_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds, copying the file does not."""
    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture
def tracking_uri(template_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh tracking store of this test's own, also for the commands it starts."""
    path = tmp_path / "mlflow.db"
    shutil.copy(template_database, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)  # MLflow puts artefacts beside the current folder
    return f"sqlite:///{path}"


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("train", "--seed", "x")`: a stage's command in its own process, from the project's root."""

    def run(stage: str, *flags: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"pipelines.{stage}", *flags], cwd=ROOT, capture_output=True, text=True, timeout=600, **options
        )  # fmt: skip

    return run
