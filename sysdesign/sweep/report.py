"""A study -> what a person reads afterwards: a page with pictures, a table of all trials, and the winner as a profile."""

from __future__ import annotations

import base64
import csv
import html
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from sysdesign.records import Report
from sysdesign.sweep.book import Book, sequence
from sysdesign.sweep.trial import Result

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;width:100%}"
    "td,th{padding:4px 8px;border-bottom:1px solid #ddd;text-align:right}td:last-child,th:last-child{text-align:left}"
    "td:last-child{min-width:14em}div{overflow-x:auto}img{max-width:100%}.pruned,.failed{color:#888}.best{background:#e8f5e9}"
)


class SweepReport(Report):
    """How the study stands. `importance`: share of the score's variance that an axis explains; None with too few trials."""

    metric: str
    direction: str
    complete: int
    pruned: int
    failed: int
    hours: float
    usd: float
    best: int | None
    score: float | None
    values: dict[str, Any] = {}
    importance: dict[str, float] | None = None
    profile: Path | None = None

    def metrics(self) -> dict[str, float]:
        counts = {"sweep/complete": self.complete, "sweep/pruned": self.pruned, "sweep/failed": self.failed}
        found = {**counts, "sweep/best": self.score, "cost/hours": self.hours, "cost/usd": self.usd}
        shares = {f"sweep/importance/{path}": share for path, share in (self.importance or {}).items()}
        return {name: float(value) for name, value in {**found, **shares}.items() if value is not None}

    def note(self) -> str:
        whole = "1 trial ran to its end" if self.complete == 1 else f"{self.complete} trials ran to their end"
        ran = f"{whole}, {self.pruned} {'was' if self.pruned == 1 else 'were'} pruned, {self.failed} failed, in {self.hours:.2f} h"
        money = f" and {self.usd:.2f} USD" if self.usd else ""
        if self.best is None:
            return f"{ran}{money}; none has a score."
        shares = ", ".join(f"`{path}` {share:.0%}" for path, share in (self.importance or {}).items())
        matters = f" Share of the score's variance: {shares}." if shares else ""
        told = ", ".join(f"`{path}` = {_short(value)}" for path, value in self.values.items())
        return f"Best of the sweep: trial **{self.best}** with `{self.metric}` **{self.score:.4f}** at {told}. {ran}{money}.{matters}"

    def tags(self) -> dict[str, str]:
        return {"sweep.best_trial": "none" if self.best is None else str(self.best)}


def write(book: Book, folder: Path) -> SweepReport:
    """Write `report.html`, `trials.csv`, the pictures and `sweep-<name>.yaml` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, done, best = book.spec, book.done(), book.best()
    rows = [(trial, book.result(trial.number) or Result(end="failed")) for trial in done]
    values = book.values(best.number) if best else {}
    found = SweepReport(
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        complete=_count(done, TrialState.COMPLETE),
        pruned=_count(done, TrialState.PRUNED),
        failed=_count(done, TrialState.FAIL),
        hours=sum(result.seconds for _, result in rows) / 3600,
        usd=sum(result.cost_usd for _, result in rows),
        best=best.number if best else None,
        score=best.value if best else None,
        values=values,
        importance=_importance(book),
        profile=_profile(book, best, values, folder) if best else None,
    )
    _table(book, rows, folder / "trials.csv")
    pictures = _pictures(book, rows, found, folder)
    (folder / "report.html").write_text(_page(book, rows, found, pictures), encoding="utf-8")
    return found


def front(points: Sequence[tuple[float, float]], direction: str) -> list[int]:
    """Indices of (cost, score) points that no other beats in both, from cheap to dear."""
    sign = 1 if direction == "minimize" else -1
    kept: list[int] = []
    best = float("inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if sign * points[index][1] < best:
            best = sign * points[index][1]
            kept.append(index)
    return kept


def _profile(book: Book, best: FrozenTrial, values: dict[str, Any], folder: Path) -> Path:
    """The winner's axes as an overlay; what was fixed to make trials short is left out, so that it trains in full."""
    tree: dict[str, Any] = {}
    for path, value in sorted(values.items()):
        node = tree
        *outer, last = path.split(".")
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    spec = book.spec
    won = f"{spec.objective.metric} {best.value:.4f} in trial {best.number}"
    header = f"# winner of the sweep {spec.name}: {won}; use it after {spec.profile}\n"
    target = folder / f"sweep-{spec.name}.yaml"
    target.write_text(header + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return target


def _importance(book: Book) -> dict[str, float] | None:
    complete = [t for t in book.done() if t.state == TrialState.COMPLETE]
    if len(complete) < 4 or len({t.value for t in complete}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=book.spec.seed)
            found = optuna.importance.get_param_importances(book.study, evaluator=evaluator)
        except (RuntimeError, ValueError):  # it cannot be told from these trials
            return None
    return {name: float(share) for name, share in found.items()}


def _pictures(book: Book, rows: Sequence[tuple[FrozenTrial, Result]], found: SweepReport, folder: Path) -> dict[str, Path]:
    """Title -> PNG. Pictures that need more trials than there are, are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made: dict[str, Path] = {}

    def keep(title: str, name: str) -> None:
        made[title] = folder / name
        plt.savefig(made[title], dpi=110, bbox_inches="tight")
        plt.close("all")

    complete = [(t, r) for t, r in rows if t.state == TrialState.COMPLETE]
    if not complete:
        return made
    plt.figure(figsize=(8, 3.5))
    plt.plot([t.number for t, _ in complete], [t.value for t, _ in complete], "o", label="trial")
    plt.step([t.number for t, _ in complete], sequence([t for t, _ in complete], found.direction), where="post", label="best so far")
    plt.xlabel("trial"), plt.ylabel(found.metric), plt.legend()
    keep("Score by trial", "history.png")
    if found.importance:
        plt.figure(figsize=(8, 0.6 + 0.4 * len(found.importance)))
        plt.barh(list(found.importance)[::-1], list(found.importance.values())[::-1])
        plt.xlabel("share of the score's variance (fANOVA)")
        keep("Which axis matters", "importance.png")
    if len(complete) > 1 and len(book.spec.space) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optuna.visualization.matplotlib.plot_parallel_coordinate(book.study, target_name=found.metric)
        plt.gcf().set_size_inches(9, 4)
        for axes in plt.gcf().axes:
            axes.set_title("")
            for lines in axes.collections:  # the best is dark; in Optuna's own colours the worst is white on white
                lines.set_cmap("viridis_r" if found.direction == "maximize" else "viridis")
        keep("Parallel coordinates", "parallel.png")
    priced = any(r.cost_usd for _, r in complete)
    points = [((r.cost_usd if priced else r.work_s / 60), float(t.value)) for t, r in complete if not r.reason]
    if points:
        best = front(points, found.direction)
        plt.figure(figsize=(8, 3.5))
        plt.plot(*zip(*points, strict=True), "o", color="#999", label="trial")
        plt.step(
            [points[i][0] for i in best], [points[i][1] for i in best], "o-", where="post", color="#2e7d32", label="not beaten in both"
        )
        plt.xlabel("cost of the trial in USD" if priced else "work of the trial in minutes"), plt.ylabel(found.metric), plt.legend()
        keep("Score against cost", "pareto.png")
    return made


def _table(book: Book, rows: Sequence[tuple[FrozenTrial, Result]], path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    axes = list(book.spec.space)
    writer.writerow(["trial", "end", book.spec.objective.metric, "seconds", "cost_usd", *axes, "reason"])
    for trial, result in rows:
        values, score = book.values(trial.number), trial.value if result.end == "complete" else None
        writer.writerow([trial.number, result.end, score, result.seconds, result.cost_usd, *(values.get(a) for a in axes), result.reason])
    path.write_text(out.getvalue(), encoding="utf-8")


def _page(book: Book, rows: Sequence[tuple[FrozenTrial, Result]], found: SweepReport, pictures: dict[str, Path]) -> str:
    spec, axes = book.spec, list(book.spec.space)
    head = ["trial", spec.objective.metric, "minutes", "USD", *axes, "how it ended"]
    body = []
    for trial, result in rows:
        values = book.values(trial.number)
        score = "" if trial.value is None or result.end != "complete" else f"{trial.value:.4f}"
        cells = [str(trial.number), score, f"{result.seconds / 60:.1f}", f"{result.cost_usd:.2f}"]
        cells += [_short(values.get(axis)) for axis in axes]
        kind = "best" if trial.number == found.best else result.end
        row = "".join(f"<td>{html.escape(c)}</td>" for c in [*cells, result.reason or "ran to its end"])
        body.append(f'<tr class="{kind}">{row}</tr>')
    shown = ""
    for name, path in pictures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        shown += f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{data}">'
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    note = html.escape(found.note().replace("**", "").replace("`", ""))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Sweep {spec.name}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(spec.question.strip())}</h1><p>{note}</p>{shown}"
        f"<h2>All trials</h2><div><table><tr>{heads}</tr>{''.join(body)}</table></div></html>\n"
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _count(trials: Sequence[FrozenTrial], state: TrialState) -> int:
    return sum(trial.state == state for trial in trials)
