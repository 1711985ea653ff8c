"""Scored answers of two or more models -> estimates with intervals, paired differences, slices, control gaps.

The first model is the one that is judged against ("base"); every other is compared with it, question by question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sysdesign.evaluate.bootstrap import Difference, Estimate, difference, estimate
from sysdesign.evaluate.items import Control
from sysdesign.graph import Record
from sysdesign.records import Check

LOWER_IS_BETTER = frozenset({"hallucination", "invented_products", "truncated", "empty"})
TITLES = {
    "score": "Probe score", "numeric": "Numbers right", "choice": "Choices right", "set_f1": "Sets, F1", "set_exact": "Sets, exact",
    "component_f1": "Components, F1",
    "type_accuracy": "Component types", "edge_f1": "Arrows, F1, directed", "edge_f1_undirected": "Arrows, F1, either way",
    "edge_label_f1": "Arrow labels, F1",
    "zone_accuracy": "Zone membership", "box_iou": "Boxes, mean overlap", "box_found": "Boxes found (overlap 0.5)",
    "rejects_false_premise": "False premises rejected",
    "hallucination": "Invented components", "invented_products": "Answers naming foreign products", "format": "Format valid",
    "arithmetic": "Equations right",
    "truncated": "Cut at the token limit", "empty": "Empty answers",
}  # fmt: skip


class Prediction(Record):
    """One answer of one model with its score; a line of `predictions.jsonl`."""

    id: str
    model: str  # "base", "tuned", "champion"
    set: str
    control: Control | None = None
    of: str | None = None
    cluster: str
    slices: dict[str, str]
    question: str
    answer: str
    check: Check | None = None
    value: float | None = None
    parts: dict[str, float] = {}
    faults: tuple[str, ...] = ()
    cut: bool = False
    unasked: str = ""  # why it could not be asked; it counts as an empty answer


class Row(Record):
    """One line of a table of results: each model's estimate, and each later model's difference from the first."""

    name: str
    estimates: dict[str, Estimate]
    differences: dict[str, Difference] = {}


class Summary(Record):
    """Everything the report and the gate show about a set of predictions."""

    models: tuple[str, ...]
    metrics: tuple[Row, ...]
    slices: dict[str, tuple[Row, ...]]
    controls: tuple[Row, ...]
    gaps: tuple[Row, ...]  # score of the same probes asked plainly, minus the control
    headline: tuple[Row, ...]


def summarise(predictions: Sequence[Prediction], models: Sequence[str], *, alphas: Sequence[float], draws: int, seed: int) -> Summary:
    """Tables over `predictions`, which hold every item once for each model."""
    table = _Table(predictions, models, tuple(alphas), draws, seed)
    probes = table.ids(lambda p: p.set == "probe")
    headline = table.ids(lambda p: p.set == "headline")
    parts = sorted({part for p in predictions if p.set == "probe" for part in p.parts}, key=lambda part: (_order(part), part))
    metrics = [table.row("score", probes, lambda p: p.value), *(table.row(part, probes, _part(part)) for part in parts)]
    names = sorted({name for p in predictions if p.set == "probe" for name in p.slices})
    slices = {
        name: tuple(
            row
            for value in sorted({p.slices[name] for p in predictions if p.set == "probe" and name in p.slices})
            if (row := table.row(value, [i for i in probes if table.any(i).slices.get(name) == value], lambda p: p.value))
        )
        for name in names
    }
    kinds = ("no_picture", "graph_as_text", "names_permuted", "absent_component")
    controls = [table.row(kind, table.ids(_is_control(kind)), lambda p: p.value) for kind in kinds]
    gaps = [table.gap(kind) for kind in kinds[:3]]
    by_category = [
        table.row(category, [i for i in headline if table.any(i).slices["family"] == category], lambda p: p.value)
        for category in sorted({table.any(i).slices["family"] for i in headline})
    ]
    whole = [table.row("all prompts", headline, lambda p: p.value)]
    return Summary(
        models=tuple(models),
        metrics=_some(metrics),
        slices=slices,
        controls=_some(controls),
        gaps=_some(gaps),
        headline=_some([*whole, *by_category]),
    )


def families(predictions: Sequence[Prediction], new: str, old: str, *, alpha: float, draws: int, seed: int) -> dict[str, Difference]:
    """Difference of each kind of question, with bounds at alpha / number of kinds (Bonferroni)."""
    kinds = sorted({p.slices["family"] for p in predictions if p.set == "probe"})
    table = _Table(predictions, (old, new), (alpha / max(1, len(kinds)),), draws, seed)
    found = {}
    for kind in kinds:
        row = table.row(
            kind, [i for i in table.ids(lambda p: p.set == "probe") if table.any(i).slices["family"] == kind], lambda p: p.value
        )
        if row and new in row.differences:
            found[kind] = row.differences[new]
    return found


def find(rows: Iterable[Row], name: str) -> Row | None:
    """The row of that name."""
    return next((row for row in rows if row.name == name), None)


class _Table:
    """Predictions by model and id; computes rows."""

    def __init__(self, predictions: Sequence[Prediction], models: Sequence[str], alphas: tuple[float, ...], draws: int, seed: int) -> None:
        self.by: dict[str, dict[str, Prediction]] = {model: {} for model in models}
        for prediction in predictions:
            if prediction.model in self.by:
                self.by[prediction.model][prediction.id] = prediction
        self.models, self.alphas, self.draws, self.seed = tuple(models), alphas, draws, seed

    def any(self, item_id: str) -> Prediction:
        return self.by[self.models[0]][item_id]

    def ids(self, wanted: Callable[[Prediction], bool]) -> list[str]:
        first = self.by[self.models[0]]
        return [i for i, p in first.items() if wanted(p) and all(i in self.by[model] for model in self.models)]

    def row(self, name: str, ids: Sequence[str], value: Callable[[Prediction], float | None]) -> Row | None:
        clusters = [self.any(i).cluster for i in ids]
        columns = {model: [value(self.by[model][i]) for i in ids] for model in self.models}
        return self._row(name, columns, clusters)

    def gap(self, control: str) -> Row | None:
        ids = [i for i in self.ids(lambda p: p.control == control) if self.any(i).of in self.by[self.models[0]]]
        columns: dict[str, list[float | None]] = {}
        for model in self.models:
            column: list[float | None] = []
            for i in ids:
                plain, other = self.by[model][self.by[model][i].of or ""].value, self.by[model][i].value
                column.append(None if plain is None or other is None else plain - other)
            columns[model] = column
        return self._row(control, columns, [self.any(i).cluster for i in ids], floor=-1.0)

    def _row(self, name: str, columns: Mapping[str, Sequence[float | None]], clusters: Sequence[str], floor: float = 0.0) -> Row | None:
        means = {m: estimate(columns[m], clusters, draws=self.draws, seed=self.seed, floor=floor) for m in self.models}
        estimates = {m: found for m, found in means.items() if found is not None}
        if not estimates:
            return None
        first, *others = self.models
        found = {
            m: difference(columns[m], columns[first], clusters, alphas=self.alphas, draws=self.draws, seed=self.seed, reach=1 - floor)
            for m in others
        }
        return Row(name=name, estimates=estimates, differences={m: d for m, d in found.items() if d is not None})


def _part(part: str) -> Callable[[Prediction], float | None]:
    return lambda prediction: prediction.parts.get(part)


def _is_control(kind: str) -> Callable[[Prediction], bool]:
    return lambda prediction: prediction.control == kind


def _order(part: str) -> int:
    order = list(TITLES)
    return order.index(part) if part in order else len(order)


def _some(rows: Iterable[Row | None]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row is not None)
