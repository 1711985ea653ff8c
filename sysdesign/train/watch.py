"""What a person and a later run need to know of a training while it runs: history, metrics, checkpoints, the best adapter, when to stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from sysdesign.config.train import TrainConfig
from sysdesign.errors import LimitError
from sysdesign.graph import Record
from sysdesign.records import MetricLog, append_jsonl, read_jsonl, recover_jsonl
from sysdesign.train import checkpoint
from sysdesign.train.ranks import Rank


class Moment(Record):
    """One line of `history.jsonl`: a training step, or a validation after it."""

    step: int
    kind: str = "train"  # "train" or "val"
    loss: float
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: float | None = None
    seconds: float | None = None


class Watch(TrainerCallback):  # type: ignore[misc]
    """Called by the trainer; asks it to validate, save and stop."""

    def __init__(
        self,
        cfg: TrainConfig,
        out: Path,
        log: MetricLog,
        *,
        steps: int,
        flops_a_token: float,
        peak_flops: float | None,
        usd_per_hour: float,
        answer: Callable[[int], None],
        origin: dict[str, str],
        rank: Rank,
    ) -> None:
        self.cfg, self.out, self.log, self.steps = cfg, out, log, steps
        self.flops_a_token, self.peak_flops, self.usd_per_hour = flops_a_token, peak_flops, usd_per_hour
        self.answer, self.origin, self.rank = answer, origin, rank
        self.probe: Callable[[int], None] | None = None
        self.tuner: Any = None
        self.moments: list[Moment] = []
        self.bar: Any = None
        self.seconds = 0.0
        self.sent: Path | None = None  # the best adapter that the tracking server has

    def resume(self, step: int) -> None:
        """Forget what happened after `step`: it will happen again. Every rank reads what the first one has put in order."""
        journal = self.out / "history.jsonl"
        if not self.rank.writes:
            self.rank.meet()
            self.moments = list(read_jsonl(journal, Moment)) if journal.exists() else []
            return
        self.moments = [m for m in recover_jsonl(journal, Moment) if m.step <= step]
        journal.unlink(missing_ok=True)
        for moment in self.moments:
            append_jsonl(journal, moment)
        for folder in (self.out / "best").glob("*"):
            if folder.suffix == ".tmp" or int(folder.name) > step:
                shutil.rmtree(folder)
        self.rank.meet()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tuner.park()
        self.bar = tqdm(total=self.steps, initial=state.global_step, desc="train", unit="step", disable=not self.rank.writes)
        if state.global_step == 0 and self.tuner.validation.samples:
            self.tuner.evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step >= self.steps
        if self.tuner.validation.samples and (last or _due(state.global_step, self.cfg.eval_steps)):
            control.should_evaluate = True
        if self.rank.writes and self.cfg.save_steps and (last or _due(state.global_step, self.cfg.save_steps)):
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "grad_norm" not in logs:
            return
        last, norm = self.tuner.last, float(logs["grad_norm"])
        if norm != norm:
            raise LimitError(
                f"train, step {state.global_step}", f"gradients must stay finite; step {state.global_step - 1} was the last finite one",
                f"lower train.learning_rate (now {args.learning_rate:g})", norm,
            )  # fmt: skip
        moment = Moment(
            step=state.global_step, loss=last["loss"], learning_rate=float(logs["learning_rate"]), grad_norm=norm,
            tokens=last["tokens"], seconds=round(last["seconds"], 4),
        )  # fmt: skip
        self._keep(moment)
        if not self.rank.writes:
            return
        self.seconds += last["seconds"]
        rate = last["tokens"] / last["seconds"]
        values = {
            "train/loss": moment.loss,
            "train/learning_rate": moment.learning_rate,
            "train/grad_norm": norm,
            "train/tokens_per_s": rate,
        }
        if self.peak_flops:
            values["train/utilisation"] = rate * self.flops_a_token / self.peak_flops
            import torch

            values["train/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self.usd_per_hour:
            values["cost/gpu_usd"] = self.seconds / 3600 * self.usd_per_hour
        self.log.metrics({k: float(v) for k, v in values.items() if v is not None}, step=state.global_step)
        shown = {"loss": f"{moment.loss:.3f}", "tok/s": f"{rate:.0f}"}
        self.bar.set_postfix(shown | ({"usd": f"{values['cost/gpu_usd']:.2f}"} if self.usd_per_hour else {}), refresh=False)
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        step, loss = state.global_step, float((metrics or {})["eval_loss"])
        earlier = [m.loss for m in self.moments if m.kind == "val"]
        self._keep(Moment(step=step, kind="val", loss=loss))
        self.log.metrics({"train/val_loss": loss}, step=step)
        if self.rank.writes and step and loss == loss and (not earlier or loss < min(earlier)):
            folder = self.out / "best" / f"{step:07d}"
            self.tuner.model.save_pretrained(folder.with_suffix(".tmp"))
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".tmp").rename(folder)
        since = len(earlier) - (earlier.index(min(earlier)) if earlier else 0)
        if self.cfg.patience and earlier and loss >= min(earlier) and since >= self.cfg.patience:
            control.should_training_stop = True
        if step and step < self.steps and _due(step, self.cfg.answer_steps):
            self.answer(step)
        if self.probe and 0 < step < self.steps and self.rank.writes:
            self.probe(step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = self.out / "checkpoints" / f"checkpoint-{state.global_step}"
        checkpoint.seal(folder, self.origin)
        best = sorted((self.out / "best").glob("*"))
        for old in best[:-2]:  # two, because the checkpoint before this one is kept as well
            shutil.rmtree(old)
        if self.cfg.upload_checkpoints:
            self._upload(folder, best[-1] if best else None)

    def _upload(self, folder: Path, best: Path | None) -> None:
        """All that goes on from here, laid out as in the working folder; the seal comes last, so that half a checkpoint is none."""
        self.log.file(self.out / "history.jsonl", "resume")
        if best is not None and best != self.sent:
            for file in sorted(best.iterdir()):
                self.log.file(file, f"resume/best/{best.name}")
            self.sent = best
        for file in sorted(folder.iterdir(), key=lambda path: (path.name == checkpoint.SEAL, path.name)):
            self.log.file(file, f"resume/checkpoints/{folder.name}")

    def close(self) -> None:
        """End the bar's line, whatever ended the run, so that what is said next has a line of its own."""
        if self.bar is not None:
            self.bar.close()

    def _keep(self, moment: Moment) -> None:
        self.moments.append(moment)
        if self.rank.writes:
            append_jsonl(self.out / "history.jsonl", moment)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def best_adapter(out: Path) -> Path | None:
    """The adapter of the lowest validation loss, if one was kept."""
    found = sorted((out / "best").glob("[0-9]*"))
    return found[-1] if found else None


def dump(path: Path, content: dict[str, Any]) -> None:
    """Write JSON in one step."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
