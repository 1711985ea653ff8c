"""Numbers -> the parts that evaluation pages are built of: sections, points with intervals on a scale, tables of controls, answers.

Plots are plain HTML and CSS, so they shrink to a phone and need no script. Text from models and files is escaped here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from sysdesign.evaluate.bootstrap import Estimate
from sysdesign.evaluate.rubric import TITLES as CRITERIA
from sysdesign.evaluate.summary import LOWER_IS_BETTER, TITLES, Prediction, Row, Summary

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
    "size": "Number of components",
    "nesting": "Nesting of zones",
}


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page around `parts`, with its style inside."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def slices(summary: Summary) -> list[str]:
    """One plot for every slice that splits the probes."""
    order = list(_SLICES)
    named = sorted(summary.slices.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    return [
        section(f"By {_SLICES.get(name, name).lower()}", "Probe score in each group.", plot(rows, summary.models))
        for name, rows in named
        if len(rows) > 1
    ]


def name_of(model: str) -> str:
    """What a model is called on a page."""
    return _NAMES.get(model) or escape(model)


def _colour(model: str) -> str:
    """Its colour, as a style; models without a role get one from their name."""
    return f"--c:var(--{model})" if model in _NAMES else f"--c:hsl({zlib.crc32(model.encode()) % 360} 60% 42%)"


def section(title: str, about: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2><p class=soft>{escape(about)}</p><div class=card>{body}</div>" if body else ""


def plot(rows: Sequence[Row], models: Sequence[str], *, named: bool = False) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows:
        label = (TITLES.get(row.name) or _criterion(row.name) or row.name) if named else row.name
        counts = next(iter(row.estimates.values()))
        hint = " <small class=soft>lower is better</small>" if row.name in LOWER_IS_BETTER else ""
        unit = 4.0 if row.name.startswith("criterion_") else 1.0
        marks = "".join(_mark(row.estimates[m], m, index, len(models), unit) for index, m in enumerate(models) if m in row.estimates)
        lines = "<br>".join(
            f"<i class='dot mark' style='{_colour(m)}'></i>{figure(row.estimates[m], row.name)}" for m in models if m in row.estimates
        )
        unscored = f", {counts.unscored} unscored" if counts.unscored and row.name == "score" else ""
        cells.append(
            f"<div class=row><div class=name>{escape(capital(label.replace('_', ' ')))}{hint}<br>"
            f"<small class=soft>n {counts.n} in {counts.clusters}{unscored}</small></div>"
            f"<div class=track>{marks}</div><div class=numbers>{lines}</div></div>"
        )
    key = "".join(f"<span class=key><i style='{_colour(m)}'></i>{name_of(m)}</span>" for m in models)
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
        bar = f"<span class=bar style='{_colour(model)};left:{low:.1f}%;width:{max(high - low, 0.3):.1f}%;top:{middle - 2:.0f}px'></span>"
    return f"{bar}<span class=dot style='{_colour(model)};left:{at:.1f}%;top:{middle - 5:.0f}px'></span>"


def figure(found: Estimate, name: str) -> str:
    interval = f" <span class=soft>[{found.low:.2f}, {found.high:.2f}]</span>" if found.low is not None and found.high is not None else ""
    return f"{found.mean:.3f}{interval}" if not name.startswith("criterion_") else f"{found.mean:.1f} of 4"


def controls(summary: Summary) -> str:
    if not summary.controls:
        return section("Controls", "No control was asked: evaluate.controls is 0, or no probe has a picture.", "")
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
            found = row.estimates[model]
            rows.append(
                f"<tr><td>{_CONTROLS[row.name]} <small class=soft>n {found.n} in {found.clusters}</small></td>"
                f"<td>{name_of(model)}</td><td>{figure(found, row.name)}</td>"
                f"<td>{f'{gap.mean:+.3f}{ci}' if gap else '<span class=soft>none</span>'}</td></tr>"
            )
    head = "<thead><tr><th>Control</th><th>Model</th><th>Score</th><th>What the plain question scores more</th></tr></thead>"
    about = (
        "The same questions, asked so that a cheat shows. Without the picture a model that looks must fall; with the graph as text only "
        "faults of "
        "reasoning remain; with permuted names a model that answers from habit falls; what is not there must be denied."
    )
    return f"<h2>Controls</h2><p class=soft>{about}</p><div class='card wide'><table>{head}<tbody>{''.join(rows)}</tbody></table></div>"


def answer_card(prediction: Prediction) -> str:
    value = "unscored" if prediction.value is None else f"{prediction.value:.2f}"
    kind = "soft" if prediction.value is None else "good" if prediction.value > 0.99 else "bad" if prediction.value < 0.5 else "unsure"
    faults = f"<p class=soft><small>{escape('; '.join(prediction.faults))}</small></p>" if prediction.faults else ""
    text = escape(prediction.answer) or f"<span class=soft>({'not asked' if prediction.unasked else 'no answer'})</span>"
    role = prediction.model
    name = name_of(role)
    return (
        f"<div class=answer style='{_colour(role)}'><b>{name}</b> <span class='mark {kind}'>{value}</span><pre>{text}</pre>{faults}</div>"
    )


def spread(predictions: Sequence[Prediction]) -> float:
    values = [p.value for p in predictions if p.value is not None]
    return max(values) - min(values) if values else 0.0


def _criterion(name: str) -> str | None:
    number = name.removeprefix("criterion_")
    return CRITERIA.get(int(number)) if number.isdigit() else None


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
