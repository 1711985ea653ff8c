"""What a person sees who gives training what it cannot use: one line that names the place and the way out, through the public command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from train_world import artifact, make_base, make_dataset, run

from pipelines import command as wiring
from sysdesign import flow
from sysdesign.artifacts import Artifact, Store
from sysdesign.config.root import Config
from sysdesign.config.train import PeftBackend
from sysdesign.errors import LimitError
from sysdesign.profiles import resolve
from sysdesign.train import backends

FLAGS = {
    "train.max_steps": "3", "train.batch": "2", "train.lora.rank": "4", "train.save_steps": "1", "train.eval_steps": "0",
    "train.answers": "1", "train.answer_tokens": "2", "runtime.device": "cpu",
}  # fmt: skip
SMALL_CARD = backends.Machine("cpu", "float32", False, 0.001, "a card of 1 MiB")  # the planner believes what it is told of the card


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("made")
    base = make_base(folder / "base")
    return {"base": base, "dataset": make_dataset(folder / "dataset", base)}


class World:
    """A store that holds what training reads, and the command on it."""

    def __init__(self, root: Path, made: dict[str, Artifact], capsys: pytest.CaptureFixture[str]) -> None:
        self.store, self.made, self.capsys = Store(root), made, capsys
        self.flags = FLAGS | {"runtime.store": str(root)}
        self.inputs: dict[str, Artifact] = {}

    def put(self) -> None:
        """The artefacts of the chain, at the addresses that the configuration gives them."""
        config = resolve(Config, "rehearsal", self.flags)
        for name in ("base", "diagrams", "conversations", "dataset"):
            stage = flow.STAGES[name]
            inputs = {read: self.inputs[read] for read in stage.reads}
            key = flow.address(stage, config, inputs)
            with self.store.work(name, key, 1) as work:
                if name in self.made:
                    shutil.copytree(self.made[name].path, work, dirs_exist_ok=True)
                (work / "made").write_text(name)
                self.inputs[name] = self.store.commit(
                    work, stage=name, version=stage.version, key=key, seed=0, config={}, inputs={}, prompts={}, report={}, seconds=0.0
                )

    def train(self) -> tuple[int, str]:
        """(exit code, last line a person reads)."""
        try:
            wiring.main("train", "Train.", [word for name, value in self.flags.items() for word in (f"--{name}", value)])
        except SystemExit as end:
            said = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith(("error: ", "stopped: "))]
            assert len(said) == 1, said
            return int(end.code or 0), said[0]
        return 0, self.capsys.readouterr().out.splitlines()[-1]

    def work(self) -> Path:
        (found,) = [p for p in (self.store.root / ".work").glob("train-*") if p.is_dir()]
        return found


@pytest.fixture
def world(
    tracking_uri: str, tmp_path: Path, made: dict[str, Artifact], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> World:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return World(tmp_path / "store", made, capsys)


def test_a_gpu_too_small_is_refused_before_weights_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "look", lambda *_: SMALL_CARD)
    monkeypatch.setattr(backends, "load", lambda *_: pytest.fail("weights were loaded"))
    world.put()
    code, said = world.train()
    assert code == LimitError.exit_code
    for words in ("the smallest setting needs", "GiB of GPU memory", "use a larger card, set train.max_length below", "GiB free'"):
        assert words in said


def test_a_dataset_of_another_processor_is_refused(world: World, made: dict[str, Artifact], tmp_path: Path) -> None:
    shutil.copytree(made["dataset"].path, tmp_path / "dataset")
    (tmp_path / "dataset" / "compile.json").write_text(json.dumps({"processor_sha256": "f" * 64}))
    world.made = made | {"dataset": artifact(tmp_path / "dataset", "dataset", "d" * 64)}
    world.put()
    code, said = world.train()
    assert code == 4 and "compiled against this base's processor" in said


def test_one_unusable_row_is_left_out_and_named(world: World, made: dict[str, Artifact], tmp_path: Path) -> None:
    shutil.copytree(made["dataset"].path, tmp_path / "dataset")
    picture = tmp_path / "dataset" / "images" / "train0.png"
    picture.write_bytes(picture.read_bytes()[:-200])  # opens, and breaks off while it is decoded
    world.made = made | {"dataset": artifact(tmp_path / "dataset", "dataset", "d" * 64)}
    world.put()
    code, said = world.train()
    assert code == 0 and said.endswith("1 unusable row left out, see `train.json`.")
    (done,) = world.store.root.glob("train-*")
    assert json.loads((done / "train.json").read_text())["skipped"] == [{"id": "train0", "reason": "picture train0.png cannot be read"}]


def test_a_stopped_run_refuses_a_checkpoint_that_is_broken_or_of_another_base(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after its second checkpoint; the same command meets each wrong checkpoint in turn, then the right one."""
    from sysdesign.tracking.runs import RunLog

    def stop(self: Any, values: Any, step: int | None = None) -> None:
        if step == 3 and "train/loss" in values:
            raise KeyboardInterrupt

    world.put()
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "metrics", stop)
        assert world.train() == (130, "stopped: what was finished is kept; the same command goes on from here")
    newest = world.work() / "checkpoints" / "checkpoint-2"
    adapter, seal = newest / "adapter_model.safetensors", newest / "seal.json"
    whole, sealed = adapter.read_bytes(), seal.read_text()

    adapter.write_bytes(whole[:-1])
    code, said = world.train()
    assert code == 4 and str(adapter) in said and "must have the bytes it was sealed with" in said and f"rm -r {newest}" in said
    adapter.write_bytes(whole)

    seal.write_text("[]")
    code, said = world.train()
    assert code == 4 and "a checkpoint's seal must be readable JSON" in said

    other = json.loads(sealed)
    other["origin"]["base"] = "0" * 16  # an adapter trained on another base, copied here
    seal.write_text(json.dumps(other))
    code, said = world.train()
    assert code == 4 and "(got 'another base')" in said and "start anew: rm -r" in said

    seal.write_text(sealed)
    code, said = world.train()
    assert code == 0 and said.startswith("train")


def test_memory_that_ends_in_a_step_is_a_line_whose_setting_fits(
    made: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner saw 64 MiB, and another process took most of it since: the advised setting is one that it plans for what is left."""
    from sysdesign.records import NullLog

    class Full(NullLog):
        def metrics(self, values: Any, step: int | None = None) -> None:
            if "train/loss" in values:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(backends, "look", lambda *_: backends.Machine("cpu", "float32", False, 0.0625, "a card of 64 MiB"))
    monkeypatch.setattr(backends, "room_gib", lambda: 0.03)
    law = r"CUDA out of memory.* - set train.max_vram_gib to 0.0\d, 0.0\d below the plan that failed \(passes of \d+ tokens, not \d+"
    with pytest.raises(LimitError, match=law):
        run(tmp_path / "fast", made, log=Full(), batch=64)
    with pytest.raises(LimitError, match=r"set train.micro_tokens to \d+ \(now \d+; the longest sample has \d+\)"):
        run(tmp_path / "plain", made, log=Full(), backend=PeftBackend(plain=True), max_steps=1)
