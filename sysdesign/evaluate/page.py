"""Scores, verdict and answers -> one HTML file that needs nothing else: no script, no font, no picture from anywhere.

It reads from the decision down to the single answer. All text from models and files is escaped: an answer cannot change the page that
judges it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sysdesign.evaluate.compare_groups import Evaluation
from sysdesign.evaluate.gate import Criterion, Verdict
from sysdesign.evaluate.items import Item
from sysdesign.evaluate.judge import NEEDED_KAPPA
from sysdesign.evaluate.plots import answer_card, capital, controls, document, figure, name_of, plot, section, slices, spread
from sysdesign.evaluate.summary import Prediction, Summary

PICTURE_WIDTH = 720  # pixels; the full picture stays in its artefact
PICTURE_BYTES = 5 * 2**20  # all pictures of a page together: trackers and mail refuse larger files


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
    probes = sorted((item for item in items if item.set == "probe"), key=lambda item: (-spread(by_item[item.id]), item.id))[:shown]
    parts = [
        _top(summary, verdict, result),
        _criteria(verdict.criteria),
        section(
            "Scores on the probes",
            "Each question is scored by rules. Bars are 95 % intervals, resampled by diagram; n counts questions in diagrams.",
            plot(summary.metrics, summary.models, named=True),
        ),
        *slices(summary),
        controls(summary),
        section("Headline prompts", _judged(result), plot(summary.headline, summary.models)),
        *(_card([item], by_item, pictures) for item in headline),
        f"<h2>Probes</h2><p class=soft>{len(probes)} of {sum(i.set == 'probe' for i in items)}, those where the models differ most first; "
        "all are in <code>predictions.jsonl</code>.</p>",
        *(_card(group, by_item, pictures) for group in _grouped(probes)),
        _origins(result, lineage),
    ]
    return document(f"Evaluation: {verdict.verdict}", parts)


def comparison_page(summary: Summary, predictions: Sequence[Prediction], opened: Sequence[Evaluation], verdicts: dict[str, str]) -> str:
    """Several evaluations side by side: scores, slices, and the questions on which they differ most."""
    by_item: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_item.setdefault(prediction.id, []).append(prediction)
    badges = "".join(
        f"<tr><td>{name_of(one.name)}</td><td><span class='badge {escape(verdicts[one.name])}'>{escape(verdicts[one.name])}</span></td>"
        f"<td>{escape(one.model)}</td><td class=soft>{escape(one.made.replace('T', ' ')[:16])}</td></tr>"
        for one in opened
    )
    rows = sorted((found for found in by_item.values() if found[0].control is None), key=lambda found: (-spread(found), found[0].id))
    cards = "".join(
        f"<div class=card><h3>{escape(found[0].slices['family'])} <small class=soft>{escape(found[0].id)}</small></h3>"
        f"<p class=q>{escape(found[0].question)}</p><div class=answers>{''.join(map(answer_card, found))}</div></div>"
        for found in rows[:40]
        if spread(found) > 0
    )
    about = "On the probes that all of them were asked in the same words. Bars are 95 % intervals, resampled by diagram."
    parts = [
        f"<h1>Comparison of {len(verdicts)} evaluations</h1><div class=card><table class=stack><tbody>{badges}</tbody></table></div>",
        section("Scores on the probes", about, plot(summary.metrics, summary.models, named=True)),
        *slices(summary),
        controls(summary),
        section("Headline prompts", "", plot(summary.headline, summary.models)),
        f"<h2>Where they differ most</h2>{cards or '<p class=soft>Nowhere.</p>'}",
    ]
    return document("Comparison", parts)


def _top(summary: Summary, verdict: Verdict, result: dict[str, Any]) -> str:
    names = ", ".join(f"{name_of(m['role'])}: {escape(m['name'])}" for m in result["models"])
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    score = next((row for row in summary.metrics if row.name == "score"), None)
    unasked = "; ".join(f"{name_of(role)} {count}" for role, count in result.get("unasked", {}).items() if count)
    short = f"<p><b>Questions that did not fit the context</b>, counted as unanswered: {unasked}</p>" if unasked else ""
    lead = ""
    if score:
        lead = " · ".join(f"<b>{name_of(role)}</b> {figure(found, 'score')}" for role, found in score.estimates.items())
    return (
        f"<h1>Is the tuned model better? <span class='badge {verdict.verdict}'>{verdict.verdict}</span></h1><p class=soft>{names}</p>"
        f"<div class=card><p>Probe score: {lead}</p>{short}<ul>{reasons}</ul><p class=soft>{escape(capital(verdict.power))}. "
        f"Attempt {verdict.attempt} on these questions, so the error rate is {verdict.alpha:.2%}.</p></div>"
    )


def _criteria(criteria: Iterable[Criterion]) -> str:
    rows = []
    for criterion in criteria:
        kind, word = (
            ("bad", "fails") if criterion.harm
            else ("good", "holds") if criterion.passed
            else ("soft", "waived") if criterion.waived
            else ("unsure", "open")
        )  # fmt: skip
        rows.append(
            f"<tr><td class='mark {kind}'>{word}</td><td>{escape(capital(criterion.name))}</td>"
            f"<td class=soft>{escape(criterion.detail)}</td></tr>"
        )
    return f"<h2>What the verdict stands on</h2><div class=card><table class=stack><tbody>{''.join(rows)}</tbody></table></div>"


def _judged(result: dict[str, Any]) -> str:
    judge = result.get("judge")
    rules = "Checks and the rule part of the rubric; rules see what is written, not whether it convinces. "
    if not isinstance(judge, dict):
        return rules + "No judge was run."
    kappa = judge["agreement"]
    trusted = "not tried on labelled pairs" if kappa is None else f"kappa {kappa:.2f} with {judge['pairs']} labelled pairs"
    if not judge["usable"]:
        return f"{rules}The judge {judge['model']} gave {judge['nonsense']} unusable replies of {judge['calls']}: it decides nothing."
    weight = "" if kappa is not None and kappa >= NEEDED_KAPPA else "; below 0.6, so it decides nothing"
    wins = f"the tuned answer preferred in {judge['won']:g} of {judge['decided']}, ties split ({judge['ties']})"
    return f"{rules}Judge {judge['model']}: {wins}; {trusted}{weight}."


def _card(group: Sequence[Item], by_item: dict[str, list[Prediction]], pictures: _Pictures) -> str:
    image = next((path for item in group for path in item.images), None)
    data = pictures.data(image) if image else ""
    picture = f"<div><img loading=lazy alt='The diagram that the question is about' src='{data}'></div>" if data else ""
    questions = "".join(_question(item, by_item[item.id]) for item in group)
    first = group[0]
    title = escape(
        " · ".join(dict.fromkeys(v.replace("_", " ") for k, v in first.slices.items() if k in ("style", "style seen", "size", "domain")))
    )
    kind = "item" if data else "item plain"
    return f"<div class=card><p class=soft><small>{title}</small></p><div class='{kind}'>{picture}<div>{questions}</div></div></div>"


def _question(item: Item, predictions: Sequence[Prediction]) -> str:
    kind = capital(item.slices["family"].replace("_", " "))
    answers = "".join(answer_card(prediction) for prediction in predictions)
    truth = _truth(item)
    return (
        f"<div class=question><h3>{escape(kind)} <small class=soft>{escape(item.id)}</small></h3>"
        f"<p class=q>{escape(item.question)}</p>"
        f"{f'<p class=truth><b>Truth</b> {truth}</p>' if truth else ''}<div class=answers>{answers}</div></div>"
    )


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
        names = ", ".join(str(c.get("name")) for c in check.expected["components"])
        arrows = ", ".join(f"{e.get('src')} → {e.get('dst')}" for e in check.expected["edges"])
        counted = f"{len(check.expected['components'])} components: {names}; {len(check.expected['edges'])} arrows: {arrows or 'none'}"
        return escape(counted)
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
    rouge = ", ".join(f"{name_of(role)} {value:.3f}" for role, value in result.get("rouge_l", {}).items())
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
