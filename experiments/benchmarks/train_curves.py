"""Do all ways to train learn the same? The train stage itself, run on one GPU by every backend and arithmetic, against fp32.

Four decoder layers of the 7B's width with random weights, 32 rows of made-up text with a picture each, 16 steps of four. The reference
is the libraries' own forward in fp32. One run is killed in the middle and resumed; Unsloth runs in a process of its own. Results are
written after every run.

    python experiments/benchmarks/train_curves.py --out FOLDER [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")

WORDS = ["gateway", "calls", "the", "orders", "service", "and", "waits", "for", "the", "cache", "before", "the", "queue", "answers"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain fp32": {"backend": {"kind": "peft", "plain": True}, "compute": "fp32"},
    "plain bf16": {"backend": {"kind": "peft", "plain": True}},
    "fast bf16, torch's operations": {"backend": {"kind": "peft", "fast": {"kernels": "eager"}}},
    "fast bf16, own kernels": {"backend": {"kind": "auto"}},
    "fast bf16, killed and resumed": {"backend": {"kind": "auto"}},
    "fast fp8": {"backend": {"kind": "auto"}, "compute": "fp8"},
    "unsloth": {"backend": {"kind": "unsloth"}},
}


def make_inputs(folder: Path, tiny: bool, layers: int = 4, scale: int = 1) -> None:
    """A base folder and a dataset in the layout of their stages; `scale` lengthens the pictures' sides, and the answers by its square."""
    import numpy as np
    from PIL import Image
    from train_inputs import build_base
    from transformers import AutoProcessor

    from sysdesign.models.rows import fingerprint
    from sysdesign.records import Row, write_jsonl

    build_base(folder / "base" / "model", tiny, layers)
    (folder / "base" / "base.json").write_text(json.dumps({"kind": "tiny", "name": "tiny", "revision": "0" * 40, "family": "qwen2_vl"}))
    data = folder / "dataset"
    (data / "images").mkdir(parents=True)
    (data / "compile.json").write_text(
        json.dumps({"processor_sha256": fingerprint(AutoProcessor.from_pretrained(folder / "base" / "model"))})
    )
    for split, count in (("train", 32), ("val", 4)):
        rows = []
        for index in range(count):
            draw, name = random.Random(f"{split}{index}"), f"images/{split}{index}.png"
            size = (28 * scale * draw.randint(10, 14), 28 * scale * draw.randint(8, 12))
            noise = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(noise).save(data / name)
            asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " ".join(draw.choices(WORDS, k=30))}]}
            said = {
                "role": "assistant",
                "content": [{"type": "text", "text": " ".join(draw.choices(WORDS, k=scale**2 * draw.randint(40, 80)))}],
            }
            rows.append(
                Row(
                    id=f"{split}{index}",
                    split=split,
                    conversation_id="c",
                    seed_id="s",
                    provider="offline",
                    family="f",
                    messages=(asked, said),
                    images=(name,),
                )
            )
        write_jsonl(data / "rows" / f"{split}.jsonl", rows)


def run(name: str, folder: Path, out: Path, device: str) -> None:
    """One variant through the stage's own function."""
    from sysdesign.artifacts import Artifact, Manifest
    from sysdesign.config.runtime import RuntimeConfig
    from sysdesign.config.train import TrainConfig
    from sysdesign.records import NullLog
    from sysdesign.train.stage import train

    def artifact(stage: str) -> Artifact:
        manifest = Manifest(
            stage=stage,
            version=1,
            key=stage,
            digest=stage,
            seed=0,
            config={},
            inputs={},
            prompts={},
            report={},
            files=(),
            created="",
            seconds=0,
        )
        return Artifact(stage, stage, stage, folder / stage, manifest)

    class KillOnce(NullLog):
        """Stops the run after step 11, three steps past its checkpoint, the first time."""

        armed = "killed" in name

        def metrics(self, values: Any, step: int | None = None) -> None:
            if self.armed and step == 11 and "train/loss" in values:
                self.armed = False
                raise KeyboardInterrupt

    settings = {"max_steps": 16, "batch": 4, "warmup_steps": 2, "eval_steps": 8, "save_steps": 8, "answers": 1, "answer_tokens": 8}
    cfg = TrainConfig.model_validate(settings | (VARIANTS[name] if device == "cuda" else {}))
    work = folder / "runs" / name.replace(" ", "-")
    work.mkdir(parents=True, exist_ok=True)
    start, log = time.perf_counter(), KillOnce()
    result: dict[str, Any] = {"name": name}
    try:
        for _ in range(2):
            try:
                report = train(
                    cfg, seed=3, out=work, log=log, runtime=RuntimeConfig(device=device, store=str(folder / "store")),  # type: ignore[arg-type]
                    dataset=artifact("dataset"), base=artifact("base"),
                )  # fmt: skip
                break
            except KeyboardInterrupt:
                continue
        moments = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]
        result["losses"] = [round(m["loss"], 5) for m in moments if m.get("kind", "train") == "train"]
        result |= report.model_dump() | {"plan": json.loads((work / "train.json").read_text())["plan"]}
        from safetensors import safe_open

        with safe_open(work / "adapter" / "adapter_model.safetensors", "pt") as file:
            result["tensors"] = sorted(file.keys())
    except Exception as error:
        import traceback

        result["error"] = traceback.format_exc()[-1500:] or str(error)
    result["seconds"] = round(time.perf_counter() - start, 1)
    with (out / "curves.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("tensors", "plan")}), flush=True)


def compare(out: Path) -> None:
    """Mean and largest distance of every curve from the fp32 one, and whether adapters have the same tensors."""
    found = {r["name"]: r for r in map(json.loads, (out / "curves.jsonl").read_text().splitlines()) if "losses" in r}
    truth = found.get("plain fp32") or next(iter(found.values()))
    for name, result in found.items():
        gaps = [abs(a - b) for a, b in zip(result["losses"], truth["losses"], strict=True)]
        same = result["tensors"] == truth["tensors"]
        print(f"{name:32s} mean gap {sum(gaps) / len(gaps):.5f}  largest {max(gaps):.5f}  same tensors {same}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/curves"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    import importlib.util

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.only:
        run(args.only, args.folder, args.out, device)
        return
    make_inputs(args.folder, args.tiny)
    child = None
    if device == "cuda" and importlib.util.find_spec("unsloth") is not None:
        command = [sys.executable, __file__, "--out", str(args.out), "--folder", str(args.folder), "--only", "unsloth"]
        with (args.out / "unsloth-stage.log").open("w") as file:
            child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    for name in VARIANTS:
        if name != "unsloth":
            run(name, args.folder, args.out, device)
    compare(args.out)
    if child is not None:
        child.wait(timeout=240)
        compare(args.out)


if __name__ == "__main__":
    main()
