"""The whole of it, as a newcomer runs it: killed once in the middle, resumed, registered, asked, and run again from the store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sysdesign.flow import STAGES

ROOT = Path(__file__).parents[1]


def start(store: Path, *words: str) -> subprocess.Popen[str]:
    flags = [*words, "--runtime.store", str(store)]
    return subprocess.Popen([sys.executable, "-m", *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err[-3000:]
    return out


def test_from_seed_prompts_to_a_registered_model_that_answers(tracking_uri: str, tmp_path: Path) -> None:
    store = tmp_path / "store"

    # killed without warning while it trains
    process = start(store, "pipelines.all")
    deadline = time.monotonic() + 900
    while not list((store / ".work").glob("train-*/checkpoints/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    made = sorted(path.name for path in store.glob("*-*"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert {name.split("-")[0] for name in made} == {"base", "diagrams", "conversations", "dataset"}

    # the same command goes on where it was
    out = finish(start(store, "pipelines.all"))
    lines = {line.split()[0]: line for line in out.splitlines() if line.split() and line.split()[0] in STAGES}
    assert list(lines) == list(STAGES)
    assert all("in the store" in lines[name] for name in ("base", "diagrams", "conversations", "dataset"))
    assert all("in the store" not in lines[name] for name in ("train", "export", "evaluate", "deploy"))

    client = MlflowClient(tracking_uri)
    parents = client.search_runs(["0"], "tags.`sysdesign.stage` = 'all' and status = 'FINISHED'")
    assert len(parents) == 1
    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'")
    assert {child.info.run_name for child in children} == set(STAGES)
    shown = {run.info.run_name: run.inputs.dataset_inputs[0].dataset for run in [*children, *parents] if run.inputs.dataset_inputs}
    assert set(shown) == {"dataset", "train", "export", "evaluate", parents[0].info.run_name}, "the dataset is on every run that used it"
    assert len({dataset.digest for dataset in shown.values()}) == 1 and all("messages" in dataset.schema for dataset in shown.values())
    assert parents[0].outputs.model_outputs
    assert parents[0].data.metrics["train/loss_last"] < parents[0].data.metrics["train/loss_first"] / 2
    assert parents[0].data.metrics["eval/gain_ci_low"] > 0, "on held-out diagrams it answers better than the base does"
    version = client.get_model_version_by_alias("sysdesign", "challenger")
    assert version.tags["sysdesign.verdict"] in ("promote", "reject", "inconclusive")

    # it answers a question about a diagram
    picture = next(store.glob("diagrams-*/images/*.png"))
    question = ["--image", str(picture), "--prompt", "How many components are there?", "--output", "json", "--chat.max_tokens", "16"]
    answer = json.loads(finish(start(store, "pipelines.chat", *question)))
    assert answer["answer"].strip() and answer["input_tokens"] > 64

    # a second time everything is in the store, and the version stays the same
    again = finish(start(store, "pipelines.all"))
    assert all("in the store" in line for line in again.splitlines() if line.split() and line.split()[0] in STAGES)
    assert len(client.search_model_versions("name = 'sysdesign'")) == 1


@pytest.mark.parametrize("stage", ["export", "evaluate"])
def test_a_stage_alone_asks_for_what_it_reads(stage: str, tracking_uri: str, tmp_path: Path) -> None:
    process = start(tmp_path / "store", f"pipelines.{stage}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 4
    assert "it is not there - make it: mlflow run . -e " in err
