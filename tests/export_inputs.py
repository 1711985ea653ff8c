"""What the export stage reads, made in a second: a tiny base of any family, a random adapter in PEFT's format, test rows; and its files."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.artifacts import Artifact, Manifest
from sysdesign.config.base import TinyBase
from sysdesign.config.export import ExportConfig
from sysdesign.export.adapter import NO_ADAPTER, open_adapter
from sysdesign.export.families import read_layout
from sysdesign.export.files import write_files
from sysdesign.export.merge import Merge
from sysdesign.export.metadata import Origin
from sysdesign.export.weights import open_weights
from sysdesign.models.base import Base
from sysdesign.models.picture import PicturePolicy
from sysdesign.records import Check, Row, write_jsonl

WORDS = re.findall(r"\w+", "gateway orders service redis cache three replicas at two hundred requests a second through the queue")
POLICY = {"min_tokens": 64, "max_tokens": 100}  # 64 is what Qwen3-VL's processor would enlarge to


def artifact(folder: Path, stage: str, digest: str, config: dict[str, Any] | None = None) -> Artifact:
    manifest = Manifest(
        stage=stage, version=1, key=digest, digest=digest, seed=0, config=config or {}, inputs={}, prompts={}, report={}, files=(),
        created="", seconds=0,
    )  # fmt: skip
    return Artifact(stage, digest, digest, folder, manifest)


def make_base(folder: Path, family: str = "qwen2_vl", **changes: Any) -> Artifact:
    from sysdesign.models.tiny import build_tiny

    cfg = TinyBase.model_validate({"family": family, **changes})
    build_tiny(folder / "model", cfg, [" ".join(random.Random(i).choices(WORDS, k=20)) for i in range(100)], seed=0)
    (folder / "base.json").write_text(Base(kind="tiny", name="tiny", revision="0" * 40, family=cfg.family).model_dump_json())
    return artifact(folder, "base", "b" * 64)


def make_train(folder: Path, base: Artifact, rank: int = 4, scale: float = 0.1, *, vision: bool = False) -> Artifact:
    """An adapter on the decoder's seven linears, as PEFT saves it, and the base's processor. `vision`: on the tower and the merger too."""
    from safetensors.numpy import load_file, save_file

    draw = np.random.default_rng(1)
    tensors = {}
    for name, weight in sorted(load_base(base.path / "model").items()):
        if ".layers." in name and "proj.weight" in name and "visual" not in name:
            module = "base_model.model.model.language_model." + name[name.index("layers.") :].removesuffix(".weight")
        elif vision and len(weight) == 2 and re.search(r"attn\.qkv\.|attn\.proj\.|merger\.(mlp|linear)", name):
            module = "base_model.model.model." + name[name.index("visual.") :].removesuffix(".weight")
        else:
            module = ""
        if module:
            tensors[f"{module}.lora_A.weight"] = (draw.standard_normal((rank, weight[1])) * weight[1] ** -0.5).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = (draw.standard_normal((weight[0], rank)) * scale).astype(np.float32)
    (folder / "adapter").mkdir(parents=True)
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny",
        "target_modules": r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
        + (r"|.*visual\.(blocks\.\d+\.attn\.(qkv|proj)|merger\.(mlp\.[02]|linear_fc[12]))" if vision else ""),
    }  # fmt: skip
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "processor").mkdir()
    for file in (base.path / "model").iterdir():
        if file.suffix != ".safetensors" and file.name not in ("config.json", "generation_config.json"):
            shutil.copy(file, folder / "processor" / file.name)
    assert load_file(folder / "adapter" / "adapter_model.safetensors")
    return artifact(folder, "train", "7" * 64)


def load_base(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model folder's tensors."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def make_dataset(folder: Path, side: int = 28, count: int = 4, *, only_pictures: bool = False) -> Artifact:
    """Single questions, every other one (or every one) about a picture of noise. Each is scored by a choice between yes and no."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    policy = PicturePolicy(side=side, **POLICY)
    rows = []
    for i in range(count):
        images: tuple[str, ...] = ()
        if only_pictures or i % 2 == 0:
            noise = np.random.default_rng(i).integers(0, 255, (side * 9, side * 8, 3), dtype=np.uint8)
            images = (f"images/{i}.png",)
            policy.fit(Image.fromarray(noise)).save(folder / images[0])
        question = [
            *({"type": "image"} for _ in images),
            {"type": "text", "text": " ".join(random.Random(i).choices(WORDS, k=8)) + " – naïve?"},
        ]
        messages = (
            {"role": "system", "content": [{"type": "text", "text": "You read diagrams."}]}, {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": "redis"}]},
        )  # fmt: skip
        rows.append(
            Row(
                id=f"r{i}",
                split="test",
                conversation_id=f"c{i}",
                seed_id="s",
                provider="offline",
                family="f",
                messages=messages,
                images=images,
                check=Check(kind="choice", expected="yes"),
            )
        )
    write_jsonl(folder / "probes.jsonl", rows)
    write_jsonl(folder / "rows" / "test.jsonl", rows)
    return artifact(folder, "dataset", "d" * 64, {"picture": POLICY})


def write_tiny(base: Path, out: Path, quants: tuple[str, ...] = ("f16",), adapter: Path | None = None, **changes: Any) -> dict[str, int]:
    """The GGUF files of `base`, as the stage writes them."""
    weights = open_weights(base)
    layout = read_layout(base, weights)
    used = open_adapter(adapter, weights) if adapter else NO_ADAPTER
    cfg = ExportConfig.model_validate({"quantisations": quants, "ship": quants[0], "base_gguf": False})
    with Merge(weights, used, **changes) as merge:
        return write_files(out, layout, merge, base, Origin(name="tiny", base="tiny"), cfg, workers=2)


def digest(path: Path) -> str:
    """sha256 over names, types, shapes and bytes of all tensors, whatever their order."""
    from gguf import GGUFReader

    lines = [
        f"{t.name} {t.tensor_type.name} {list(t.shape)} {hashlib.sha256(t.data.tobytes()).hexdigest()}" for t in GGUFReader(path).tensors
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def rewrite(file: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.float().numpy() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file({name: torch.tensor(values).to(torch.bfloat16) for name, values in tensors.items()}, file)
