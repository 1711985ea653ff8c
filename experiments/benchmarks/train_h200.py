"""Tokens a second of one QLoRA step on one GPU: plain TRL + PEFT + bitsandbytes, Unsloth, and each part of the fast path, same samples.

Random weights of the 7B shape (arithmetic does not care what was learned), one 784 x 1008 px picture (1,008 visual tokens) and 511 text
tokens a sample, about 450 of them learned from, LoRA rank 16 on the language model's seven linear maps. A step is eight samples:
forward, backward, clipping, AdamW. Median of the timed steps after two that are not; results are written after every variant.

    python experiments/benchmarks/train_h200.py --out FOLDER [--only ours,unsloth] [--tiny]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


from train_inputs import LEARNED, build_base, make_samples  # noqa: E402
from train_meter import Meter, check_kernels, curve, log, on_device, profile  # noqa: E402


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
            one = on_device(Feed(samples, kept, ids[0], ids[1], 16 * length, False).step(range(16)), "cuda")
            meter.steps("fp8 products, batch of 16", model, path.loss, one, batch=16)
            long = make_samples(folder, AutoProcessor.from_pretrained(folder), 4, False, text_tokens=3087)
            features.fill(kept.cache, model.get_base_model().model.to("cuda"), kept, long, torch.device("cuda"))
            model.get_base_model().model.visual.to("cpu")
            one = on_device(Feed(long, kept, ids[0], ids[1], 4 * 4100, False).step(range(4)), "cuda")
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
            one = on_device(Feed(samples, kept, ids[0], ids[1], chosen.micro_tokens, False).step(range(8)), "cuda")
            meter.steps(f"fp8, planner's choice for {room:.0f} GiB", model, path.loss, one, batch=8, plan=chosen.model_dump())


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
