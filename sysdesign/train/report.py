"""What a training did, in numbers: the report of the stage, and `train.json` beside the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sysdesign.artifacts import Artifact
from sysdesign.config.train import TrainConfig
from sysdesign.records import Report
from sysdesign.train.backends import Machine
from sysdesign.train.memory import Plan


class TrainReport(Report):
    """What the run did. `None` where it was not measured (no validation rows, no GPU)."""

    steps: int
    samples: int
    skipped: int
    trained_parameters: int
    loss_first: float
    loss_last: float
    val_loss_first: float | None = None
    val_loss_best: float | None = None
    best_step: int | None = None
    tokens_per_s: float
    minutes: float
    peak_gib: float | None = None
    backend: str

    def metrics(self) -> dict[str, float]:
        named = {f"train/{name}": value for name, value in self.model_dump().items() if isinstance(value, (int, float))}
        return {name: float(value) for name, value in named.items()}

    def note(self) -> str:
        val = "" if self.val_loss_best is None else f", validation {self.val_loss_first:.3f} -> **{self.val_loss_best:.3f}**"
        left = "" if not self.skipped else f" {self.skipped} unusable row{'s' if self.skipped > 1 else ''} left out, see `train.json`."
        return (
            f"{self.steps} steps over {self.samples} samples by `{self.backend}` in {self.minutes:.1f} min "
            f"({self.tokens_per_s:,.0f} tokens/s): "
            f"loss {self.loss_first:.3f} -> **{self.loss_last:.3f}**{val}.{left}"
        )


def report_of(
    moments: Sequence[Any], tuner: Any, samples: int, skipped: int, minutes: float, machine: Machine, backend: Any, plain: bool
) -> TrainReport:
    import torch

    steps = [m for m in moments if m.kind == "train"]
    vals = [m for m in moments if m.kind == "val"]
    best = min((m for m in vals if m.step), key=lambda m: m.loss, default=None)
    steady = steps[len(steps) // 4 :]  # without compilation and warm-up
    return TrainReport(
        steps=len(steps),
        samples=samples,
        skipped=skipped,
        trained_parameters=sum(p.numel() for p in tuner.model.parameters() if p.requires_grad),
        loss_first=steps[0].loss,
        loss_last=sum(m.loss for m in steps[-5:]) / len(steps[-5:]),
        val_loss_first=vals[0].loss if vals else None,
        val_loss_best=best.loss if best else None,
        best_step=best.step if best else None,
        tokens_per_s=sum(m.tokens for m in steady) / max(sum(m.seconds for m in steady), 1e-9),
        minutes=minutes,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if machine.device == "cuda" else None,
        backend=backend.kind + ("" if not plain or backend.kind != "peft" else ", plain"),
    )


def write_summary(
    path: Path,
    report: TrainReport,
    cfg: TrainConfig,
    machine: Machine,
    plan: Plan | None,
    dataset: Artifact,
    base: Artifact,
    skipped: Sequence[Any],
    processes: int,
) -> None:
    from importlib.metadata import version

    from sysdesign.train.watch import dump

    dump(
        path,
        {
            "report": report.model_dump(),
            "machine": {"name": machine.name, "dtype": machine.dtype, "fp8": machine.fp8, "processes": processes},
            "plan": plan.model_dump() if plan else None,
            "lora": cfg.lora.model_dump(),
            "dataset_digest": dataset.digest,
            "base_digest": base.digest,
            "skipped": [{"id": s.id, "reason": s.reason} for s in skipped],
            "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
        },
    )
