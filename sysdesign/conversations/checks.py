"""One turn -> the reason why it must not be taught, or nothing. Cheap checks first; every check reads the text, never the writer's plan.

Format, then the block (JSON, Mermaid, arrows, boxes parsed back), then names, then numbers: every number printed must be a fact, stated
in the question or visible, every fact kept with the turn must be in the text, and what a fact quotes from the picture must be drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from sysdesign.conversations.names import foreign_names
from sysdesign.conversations.slots import matches, printed_numbers, states, wrong_equations
from sysdesign.graph import Record
from sysdesign.records import DiagramRecord, Turn


class Problem(Record):
    """A short reason that a funnel can count, and what was found."""

    reason: str
    detail: str


_SPECIAL = re.compile(r"<\|[a-z_]+\|>|</?(?:s|think|tool_call)>")
_REFUSAL = re.compile(
    r"\b(?:i'm sorry|i am sorry|i apologi[sz]e|as an ai|as a language model|i can(?:no|')t (?:help|assist)|i'm unable|i am unable|"
    r"the (?:draft|task|json data|provided data|given facts))\b",
    re.IGNORECASE,
)
_BLOCKS = frozenset({"extract_graph", "locate"})
# A fact that quotes the picture, by the start of its name, and the field it quotes.
_QUOTED = {
    "replicas of ": "replicas", "capacity per replica of ": "capacity_qps", "price per replica of ": "cost_usd", "p99 of ": "p99_ms",
    "availability of one replica of ": "availability", "technology of ": "technology",
}  # fmt: skip


def problem(
    turn: Turn, diagram: DiagramRecord | None, elsewhere: Collection[str], max_chars: int, source: str = "", before: str = ""
) -> Problem | None:
    """The first reason against this turn.

    `elsewhere`: names of components of other diagrams; `source`: text whose numbers a text-only answer may quote (its seed prompt);
    `before`: the questions of earlier turns, whose statements still hold.
    """
    found = _format(turn, max_chars)
    if found is None and turn.family in _BLOCKS:
        return _block(turn)
    if found is None and diagram is not None:
        found = _names(turn, diagram, elsewhere, before)
    return found or _numbers(turn, source + " " + before) or (_visible(turn, diagram, before) if diagram is not None else None)


def _format(turn: Turn, max_chars: int) -> Problem | None:
    for what, text in (("question", turn.question), ("answer", turn.answer)):
        if not text.strip():
            return Problem(reason="format", detail=f"empty {what}")
        if _SPECIAL.search(text):
            return Problem(reason="format", detail=f"control token in the {what}")
    if len(turn.answer) > max_chars:
        return Problem(reason="length", detail=f"{len(turn.answer)} characters")
    if (refused := _REFUSAL.search(turn.answer)) is not None:
        return Problem(reason="refusal", detail=refused.group(0))
    if re.search(r"\{[a-z_]*\}|\[[^\]\[]*\|[^\]\[]*\]", turn.question):
        return Problem(reason="format", detail="unexpanded grammar")
    return None


def _names(turn: Turn, diagram: DiagramRecord, elsewhere: Collection[str], before: str) -> Problem | None:
    graph = diagram.graph
    known = [c.name for c in graph.components] + [z.name for z in graph.zones] + [f.name for f in graph.flows]
    known += [c.technology for c in graph.components if c.technology]
    foreign = foreign_names(turn.answer, known, elsewhere, turn.question + " " + before)
    return Problem(reason="foreign_name", detail="; ".join(foreign)) if foreign else None


def _numbers(turn: Turn, source: str) -> Problem | None:
    for fact in turn.facts:
        if not states(turn.answer, fact):
            return Problem(reason="missing_fact", detail=f"{fact.name} = {fact.value}")
    if (lacking := _result(turn)) is not None:
        return lacking
    if wrong := [equation for equation in wrong_equations(turn.answer) if equation not in source]:  # a seed may write "62^7 = 3.5 trillion"
        return Problem(reason="wrong_arithmetic", detail="; ".join(wrong))
    allowed = [float(f.value) for f in turn.facts if isinstance(f.value, int | float) and not isinstance(f.value, bool)]
    if turn.check.kind == "number":
        allowed.append(float(turn.check.expected))
    allowed += [len(f.value) for f in turn.facts if isinstance(f.value, tuple)]
    allowed += [value for _, value, _ in printed_numbers(turn.question + " " + source)]
    allowed += [
        value
        for f in turn.facts
        for text in ((f.value,) if isinstance(f.value, str) else f.value if isinstance(f.value, tuple) else ())
        for _, value, _ in printed_numbers(text)
    ]
    for printed, value, half in printed_numbers(turn.answer):
        if not any(matches(value, half, a) or matches(value, half, a / 100) for a in allowed) and printed not in (
            "100%",
            "100 %",
            "0",
            "1",
        ):
            return Problem(reason="foreign_number", detail=printed)
    return None


def _result(turn: Turn) -> Problem | None:
    """The answer must hold what it will be scored by."""
    expected, text = turn.check.expected, turn.answer
    if turn.check.kind == "number":
        targets = [float(expected), float(expected) / 100] if turn.check.unit == "%" else [float(expected)]
        if not any(matches(v, h, t) for _, v, h in printed_numbers(text) for t in targets):
            return Problem(reason="missing_result", detail=str(expected))
    elif turn.check.kind == "set":
        missing = [name for name in expected if name.lower() not in text.lower()]
        if missing:
            return Problem(reason="missing_result", detail=", ".join(missing))
        if not expected and not re.search(r"\b(?:none|no|nothing)\b|\[\]", text, re.IGNORECASE):
            return Problem(reason="missing_result", detail="none")
    elif turn.check.kind == "choice":
        word = str(expected).lower()
        if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w])", text.lower()):
            return Problem(reason="missing_result", detail=word)
        other = {"yes": "no", "no": "yes", "synchronous": "asynchronous", "asynchronous": "synchronous"}.get(word)
        if word in ("yes", "no") and re.match(rf"\W*{other}\b", text.lower()):
            return Problem(reason="missing_result", detail=f"answers {other}")
    elif turn.check.kind == "edges":
        missing = [f"{a} -> {b}" for a, b in expected if a.lower() not in text.lower() or b.lower() not in text.lower()]
        if missing:
            return Problem(reason="missing_result", detail="; ".join(missing))
    elif turn.check.kind == "reject" and not re.search(r"\b(?:no|not|does not|cannot|isn't|none)\b", text, re.IGNORECASE):
        return Problem(reason="missing_result", detail="the false premise is not rejected")
    return None


def _visible(turn: Turn, diagram: DiagramRecord, before: str) -> Problem | None:
    """Every value quoted from the picture is drawn there, or the question states it."""
    ids, visible, said = (
        {c.name: c.id for c in diagram.graph.components},
        set(diagram.visible),
        printed_numbers(turn.question + " " + before),
    )
    for fact in turn.facts:
        for start, field in _QUOTED.items():
            if (
                not fact.name.startswith(start)
                or fact.name[len(start) :] not in ids
                or f"{ids[fact.name[len(start) :]]}.{field}" in visible
            ):
                continue
            value = fact.value
            if isinstance(value, str) or not isinstance(value, int | float) or not any(matches(v, h, value) for _, v, h in said):
                return Problem(reason="not_visible", detail=fact.name)
    return None


def _block(turn: Turn) -> Problem | None:
    """The literal answer, parsed back, must be the expected graph or boxes."""
    if turn.check.kind == "boxes":
        for name, box in turn.check.expected.items():
            # "Game Server: (1,2)" is not the box of "Game Server Store": no other name may begin with what is looked for
            at = re.search(rf"(?<!\w){re.escape(name)}(?! ?\w)", turn.answer)
            numbers = [int(n) for n in re.findall(r"\d+", turn.answer[at.end() :])[:4]] if at else []
            if numbers != list(box):
                return Problem(reason="wrong_block", detail=f"box of {name}")
        return None
    want = {(e["src"], e["dst"]) for e in turn.check.expected["edges"]}
    have = arrows_in(turn.answer)
    return None if have == want else Problem(reason="wrong_block", detail=f"{len(have ^ want)} arrows differ")


def arrows_in(text: str) -> set[tuple[str, str]]:
    """Arrows of a JSON, Mermaid or `a -> b` block; empty when it does not parse."""
    if (fenced := re.search(r"```json\n(.*?)```", text, re.DOTALL)) is not None:
        try:
            return {(e["src"], e["dst"]) for e in json.loads(fenced.group(1))["edges"]}
        except (ValueError, KeyError, TypeError):
            return set()
    if "flowchart" in text:
        names = dict(re.findall(r'(n\d+)\["(.*?)"\]', text))
        pairs = re.findall(r'^\s*(n\d+)(?:\[".*?"\])? -> (n\d+)', text.replace("-.->", "-->").replace("-->", "->"), re.MULTILINE)
        return {(names.get(a, a), names.get(b, b)) for a, b in pairs}
    return {(a.strip(), b.strip()) for line in text.splitlines() if " -> " in line for a, b in [line.split(" -> ", 1)]}
