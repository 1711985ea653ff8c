"""Is the fast path's loss curve one that the libraries' own forward could have given? bf16, same data, seed, adapter and NF4 weights.

A plain run repeated bit for bit has no spread, so the spread is taken over what a person may change about a plain run without
changing its mathematics: samples a pass (4, 2, 1), the attention kernel (sdpa, eager), and the type of the states between layers
(bf16, or fp32 as `peft.prepare_model_for_kbit_training` makes it). The distance of two curves is the mean over steps of |a - b|.
A fast run lies inside when its distance to the mean of the plain curves is at most the largest distance between two plain runs
(`inside`), and, stricter, at most that of the plain run farthest from the mean of the other plain runs (`inside_left_one_out`); both for
the plain runs with bf16 states alone and for all of them. Four decoder layers
of the 7B's width with random weights, 32 made-up rows with a picture each, constant rate 2e-4.

    python experiments/benchmarks/train_fidelity.py --out FOLDER [--steps 40] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BATCH, SEED = 4, 3
Curves = dict[str, list[float]]


class Bench:
    """The samples, and one curve after another into `results.jsonl`."""

    def __init__(self, folder: Path, out: Path, steps: int) -> None:
        import torch
        from transformers import AutoProcessor

        from sysdesign.config.train import TrainConfig
        from sysdesign.records import Row, read_jsonl
        from sysdesign.train import order
        from sysdesign.train.stage import _encode

        self.folder, self.out, self.base, self.cfg = folder, out, folder / "base" / "model", TrainConfig(batch=BATCH)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.processor = AutoProcessor.from_pretrained(self.base)
        rows = list(read_jsonl(folder / "dataset" / "rows" / "train.jsonl", Row))
        self.samples, _ = _encode(rows, folder / "dataset", self.base, self.processor, self.cfg)
        self.longest = max(len(s.ids) for s in self.samples)
        self.order = order.steps_of(len(self.samples), epochs=1, batch=BATCH, max_steps=steps, seed=SEED)
        self.curves: Curves = {}

    def model(self, dtype: Any) -> Any:
        from sysdesign.train.peft_backend import add_adapter, load_base

        return add_adapter(load_base(self.base, weights="nf4", dtype=dtype, device=self.device), self.cfg.lora, SEED)

    def feed(self, pictures: Any, micro: int, plain: bool) -> Any:
        from sysdesign.train.trainer import Feed

        tokenizer = self.processor.tokenizer
        token = int(tokenizer.convert_tokens_to_ids(self.processor.image_token))
        return Feed(self.samples, pictures, token, int(tokenizer.pad_token_id), micro * self.longest, plain)

    def add(self, name: str, model: Any, loss: Callable[[Any, float], Any], feed: Any) -> None:
        from train_meter import curve, log

        start = time.perf_counter()
        self.curves[name] = curve(model, loss, [feed.step(step) for step in self.order])
        seconds, losses = round(time.perf_counter() - start, 1), [round(x, 5) for x in self.curves[name]]
        log(self.out, name, seconds=seconds, passes=len(feed.step(self.order[0])["passes"]), losses=losses)

    def plain(self, model: Any, bf16: bool) -> Callable[[Any, float], Any]:
        import torch

        def loss(batch: dict[str, Any], total: float) -> Any:
            with torch.autocast(self.device, torch.bfloat16, enabled=bf16):
                return model(**batch, num_items_in_batch=total, use_cache=False).loss

        return loss


def plain_runs(bench: Bench, model: Any, states: str) -> None:
    """Four runs of one model that differ in nothing but the order of the arithmetic."""
    import torch

    from sysdesign.train.features import Pictures

    pictures = Pictures(bench.processor, torch.float32, None)
    bf16 = states != "fp32 everywhere"
    for micro, kernel in ((4, "sdpa"), (2, "sdpa"), (1, "sdpa"), (4, "eager"), (1, "eager")) if bf16 else ((4, "sdpa"),):
        model.get_base_model().set_attn_implementation(kernel)
        model.train()
        name = f"plain, {states}, {kernel}, {micro} a pass" if bf16 else "plain, fp32 everywhere"
        bench.add(name, model, bench.plain(model, bf16), bench.feed(pictures, micro, True))


def fast_runs(bench: Bench, model: Any) -> None:
    """The fast path with torch's operations, with the project's kernels, cut in four passes, and with fp8 products."""
    import torch

    from sysdesign.train import features
    from sysdesign.train.fast import FastPath
    from sysdesign.train.linear import use_fp8

    whole = model.get_base_model().model
    cache = features.cache_folder(bench.folder / "features", whole, bench.processor, torch.bfloat16)
    pictures = features.Pictures(bench.processor, torch.bfloat16, cache)
    features.fill(cache, whole, pictures, bench.samples, torch.device(bench.device))
    cuda = bench.device == "cuda"
    path: Any = None
    for name, ops, micro in (("torch's operations", "eager", 4), ("own kernels", "triton", 4), ("own kernels, 1 a pass", "triton", 1)):
        if not cuda and ops == "triton":
            name, ops = name.replace("own kernels", "torch's operations again"), "eager"
        path = FastPath(model, dtype=torch.bfloat16, fp8="no", ops=ops, attention="auto", levels=[2] * 100)  # type: ignore[arg-type]
        bench.add(f"fast, {name}", model, path.loss, bench.feed(pictures, micro, False))
    if cuda and torch.cuda.get_device_capability() >= (8, 9):
        for layer in path.layers:
            for group in layer.groups():
                use_fp8(group, "kept")
        bench.add("fast, own kernels, fp8 products", model, path.loss, bench.feed(pictures, 4, False))


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


def mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]


def judge(curves: Curves) -> dict[str, Any]:
    """Spread of the plain runs, and where every fast run lies in it."""
    truth = curves["plain, fp32 everywhere"]
    found: dict[str, Any] = {"distance_to_fp32": {name: round(distance(curve, truth), 6) for name, curve in curves.items()}}
    fast = {name: curve for name, curve in curves.items() if name.startswith("fast")}
    for label, prefix in (("bf16 states", "plain, bf16 states"), ("bf16 or fp32 states", "plain, ")):
        plain = {name: curve for name, curve in curves.items() if name.startswith(prefix) and curve is not truth}
        pairs = {f"{a} / {b}": distance(plain[a], plain[b]) for a, b in combinations(plain, 2)}
        left_out = [distance(plain[name], mean([c for other, c in plain.items() if other != name])) for name in plain]
        centre = mean(list(plain.values()))
        low, high = ([pick(values) for values in zip(*plain.values(), strict=True)] for pick in (min, max))
        about: dict[str, Any] = {
            "plain_runs": len(plain),
            "pair_distance": {"smallest": round(min(pairs.values()), 6), "largest": round(max(pairs.values()), 6)},
            "farthest_pair": max(pairs, key=lambda pair: pairs[pair]),
            "left_one_out_distance": {"smallest": round(min(left_out), 6), "largest": round(max(left_out), 6)},
            "fast": {},
        }
        for name, curve in fast.items():
            away = distance(curve, centre)
            about["fast"][name] = {
                "distance_to_mean": round(away, 6),
                "largest_step_gap_to_mean": round(max(abs(x - y) for x, y in zip(curve, centre, strict=True)), 5),
                "steps_between_lowest_and_highest_plain": sum(a <= x <= b for x, a, b in zip(curve, low, high, strict=True)),
                "inside": away <= max(pairs.values()),
                "inside_left_one_out": away <= max(left_out),
            }
        found[label] = about
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "fidelity-out")))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    import torch
    import transformers
    from peft import prepare_model_for_kbit_training
    from train_curves import make_inputs

    start, scratch = time.perf_counter(), tempfile.TemporaryDirectory()  # gigabytes of random weights
    args.out.mkdir(parents=True, exist_ok=True)
    make_inputs(Path(scratch.name), args.tiny)
    bench = Bench(Path(scratch.name), args.out, args.steps)
    model = bench.model(torch.bfloat16)
    plain_runs(bench, model, "bf16 states")
    fast_runs(bench, model)
    del model
    model = bench.model(torch.bfloat16)
    wanted = [p for p in model.parameters() if p.requires_grad]
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    for parameter in wanted:  # it freezes all it finds
        parameter.requires_grad_(True)
    plain_runs(bench, model, "fp32 states")
    del model, wanted
    plain_runs(bench, bench.model(torch.float32), "fp32 everywhere")
    name = torch.cuda.get_device_name() if bench.device == "cuda" else "cpu"
    about = {"device": name, "torch": torch.__version__, "transformers": transformers.__version__, "steps": args.steps}
    about["seconds"] = str(round(time.perf_counter() - start, 1))
    summary = about | {"losses": {k: [round(x, 5) for x in v] for k, v in bench.curves.items()}} | judge(bench.curves)
    (args.out / "train_fidelity.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps({k: v for k, v in summary.items() if k != "losses"}, indent=1))
    scratch.cleanup()


if __name__ == "__main__":
    main()
