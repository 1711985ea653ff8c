"""One `Asked` -> the text of an answer, in one of nine shapes, with the facts that the text states.

A shape says how an answer is built (value only, steps, table, JSON, the mistake first, ...); the words come from grammar lines. A fact is
kept with a turn only if the text states it, so that a checker can demand every kept fact and evaluation can score it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from sysdesign.conversations.asked import Asked
from sysdesign.conversations.pen import Pen, plain_number
from sysdesign.records import Fact

_BLOCK_LEADS = {
    "json": ("[Here is the graph|The graph|As JSON|The transcription|Components and arrows][ as JSON|]:", ""),
    "mermaid": ("[Here is the flowchart|As Mermaid|The flowchart|The diagram in Mermaid]:", ""),
    "list": ("[The arrows|Arrows, in drawing order|As a list|Who calls whom]:", ""),
    "boxes": ("[Boxes in thousandths|Here|Located|On a 0-1000 scale]:", ""),
}


def answer(asked: Asked, structure: str, pen: Pen) -> str:
    """The answer in that shape; `structure` must be one of `fitting(asked)`."""
    if asked.block is not None:
        lead = pen.say(_BLOCK_LEADS[asked.block_kind])
        return f"{lead}\n{asked.block}" if lead and structure == "block" else asked.block
    return STRUCTURES[structure](asked, pen)


def fitting(asked: Asked) -> tuple[str, ...]:
    """The shapes that this answer has the material for."""
    if asked.block is not None:
        return ("block", "bare_block")
    return tuple(
        name
        for name, wanted in (
            ("direct", True),
            ("short", bool(asked.short)),
            ("steps", len(asked.steps) >= 2),
            ("because", bool(asked.steps) and len(asked.steps) <= 4),
            ("table", asked.table is not None and len(asked.table.rows) >= 2),
            ("json", asked.check.kind in ("number", "set", "choice")),
            ("trap_first", bool(asked.trap)),
            ("bullets", len(asked.steps) >= 2),
            ("advice", bool(asked.so)),
        )
        if wanted
    )


def stated(facts: tuple[Fact, ...], text: str) -> tuple[Fact, ...]:
    """The facts whose value the text states."""
    from sysdesign.conversations.slots import states

    return tuple(f for f in facts if states(text, f))


def _direct(a: Asked, pen: Pen) -> str:
    return pen.say(a.lead)


def _short(a: Asked, pen: Pen) -> str:
    return pen.say(a.short)


def _steps(a: Asked, pen: Pen) -> str:
    """Numbered derivation, conclusion last."""
    opening = pen.say(("[Step by step|Worked through|In order|One thing at a time|Derivation|Working]:", ""))
    mark = pen.rng.choice(("{}. ", "{}) ", "Step {}: "))
    lines = [mark.format(i) + pen.say(s) for i, s in enumerate(a.steps, 1)]
    end = pen.say(("[So|Therefore|Hence|Result|Answer|Conclusion]: ", "", "[=> |-> ]")) + pen.say(a.lead)
    return "\n".join([*([opening] if opening else []), *lines, end])


def _because(a: Asked, pen: Pen) -> str:
    """Conclusion, then the reasons in one paragraph."""
    reasons = " ".join(pen.say(s) for s in a.steps)
    return f"{pen.say(a.lead)} {pen.say(('', '', '[Why|Reason|The reasoning|How]: ', '[Worked out|In numbers|In detail]: '))}{reasons}"


def _table(a: Asked, pen: Pen) -> str:
    """A markdown table, conclusion before or after."""
    if a.table is None:
        raise ValueError(f"{a.family} has no table")
    head = [pen.say(h) for h in a.table.header]
    rows = [head, ["---"] * len(head), *([pen.say(cell) for cell in row] for row in a.table.rows)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    lead = pen.say(a.lead)
    return f"{lead}\n\n{table}" if pen.rng.random() < 0.5 else f"{table}\n\n{lead}"


def _json(a: Asked, pen: Pen) -> str:
    """An object for a program: the answer, its unit, and some of the facts it stands on."""
    expected = a.check.expected
    value = round(expected, 6) if isinstance(expected, float) else expected
    if isinstance(value, float) and abs(value) >= 1e-3:
        value = float(plain_number(value, 9 if a.check.unit == "%" and value > 99 else 5))
        value = int(value) if value == int(value) else value
    key = pen.rng.choice(("answer", "result", "value")) if a.check.kind != "set" else pen.rng.choice(("answer", "components", "names"))
    found: dict[str, object] = {key: value}
    if a.check.unit:
        found["unit"] = a.check.unit
    extra = [f for f in a.facts if isinstance(f.value, int | float) and not isinstance(f.value, bool)]
    for fact in extra[: pen.rng.randint(0, 4)]:
        if fact.value != expected and isinstance(fact.value, int | float):
            number = float(plain_number(float(fact.value), 6)) if 0 < abs(fact.value) < 1e7 else fact.value
            found[fact.name.replace(" ", "_")] = int(number) if number == int(number) else number
    text = json.dumps(found, ensure_ascii=False, indent=pen.rng.choice((None, 2)))
    return f"```json\n{text}\n```" if pen.rng.random() < 0.5 else text


def _trap_first(a: Asked, pen: Pen) -> str:
    """The likely mistake, then the answer, with or without its derivation."""
    trap = pen.say(("[Careful|Mind|A trap here|First, a caution|Note first|Easily missed]: ", "")) + pen.say(a.trap)
    middle = " ".join(pen.say(s) for s in a.steps) if a.steps and len(a.steps) <= 4 and pen.rng.random() < 0.6 else ""
    return " ".join(part for part in (trap, middle, pen.say(a.lead)) if part)


def _bullets(a: Asked, pen: Pen) -> str:
    """Conclusion in front, evidence as a list."""
    mark = pen.rng.choice(("- ", "* ", "- "))
    return "\n".join([pen.say(a.lead), *(mark + pen.say(s) for s in a.steps)])


def _advice(a: Asked, pen: Pen) -> str:
    """Answer, what to do about it, sometimes the caution."""
    parts = [pen.say(a.lead), pen.say(a.so)]
    if a.trap and pen.rng.random() < 0.4:
        parts.append(pen.say(a.trap))
    return " ".join(parts)


STRUCTURES: dict[str, Callable[[Asked, Pen], str]] = {
    "direct": _direct,
    "short": _short,
    "steps": _steps,
    "because": _because,
    "table": _table,
    "json": _json,
    "trap_first": _trap_first,
    "bullets": _bullets,
    "advice": _advice,
}
SHAPES = (*STRUCTURES, "block", "bare_block")
