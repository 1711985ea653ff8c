"""TRL's trainer over whole optimiser steps: each item of its dataset is one step, cut into forward passes by the planner's limit.

The trainer keeps what it does well (optimiser, schedule, clipping, checkpoints, resume); the loss of a step is the mean over
all tokens that the step learns from, whatever the number of passes, so memory settings do not change what is learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from sysdesign.config.train import TrainConfig
from sysdesign.errors import LimitError
from sysdesign.models.rows import IGNORED
from sysdesign.train.batches import Packed, packed, padded
from sysdesign.train.features import Pictures
from sysdesign.train.order import passes
from sysdesign.train.ranks import Rank
from sysdesign.train.samples import Sample

Loss = Callable[[Any, float], Tensor]  # one pass and the step's trained tokens -> its share of the step's loss


@dataclass(frozen=True)
class Feed:
    """Turns the indices of a step into passes; `plain` pads, otherwise samples are packed end to end."""

    samples: Sequence[Sample]
    pictures: Pictures
    image_token_id: int
    pad_id: int
    micro_tokens: int
    plain: bool
    packing: bool = True

    def step(self, indices: Sequence[int], rank: int = 0, ranks: int = 1) -> dict[str, Any]:
        """`passes` of this process, `total` trained tokens of the whole step and `tokens` in it, padding not counted."""
        lengths = [len(s.ids) for s in self.samples]
        total = sum(int((self.samples[i].labels[1:] != IGNORED).sum()) for i in indices)
        mine = list(indices)[rank::ranks]
        cuts = passes(mine, lengths, self.micro_tokens, padded=self.plain) if self.packing else [[i] for i in mine]
        made = [self._pass([self.samples[i] for i in cut]) for cut in cuts]
        return {"passes": made, "total": float(total), "tokens": sum(lengths[i] for i in indices)}

    def _pass(self, samples: Sequence[Sample]) -> Packed | dict[str, Tensor]:
        if self.plain:
            return padded(samples, self.image_token_id, self.pad_id, self.pictures.pixels)
        return packed(samples, self.image_token_id, self.pictures)


class Tuner(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose batches are whole steps. `last` holds the newest step's loss, tokens and seconds."""

    def __init__(
        self, *, loss: Loss, feed: Feed, validation: Feed, steps: Sequence[Sequence[int]], model: Any, rank: Rank, **rest: Any
    ) -> None:
        self.pass_loss, self.feed, self.validation, self.rank = loss, feed, validation, rank
        self.last: dict[str, float] = {}
        self.parked: Any = None  # the vision tower, once its features are cached
        self._started = time.perf_counter()
        dataset = Dataset.from_list([{"rows": list(step)} for step in steps])
        super().__init__(model=model, train_dataset=dataset, data_collator=self._collate, **rest)
        self.remove_callback(PrinterCallback)
        for parameter in model.parameters():  # TRL rounds the adapter of a quantised model to bf16, which loses small updates
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def park(self) -> None:
        """Move what no step reads off the card (the trainer has just put the whole model there), and start measuring memory."""
        if self.parked is not None:
            self.parked.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return self.feed.step(items[0]["rows"], self.rank.index, self.rank.count)

    def get_train_dataloader(self) -> Any:
        workers = self.args.dataloader_num_workers
        sampler = SequentialSampler(self.train_dataset)  # type: ignore[arg-type]
        return DataLoader(
            self.train_dataset,
            batch_size=1,
            sampler=sampler,
            collate_fn=self._collate,
            num_workers=workers,
            persistent_workers=workers > 0,  # type: ignore[arg-type]
            # a rank is a spawned process, and what that starts would be spawned too: handed a copy of the model, which does not pickle
            multiprocessing_context="fork" if workers else None,
        )

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counted in `watch.py` from the architecture

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        model.train()
        loss = torch.zeros((), device=self.args.device)
        for one in inputs["passes"]:
            part = self.pass_loss(_on(one, self.args.device), inputs["total"])
            part.backward()
            loss += part.detach()
        self._share_gradients(loss)
        value = float(loss)  # waits for the device: a step is long, and a NaN must not reach the weights
        now = time.perf_counter()
        if value != value or value in (float("inf"), float("-inf")):
            step = self.state.global_step
            raise LimitError(
                f"train, step {step + 1}",
                f"loss must stay finite; step {step} was the last finite one",
                f"lower train.learning_rate (now {self.args.learning_rate:g}) or train.max_grad_norm (now {self.args.max_grad_norm:g})",
                value,
            )
        self.last = {"loss": value, "tokens": float(inputs["tokens"]), "seconds": now - self._started}
        self._started = now
        return loss

    def _share_gradients(self, loss: Tensor) -> None:
        """Sum gradients over processes: every pass is already divided by the tokens of the whole step."""
        if self.rank.count == 1:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters] + [loss.view(1)])
        *parts, whole = self.rank.sum(flat).split([*(p.numel() for p in parameters), 1])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        loss.copy_(whole[0])

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean token loss over the validation samples, in passes no larger than training's."""
        self.model.eval()
        loss, count = torch.zeros((), dtype=torch.float64), len(self.validation.samples)
        trained = sum(int((s.labels[1:] != IGNORED).sum()) for s in self.validation.samples)
        with torch.no_grad():
            for start in range(0, count, 8):
                for one in self.validation.step(range(start, min(start + 8, count)), self.rank.index, self.rank.count)["passes"]:
                    loss += float(self.pass_loss(_on(one, self.args.device), float(trained)))
        self.rank.sum(loss)
        self.model.train()
        metrics = {"eval_loss": float(loss)}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._started = time.perf_counter()  # answers and kept adapters are no part of the next step
        return metrics


def _on(one: Any, device: Any) -> Any:
    if isinstance(one, Packed):
        return one.to(device)
    return {name: tensor.to(device) for name, tensor in one.items()}


def settings(cfg: TrainConfig, *, seed: int, out: Path, steps: int, on_cpu: bool, workers: int) -> SFTConfig:
    """TRL's own settings; what is decided elsewhere (order, precision, logging, several GPUs) is switched off."""
    made = SFTConfig(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(cfg.schedule, cfg.schedule),
        warmup_steps=min(cfg.warmup_steps, max(steps - 1, 0)),
        weight_decay=cfg.weight_decay,
        max_grad_norm=cfg.max_grad_norm,
        optim="adamw_torch" if on_cpu and cfg.optimizer == "adamw_torch_fused" else cfg.optimizer,
        logging_steps=1,
        eval_strategy="no",  # `watch.py` asks for evaluations and checkpoints
        save_strategy="no",
        save_total_limit=2,
        max_length=None,  # a cut sample would lose picture places
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        use_cpu=on_cpu,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=workers,
        seed=seed,
        data_seed=seed,
    )
    made._n_gpu = min(made.n_gpu, 1)  # more visible cards would wrap the model for torch's threads over GPUs
    return made
