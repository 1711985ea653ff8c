"""The seam between a training run and the library that does it: a base folder in, a model with an adapter and its loss out.

`peft` runs anywhere and is the fast path on CUDA; `unsloth` serves CUDA cards that the fast path's 16-bit kernels do not.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sysdesign.config.train import AutoBackend, FastConfig, PeftBackend, TrainConfig, UnslothBackend
from sysdesign.errors import ConfigError, ToolError
from sysdesign.train.memory import Plan


@dataclass(frozen=True)
class Machine:
    """Where the run happens. `dtype`: name of the torch type that activations have; `free_gib` is None on a CPU."""

    device: str
    dtype: str
    fp8: bool
    free_gib: float | None
    name: str
    capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Loaded:
    """A PEFT-wrapped model, and what one pass adds to a step's loss; `plain` takes padded batches, otherwise packed ones."""

    model: Any
    loss: Callable[[Any, float], Any]
    plain: bool


def look(cfg: TrainConfig, device: str) -> Machine:
    """This machine, as far as training cares. Raises ToolError when `device` or fp8 is asked for and not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ToolError("runtime.device", "cuda needs a visible GPU", "use --runtime.device cpu, or a machine with one")
    if device == "cpu" or not torch.cuda.is_available():
        if cfg.compute in ("bf16", "fp8"):
            raise ToolError("train.compute", "runs on a GPU only", "use --train.compute auto", cfg.compute)
        return Machine("cpu", "float32", False, None, "cpu")
    capability = torch.cuda.get_device_capability()
    if cfg.compute == "fp8" and capability < (8, 9):
        raise ToolError("train.compute", "fp8 needs compute capability 8.9 or newer (Ada, Hopper)", "use --train.compute auto", capability)
    room = min(
        (room_gib() - torch.cuda.memory_allocated() / 2**30) * 0.96, cfg.max_vram_gib or float("inf")
    )  # 4 %: the allocator's own fragments
    dtype = "float32" if cfg.compute == "fp32" else "bfloat16"
    return Machine("cuda", dtype, cfg.compute == "fp8", room, torch.cuda.get_device_name(), capability)


def import_unsloth(store: Path) -> None:
    """Unsloth patches transformers and must come before it. It writes what it compiles where it is told at import: into the store,
    not into the folder that a person happens to be in."""
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str((store / ".cache" / "unsloth").absolute()))
    importlib.import_module("unsloth")


def several(cfg: TrainConfig, device: str, count: int) -> bool:
    """Whether `count` processes will train on GPUs, one each, rather than on the CPU. Raises when they cannot."""
    import torch

    if cfg.batch < count:
        raise ConfigError("train.batch", f"every one of {count} processes needs a sample in each step", "raise it", cfg.batch)
    if isinstance(cfg.backend, UnslothBackend):
        raise ConfigError("runtime.devices", "unsloth trains on one GPU", "use --train.backend.kind auto", count)
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return False
    if (found := torch.cuda.device_count()) < count:
        raise ToolError("runtime.devices", f"this machine shows {found} GPUs", f"use --runtime.devices {max(found, 1)}", count)
    return True


def ran_out(error: Exception, machine: Machine) -> bool:
    """Whether `error` is the GPU's memory coming to its end; libraries name it in different ways."""
    signs = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return type(error).__name__ == "OutOfMemoryError" or (machine.device == "cuda" and any(sign in str(error) for sign in signs))


def room_gib() -> float:
    """GiB of the card that are this process's or free, and that torch may take (`set_per_process_memory_fraction`)."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return float(min(free + torch.cuda.memory_reserved(), total * torch.cuda.get_per_process_memory_fraction()) / 2**30)


def choose(cfg: TrainConfig, machine: Machine) -> PeftBackend | UnslothBackend:
    """What `auto` means here. Raises ToolError when the asked-for backend cannot run."""
    match cfg.backend:
        case PeftBackend():
            if machine.device == "cuda" and machine.capability < (8, 0) and not cfg.backend.plain:
                law = "the fast path needs bf16, so an Ampere card or newer"
                raise ToolError("train.backend.kind", law, "use --train.backend.kind unsloth, or --train.backend.plain true", machine.name)
            return cfg.backend
        case UnslothBackend():
            if machine.device != "cuda":
                raise ToolError("train.backend.kind", "unsloth needs a CUDA GPU", "use --train.backend.kind peft", "unsloth")
            if find_spec("unsloth") is None:
                raise ToolError("train.backend.kind", "unsloth must be installed", "pip install '.[unsloth]'", "unsloth")
            return cfg.backend
        case AutoBackend():
            if machine.device == "cuda" and machine.capability < (8, 0):  # no bf16, and the fast path has no loss scaling for fp16
                return UnslothBackend() if find_spec("unsloth") is not None else PeftBackend(plain=True)
            return PeftBackend(fast=cfg.backend.fast)


def load(backend: PeftBackend | UnslothBackend, cfg: TrainConfig, folder: Path, machine: Machine, plan: Plan | None, seed: int) -> Loaded:
    """The base of `folder` with a fresh adapter drawn from `seed`."""
    match backend:
        case PeftBackend():
            return _peft(backend, cfg, folder, machine, plan, seed)
        case UnslothBackend():
            from sysdesign.train.unsloth_backend import load_unsloth

            model = load_unsloth(folder, cfg, seed)
            return Loaded(model, _plain_loss(model, machine), True)


def _peft(backend: PeftBackend, cfg: TrainConfig, folder: Path, machine: Machine, plan: Plan | None, seed: int) -> Loaded:
    import torch

    from sysdesign.train.peft_backend import add_adapter, load_base

    dtype = getattr(torch, machine.dtype)
    weights = plan.weights if plan is not None else ("nf4" if cfg.weights == "auto" else cfg.weights)
    model = add_adapter(load_base(folder, weights=weights, dtype=dtype, device=machine.device), cfg.lora, seed)
    if backend.plain:
        if machine.device == "cuda" and cfg.checkpoint_layers != 0:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return Loaded(model, _plain_loss(model, machine), True)
    return Loaded(model, _fast_loss(model, backend.fast, machine, plan), False)


def _fast_loss(model: Any, fast: FastConfig, machine: Machine, plan: Plan | None) -> Callable[[Any, float], Any]:
    import torch

    from sysdesign.train.fast import FastPath

    path = FastPath(
        model,
        dtype=getattr(torch, machine.dtype),
        fp8=plan.fp8 if plan is not None else "no",
        ops=fast.kernels if machine.device == "cuda" else "eager",
        attention=fast.attention,
        levels=plan.levels() if plan is not None else [2] * 1000,
    )
    return path.loss


def _plain_loss(model: Any, machine: Machine) -> Callable[[Any, float], Any]:
    import torch

    def loss(batch: dict[str, Any], total: float) -> Any:
        with torch.autocast("cuda", torch.bfloat16, enabled=machine.device == "cuda" and machine.dtype == "bfloat16"):
            return model(**batch, num_items_in_batch=total, use_cache=False).loss

    return loss
