"""Scores, verdict and answers -> one HTML file that needs nothing else: no script, no font, no picture from anywhere.

It reads from the decision down to the single answer. Only answers and pictures carry text from models and files, and all of it is
escaped: an answer cannot change the page that judges it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sysdesign.evaluate.bootstrap import Estimate
from sysdesign.evaluate.gate import Criterion, Verdict
from sysdesign.evaluate.items import Item
from sysdesign.evaluate.judge import NEEDED_KAPPA
from sysdesign.evaluate.rubric import TITLES as CRITERIA
from sysdesign.evaluate.summary import LOWER_IS_BETTER, TITLES, Prediction, Row, Summary

PICTURE_WIDTH = 720  # pixels; the full picture stays in its artefact
PICTURE_BYTES = 5 * 2**20  # all pictures of a page together: trackers and mail refuse larger files
_NAMES = {"base": "Base", "tuned": "Tuned", "champion": "Champion"}
_CONTROLS = {
    "no_picture": "Picture removed",
    "graph_as_text": "Graph given as text",
    "names_permuted": "Graph as text, names permuted",
    "absent_component": "Absent component asked for",
}
_SLICES = {
    "family": "Kind of question",
    "style": "Style of the picture",
    "style seen": "Style seen in training",
    "size": "Components",
    "nesting": "Nesting of zones",
}


def page(
    summary: Summary,
    verdict: Verdict,
    predictions: Sequence[Prediction],
    items: Sequence[Item],
    result: dict[str, Any],
    lineage: dict[str, Any],
    *,
    shown: int,
) -> str:
    """The whole page. `shown`: probes shown in full, those whose scores differ most first."""
    by_item: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_item.setdefault(prediction.id, []).append(prediction)
    pictures = _Pictures()
    headline = [item for item in items if item.set == "headline"]
    probes = sorted((item for item in items if item.set == "probe"), key=lambda item: (-_spread(by_item[item.id]), item.id))[:shown]
    parts = [
        _top(summary, verdict, result),
        _criteria(verdict.criteria),
        _section(
            "Scores on the probes",
            "Each question is scored by rules. Bars are 95 % intervals, resampled by diagram.",
            _plot(summary.metrics, summary.models),
        ),
        *(
            _section(f"By {_SLICES.get(name, name).lower()}", "Probe score in each group.", _plot(rows, summary.models))
            for name, rows in sorted(summary.slices.items(), key=lambda pair: list(_SLICES).index(pair[0]) if pair[0] in _SLICES else 9)
            if len(rows) > 1
        ),
        _controls(summary),
        _section("Headline prompts", _judged(result), _plot(summary.headline, summary.models)),
        *(_card([item], by_item, pictures) for item in headline),
        f"<h2>Probes</h2><p class=soft>{len(probes)} of {sum(i.set == 'probe' for i in items)}, those where the models differ most first; "
        "all are in <code>predictions.jsonl</code>.</p>",
        *(_card(group, by_item, pictures) for group in _grouped(probes)),
        _origins(result, lineage),
    ]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    title = f"Evaluation: {verdict.verdict}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def plot(rows: Sequence[Row], models: Sequence[str]) -> str:
    """Rows as points with intervals on a scale from 0 to 1; for other pages of this package."""
    return _plot(rows, models)


def _top(summary: Summary, verdict: Verdict, result: dict[str, Any]) -> str:
    names = ", ".join(f"{_NAMES.get(m['role'], m['role'])}: {escape(m['name'])}" for m in result["models"])
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    score = next((row for row in summary.metrics if row.name == "score"), None)
    lead = ""
    if score:
        lead = " · ".join(f"<b>{_NAMES.get(role, role)}</b> {_figure(found, 'score')}" for role, found in score.estimates.items())
    return (
        f"<h1>Is the tuned model better? <span class='badge {verdict.verdict}'>{verdict.verdict}</span></h1><p class=soft>{names}</p>"
        f"<div class=card><p>Probe score: {lead}</p><ul>{reasons}</ul><p class=soft>{escape(_capital(verdict.power))}. "
        f"Attempt {verdict.attempt} on these questions, so the error rate is {verdict.alpha:.2%}.</p></div>"
    )


def _criteria(criteria: Iterable[Criterion]) -> str:
    rows = []
    for criterion in criteria:
        kind, word = ("bad", "fails") if criterion.harm else ("good", "holds") if criterion.passed else ("unsure", "open")
        rows.append(
            f"<tr><td class='mark {kind}'>{word}</td><td>{escape(_capital(criterion.name))}</td>"
            f"<td class=soft>{escape(criterion.detail)}</td></tr>"
        )
    return f"<h2>What the verdict stands on</h2><div class=card><table class=stack><tbody>{''.join(rows)}</tbody></table></div>"


def _section(title: str, about: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2><p class=soft>{escape(about)}</p><div class=card>{body}</div>" if body else ""


def _plot(rows: Sequence[Row], models: Sequence[str]) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows:
        label = TITLES.get(row.name) or _CONTROLS.get(row.name) or _criterion(row.name) or row.name
        counts = next(iter(row.estimates.values()))
        hint = " <small class=soft>lower is better</small>" if row.name in LOWER_IS_BETTER else ""
        unit = 4.0 if row.name.startswith("criterion_") else 1.0
        marks = "".join(_mark(row.estimates[m], m, index, len(models), unit) for index, m in enumerate(models) if m in row.estimates)
        lines = "<br>".join(
            f"<i class='dot {m}' style='position:static;display:inline-block;margin:0 6px 0 0'></i>{_figure(row.estimates[m], row.name)}"
            for m in models
            if m in row.estimates
        )
        unscored = f", {counts.unscored} unscored" if counts.unscored and row.name == "score" else ""
        cells.append(
            f"<div class=row><div class=name>{escape(_capital(label.replace('_', ' ')))}{hint}<br>"
            f"<small class=soft>n {counts.n} in {counts.clusters}{unscored}</small></div>"
            f"<div class=track>{marks}</div><div class=numbers>{lines}</div></div>"
        )
    key = "".join(f"<span class=key><i class={m}></i>{_NAMES.get(m, m)}</span>" for m in models)
    ticks = "".join(f"<span>{tick}</span>" for tick in ("0", "0.25", "0.5", "0.75", "1"))
    scale = f"<div class=row><div class=scale>{ticks}</div></div>"
    return f"<p>{key}</p><div class=plot>{''.join(cells)}{scale}</div>"


def _mark(found: Estimate, model: str, index: int, count: int, unit: float) -> str:
    step = 30 / count
    middle = step * index + step / 2
    at = 100 * min(1.0, max(0.0, found.mean / unit))
    bar = ""
    if found.low is not None and found.high is not None:
        low, high = 100 * max(0.0, found.low / unit), 100 * min(1.0, found.high / unit)
        bar = f"<span class='bar {model}' style='left:{low:.1f}%;width:{max(high - low, 0.3):.1f}%;top:{middle - 2:.0f}px'></span>"
    return f"{bar}<span class='dot {model}' style='left:{at:.1f}%;top:{middle - 5:.0f}px'></span>"


def _figure(found: Estimate, name: str) -> str:
    interval = f" <span class=soft>[{found.low:.2f}, {found.high:.2f}]</span>" if found.low is not None and found.high is not None else ""
    return f"{found.mean:.3f}{interval}" if not name.startswith("criterion_") else f"{found.mean:.1f} of 4"


def _controls(summary: Summary) -> str:
    if not summary.controls:
        return _section("Controls", "No control was asked: evaluate.controls is 0, or no probe has a picture.", "")
    gaps = {row.name: row for row in summary.gaps}
    rows = []
    for row in summary.controls:
        for model in summary.models:
            if model not in row.estimates:
                continue
            gap = gaps[row.name].estimates.get(model) if row.name in gaps else None
            ci = (
                f" <span class=soft>[{gap.low:+.2f}, {gap.high:+.2f}]</span>"
                if gap and gap.low is not None and gap.high is not None
                else ""
            )
            rows.append(
                f"<tr><td>{_CONTROLS[row.name]}</td><td>{_NAMES.get(model, model)}</td><td>{_figure(row.estimates[model], row.name)}</td>"
                f"<td>{f'{gap.mean:+.3f}{ci}' if gap else '<span class=soft>none</span>'}</td></tr>"
            )
    head = "<thead><tr><th>Control</th><th>Model</th><th>Score</th><th>What the plain question scores more</th></tr></thead>"
    about = (
        "The same questions, asked so that a cheat shows. Without the picture a model that looks must fall; with the graph as text only "
        "faults of "
        "reasoning remain; with permuted names a model that answers from habit falls; what is not there must be denied."
    )
    return f"<h2>Controls</h2><p class=soft>{about}</p><div class='card wide'><table>{head}<tbody>{''.join(rows)}</tbody></table></div>"


def _judged(result: dict[str, Any]) -> str:
    judge = result.get("judge")
    rules = "Checks and the rule part of the rubric; rules see what is written, not whether it convinces. "
    if not isinstance(judge, dict):
        return rules + "No judge was run."
    kappa = judge["agreement"]
    trusted = "not tried on labelled pairs" if kappa is None else f"kappa {kappa:.2f} with {judge['pairs']} labelled pairs"
    if not judge["usable"]:
        return f"{rules}The judge {judge['model']} gave {judge['nonsense']} unusable replies of {judge['calls']}: no conclusion is drawn from it."
    weight = "" if kappa is not None and kappa >= NEEDED_KAPPA else "; below 0.6, so it decides nothing"
    wins = f"the tuned answer preferred in {judge['won']:g} of {judge['decided']}, ties split ({judge['ties']})"
    return f"{rules}Judge {judge['model']}: {wins}; {trusted}{weight}."


def _card(group: Sequence[Item], by_item: dict[str, list[Prediction]], pictures: _Pictures) -> str:
    image = next((path for item in group for path in item.images), None)
    data = pictures.data(image) if image else ""
    picture = f"<div><img loading=lazy alt='The diagram that the question is about' src='{data}'></div>" if data else ""
    questions = "".join(_question(item, by_item[item.id]) for item in group)
    first = group[0]
    title = escape(" · ".join(dict.fromkeys(v for k, v in first.slices.items() if k in ("style", "style seen", "size", "domain"))))
    kind = "item" if data else "item plain"
    return f"<div class=card><p class=soft><small>{title}</small></p><div class='{kind}'>{picture}<div>{questions}</div></div></div>"


def _question(item: Item, predictions: Sequence[Prediction]) -> str:
    kind = _capital(item.slices["family"].replace("_", " "))
    answers = "".join(_answer(prediction) for prediction in predictions)
    truth = _truth(item)
    return (
        f"<div class=question><h3>{escape(kind)} <small class=soft>{escape(item.id)}</small></h3>"
        f"<p class=q>{escape(item.question)}</p>"
        f"{f'<p class=truth><b>Truth</b> {truth}</p>' if truth else ''}<div class=answers>{answers}</div></div>"
    )


def _answer(prediction: Prediction) -> str:
    value = "unscored" if prediction.value is None else f"{prediction.value:.2f}"
    kind = "soft" if prediction.value is None else "good" if prediction.value > 0.99 else "bad" if prediction.value < 0.5 else "unsure"
    faults = f"<p class=soft><small>{escape('; '.join(prediction.faults))}</small></p>" if prediction.faults else ""
    text = escape(prediction.answer) or "<span class=soft>(no answer)</span>"
    role = prediction.model
    name = _NAMES.get(role, role)
    return f"<div class='answer {role}-a'><b>{name}</b> <span class='mark {kind}'>{value}</span><pre>{text}</pre>{faults}</div>"


def _truth(item: Item) -> str:
    check = item.check
    if check is None or check.kind == "text":
        named = [name for ideas in item.rubric.must_mention for name in ideas[:1]] if item.rubric else []
        return f"free answer; ideas looked for: {escape(', '.join(named))}" if named else ""
    if check.kind == "reject":
        return f"“{escape(str(check.expected))}” is not there; the premise must be rejected"
    if check.kind == "edges":
        return escape(", ".join(f"{a} → {b}" for a, b in check.expected)) or "none"
    if check.kind == "graph":
        return f"{len(check.expected['components'])} components, {len(check.expected['edges'])} arrows"
    if check.kind == "set":
        return escape(", ".join(map(str, check.expected))) or "none"
    if check.kind == "number":
        return escape(f"{check.expected:,.6g} {check.unit or ''}".strip())
    return escape(check.expected if isinstance(check.expected, str) else json.dumps(check.expected))


def _origins(result: dict[str, Any], lineage: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(name))}</td><td><code>{escape(value if isinstance(value, str) else json.dumps(value))}</code></td></tr>"
        for name, value in lineage.items()
        if value
    )
    left = [f"{leak['id']}: {leak['reason']} as training row {leak['row']}" for leak in result["leaks"]]
    left += [f"{entry['id']}: {entry['why']}" for entry in result["unscorable"]]
    listed = (
        f"<p>{len(left)} questions were left out:</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in left[:50])}</ul>"
        if left
        else "<p>No question was left out.</p>"
    )
    rouge = ", ".join(f"{_NAMES.get(role, role)} {value:.3f}" for role, value in result.get("rouge_l", {}).items())
    overlap = f"<p class=soft>ROUGE-L against the reference answers, for reading only: {rouge}.</p>" if rouge else ""
    digests = f"<details><summary>Digests</summary><table class=stack><tbody>{rows}</tbody></table></details>"
    return f"<h2>Where this comes from</h2><div class=card>{overlap}{listed}{digests}</div>"


class _Pictures:
    """Pictures as small data URLs, until the page is full; the same file is encoded once."""

    def __init__(self) -> None:
        self._seen: dict[Path, str] = {}
        self._used = 0

    def data(self, path: Path) -> str:
        if path not in self._seen and self._used < PICTURE_BYTES:
            from PIL import Image

            with Image.open(path) as picture:
                small = picture.convert("RGB")
                small.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
                buffer = io.BytesIO()
                small.save(buffer, "WEBP", quality=80)
            self._seen[path] = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            self._used += len(self._seen[path])
        return self._seen.get(path, "")


def _grouped(items: Sequence[Item]) -> list[list[Item]]:
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(item.images[0] if item.images else item.id, []).append(item)
    return list(groups.values())


def _spread(predictions: Sequence[Prediction]) -> float:
    values = [p.value for p in predictions if p.value is not None]
    return max(values) - min(values) if values else 0.0


def _criterion(name: str) -> str | None:
    number = name.removeprefix("criterion_")
    return CRITERIA.get(int(number)) if number.isdigit() else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
