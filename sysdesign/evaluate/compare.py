"""Two or more finished evaluations -> one page and one table, question by question; and the verdict that a registry may act on.

Models are compared only on questions that all of them were asked in the same words with the same expected answer, so an evaluation of
another dataset cannot flatter one side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sysdesign.config.evaluate import Gate
from sysdesign.errors import ArtifactError, InputError
from sysdesign.evaluate.bootstrap import Difference, series
from sysdesign.evaluate.gate import Evidence, Verdict, decide
from sysdesign.evaluate.page import comparison_page
from sysdesign.evaluate.summary import Prediction, Summary, find, summarise
from sysdesign.records import Report, read_jsonl

DRAWS = 10_000
SEED = 0  # resampling only: the same comparison gives the same bounds on every machine


class CompareReport(Report):
    """How each model scored on the common probes, and its difference from the first."""

    models: tuple[str, ...]
    probes: int
    graphs: int
    scores: dict[str, float]
    differences: dict[str, Difference]

    def metrics(self) -> dict[str, float]:
        return {f"compare/{name}": value for name, value in self.scores.items()}

    def note(self) -> str:
        best = max(self.scores, key=lambda name: self.scores[name])
        return f"**{best}** scores best, {self.scores[best]:.3f}, on {self.probes} common probes of {self.graphs} graphs."


def compare(evaluations: Mapping[str, Path], out: Path) -> CompareReport:
    """Compare the tuned models of `evaluations` (name -> artefact folder; the first is the one that others are held against).

    Reads `predictions.jsonl` of each. Writes `comparison.html` and `comparison.json` below `out`. Raises InputError for fewer than two, or
    without a common probe; ArtifactError for a folder that is no evaluation.
    """
    if len(evaluations) < 2:
        raise InputError("compare", "needs two evaluations or more", "name their artefact folders", len(evaluations))
    predictions = _common({name: _tuned(folder, name) for name, folder in evaluations.items()})
    names = list(evaluations)
    summary = summarise(predictions, names, alphas=(0.025,), draws=DRAWS, seed=SEED)
    whole = find(summary.metrics, "score")
    if whole is None:
        raise InputError("compare", "the evaluations must share scored probes", "evaluate them on one dataset", names)
    first = whole.estimates[names[0]]
    report = CompareReport(
        models=tuple(names),
        probes=first.n,
        graphs=first.clusters,
        scores={name: found.mean for name, found in whole.estimates.items()},
        differences=whole.differences,
    )
    out.mkdir(parents=True, exist_ok=True)
    verdicts = {name: str(_verdict_file(folder)["verdict"]) for name, folder in evaluations.items()}
    _write(out / "comparison.json", json.dumps(report.model_dump(mode="json") | {"verdicts": verdicts}, indent=1, sort_keys=True) + "\n")
    _write(out / "comparison.html", comparison_page(summary, predictions, verdicts))
    return report


def final_verdict(evaluation: Path, *, attempt: int, champion: Path | None = None, champion_missing: str = "") -> Verdict:
    """The verdict of a finished evaluation as a registry must see it.

    `attempt`: how many different models were evaluated on these questions, this one included: each further try meets a stricter bound.
    `champion`: the evaluation of the version to beat; where it was not asked the same questions, the verdict says so and is not promote.
    `champion_missing`: why there is a champion and no evaluation of it; the same holds.
    Raises ArtifactError when the folder is no evaluation.
    """
    held = _verdict_file(evaluation)
    try:
        evidence, gate = Evidence.model_validate(held["evidence"]), Gate.model_validate(held["gate"])
    except (KeyError, ValidationError) as error:
        raise ArtifactError(str(evaluation / "verdict.json"), f"must hold evidence and gate ({error})", "run evaluate again") from error
    if champion_missing and evidence.against_champion is None:
        evidence = evidence.model_copy(update={"champion_missing": champion_missing})
    elif champion is not None and evidence.against_champion is None:
        against = against_champion(evaluation, champion, gate)
        missing = "" if against is not None else "the champion was not asked these questions: evaluate it with this dataset first"
        evidence = evidence.model_copy(update={"against_champion": against, "champion_missing": missing})
    return decide(evidence, gate, attempt=attempt)


def against_champion(evaluation: Path, champion: Path, gate: Gate) -> Difference | None:
    """Difference to the champion's tuned model on the probes; None unless both were asked exactly the same."""
    if _verdict_file(evaluation)["lineage"]["questions"] != _verdict_file(champion)["lineage"]["questions"]:
        return None
    predictions = _common({"champion": _tuned(champion, "champion"), "tuned": _tuned(evaluation, "tuned")})
    summary: Summary = summarise(
        [p for p in predictions if p.set == "probe"], ("champion", "tuned"), alphas=series(gate.alpha, gate.max_attempts),
        draws=gate.draws, seed=SEED,
    )  # fmt: skip
    row = find(summary.metrics, "score")
    return row.differences.get("tuned") if row else None


def _tuned(folder: Path, name: str) -> list[Prediction]:
    found = [p for p in read_jsonl(folder / "predictions.jsonl", Prediction) if p.model == "tuned"]
    return [prediction.model_copy(update={"model": name}) for prediction in found]


def _common(columns: Mapping[str, Sequence[Prediction]]) -> list[Prediction]:
    """Predictions whose id, question and check are the same in every column, in the order of the first."""

    def asked(prediction: Prediction) -> str:
        check = prediction.check.model_dump_json() if prediction.check else ""
        return f"{prediction.id}\0{prediction.question}\0{check}"

    shared = set.intersection(*({asked(prediction) for prediction in column} for column in columns.values()))
    return [prediction for column in columns.values() for prediction in column if asked(prediction) in shared]


def _verdict_file(folder: Path) -> dict[str, Any]:
    path = folder / "verdict.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            str(path), f"must be the verdict of an evaluation ({error})", "name the folder of an evaluate artefact"
        ) from error
    if not isinstance(found, dict) or "verdict" not in found:
        raise ArtifactError(str(path), "must be the verdict of an evaluation", "run evaluate again")
    return found


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
