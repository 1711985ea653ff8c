"""What a question family hands to the writer: phrasings, computed facts, and the pieces an answer is put together from."""

from __future__ import annotations

from collections.abc import Sequence

from sysdesign.graph import Record
from sysdesign.records import Check, Fact


class Table(Record):
    """Columns and rows as they are printed."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Asked(Record):
    """One question with its exact answer, before it becomes prose.

    All texts are grammar lines (`[a|b]`). `ask`: ways to put the question; `lead`: the answer in a sentence; `short`: the bare answer;
    `steps`: the derivation in order, each with its alternatives; `trap`: the mistake to avoid; `so`: what to do with the answer.
    `block` is a literal answer (code, boxes) that no structure may reword. Every number in a text is a fact's value.
    """

    family: str
    ask: tuple[str, ...]
    facts: tuple[Fact, ...]
    check: Check
    lead: tuple[str, ...]
    short: tuple[str, ...] = ()
    steps: tuple[tuple[str, ...], ...] = ()
    table: Table | None = None
    trap: tuple[str, ...] = ()
    so: tuple[str, ...] = ()
    block: str | None = None
    block_kind: str = ""  # "json", "mermaid" or "list": how the literal answer is written


class Facts:
    """Collects what an answer stands on, under the name of one rule."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.kept: dict[tuple[str, str], Fact] = {}

    def add(self, name: str, value: str | int | float | bool | Sequence[str], unit: str | None = None) -> None:
        """Record one value; sequences become tuples of names."""
        kept: str | int | float | bool | tuple[str, ...]
        kept = value if isinstance(value, str | int | float | bool) else tuple(value)
        key = (name, str(kept))
        if key not in self.kept:
            self.kept[key] = Fact(name=name, value=kept, unit=unit, rule=self.rule)

    def all(self) -> tuple[Fact, ...]:
        """Everything recorded, in order."""
        return tuple(self.kept.values())
