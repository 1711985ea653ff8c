"""Training in two processes: what one learns with the same step, one writer, and a kill in the middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from train_world import KillAt, Killed, losses, make_base, make_dataset, run

from sysdesign.errors import ConfigError, LimitError, ToolError
from sysdesign.train import backends, ranks


def test_two_processes_learn_what_one_does_and_go_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base")
    inputs = {"base": base, "dataset": make_dataset(tmp_path / "dataset", base)}
    run(tmp_path / "one", inputs)
    monkeypatch.setattr(ranks, "START", "fork")  # a fresh process spends twenty seconds on imports, and no GPU is here
    with pytest.raises(Killed):
        run(tmp_path / "two", inputs, log=KillAt(3), devices=2)
    assert (tmp_path / "two" / "checkpoints" / "checkpoint-2" / "seal.json").is_file()
    report = run(tmp_path / "two", inputs, devices=2)

    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [moment[:2] for moment in one] == [moment[:2] for moment in two], "every step once, written by one process"
    assert max(abs(a[2] - b[2]) for a, b in zip(one, two, strict=True)) < 1e-5
    name = "adapter/adapter_model.safetensors"
    ours, theirs = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
    assert ours.keys() == theirs.keys() and all(float((ours[k] - theirs[k]).abs().max()) < 1e-4 for k in ours)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["adapter", "history.jsonl", "processor", "train.json"]
    assert report.steps == 4 and json.loads((tmp_path / "two" / "train.json").read_text())["machine"]["processes"] == 2
