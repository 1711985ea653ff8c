"""How the training benchmarks measure: timed optimiser steps, loss curves, kernels against torch, time by kernel; results as JSON lines."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def log(out: Path, name: str, **values: Any) -> None:
    line = json.dumps({"name": name, **values})
    print(line, flush=True)
    with (out / "results.jsonl").open("a") as file:
        file.write(line + "\n")


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
    found: dict[str, Any] = {}
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
