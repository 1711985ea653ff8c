"""A dataset and a base -> a LoRA adapter that can be trusted: resumable to the bit, finite, the best by validation, and fast."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sysdesign.artifacts import Artifact
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.config.train import FastConfig, PeftBackend, TrainConfig
from sysdesign.errors import ArtifactError, LimitError
from sysdesign.models.base import base_folder, read_base
from sysdesign.models.rows import load_split, require_compiled
from sysdesign.records import MetricLog, Row
from sysdesign.train import backends, checkpoint, memory, order, ranks
from sysdesign.train.report import TrainReport, report_of, write_summary
from sysdesign.train.samples import encode, label_table

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "4090": 165e12}  # dense, NVIDIA's data sheets, read 2026-11

__all__ = ["TrainReport", "train"]


def train(
    cfg: TrainConfig,
    *,
    seed: int,
    out: Path,
    log: MetricLog,
    runtime: RuntimeConfig,
    dataset: Artifact,
    base: Artifact,
    probe: Callable[[Any], Mapping[str, float]] | None = None,
) -> TrainReport:
    """Tune the base on the dataset's training rows.

    Reads: `rows/{train,val}.jsonl` and `images/` of the dataset, the base's folder.
    Writes: `adapter/`, `processor/`, `history.jsonl`, `train.json`; while it runs also `checkpoints/` and `best/`. Frozen vision
    features go to `.cache/features` of the store, because sweeps and later runs share them.
    `probe(model)` is asked for numbers at every validation before the last one, for whoever compares runs while they train.
    With `runtime.devices` above one as many processes train, and this one writes their log; the first of them calls `probe`,
    which must be picklable then, and the others wait for it in the next step.
    Raises: LimitError (memory, non-finite loss), ToolError (device, backend), ArtifactError (base, rows, checkpoint).
    """
    meeting = out / "meeting"
    meeting.unlink(missing_ok=True)  # of a killed run on several devices; what lies in `out` at the end is the artefact
    work = partial(_train, cfg, seed=seed, out=out, runtime=runtime, dataset=dataset, base=base, probe=probe)
    if runtime.devices == 1:
        return work(ranks.Rank(), log)
    cuda = backends.several(cfg, runtime.device, runtime.devices)
    return ranks.spread(work, runtime.devices, cuda=cuda, log=log, meeting=meeting)


def _train(
    cfg: TrainConfig,
    rank: ranks.Rank,
    log: MetricLog,
    *,
    seed: int,
    out: Path,
    runtime: RuntimeConfig,
    dataset: Artifact,
    base: Artifact,
    probe: Callable[[Any], Mapping[str, float]] | None = None,
) -> TrainReport:
    """One process's part of `train`; all of them return the same report, the first one writes."""
    machine = backends.look(cfg, runtime.device)
    machine = replace(machine, free_gib=rank.least(machine.free_gib))
    backend = backends.choose(cfg, machine)
    if backend.kind == "unsloth":
        backends.import_unsloth(Path(runtime.store))
    fast = backend.fast if isinstance(backend, PeftBackend) and not backend.plain else None
    folder, plain = base_folder(base), fast is None
    processor = _processor(folder)
    require_compiled(dataset, processor)
    rows, val_rows = load_split(dataset, "train"), load_split(dataset, "val")
    samples, skipped = _encode(rows, dataset.path, folder, processor, cfg)
    val_samples, val_skipped = _encode(val_rows, dataset.path, folder, processor, cfg)
    if not samples:
        first = f"{skipped[0].id}: {skipped[0].reason}" if skipped else "no rows"
        raise ArtifactError(str(dataset.path), "must hold at least one usable training row", "run the dataset stage again", first)
    log.text(label_table(samples[0], processor), "labels.md")
    steps = order.steps_of(len(samples), epochs=cfg.epochs, batch=cfg.batch, max_steps=cfg.max_steps, seed=seed)
    share = cfg.model_copy(update={"batch": -(-cfg.batch // rank.count)})  # of a step, for one process
    plan = None  # on a CPU, and for the libraries' own forward, there is nothing to decide
    if machine.free_gib is not None and fast is not None:
        plan = _plan(share, folder, [*samples, *val_samples], machine, fast, machine.free_gib)
    own = {"settings": cfg.model_dump_json(), "seed": str(seed), "dataset": dataset.digest, "base": base.digest}
    resume = checkpoint.newest(out / "checkpoints", own)
    started = time.monotonic()
    try:
        tuner, watch = _assemble(
            cfg, seed, out, log, runtime, backend, folder, processor, machine, plan, samples, val_samples, steps, own, rank
        )
        watch.answer = lambda step: _answers(tuner.model, processor, val_rows[: cfg.answers], dataset.path, log, step, cfg)
        if probe is not None:
            watch.probe = partial(_probe, probe, tuner.model, log)
        if resume is not None:
            watch.resume(int(resume.name.rsplit("-", 1)[1]))
        else:
            watch.resume(-1)
        with closing(watch):
            tuner.train(resume_from_checkpoint=str(resume) if resume else None)
        if rank.writes:
            watch.answer(tuner.state.global_step)
    except Exception as error:
        if not backends.ran_out(error, machine):
            raise
        had, every = backends.room_gib(), [*samples, *val_samples]
        longest = max(len(s.ids) for s in every)
        if plan is None or fast is None:
            used, shape = cfg.micro_tokens or longest * cfg.batch, memory.read_shape(folder)
            way = memory.advice_unplanned(shape, cfg, had_gib=had, micro_tokens=used, longest=longest)
        else:
            way = memory.advice(plan, had, partial(_plan, share, folder, every, machine, fast))
        raise LimitError(
            "train", "every step must fit into the GPU's memory", way, " ".join(str(error).partition(" GPU ")[0].split())[:80]
        ) from None
    report = report_of(
        watch.moments, tuner, len(samples), len(skipped) + len(val_skipped), (time.monotonic() - started) / 60, machine, backend, plain
    )
    if not rank.writes:
        return report
    about = read_base(base)
    _save(tuner, processor, out, f"{about.name}@{about.revision[:12]}", cfg.keep_best)
    write_summary(out / "train.json", report, cfg, machine, plan, dataset, base, [*skipped, *val_skipped], rank.count)
    for scratch in ("checkpoints", "best"):
        shutil.rmtree(out / scratch, ignore_errors=True)
    return report


def _processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, local_files_only=True)


def _encode(rows: Sequence[Row], data: Path, folder: Path, processor: Any, cfg: TrainConfig) -> Any:
    """Samples and what was skipped; positions come from transformers' own code on a model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    return encode(rows, data, processor, empty.model, cfg.max_length)


def _plan(
    cfg: TrainConfig, folder: Path, samples: Sequence[Any], machine: backends.Machine, fast: FastConfig, free_gib: float
) -> memory.Plan:
    """What the planner makes of these samples with `free_gib`."""
    peak, cached = _peak_flops(machine), fast.features and not (cfg.lora.vision or cfg.lora.merger)
    lengths = [len(s.ids) for s in samples]
    share = sum(int((s.labels[1:] >= 0).sum()) for s in samples) / max(sum(lengths), 1)
    return memory.plan(
        memory.read_shape(folder),
        cfg,
        lengths=lengths,
        trained_share=share,
        free_gib=free_gib,
        fp8=machine.fp8,
        vision=not cached,
        tflops=0.7 * (peak or 150e12) / 1e12,
    )


def _peak_flops(machine: backends.Machine) -> float | None:
    return next((flops for name, flops in PEAK_BF16.items() if name in machine.name), None)


def _assemble(
    cfg: TrainConfig,
    seed: int,
    out: Path,
    log: MetricLog,
    runtime: RuntimeConfig,
    backend: Any,
    folder: Path,
    processor: Any,
    machine: backends.Machine,
    plan: memory.Plan | None,
    samples: Sequence[Any],
    val_samples: Sequence[Any],
    steps: list[list[int]],
    own: dict[str, str],
    rank: ranks.Rank,
) -> tuple[Any, Any]:
    """Load, cache the vision features, and join model, data and callbacks in a trainer."""
    import torch

    from sysdesign.train import features
    from sysdesign.train.trainer import Feed, Tuner, settings
    from sysdesign.train.watch import Watch

    loaded = backends.load(backend, cfg, folder, machine, plan, seed)
    device, dtype = torch.device(machine.device), getattr(torch, machine.dtype)
    whole = loaded.model.get_base_model().model
    fast = backend.fast if isinstance(backend, PeftBackend) and not loaded.plain else None
    cache = None
    if fast is not None and fast.features and not (cfg.lora.vision or cfg.lora.merger):
        cache = features.cache_folder(Path(runtime.store) / ".cache" / "features", whole, processor, dtype)
    pictures = features.Pictures(processor, dtype, cache)
    if cache is not None:
        features.fill(cache, whole, pictures, [*samples, *val_samples], device, rank)
    longest = max(len(s.ids) for s in [*samples, *val_samples])
    micro = plan.micro_tokens if plan is not None else (cfg.micro_tokens or longest * cfg.batch)
    tokenizer = processor.tokenizer
    image_token = int(tokenizer.convert_tokens_to_ids(processor.image_token))

    def feed(of: Sequence[Any]) -> Feed:
        return Feed(of, pictures, image_token, int(tokenizer.pad_token_id), micro, loaded.plain, fast is None or fast.packed)

    shape, peak = memory.read_shape(folder), _peak_flops(machine) or 0.0
    watch = Watch(
        cfg, out, log, steps=len(steps), flops_a_token=4.0 * (shape.linear * shape.layers), peak_flops=peak * rank.count,
        usd_per_hour=runtime.gpu_usd_per_hour, answer=lambda step: None, origin=own, rank=rank,
    )  # fmt: skip
    args = settings(
        cfg,
        seed=seed,
        out=out / "checkpoints",
        steps=len(steps),
        on_cpu=machine.device == "cpu",
        workers=0 if machine.device == "cpu" else 2,
    )
    tuner = Tuner(
        loss=loaded.loss, feed=feed(samples), validation=feed(val_samples), steps=steps, model=loaded.model, args=args,
        rank=rank, processing_class=processor, callbacks=[watch],
    )  # fmt: skip
    tuner.parked = whole.visual if cache is not None and machine.device == "cuda" else None
    watch.tuner = tuner
    return tuner, watch


def _answers(model: Any, processor: Any, rows: Sequence[Row], folder: Path, log: MetricLog, step: int, cfg: TrainConfig) -> None:
    from sysdesign.train.answers import log_answers

    if rows:
        log_answers(model, processor, rows, folder, log, step=step, max_tokens=cfg.answer_tokens)


def _probe(probe: Callable[[Any], Mapping[str, float]], model: Any, log: MetricLog, step: int) -> None:
    from sysdesign.train.answers import answering

    with answering(model):
        values = probe(model)
    log.metrics(values, step)


def _save(tuner: Any, processor: Any, out: Path, base_name: str, keep_best: bool) -> None:
    """Adapter (the best one if it was kept) and processor, with the base's name instead of a path on this machine."""
    from sysdesign.train.watch import best_adapter

    best = best_adapter(out) if keep_best else None
    if best is not None:
        shutil.rmtree(out / "adapter", ignore_errors=True)
        shutil.copytree(best, out / "adapter")
    else:
        tuner.model.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    path = out / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    processor.save_pretrained(out / "processor")
