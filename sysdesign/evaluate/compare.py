"""Two or more finished evaluations -> one page and one table, question by question.

Models are compared only on questions that all of them were asked in the same words with the same expected answer, so an evaluation of
another dataset cannot flatter one side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sysdesign.errors import InputError
from sysdesign.evaluate.bootstrap import Difference
from sysdesign.evaluate.compare_groups import Evaluation, asked, check, read, verdict_file
from sysdesign.evaluate.page import comparison_page
from sysdesign.evaluate.summary import Prediction, find, summarise
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


def _common(columns: Sequence[Evaluation]) -> list[Prediction]:
    """Predictions whose id, question and check are the same in every column, in the order of the first."""
    shared = set.intersection(*({asked(prediction) for prediction in column.predictions} for column in columns))
    return [prediction for column in columns for prediction in column.predictions if asked(prediction) in shared]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
