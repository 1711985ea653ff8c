"""Training in two processes: what one learns with the same step, one writer, and a kill in the middle."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_world import KillAt, Killed, losses, make_base, make_dataset, run

from sysdesign.config.train import TrainConfig, UnslothBackend
from sysdesign.errors import ConfigError, LimitError, ToolError
from sysdesign.records import MetricLog, NullLog
from sysdesign.train import backends, ranks


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fresh process would spend twenty seconds on imports, and there is no GPU here that a forked one could not use."""
    monkeypatch.setattr(ranks, "START", "fork")
    monkeypatch.setattr(ranks, "WAIT", timedelta(minutes=2))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_learn_what_one_does_and_go_on_after_a_kill(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    inputs = {"base": base, "dataset": make_dataset(tmp_path / "dataset", base)}
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "meeting").write_text("where the processes of a killed run met")
    run(tmp_path / "one", inputs)
    assert not (tmp_path / "one" / "meeting").exists()
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


def _second_fails(rank: ranks.Rank, log: MetricLog) -> None:
    if rank.index == 1:
        raise LimitError("train, step 3", "loss must stay finite", "lower train.learning_rate", float("nan"))
    rank.meet()


def _second_dies(rank: ranks.Rank, log: MetricLog) -> None:
    if rank.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    rank.meet()


def _sums(rank: ranks.Rank, log: MetricLog) -> tuple[float, float | None]:
    log.metrics({"seen": rank.index + 1.0}, 5)
    return float(rank.sum(torch.tensor([rank.index + 1.0]))), rank.least(10.0 - rank.index)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (_second_fails, r"^train, step 3: loss must stay finite \(got nan\) - lower train.learning_rate$"),
        (
            _second_dies,
            r"^train, process 1: every process must live until the training's end \(got 'exit code -9'\) - .*the same command goes",
        ),
    ],
)
def test_a_process_that_fails_ends_all_of_them_with_its_own_reason(work: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=said):
        ranks.spread(work, 3, cuda=False, log=NullLog(), meeting=tmp_path / "meeting")
    assert not list(tmp_path.iterdir())


def test_processes_share_their_numbers_and_the_first_one_logs(tmp_path: Path) -> None:
    class Kept(NullLog):
        seen: list[Any] = []

        def metrics(self, values: Any, step: int | None = None) -> None:
            self.seen.append((values, step))

    (tmp_path / "meeting").write_bytes(b"of three that were killed")
    assert ranks.spread(_sums, 3, cuda=False, log=Kept(), meeting=tmp_path / "meeting") == (6.0, 8.0)
    assert Kept.seen == [({"seen": 1.0}, 5)]


def test_more_processes_than_gpus_or_samples_are_refused() -> None:
    with pytest.raises(ToolError, match=r"runtime.devices: this machine shows \d+ GPUs \(got 64\) - use --runtime.devices \d+"):
        backends.several(TrainConfig(batch=64), "cuda", 64)
    with pytest.raises(ConfigError, match="every one of 2 processes needs a sample in each step"):
        backends.several(TrainConfig(batch=1), "cpu", 2)
    with pytest.raises(ConfigError, match="unsloth trains on one GPU"):
        backends.several(TrainConfig(backend=UnslothBackend()), "auto", 2)


def test_a_spawned_rank_loads_its_data_in_workers_that_need_no_copy_of_the_model() -> None:
    """On a GPU two workers prepare the batches. A spawned process spawns in turn unless it is told not to, and a model does not pickle."""
    from types import SimpleNamespace

    from sysdesign.train.trainer import Tuner

    unpicklable = SimpleNamespace(model=lambda: None)
    trainer = SimpleNamespace(
        args=SimpleNamespace(dataloader_num_workers=2), train_dataset=[{"rows": n} for n in range(4)],
        _collate=lambda items: items[0]["rows"] if unpicklable else None,
    )  # fmt: skip
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)  # as in a process that was spawned
    try:
        assert list(Tuner.get_train_dataloader(trainer)) == [0, 1, 2, 3]  # type: ignore[arg-type]
    finally:
        multiprocessing.set_start_method(before, force=True)
