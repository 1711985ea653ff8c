"""Base and tuned model on the same questions -> predictions, scores with intervals, a report to read, and the verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.evaluate import EvaluateConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.evaluate.contestants import contestants
from sysdesign.evaluate.items import fingerprint, headline_items, probe_items
from sysdesign.evaluate.leaks import find_leaks
from sysdesign.evaluate.measure import EvaluateReport, Standing, measure, scorable
from sysdesign.models.bundle import certified
from sysdesign.models.chat import ChatModel
from sysdesign.records import MetricLog, Row, read_jsonl


def evaluate(
    cfg: EvaluateConfig,
    *,
    seed: int,
    out: Path,
    log: MetricLog,
    runtime: RuntimeConfig,
    dataset: Artifact,
    diagrams: Artifact,
    export: Artifact,
    train: Artifact,
    base: Artifact,
    standing: Callable[[], Standing] = Standing,
) -> EvaluateReport:
    """Ask, score, compare, decide.

    Reads: probes and training rows (dataset), headline pictures (diagrams), GGUF files or adapter, the parity certificate (export).
    `standing`: what the registry knows, read before anything is asked: the version to beat, which is asked too, and which attempt this is.
    Neither is part of the artefact's key, as no config implies them: the lineage records which version was faced.

    Writes: predictions.jsonl, scores.json, verdict.json, report.html. Answers are
    kept in `.answers` beside the artefacts. Raises: ArtifactError for missing or broken inputs, ServiceError when a server goes away (the
    same command resumes).
    """
    held = standing()
    champion = held.champion if cfg.through == "llamacpp" else None
    if held.champion is not None and champion is None:
        missing = f"the champion, version {held.version}, is GGUF files and was not asked: evaluate with evaluate.through llamacpp"
        held = replace(held, missing=missing)
    judge_with = _judge(cfg, runtime, dataset) if cfg.judge.kind != "none" else None
    models, policy = contestants(cfg, runtime, export=export, train=train, base=base, champion=champion)
    scratch = out / ".pictures"
    headline = headline_items(diagrams, policy, scratch)
    probes, unscorable = scorable(probe_items(dataset, diagrams, cfg.max_probes))
    leaks = find_leaks(dataset, [*probes, *headline])
    lineage = {
        "dataset": dataset.digest,
        "export": export.digest,
        "train": train.digest,
        "base": base.digest,
        "gguf": {entry.path: entry.sha256 for entry in export.manifest.files if entry.path.endswith(".gguf")},
        "parity": next((entry.sha256 for entry in export.manifest.files if entry.path == "parity.json"), None),
        **({"champion": champion.digest} if champion else {}),
    }
    report = measure(
        cfg,
        seed=seed,
        out=out,
        runtime=runtime,
        models=models,
        probes=probes,
        headline=headline,
        leaks=leaks,
        unscorable=unscorable,
        parity=certified(export.path),
        lineage=lineage,
        standing=held,
        questions=fingerprint(probe_items(dataset, diagrams, 0)),  # asking fewer of them must not buy new attempts
        cache=dataset.path.parent / ".answers",
        judge_with=judge_with,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    log.metrics(report.values)
    return report


def _judge(cfg: EvaluateConfig, runtime: RuntimeConfig, dataset: Artifact) -> Callable[[], ChatModel]:
    from sysdesign.evaluate.judge import open_judge

    chosen = cfg.judge
    assert chosen.kind != "none"
    teachers = frozenset(row.provider for row in read_jsonl(dataset.path / "rows" / "train.jsonl", Row))
    opened = partial(open_judge, chosen, store=dataset.path.parent, budget_usd=runtime.budget_usd, teachers=teachers)
    opened().close()  # a judge that may not judge is said before hours of answers, not after
    return opened
