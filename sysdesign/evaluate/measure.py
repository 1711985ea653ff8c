"""Contestants and items -> the files of an evaluation: everything after the inputs are read, for any models behind the chat seam."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sysdesign.artifacts import Artifact
from sysdesign.config.evaluate import EvaluateConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError, LimitError
from sysdesign.evaluate.ask import BY_PICTURE, Answer, ask, recall
from sysdesign.evaluate.bootstrap import series
from sysdesign.evaluate.contestants import Contestant, cores, fits_side_by_side
from sysdesign.evaluate.controls import control_items
from sysdesign.evaluate.gate import Evidence, Outcome, decide
from sysdesign.evaluate.items import Control, Item, fingerprint
from sysdesign.evaluate.judge import Judgement, judge
from sysdesign.evaluate.leaks import Leak
from sysdesign.evaluate.page import page
from sysdesign.evaluate.rubric import grade
from sysdesign.evaluate.scoring import Score, score
from sysdesign.evaluate.summary import TITLES, Prediction, Summary, families, find, summarise
from sysdesign.models.chat import ChatModel
from sysdesign.records import Report, write_jsonl

TABLE_DRAWS = 2_000  # intervals that are shown; the gate's own use gate.draws


def _first(questions: str) -> int:
    return 1


@dataclass(frozen=True)
class Standing:
    """What a registry knows and a verdict needs. The verdict is made once, with it: page, note, tags and registry repeat that one."""

    champion: Artifact | None = None  # the files of the version to beat
    version: str = ""  # which version that is; "": there is none
    missing: str = ""  # why there is one and it cannot be asked
    attempt: Callable[[str], int] = _first  # fingerprint of the probe set -> which attempt on it this is


class EvaluateReport(Report):
    """The verdict and its main numbers. `values` are the MLflow metrics."""

    verdict: Outcome
    reasons: tuple[str, ...]
    power: str
    probes: int
    graphs: int
    questions: str  # fingerprint of the whole probe set, before anything was left out: attempts are counted by it
    values: dict[str, float]

    def metrics(self) -> dict[str, float]:
        return self.values

    def note(self) -> str:
        gain, low = self.values.get("eval/gain"), self.values.get("eval/gain_ci_low")
        bound = "" if low is None else f" (lower bound {low:+.3f})"
        measured = "" if gain is None else f"gain {gain:+.3f}{bound} on {self.probes} probes of {self.graphs} held-out graphs; "
        return f"**{self.verdict}**: {measured}{self.reasons[0]}"


def measure(
    cfg: EvaluateConfig,
    *,
    seed: int,
    out: Path,
    runtime: RuntimeConfig,
    models: Sequence[Contestant],
    probes: Sequence[Item],
    headline: Sequence[Item],
    leaks: Sequence[Leak],
    unscorable: Sequence[Mapping[str, str]],
    parity: bool | None,
    lineage: Mapping[str, Any],
    questions: str,
    cache: Path,
    standing: Standing = Standing(),
    judge_with: Callable[[], ChatModel] | None = None,
) -> EvaluateReport:
    """Ask every model, score, decide, write. Leaked items are left out of every score and still count against promotion.

    `questions`: fingerprint of the probe set as the dataset holds it; what was asked of it has its own, `asked`.

    Raises ArtifactError when no probe is left; LimitError when no probe fits the context; ServiceError when a model goes away, with all
    answers so far kept in `cache`.
    """
    leaked = {leak.id for leak in leaks}
    probes = [item for item in probes if item.id not in leaked]
    headline = [item for item in headline if item.id not in leaked]
    if not probes:
        law = f"at least one probe must be scorable and unseen in training ({len(leaked)} leak, {len(unscorable)} cannot be scored)"
        raise ArtifactError("probes.jsonl", law, "run dataset again with another seed, or with more diagrams")
    items = [*probes, *headline, *control_items(probes, cfg.controls, seed)]
    answers = _ask_all(models, items, cfg, runtime, cache)
    unasked = _unasked(answers, len(probes), cfg)
    predictions = [_predict(model.role, item, answer) for model in models for item, answer in zip(items, answers[model.role], strict=True)]
    summary = summarise(predictions, [model.role for model in models], alphas=(cfg.gate.alpha,), draws=TABLE_DRAWS, seed=seed)
    judgement = _judge(judge_with, headline, predictions, cfg) if judge_with else None
    ships = any(model.ships for model in models if model.role == "tuned")
    evidence = _evidence(predictions, summary, cfg, seed, len(leaks), parity, ships)
    if judgement is not None and judgement.counts:
        evidence = evidence.model_copy(update={"judge_wins": (judgement.won, judgement.decided)})
    if standing.version and evidence.against_champion is None:
        missing = standing.missing or f"the champion, version {standing.version}, answered no probe that can be compared"
        evidence = evidence.model_copy(update={"champion_missing": missing})
    verdict = decide(evidence, cfg.gate, attempt=standing.attempt(questions))
    origin = {
        **lineage,
        "questions": questions,
        "asked": fingerprint(probes),
        "faced": standing.version,
        "headline": fingerprint(headline),
        "models": {model.role: model.digest for model in models},
    }
    result: dict[str, Any] = {
        "models": [{"role": model.role, "name": _named(model, standing), "digest": model.digest} for model in models],
        "summary": summary.model_dump(mode="json"),
        "leaks": [leak.model_dump(mode="json") for leak in leaks],
        "unscorable": list(unscorable),
        "unasked": unasked,
        "judge": judgement.model_dump(mode="json") if judgement else "not run",
        **(_library_scores(predictions, items) if cfg.library_scores else {}),
    }
    values = _values(summary, evidence, result)
    write_jsonl(out / "predictions.jsonl", predictions)
    _write(out / "scores.json", _dump(result))
    decided = verdict.model_dump(mode="json") | {"evidence": evidence.model_dump(mode="json"), "gate": cfg.gate.model_dump(mode="json")}
    _write(out / "verdict.json", _dump(decided | {"lineage": origin, "metrics": values}))
    _write(out / "report.html", page(summary, verdict, predictions, items, result, origin, shown=cfg.report_probes))
    gain = evidence.gain
    return EvaluateReport(
        verdict=verdict.verdict,
        reasons=verdict.reasons,
        power=verdict.power,
        probes=gain.n if gain else 0,
        graphs=gain.clusters if gain else 0,
        questions=origin["questions"],
        values=values,
    )


def _named(model: Contestant, standing: Standing) -> str:
    return f"{model.name}, version {standing.version}" if model.role == "champion" else model.name


def scorable(probes: Sequence[Item]) -> tuple[list[Item], list[dict[str, str]]]:
    """Probes whose own reference answer gets full marks; the others would measure a misunderstanding between teacher and scorer."""
    kept: list[Item] = []
    left_out: list[dict[str, str]] = []
    for item in probes:
        found = score(item.check, item.reference, graph=item.graph, question=item.question) if item.reference else None
        if item.check is None or item.check.kind == "text":
            left_out.append({"id": item.id, "why": "has no check"})
        elif found is not None and (found.value is None or found.value < 0.999):
            left_out.append({"id": item.id, "why": f"its reference answer scores {found.value}: {'; '.join(found.faults)}"})
        else:
            kept.append(item)
    return kept, left_out


def _ask_all(
    models: Sequence[Contestant], items: Sequence[Item], cfg: EvaluateConfig, runtime: RuntimeConfig, cache: Path
) -> dict[str, tuple[Answer, ...]]:
    limits = {"probe": cfg.probe_tokens, "headline": cfg.headline_tokens}
    settings: dict[str, object] = {"through": cfg.through, "context": cfg.context_tokens, "decoding": "greedy"}
    if cfg.through == "llamacpp":
        settings["prompt"] = BY_PICTURE
    else:
        settings |= {"precision": cfg.precision, "group": cfg.group}
    together = cfg.through == "llamacpp" and fits_side_by_side(list(models), runtime)
    threads = max(1, cores(runtime) // len(models)) if together else cores(runtime)

    def one(model: Contestant) -> tuple[Answer, ...]:
        complete = [answer for answer in recall(cache, model.digest, items, settings, limits) if answer is not None]
        if len(complete) == len(items):  # nothing to ask: nothing to load
            return tuple(complete)
        with model.open(threads) as chat:
            return ask(
                chat, model.digest, items, cache=cache, settings=settings, limits=limits, seed=0, label=f"{model.role} answers"
            ).answers

    with ThreadPoolExecutor(len(models) if together else 1) as pool:
        return dict(zip((model.role for model in models), pool.map(one, models), strict=True))


def _unasked(answers: Mapping[str, Sequence[Answer]], probes: int, cfg: EvaluateConfig) -> dict[str, int]:
    """How many questions did not fit, by model. Raises LimitError when that is every probe: nothing would be measured."""
    for role, given in answers.items():
        if all(answer.unasked for answer in given[:probes]):
            law = f"must hold a question: none of the {probes} probes fits for the {role} model ({given[0].unasked})"
            raise LimitError("evaluate.context_tokens", law, "raise it", cfg.context_tokens)
    return {role: sum(bool(answer.unasked) for answer in given) for role, given in answers.items()}


def _predict(role: str, item: Item, answer: Answer) -> Prediction:
    found = score(item.check, answer.text, graph=item.graph, question=item.question, cut=answer.cut)
    if item.rubric is not None and found.value is None:
        graded = grade(answer.text, item.rubric, category=item.slices["family"])
        parts = found.parts | {f"criterion_{number}": float(points) for number, points in graded.grades.items()}
        found = Score(value=graded.value, parts=parts, faults=graded.missing)
    return Prediction(
        id=item.id,
        model=role,
        set=item.set,
        control=item.control,
        of=item.of,
        cluster=item.cluster,
        slices=item.slices,
        question=item.question,
        answer=answer.text,
        check=item.check,
        value=found.value,
        parts=found.parts,
        faults=(answer.unasked,) if answer.unasked else found.faults,
        cut=answer.cut,
        unasked=answer.unasked,
    )


def _judge(opened: Callable[[], ChatModel], headline: Sequence[Item], predictions: Sequence[Prediction], cfg: EvaluateConfig) -> Judgement:
    assert cfg.judge.kind != "none"
    by_role = {role: {p.id: p for p in predictions if p.model == role} for role in ("base", "tuned")}
    texts = {role: {i: p.answer for i, p in found.items()} for role, found in by_role.items()}
    checked = {item.id: (by_role["base"][item.id].value, by_role["tuned"][item.id].value) for item in headline if item.check is not None}
    model = opened()
    try:
        return judge(model, headline, texts["base"], texts["tuned"], checked, max_tokens=cfg.judge.max_tokens)
    finally:
        model.close()


def _evidence(
    predictions: Sequence[Prediction], summary: Summary, cfg: EvaluateConfig, seed: int, leaks: int, parity: bool | None, ships: bool
) -> Evidence:
    gate = cfg.gate
    alphas = series(gate.alpha, gate.max_attempts)
    probes = [p for p in predictions if p.set == "probe"]
    pair = [p for p in probes if p.model in ("base", "tuned")]
    gain = find(summarise(pair, ("base", "tuned"), alphas=alphas, draws=gate.draws, seed=seed).metrics, "score")
    against = None
    if "champion" in summary.models:
        beaten = find(summarise(probes, ("champion", "tuned"), alphas=alphas, draws=gate.draws, seed=seed).metrics, "score")
        against = beaten.differences.get("tuned") if beaten else None
    rate, shape, empty = (find(summary.metrics, name) for name in ("hallucination", "format", "empty"))
    head = find(summary.headline, "all prompts")
    return Evidence(
        gain=gain.differences.get("tuned") if gain else None,
        headline=head.differences.get("tuned") if head else None,
        hallucination=rate.differences.get("tuned") if rate else None,
        format_validity=shape.estimates.get("tuned") if shape else None,
        families=families(pair, "tuned", "base", alpha=gate.alpha, draws=TABLE_DRAWS, seed=seed),
        leaks=leaks,
        parity=parity,
        rates=rate.estimates if rate else {},
        through=cfg.through,
        ships=ships,
        unanswered=empty.estimates["tuned"].mean if empty else None,
        against_champion=against,
    )


def _values(summary: Summary, evidence: Evidence, result: Mapping[str, Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for prefix, rows in (
        ("", summary.metrics),
        ("control_", summary.controls),
        ("gap_", summary.gaps),
        ("headline_", summary.headline[:1]),
    ):
        for row in rows:
            name = f"eval/{prefix}{'score' if row.name == 'all prompts' else row.name}"
            for role, found in row.estimates.items():
                values[name if role == "tuned" else f"{name}_{role}"] = found.mean
                if role == "tuned" and found.low is not None and found.high is not None:
                    values |= {f"{name}_ci_low": found.low, f"{name}_ci_high": found.high}
    if evidence.gain is not None:
        values |= {"eval/gain": evidence.gain.mean, "eval/probes": float(evidence.gain.n), "eval/graphs": float(evidence.gain.clusters)}
        if (low := evidence.gain.lows[0]) is not None:
            values["eval/gain_ci_low"] = low
    return values | {
        "eval/rouge_l" if role == "tuned" else f"eval/rouge_l_{role}": found for role, found in result.get("rouge_l", {}).items()
    }


def metric_names(cfg: EvaluateConfig) -> set[str]:
    """What an evaluation may log about the tuned model: what an experiment may be judged by."""
    rows = {"headline_score", *TITLES}
    if cfg.controls:
        kinds = get_args(Control)
        rows |= {f"control_{kind}" for kind in kinds} | {f"gap_{kind}" for kind in kinds[:3]}
    plain = {"gain", "gain_ci_low", *(["rouge_l"] if cfg.library_scores else [])}
    return {f"eval/{name}" for name in plain} | {f"eval/{row}{end}" for row in rows for end in ("", "_ci_low", "_ci_high")}


def _library_scores(predictions: Sequence[Prediction], items: Sequence[Item]) -> dict[str, Any]:
    """Hugging Face `evaluate` over the same answers, one combined call a model; ROUGE-L comes from there and is for reading only."""
    from sysdesign.evaluate.modules import combined

    return combined(predictions, {item.id: item.reference for item in items if item.set == "probe"})


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
