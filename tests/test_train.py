"""Training: a tiny base and a handful of rows, through the real TRL, PEFT and bitsandbytes on a CPU."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysdesign.artifacts import Artifact, Manifest
from sysdesign.config.base import TinyBase
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.train import FastConfig, LoraConfig, PeftBackend, TrainConfig, UnslothBackend
from sysdesign.errors import ArtifactError, LimitError, ToolError
from sysdesign.models.base import Base, load_processor
from sysdesign.models.rows import fingerprint, load_split
from sysdesign.records import NullLog, Row, write_jsonl
from sysdesign.train.stage import TrainReport, train

WORDS = [
    "gateway",
    "orders",
    "service",
    "redis",
    "cache",
    "three",
    "replicas",
    "at",
    "two",
    "hundred",
    "requests",
    "a",
    "second",
    "through",
    "the",
    "queue",
]
SHORT: dict[str, Any] = {
    "lora": LoraConfig(rank=4, alpha=8), "batch": 4, "max_steps": 4, "learning_rate": 1e-2, "warmup_steps": 1, "eval_steps": 2,
    "save_steps": 2, "answers": 1, "answer_tokens": 4,
}  # fmt: skip


def artifact(folder: Path, stage: str, digest: str) -> Artifact:
    manifest = Manifest(
        stage=stage,
        version=1,
        key=digest,
        digest=digest,
        seed=0,
        config={},
        inputs={},
        prompts={},
        report={},
        files=(),
        created="",
        seconds=0,
    )
    return Artifact(stage, digest, digest, folder, manifest)


def make_base(folder: Path, family: str = "qwen2_vl") -> Artifact:
    from sysdesign.models.tiny import build_tiny

    cfg = TinyBase.model_validate({"family": family})
    build_tiny(folder / "model", cfg, [" ".join(random.Random(i).choices(WORDS, k=20)) for i in range(100)], seed=0)
    (folder / "base.json").write_text(Base(kind="tiny", name="tiny", revision="0" * 40, family=cfg.family).model_dump_json())
    return artifact(folder, "base", "b" * 64)


def make_row(folder: Path, index: int, side: int, split: str) -> Row:
    """A picture of noise and two turns about it; every fourth row has no picture."""
    from PIL import Image

    draw = random.Random(f"{split}{index}")
    name = f"images/{split}{index}.png"
    if index % 4 != 3:
        size = (side * draw.randint(2, 4), side * draw.randint(2, 4))
        noise = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    images = (name,) if index % 4 != 3 else ()
    question = [*({"type": "image"} for _ in images), {"type": "text", "text": " ".join(draw.choices(WORDS, k=8))}]
    turns = [("user", question), ("assistant", "redis cache three replicas"), ("user", "and the queue"), ("assistant", WORDS[index % 4])]
    messages = tuple({"role": r, "content": c if isinstance(c, list) else [{"type": "text", "text": c}]} for r, c in turns)
    return Row(
        id=f"{split}{index}",
        split=split,
        conversation_id=f"c{index}",
        seed_id="s",
        provider="offline",
        family="f",
        messages=messages,
        images=images,  # type: ignore[arg-type]
    )


def make_dataset(folder: Path, base: Artifact, side: int = 28) -> Artifact:
    (folder / "images").mkdir(parents=True)
    (folder / "compile.json").write_text(json.dumps({"processor_sha256": fingerprint(load_processor(base))}))
    for split, count in (("train", 10), ("val", 3)):
        write_jsonl(folder / "rows" / f"{split}.jsonl", [make_row(folder, i, side, split) for i in range(count)])
    return artifact(folder, "dataset", "d" * 64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    base = make_base(folder / "base")
    return {"base": base, "dataset": make_dataset(folder / "dataset", base)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out: Path, inputs: dict[str, Artifact], log: Any = None, **changes: Any) -> TrainReport:
    out.mkdir(parents=True, exist_ok=True)
    runtime = RuntimeConfig(device="cpu", store=str(out.parent / "store"))
    return train(TrainConfig(**(SHORT | changes)), seed=7, out=out, log=log or NullLog(), runtime=runtime, **inputs)


def losses(out: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [(line.get("kind", "train"), line["step"], line["loss"]) for line in lines]


def test_train_writes_an_adapter_that_peft_loads_on_the_same_base(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    report = run(tmp_path / "out", inputs)
    assert report.steps == 4 and report.samples == 10 and report.skipped == 0
    assert report.loss_last < report.loss_first and report.val_loss_best is not None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["adapter", "history.jsonl", "processor", "train.json"]
    base = AutoModelForImageTextToText.from_pretrained(inputs["base"].path / "model")
    tuned = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    assert any(float(p.abs().max()) > 0 for name, p in tuned.named_parameters() if "lora_B" in name)
    assert AutoProcessor.from_pretrained(tmp_path / "out" / "processor").image_token == "<|image_pad|>"


@pytest.mark.parametrize("weights", ["fp32", "nf4"])
def test_the_fast_path_learns_exactly_as_the_plain_one(inputs: dict[str, Artifact], tmp_path: Path, weights: str) -> None:
    plain = PeftBackend(plain=True)
    fast = PeftBackend(fast=FastConfig(packed=True, features=True))
    run(tmp_path / "plain", inputs, backend=plain, weights=weights, answers=0)
    run(tmp_path / "fast", inputs, backend=fast, weights=weights, answers=0, micro_tokens=150)
    a, b = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) == 7
    assert max(abs(x[2] - y[2]) for x, y in zip(a, b, strict=True)) < 1e-5


class Killed(BaseException):
    """Like a signal: nothing in the stage may catch it."""


class KillAt(NullLog):
    """Ends the run as soon as step `step` was logged, before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, values: Any, step: int | None = None) -> None:
        if step == self.step and "train/loss" in values:
            raise Killed


def test_a_killed_run_resumes_to_the_same_bits(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    run(tmp_path / "whole", inputs)
    with pytest.raises(Killed):
        run(tmp_path / "cut", inputs, log=KillAt(3))
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-2" / "seal.json").is_file()
    run(tmp_path / "cut", inputs)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_other_data_or_with_changed_bytes_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "out", inputs, log=KillAt(3))
    other = inputs | {"dataset": artifact(inputs["dataset"].path, "dataset", "e" * 64)}
    with pytest.raises(ArtifactError, match="resumes only with the settings"):
        run(tmp_path / "out", other)
    weights = tmp_path / "out" / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match="bytes it was sealed with"):
        run(tmp_path / "out", inputs)


def test_a_loss_that_is_not_finite_names_the_last_good_step(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """One word of the base is broken, and one row uses it: the run ends at the step that meets it."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(inputs["base"].path, tmp_path / "base")
    weights = tmp_path / "base" / "model" / "model.safetensors"
    tensors = load_file(weights)
    token = load_processor(inputs["base"]).tokenizer.convert_tokens_to_ids("#")
    tensors["model.embed_tokens.weight"][token] = float("inf")
    save_file(tensors, weights, metadata={"format": "pt"})
    shutil.copytree(inputs["dataset"].path, tmp_path / "dataset")
    rows = load_split(inputs["dataset"], "train")
    said = {"role": "user", "content": [{"type": "text", "text": "a # here"}]}
    write_jsonl(
        tmp_path / "dataset" / "rows" / "train.jsonl", [*rows[:-1], rows[3].model_copy(update={"messages": (said, *rows[3].messages[1:])})]
    )
    broken = {"base": artifact(tmp_path / "base", "base", "c" * 64), "dataset": artifact(tmp_path / "dataset", "dataset", "d" * 64)}
    with pytest.raises(LimitError, match=r"step \d+ was the last finite one.*lower train.learning_rate"):
        run(tmp_path / "out", broken)


def test_rows_that_cannot_be_used_are_left_out_with_their_reason(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    shutil.copytree(inputs["dataset"].path, tmp_path / "dataset")
    (tmp_path / "dataset" / "images" / "train0.png").write_bytes(b"not a picture")
    report = run(tmp_path / "out", inputs | {"dataset": artifact(tmp_path / "dataset", "dataset", "d" * 64)}, max_steps=1)
    assert (report.samples, report.skipped) == (9, 1)
    skipped = json.loads((tmp_path / "out" / "train.json").read_text())["skipped"]
    assert skipped == [{"id": "train0", "reason": "picture train0.png cannot be read"}]


def test_a_dataset_of_another_processor_is_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    shutil.copytree(inputs["dataset"].path, tmp_path / "dataset")
    (tmp_path / "dataset" / "compile.json").write_text(json.dumps({"processor_sha256": "f" * 64}))
    with pytest.raises(ArtifactError, match="compiled against this base's processor"):
        run(tmp_path / "out", inputs | {"dataset": artifact(tmp_path / "dataset", "dataset", "d" * 64)})


def test_training_stops_early_and_keeps_the_best_adapter(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """A rate this high gets worse at once: the first validation after step 0 stays the best."""
    report = run(tmp_path / "out", inputs, max_steps=12, eval_steps=1, patience=2, learning_rate=0.5, schedule="constant", warmup_steps=0)
    assert report.steps < 12 and report.best_step is not None and report.best_step < report.steps


def test_unsloth_and_fp8_need_a_gpu(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="unsloth needs a CUDA GPU"):
        run(tmp_path / "out", inputs, backend=UnslothBackend())
    with pytest.raises(ToolError, match="runs on a GPU only"):
        run(tmp_path / "out", inputs, compute="fp8")
