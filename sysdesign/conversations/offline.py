"""The offline teacher: a diagram and a random stream in, conversations with provably right answers out.

Families take turns so that each is asked about equally often; a shape or phrasing whose skeleton has had its share of the set is drawn
again. Nothing here knows a language model, a key or a network.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from sysdesign.conversations.asked import Asked
from sysdesign.conversations.families.catalogue import FAMILIES, LOAD_FAMILIES
from sysdesign.conversations.families.doubled import more_load
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.skeletons import skeleton
from sysdesign.conversations.structures import answer, fitting, stated
from sysdesign.conversations.view import View
from sysdesign.records import Conversation, DiagramRecord, Turn

TEACHER = "rules-v1"
_LINKS = (
    "[And|Next|Then]: ", "[Same diagram|Still this diagram|Staying with the "
    "picture]: ", "[Another question|One more|A follow-up]: ", "", "", "[Now|Also]: ",
)  # fmt: skip


class OfflineTeacher:
    """Keeps the counts that balance a whole set; `converse` must be called in a fixed order to be reproducible."""

    name = TEACHER

    def __init__(self, families: Sequence[str], *, max_turns: int, skeleton_cap: int, shapes: Sequence[str] = ()) -> None:
        """`shapes`: the only answer shapes to use where an answer has one of them; empty for all."""
        self.families = {name: FAMILIES[name] for name in families}
        self.max_turns = max_turns
        self.shapes = frozenset(shapes)
        self.skeleton_cap = skeleton_cap
        self.asked: Counter[str] = Counter()
        self.skeletons: Counter[str] = Counter()
        self.structures: Counter[tuple[str, str]] = Counter()

    def converse(self, diagram: DiagramRecord, conversation_id: str, rng: random.Random, avoid: set[str]) -> Conversation | None:
        """One conversation of 1 to `max_turns` turns; families in `avoid` are not opened again, and the one opened is added.

        None when nothing (more) can be asked about this diagram.
        """
        view = View.of(diagram)
        if view.ambiguous():
            return None
        length = rng.choices(range(1, self.max_turns + 1), weights=[4, 3, 2, 1, 1, 1, 1, 1][: self.max_turns])[0]
        turns: list[Turn] = []
        used: set[str] = set()
        while len(turns) < length:
            opened = self._open(view, rng, avoid | used, first=not turns)
            if opened is None and not turns:  # every family was asked about this diagram: ask one again, about something else in it
                opened = self._open(view, rng, set(), first=True)
            if opened is None:
                break
            name, turn = opened
            used.add(name)
            if not turns:
                avoid.add(name)
            turns.append(turn)
            if name in LOAD_FAMILIES and len(turns) < length and rng.random() < 0.7:
                follow = self._follow(view, name, rng)
                if follow is not None:
                    turns.append(follow)
        if not turns:
            return None
        return Conversation(
            id=conversation_id, diagram_id=diagram.id, seed_id=diagram.seed_id, provider="offline", teacher=TEACHER, turns=tuple(turns)
        )

    def _open(self, view: View, rng: random.Random, avoid: set[str], first: bool) -> tuple[str, Turn] | None:
        names = [n for n in self.families if n not in avoid]
        names.sort(key=lambda n: (self.asked[n], rng.random()))
        for name in names:
            turn = self._turn(name, view, rng, "" if first else rng.choice(_LINKS))
            if turn is not None:
                self.asked[name] += 1
                return name, turn
        return None

    def _turn(self, name: str, view: View, rng: random.Random, link: str) -> Turn | None:
        for _ in range(4):
            fresh, pen = view.fresh(), Pen(rng)
            asked = self.families[name](fresh, pen)
            if asked is None:
                return None
            if fresh.too_much():
                continue
            turn = self._write(asked, fresh, pen, link)
            if turn is not None:
                return turn
        return None

    def _follow(self, view: View, name: str, rng: random.Random) -> Turn | None:
        for _ in range(4):
            pen = Pen(rng)
            changed = more_load(view, pen)
            asked = self.families[name](changed.view, pen)
            if asked is None:
                return None
            if changed.view.too_much():
                continue
            turn = self._write(asked, changed.view, pen, changed.said)
            if turn is not None:
                return turn
        return None

    def _write(self, asked: Asked, view: View, pen: Pen, link: str) -> Turn | None:
        """Prose in the least used shape whose skeleton still has room; None when all that were tried are full."""
        wanted = [s for s in fitting(asked) if s in self.shapes] or fitting(asked)
        shapes = sorted(wanted, key=lambda s: (self.structures[asked.family, s], pen.rng.random()))
        for shape in (*shapes[:4], *shapes[:2]):
            text = answer(asked, shape, pen)
            parts = [pen.say(asked.ask), view.given(pen)]
            if pen.rng.random() < 0.25:
                parts.reverse()
            question = pen.say(link) + " ".join(part for part in parts if part)
            names = list(view.names.values())
            shape_of = skeleton(text, names)
            if self.skeletons[shape_of] >= self.skeleton_cap:
                continue
            self.skeletons[shape_of] += 1
            self.structures[asked.family, shape] += 1
            return Turn(
                question=question, answer=text, family=asked.family, structure=shape, facts=stated(asked.facts, text), check=asked.check
            )
        return None
