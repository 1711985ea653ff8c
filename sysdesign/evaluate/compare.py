"""Two or more finished evaluations -> one page and one table, question by question; and the verdict that a registry may act on.

Models are compared only on questions that all of them were asked in the same words with the same expected answer, so an evaluation of
another dataset cannot flatter one side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from sysdesign.config.evaluate import Gate
from sysdesign.errors import ArtifactError, InputError
from sysdesign.evaluate.bootstrap import Difference, series
from sysdesign.evaluate.compare_groups import Evaluation, asked, check, read, verdict_file
from sysdesign.evaluate.gate import Evidence, Verdict, decide
from sysdesign.evaluate.page import comparison_page
from sysdesign.evaluate.summary import Prediction, Summary, find, summarise
from sysdesign.records import Report

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
    without a common probe or scored by different rules; ArtifactError for a folder that is no evaluation.
    """
    if len(evaluations) < 2:
        raise InputError("compare", "needs two evaluations or more", "name their artefact folders", len(evaluations))
    opened = [read(name, folder) for name, folder in evaluations.items()]
    check(opened)
    predictions, names = _common(opened), list(evaluations)
    summary = summarise(predictions, names, alphas=(0.025,), draws=DRAWS, seed=SEED)
    whole = find(summary.metrics, "score")
    assert whole is not None  # `check` found common probes
    first = whole.estimates[names[0]]
    report = CompareReport(
        models=tuple(names),
        probes=first.n,
        graphs=first.clusters,
        scores={name: found.mean for name, found in whole.estimates.items()},
        differences=whole.differences,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--out", f"must be a folder that can be written to ({error.strerror})", "name another one", str(out)) from None
    verdicts = {name: str(verdict_file(folder)["verdict"]) for name, folder in evaluations.items()}
    _write(out / "comparison.json", json.dumps(report.model_dump(mode="json") | {"verdicts": verdicts}, indent=1, sort_keys=True) + "\n")
    _write(out / "comparison.html", comparison_page(summary, predictions, opened, verdicts))
    return report


def final_verdict(evaluation: Path, *, attempt: int, champion: Path | None = None, champion_missing: str = "") -> Verdict:
    """The verdict of a finished evaluation as a registry must see it.

    `attempt`: how many different models were evaluated on these questions, this one included: each further try meets a stricter bound.
    `champion`: the evaluation of the version to beat; where it was not asked the same questions, the verdict says so and is not promote.
    `champion_missing`: why there is a champion and no evaluation of it; the same holds.
    Raises ArtifactError when the folder is no evaluation.
    """
    held = verdict_file(evaluation)
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
    if verdict_file(evaluation)["lineage"].get("asked") != verdict_file(champion)["lineage"].get("asked"):
        return None
    predictions = _common([read("champion", champion), read("tuned", evaluation)])
    summary: Summary = summarise(
        [p for p in predictions if p.set == "probe"], ("champion", "tuned"), alphas=series(gate.alpha, gate.max_attempts),
        draws=gate.draws, seed=SEED,
    )  # fmt: skip
    row = find(summary.metrics, "score")
    return row.differences.get("tuned") if row else None


def _common(columns: Sequence[Evaluation]) -> list[Prediction]:
    """Predictions whose id, question and check are the same in every column, in the order of the first."""
    shared = set.intersection(*({asked(prediction) for prediction in column.predictions} for column in columns))
    return [prediction for column in columns for prediction in column.predictions if asked(prediction) in shared]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
