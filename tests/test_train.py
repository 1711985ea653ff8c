"""Training: a tiny base and a handful of rows, through the real TRL, PEFT and bitsandbytes on a CPU."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysdesign.artifacts import Artifact, Manifest
from sysdesign.config.base import TinyBase
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.train import FastConfig, LoraConfig, PeftBackend, TrainConfig
from sysdesign.errors import ArtifactError, LimitError, ToolError
from sysdesign.models.base import Base, load_processor
from sysdesign.models.rows import fingerprint
from sysdesign.records import NullLog, Row, write_jsonl
from sysdesign.train.stage import TrainReport, train

WORDS = "gateway orders service redis cache three replicas at two hundred requests a second through the queue".split()
SHORT: dict[str, Any] = {
    "lora": LoraConfig(rank=4, alpha=8), "batch": 4, "max_steps": 4, "learning_rate": 1e-2, "warmup_steps": 1, "eval_steps": 2,
    "save_steps": 2, "answers": 1, "answer_tokens": 4,
}  # fmt: skip


def artifact(folder: Path, stage: str, digest: str) -> Artifact:
    manifest = Manifest(
        stage=stage, version=1, key=digest, digest=digest, seed=0, config={}, inputs={}, prompts={}, report={}, files=(), created="", seconds=0
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
        id=f"{split}{index}", split=split, conversation_id=f"c{index}", seed_id="s", provider="offline", family="f", messages=messages, images=images,  # type: ignore[arg-type]
    )  # fmt: skip


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
