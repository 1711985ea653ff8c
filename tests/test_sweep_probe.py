"""A model is asked while it trains: as the adapter it would be, by the scorer's rules, and without a trace in the training."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import probe
from sysdesign.artifacts import Artifact
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.train import TrainConfig
from sysdesign.errors import ArtifactError
from sysdesign.models.base import base_folder
from sysdesign.models.local import Local
from sysdesign.models.rows import load_split
from sysdesign.records import Check, NullLog, Row, write_jsonl
from sysdesign.train import ranks
from sysdesign.train.stage import train
from tests import train_world as world


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Validation rows: a choice, a rejection, and one that is not scored."""
    folder = tmp_path_factory.mktemp("inputs")
    base = world.make_base(folder / "base")
    dataset = world.make_dataset(folder / "dataset", base)
    checks = [Check(kind="choice", expected="gateway"), Check(kind="reject", expected="orders"), Check(kind="text")]
    rows = []
    for row, check, answer in zip(load_split(dataset, "val"), checks, ["gateway", "No orders is drawn.", "free"], strict=True):
        told = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        rows.append(row.model_copy(update={"check": check, "messages": (*row.messages[:-1], told)}))
    write_jsonl(dataset.path / "rows" / "val.jsonl", rows)
    return {"base": base, "dataset": dataset}


class Kept(NullLog):
    def __init__(self) -> None:
        self.interim: dict[int, dict[str, float]] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step and any("interim" in name for name in values):
            self.interim[step] = dict(values)


def test_the_live_model_answers_as_its_adapter_would_and_trains_on_as_if_nobody_asked(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    rows, answers = load_split(inputs["dataset"], "val"), []
    asked = [probe.messages(row, inputs["dataset"].path) for row in rows]

    def ask(model: Any) -> dict[str, float]:
        answers.append([r.text for r in Local(base_folder(inputs["base"]), loaded=model, group=2).replies(asked, max_tokens=6, seed=0)])
        return probe.interim(model, rows=rows[:2], **inputs, part="choice", max_tokens=4, group=2)

    def run(out: Path, steps: int, log: NullLog, **more: Any) -> None:
        out.mkdir()
        changes = {
            "max_steps": steps,
            "eval_steps": 1,
            "schedule": "constant",
            "keep_best": False,
            "answers": 0,
            "save_steps": 0,
            "weights": "fp32",
        }
        cfg = TrainConfig(**(world.SHORT | changes))
        train(cfg, seed=7, out=out, log=log, runtime=RuntimeConfig(device="cpu", store=str(tmp_path)), **inputs, **more)

    log = Kept()
    run(tmp_path / "asked", 3, log, probe=ask)
    run(tmp_path / "alone", 2, NullLog())
    assert world.losses(tmp_path / "alone") == [one for one in world.losses(tmp_path / "asked") if one[1] <= 2]
    alone = Local(base_folder(inputs["base"]), adapter=tmp_path / "alone" / "adapter", device="cpu", group=2)
    assert answers[1] == [reply.text for reply in alone.replies(asked, max_tokens=6, seed=0)] and any(answers[1])
    assert set(log.interim) == {1, 2} and set(log.interim[1]) == {"probe/interim_score", "probe/interim_choice"}
    assert all(0 <= value <= 1 for values in log.interim.values() for value in values.values())


def test_of_several_processes_the_first_is_asked_and_all_train_on(inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ranks, "START", "fork")  # a fresh process would spend twenty seconds on imports
    monkeypatch.setattr(ranks, "WAIT", timedelta(minutes=2))
    ask = partial(probe.interim, rows=load_split(inputs["dataset"], "val")[:2], **inputs, part="choice", max_tokens=4, group=2)
    pickle.loads(pickle.dumps(ask))  # as a fresh process needs it
    logs = {1: Kept(), 2: Kept()}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for devices, log in logs.items():
        world.run(tmp_path / str(devices), inputs, log=log, devices=devices, probe=ask, eval_steps=1, answers=0, save_steps=0)
    torch.set_num_threads(before)
    assert logs[2].interim == logs[1].interim and set(logs[2].interim) == {1, 2, 3}
    one, two = (world.losses(tmp_path / str(devices)) for devices in logs)
    assert [moment[:2] for moment in one] == [moment[:2] for moment in two]
    assert max(abs(a[2] - b[2]) for a, b in zip(one, two, strict=True)) < 1e-4


def test_only_validation_questions_with_the_part_asked_for_are_asked(inputs: dict[str, Artifact]) -> None:
    def ids(part: str, count: int = 9) -> list[str]:
        found: list[Row] = probe.questions(inputs["dataset"], part, count)
        return [row.id for row in found]

    assert ids("score") == ["val0", "val1"] and ids("score", 1) == ["val0"]
    assert ids("rejects_false_premise") == ["val1"]
    with pytest.raises(ArtifactError, match="a check for probe/edge_f1; these have .*choice.*name one of them as the objective"):
        ids("edge_f1")
