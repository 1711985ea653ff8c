"""A tiny base, ten rows with pictures, and the train stage on them: what the training tests share."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.artifacts import Artifact, Manifest
from sysdesign.config.base import TinyBase
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.train import LoraConfig, TrainConfig
from sysdesign.models.base import Base, load_processor
from sysdesign.models.rows import fingerprint
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


def run(out: Path, inputs: dict[str, Artifact], log: Any = None, devices: int = 1, probe: Any = None, **changes: Any) -> TrainReport:
    out.mkdir(parents=True, exist_ok=True)
    runtime = RuntimeConfig(device="cpu", devices=devices, store=str(out.parent / "store"))
    return train(TrainConfig(**(SHORT | changes)), seed=7, out=out, log=log or NullLog(), runtime=runtime, probe=probe, **inputs)


def losses(out: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [(line.get("kind", "train"), line["step"], line["loss"]) for line in lines]


class Killed(BaseException):
    """Like a signal: nothing in the stage may catch it."""


class KillAt(NullLog):
    """Ends the run as soon as step `step` was logged, before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, values: Any, step: int | None = None) -> None:
        if step == self.step and "train/loss" in values:
            raise Killed
