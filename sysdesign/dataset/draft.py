"""A conversation and its diagram -> a row in chat format, not yet compiled: who says what, over which picture, in which split."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sysdesign.dataset.diagrams import DiagramIndex
from sysdesign.dataset.pictures import Picture
from sysdesign.dataset.splits import Split, split_seed
from sysdesign.models.rows import Unfit
from sysdesign.records import Check, Conversation, Row

_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Draft:
    """A row whose token counts are still 0, the sizes of its pictures, and whether it is a probe."""

    row: Row
    pictures: tuple[Picture, ...]
    probe: bool = False


@dataclass(frozen=True)
class Splits:
    """What decides where a conversation goes."""

    topologies: Mapping[str, Split]
    barred: Collection[str]  # topologies of the headline pictures: in no split at all
    val_share: float
    test_share: float
    seed: int


def draft_rows(
    conversation: Conversation, diagrams: DiagramIndex, pictures: Mapping[str, Picture | Unfit], splits: Splits, system: str
) -> list[Draft]:
    """The row of a conversation and, in the test split, the probe of its first question if that is scored without a judge.

    Raises Unfit: no such diagram, an unusable picture, a graph of the held-out prompts, text that cannot be trained on.
    """
    if not conversation.turns:
        raise Unfit("no_turns", "a conversation needs a question and an answer")
    picture: Picture | None = None
    about: dict[str, Any] = {"seed_id": conversation.seed_id, "provider": conversation.provider, "conversation_id": conversation.id}
    graph = None
    if conversation.diagram_id is None:
        split = split_seed(conversation.seed_id, splits.val_share, splits.test_share, splits.seed)
    else:
        info = diagrams.get(conversation.diagram_id)
        if info is None:
            raise Unfit("no_diagram", f"no diagram has the id {conversation.diagram_id}")
        if info.topology in splits.barred:
            raise Unfit("headline_topology", "wired like a held-out evaluation prompt")
        found = pictures[info.id]
        if isinstance(found, Unfit):
            raise found
        picture, split = found, splits.topologies[info.topology]
        if split == "test":
            graph = diagrams.graph(info)
        about |= {"diagram_id": info.id, "graph_sha256": info.graph_sha256, "topology": info.topology, "style": info.style}
    messages: list[dict[str, Any]] = [say("system", system)]
    for number, turn in enumerate(conversation.turns):
        messages.append(say("user", checked(turn.question), 1 if picture and number == 0 else 0))
        messages.append(say("assistant", checked(turn.answer)))
    last = conversation.turns[-1]
    shared = {"split": split, "graph": graph, "images": (f"images/{picture.name}",) if picture else (), **about}
    facts = tuple(fact for turn in conversation.turns for fact in turn.facts)
    row = Row(id=conversation.id, messages=tuple(messages), family=last.family, check=last.check, facts=facts, **shared)
    sizes = (picture,) if picture else ()
    drafts = [Draft(row, sizes)]
    first = conversation.turns[0]
    if split == "test" and picture and scorable(first.check):
        probe = Row(
            id=f"{conversation.id}.1", messages=tuple(messages[:3]), family=first.family, check=first.check, facts=first.facts, **shared
        )
        drafts.append(Draft(probe, sizes, probe=True))
    return drafts


def say(role: str, text: str, images: int = 0) -> dict[str, Any]:
    """One message; pictures stand before the text."""
    return {"role": role, "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]}


def checked(text: str) -> str:
    """`text` as it is. Raises Unfit when it is empty or holds what no file and no terminal takes."""
    if not text.strip():
        raise Unfit("empty_text", "a question or an answer is empty")
    if bad := _UNWRITABLE.search(text):
        raise Unfit("bad_text", f"holds the control character or lone surrogate U+{ord(bad[0]):04X}")
    return text


def scorable(check: Check) -> bool:
    """Whether an answer is scored without a judge."""
    return check.kind != "text" and check.expected is not None
