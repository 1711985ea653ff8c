"""Tokens a second of one QLoRA step on one GPU: plain TRL + PEFT + bitsandbytes, Unsloth, and each part of the fast path, same samples.

Random weights of the 7B shape (arithmetic does not care what was learned), one 784 x 1008 px picture (1,008 visual tokens) and 511 text
tokens a sample, about 450 of them learned from, LoRA rank 16 on the language model's seven linear maps. A step is eight samples:
forward, backward, clipping, AdamW. Median of the timed steps after two that are not; results are written after every variant.

    python experiments/benchmarks/train_h200.py --out FOLDER [--only ours,unsloth] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

TEXT_TOKENS, LEARNED, PICTURE = 511, 450, (784, 1008)


def log(out: Path, name: str, **values: Any) -> None:
    line = json.dumps({"name": name, **values})
    print(line, flush=True)
    with (out / "results.jsonl").open("a") as file:
        file.write(line + "\n")


def build_base(folder: Path, tiny: bool, layers: int = 28) -> None:
    """A model folder of the 7B shape with random weights, and a processor whose special tokens sit at their published places."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    from sysdesign.models import tiny as maker

    tokenizer = maker._tokenizer(["gateway calls the orders service " * 8] * 40, 600, maker.chat_template("qwen2_vl"))
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")}
    text: dict[str, Any] = {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": layers, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
    if tiny:
        text |= {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1024,
        }
        text["rope_parameters"]["mrope_section"] = [8, 12, 12]
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 256, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    text |= {
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=False,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    maker._processor("qwen2_vl", tokenizer).save_pretrained(folder)


def make_samples(
    folder: Path, processor: Any, count: int, tiny: bool, text_tokens: int = TEXT_TOKENS, picture: tuple[int, int] = PICTURE
) -> list[Any]:
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageTextToText

    from sysdesign.train.samples import Sample

    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, local_files_only=True)).model
    width, height = (112, 140) if tiny else picture
    text = 40 if tiny else text_tokens
    special = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")}
    grid = (1, height // 14, width // 14)
    samples = []
    for index in range(count):
        draw = np.random.default_rng([index, text])
        path = folder / f"picture-{index}-{width}.png"
        if not path.exists():
            Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        words = draw.integers(0, 256, text).astype(np.int64)
        picture_ids = [special["<|vision_start|>"], *[special["<|image_pad|>"]] * (grid[1] * grid[2] // 4), special["<|vision_end|>"]]
        ids = np.concatenate([words[:20], np.array(picture_ids), words[20 : text - 2]])
        labels = np.full_like(ids, -100)
        learned = min(LEARNED, text // 2 if tiny else text - 60)
        labels[-learned:] = ids[-learned:]
        positions, _ = empty.get_rope_index(
            torch.from_numpy(ids)[None],
            mm_token_type_ids=torch.from_numpy((ids == special["<|image_pad|>"]).astype(np.int32))[None],
            image_grid_thw=torch.tensor([grid]),
        )
        samples.append(Sample(f"s{index}", ids, labels, positions[:, 0].numpy(), (path,), (grid,)))
    return samples


class Meter:
    """Times whole optimiser steps and reads the peak of allocated memory."""

    def __init__(self, out: Path, timed: int) -> None:
        import torch

        self.out, self.timed, self.cuda = out, timed, torch.cuda.is_available()

    def steps(self, name: str, model: Any, loss: Callable[[Any, float], Any], step: dict[str, Any], **about: Any) -> dict[str, Any]:
        import torch

        parameters = [p for p in model.parameters() if p.requires_grad]
        before = [p.detach().cpu().clone() for p in parameters]
        optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0, fused=self.cuda)
        result: dict[str, Any] = {}
        try:
            if self.cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            begun, seconds, losses = time.perf_counter(), [], []
            for index in range(self.timed + 2):
                self._wait()
                start = time.perf_counter()
                total = 0.0
                for one in step["passes"]:
                    part = loss(one, step["total"])
                    part.backward()
                    total = total + part.detach()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(float(total))
                seconds.append(time.perf_counter() - start)
                if index == 1:
                    result["warm_s"] = round(time.perf_counter() - begun, 1)
            median = statistics.median(seconds[2:])
            result |= {
                "tokens_per_s": round(step["tokens"] / median),
                "ms": round(median * 1e3, 1),
                "passes": len(step["passes"]),
                "losses": [round(x, 5) for x in losses],
            }
            if self.cuda:
                result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
                parameter.grad = None
        log(self.out, name, **result, **about)
        return result

    def _wait(self) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()


def on_device(step: dict[str, Any], device: str) -> dict[str, Any]:
    from sysdesign.train.trainer import _on

    return step | {"passes": [_on(one, device) for one in step["passes"]]}


def curve(model: Any, loss: Callable[[Any, float], Any], steps: list[dict[str, Any]]) -> list[float]:
    """Losses of successive optimiser steps from a fresh adapter."""
    import torch

    from sysdesign.train.peft_backend import redraw

    redraw(model, 0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)
    found = []
    for step in (on_device(step, str(parameters[0].device)) for step in steps):
        total = 0.0
        for one in step["passes"]:
            part = loss(one, step["total"])
            part.backward()
            total = total + part.detach()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(float(total))
    redraw(model, 0)
    return found


def ours(out: Path, folder: Path, tiny: bool, timed: int) -> None:
    import torch
    from transformers import AutoProcessor

    from sysdesign.config.train import TrainConfig
    from sysdesign.train import features, memory
    from sysdesign.train.backends import Machine, _plain_loss
    from sysdesign.train.elementwise import elementwise
    from sysdesign.train.fast import FastPath
    from sysdesign.train.peft_backend import add_adapter, load_base
    from sysdesign.train.trainer import Feed

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    machine = Machine(device, "bfloat16" if cuda else "float32", False, None, "")
    processor = AutoProcessor.from_pretrained(folder)
    token, pad = processor.tokenizer.convert_tokens_to_ids(processor.image_token), processor.tokenizer.pad_token_id
    samples = make_samples(folder, processor, 16, tiny)
    meter, eight, length = Meter(out, timed), range(8), len(samples[0].ids)
    cfg = TrainConfig()
    shape = memory.read_shape(folder)
    start = time.perf_counter()
    model = add_adapter(load_base(folder, weights="nf4", dtype=dtype, device=device), cfg.lora, 0)
    log(
        out,
        "load nf4",
        seconds=round(time.perf_counter() - start, 1),
        adapter=sum(p.numel() for p in model.parameters() if p.requires_grad),
        sample_tokens=length,
    )
    whole = model.get_base_model().model

    pixels = features.Pictures(processor, dtype, None)
    feed = Feed(samples, pixels, token, pad, 8 * length, True)
    model.train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    plain = _plain_loss(model, machine)
    meter.steps("plain TRL + PEFT + bitsandbytes, checkpointing", model, plain, on_device(feed.step(eight), device), batch=8)
    small = [on_device(feed.step([i % 8, (i + 3) % 8]), device) for i in range(10)]
    curves = {"plain": curve(model, plain, small)}
    eight_passes = [on_device(Feed(samples, pixels, token, pad, length, True).step([i % 8, (i + 3) % 8]), device) for i in range(10)]
    curves["plain, one sample a pass"] = curve(model, plain, eight_passes)  # the same mathematics in another order: the spread of bf16
    del eight_passes
    del small
    model.gradient_checkpointing_disable()

    path = FastPath(model, dtype=dtype, fp8="no", ops="eager", attention="sdpa", levels=[2] * shape.layers)
    step = on_device(Feed(samples, pixels, token, pad, 8 * length, False).step(eight), device)
    if cuda:
        check_kernels(out)
    layers = shape.layers
    fastest = "sdpa"
    meter.steps("fast: packed, loss on learned tokens, one attention call a sample; eager, all kept", model, path.loss, step, batch=8)
    start = time.perf_counter()
    cache = features.cache_folder(out / "cache", whole, processor, dtype)
    kept = features.Pictures(processor, dtype, cache)
    features.fill(cache, whole, kept, samples, torch.device(device))
    log(out, "vision features of 16 pictures", seconds=round(time.perf_counter() - start, 1))
    whole.visual.to("cpu")
    step = on_device(Feed(samples, kept, token, pad, 8 * length, False).step(eight), device)
    meter.steps("+ frozen vision features cached", model, path.loss, step, batch=8)
    speeds = {"sdpa": 0.0}
    for kernel in ("flash",) if cuda else ():
        path.kernel = kernel
        speeds[kernel] = meter.steps(f"+ cached + {kernel} attention over packed samples", model, path.loss, step, batch=8).get(
            "tokens_per_s", 0.0
        )
    path.kernel = fastest = max(speeds, key=lambda k: speeds[k])
    if cuda:
        path.ops = elementwise("compiled")
        meter.steps(f"+ cached + {fastest} + torch.compile of the elementwise maps", model, path.loss, step, batch=8)
        path.ops = elementwise("triton")
    best = meter.steps(f"+ cached + {fastest} + own kernels", model, path.loss, step, batch=8)
    if cuda and "error" not in best:
        profile(out, "nf4", path, model, step)
    fast_small = [Feed(samples, kept, token, pad, 8 * length, False).step([i % 8, (i + 3) % 8]) for i in range(10)]
    curves["fast"] = curve(model, path.loss, fast_small)
    log(out, "loss curves", **curves)

    for name, tokens, full, lean in (
        ("planner: 8 samples a pass, input kept", 8 * length, 0, 0),
        ("planner: 8 samples a pass, lean kept", 8 * length, 0, layers),
        ("planner: 8 samples a pass, all kept", 8 * length, layers, 0),
        ("planner: 4 samples a pass, half full half input", 4 * length, layers // 2, 0),
        ("planner: 2 samples a pass, lean", 2 * length, 0, layers),
        ("planner: 1 sample a pass, all kept", length, layers, 0),
    ):
        predicted = memory.peak_bytes(
            shape, cfg, tokens=tokens, trained=LEARNED * tokens // length, full=full, lean=lean, weights="nf4", fp8="no", vision=False
        )
        path.levels = tuple([0] * (layers - full - lean) + [1] * lean + [2] * full)
        one = on_device(Feed(samples, kept, token, pad, tokens, False).step(eight), device)
        meter.steps(name, model, path.loss, one, batch=8, predicted_gib=round(predicted / memory.GIB, 2))
    for room in (12.0, 24.0):
        chosen = memory.plan(
            shape,
            cfg,
            lengths=[length] * 8,
            trained_share=LEARNED / length,
            free_gib=room if not tiny else 200.0,
            fp8=False,
            vision=False,
            tflops=700,
        )
        path.levels = tuple(chosen.levels())
        one = on_device(Feed(samples, kept, token, pad, chosen.micro_tokens, False).step(eight), device)
        meter.steps(f"planner's choice for {room:.0f} GiB", model, path.loss, one, batch=8, plan=chosen.model_dump())
    path.levels = (2,) * layers
    for count in (1, 2, 4):
        one = on_device(Feed(samples, kept, token, pad, count * length, False).step(range(count)), device)
        meter.steps(f"batch of {count}", model, path.loss, one, batch=count)

    if cuda:
        fp8(out, path, model, meter, samples, kept, cfg, shape, step, fast_small, folder, fastest, (token, pad))
    del path, model, whole, plain
    if cuda:
        torch.cuda.empty_cache()
    model = add_adapter(load_base(folder, weights="bf16", dtype=dtype, device=device), cfg.lora, 0)
    model.get_base_model().model.visual.to("cpu")
    path = FastPath(model, dtype=dtype, fp8="no", ops="triton" if cuda else "eager", attention="auto", levels=[2] * layers)
    path.kernel = fastest
    meter.steps("bf16 frozen weights, cached + own kernels, all kept", model, path.loss, step, batch=8)


def fp8(
    out: Path,
    path: Any,
    model: Any,
    meter: Meter,
    samples: list[Any],
    kept: Any,
    cfg: Any,
    shape: Any,
    step: dict[str, Any],
    small: list[Any],
    folder: Path,
    kernel: str,
    ids: Any,
) -> None:
    """e4m3 products on the same NF4 weights: codes kept, or made from NF4 at every use."""
    import torch
    from transformers import AutoProcessor

    from sysdesign.train import features, memory
    from sysdesign.train.linear import use_fp8
    from sysdesign.train.trainer import Feed

    layers, length = shape.layers, len(samples[0].ids)
    for mode in ("kept", "made"):
        path.levels, path.kernel = (2,) * layers, kernel
        for layer in path.layers:
            for group in (layer.qkv, layer.out, layer.gate_up, layer.down):
                use_fp8(group, mode)
        predicted = memory.peak_bytes(
            shape, cfg, tokens=8 * length, trained=LEARNED * 8, full=layers, lean=0, weights="nf4", fp8=mode, vision=False
        )
        good = meter.steps(
            f"fp8 products, codes {mode}, all kept", model, path.loss, step, batch=8, predicted_gib=round(predicted / memory.GIB, 2)
        )
        if "error" in good:
            continue
        if mode == "kept":
            profile(out, "fp8", path, model, step)
            log(out, "loss curve fp8", curve=curve(model, path.loss, small))
            one = on_device(Feed(samples, kept, *ids, 16 * length, False).step(range(16)), "cuda")
            meter.steps("fp8 products, batch of 16", model, path.loss, one, batch=16)
            long = make_samples(folder, AutoProcessor.from_pretrained(folder), 4, False, text_tokens=3087)
            features.fill(kept.cache, model.get_base_model().model.to("cuda"), kept, long, torch.device("cuda"))
            model.get_base_model().model.visual.to("cpu")
            one = on_device(Feed(long, kept, *ids, 4 * 4100, False).step(range(4)), "cuda")
            meter.steps("fp8 products, 4 samples of 4,095 tokens", model, path.loss, one, batch=4)
        for room in (12.0, 24.0):
            try:
                chosen = memory.plan(
                    shape, cfg, lengths=[length] * 8, trained_share=LEARNED / length, free_gib=room, fp8=True, vision=False, tflops=700
                )
            except Exception as error:
                log(out, f"fp8 plan for {room}", error=str(error))
                continue
            if chosen.fp8 != mode:
                continue
            path.levels = tuple(chosen.levels())
            one = on_device(Feed(samples, kept, *ids, chosen.micro_tokens, False).step(range(8)), "cuda")
            meter.steps(f"fp8, planner's choice for {room:.0f} GiB", model, path.loss, one, batch=8, plan=chosen.model_dump())


def check_kernels(out: Path) -> None:
    """Largest difference of every kernel from torch's own operations, relative to the largest value; bf16 rounds to 0.4 %."""
    import torch

    from sysdesign.train import elementwise, kernels

    torch.manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Any:
        return torch.randn(*shape, device="cuda").to(dtype)

    t, h, f, r = 1000, 3584, 18944, 16
    heads, angles = (28, 4, 128), draw(t, 64).repeat(1, 2)
    gate = (draw(t, 2 * f), draw(t, 2 * r), draw(f, r) * 0.1, draw(f, r) * 0.1)
    cases = {
        "norm": (draw(t, h), draw(h), 1e-6),
        "norm_back": (draw(t, h), draw(t, h), draw(h), 1e-6),
        "norm_back_add": (draw(t, h), draw(t, h), draw(h), 1e-6, draw(t, h)),
        "rotate_qk": (draw(t, 36 * 128), angles.cos(), angles.sin(), heads),
        "rotate_qk_back": (draw(t, 28, 128), draw(t, 4, 128), draw(t, 8, 128)[:, :4], angles.cos(), angles.sin()),
        "gated": gate,
        "gated_back": (*gate, draw(t, f), draw(t, r), draw(r, f) * 0.1),
        "quantise_rows": (draw(t, f),),
        "quantise_rows_scaled": (draw(t, f), draw(f, dtype=torch.float32).abs()),
    }
    found = {}
    for name, arguments in cases.items():
        try:
            pairs = [
                x if isinstance(x, tuple) else (x,) for x in (getattr(kernels, name)(*arguments), getattr(elementwise, name)(*arguments))
            ]
            found[name] = max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(*pairs, strict=True))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
    log(out, "kernels against torch", **found)


def profile(out: Path, name: str, path: Any, model: Any, step: dict[str, Any]) -> None:
    """Where the time of one step goes, by kernel."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
        for one in step["passes"]:
            path.loss(one, step["total"]).backward()
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    rows = sorted(prof.key_averages(), key=lambda e: -e.device_time_total)[:45]
    table = [f"{e.device_time_total / 1e3:9.2f} ms {e.count:6d}  {e.key[:150]}" for e in rows]
    (out / f"profile-{name}.txt").write_text("\n".join(table) + "\n")


def unsloth(out: Path, folder: Path, tiny: bool, timed: int, flag: Path, counts: tuple[int, ...] = (8,)) -> None:
    import torch
    from transformers import AutoProcessor
    from unsloth import FastVisionModel  # noqa: F401  # patches transformers, so it comes first

    from sysdesign.config.train import TrainConfig
    from sysdesign.train import features
    from sysdesign.train.trainer import Feed
    from sysdesign.train.unsloth_backend import load_unsloth

    while not flag.exists():
        time.sleep(0.5)
    model = load_unsloth(folder, TrainConfig(), 0)
    log(
        out,
        "unsloth loaded",
        adapter=sum(p.numel() for p in model.parameters() if p.requires_grad),
        names=sorted(n for n, p in model.named_parameters() if p.requires_grad)[:2],
    )
    processor = AutoProcessor.from_pretrained(folder)
    samples = make_samples(folder, processor, 8, tiny)
    feed = Feed(
        samples,
        features.Pictures(processor, torch.bfloat16, None),
        processor.tokenizer.convert_tokens_to_ids(processor.image_token),
        processor.tokenizer.pad_token_id,
        10**9,
        True,
    )
    meter = Meter(out, timed)

    def loss(batch: dict[str, Any], total: float) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return model(**batch, num_items_in_batch=int(total)).loss

    model.train()
    for count in counts:
        meter.steps(f"Unsloth, its checkpointing, batch {count}", model, loss, on_device(feed.step(range(count)), "cuda"), batch=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/base-7b"))
    parser.add_argument("--only", default="ours,unsloth")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--timed", type=int, default=4)
    parser.add_argument("--flag", type=Path, default=None)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.flag is not None:
        unsloth(args.out, args.folder, args.tiny, args.timed, args.flag)
        return
    flag = args.folder.with_suffix(".ready")
    flag.unlink(missing_ok=True)
    child = None
    if "unsloth" in args.only:
        command = [
            sys.executable,
            __file__,
            "--out",
            str(args.out),
            "--folder",
            str(args.folder),
            "--timed",
            str(args.timed),
            "--flag",
            str(flag),
        ]
        with (args.out / "unsloth.log").open("w") as file:
            child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    start = time.perf_counter()
    if not (args.folder / "config.json").exists():
        build_base(args.folder, args.tiny)
    log(args.out, "base built", seconds=round(time.perf_counter() - start, 1))
    if child is not None:
        flag.touch()
        try:
            child.wait(timeout=200)
        except subprocess.TimeoutExpired:
            child.kill()
    if "ours" in args.only:
        ours(args.out, args.folder, args.tiny, args.timed)


if __name__ == "__main__":
    main()
