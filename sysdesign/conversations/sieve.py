"""Conversations as made -> those that may be taught, those that may not with their reasons, and a funnel that counts both.

Cheap to dear: each turn on its own, then the evaluation prompts, then the set (copies, skeletons), then a judge if there is one. Who wrote
a conversation plays no part: rules and language models meet the same sieve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sysdesign.config.conversations import ConversationsConfig
from sysdesign.conversations.checks import problem
from sysdesign.conversations.duplicates import distinct, near_copies, spoken
from sysdesign.conversations.evaluation_leaks import Leaks
from sysdesign.conversations.skeletons import skeleton
from sysdesign.conversations.words import rank
from sysdesign.prompts import HeadlinePrompt, SeedPrompt
from sysdesign.records import Conversation, DiagramRecord, Rejected

# Names that are also plain words: no evidence of a foreign component.
_WORDS = frozenset({"Go", "Swift", "Rust", "React", "Java", "Vue", "Cron", "Triton", "Dataflow"})

Judge = Callable[[Sequence[Conversation]], tuple[list[Conversation], list[Rejected]]]


@dataclass(frozen=True)
class Sieved:
    """`funnel` maps a step to how many were left after it, in order; `reasons` counts the rejects."""

    kept: list[Conversation]
    rejected: list[Rejected]
    funnel: dict[str, int]
    reasons: dict[str, int]
    near_copies: int
    largest_skeleton: int
    distinct_2: float


def sieve(
    made: Sequence[Conversation],
    diagrams: Mapping[str, DiagramRecord],
    seeds: Mapping[str, SeedPrompt],
    held_out: Sequence[HeadlinePrompt],
    cfg: ConversationsConfig,
    judge: Judge | None = None,
) -> Sieved:
    """Every check over every conversation. A conversation falls with its first bad turn: turns lean on each other.

    `judge`: what is paid for each conversation comes last.
    """
    rejected: list[Rejected] = []
    funnel = {"made": len(made)}
    elsewhere = names_elsewhere(diagrams.values())
    sources = {name: seed.model_dump_json() for name, seed in seeds.items()}

    kept: list[Conversation] = []
    for conversation in made:
        found = _first_problem(conversation, diagrams, elsewhere, sources, cfg.max_chars)
        if found is None:
            kept.append(conversation)
        else:
            rejected.append(_reject(conversation, *found))
    funnel["checked"] = len(kept)

    if cfg.decontaminate:
        leaks, clean = Leaks(held_out), []
        for conversation in kept:
            leak = leaks.found(conversation, diagrams.get(conversation.diagram_id or ""))
            if leak is None:
                clean.append(conversation)
            else:
                rejected.append(_reject(conversation, "evaluation_leak", leak))
        kept = clean
    funnel["decontaminated"] = len(kept)

    copies = near_copies([spoken(c) for c in kept], cfg.near_duplicate)
    rejected += [_reject(kept[i], "near_copy", f"of {kept[j].id}") for i, j in copies.items()]
    kept = [c for i, c in enumerate(kept) if i not in copies]
    funnel["without copies"] = len(kept)

    names = {d.id: [c.name for c in d.graph.components] for d in diagrams.values()}
    limit = max(2, int(cfg.skeleton_share * sum(len(c.turns) for c in kept)))
    counts: Counter[str] = Counter()
    varied: list[Conversation] = []
    for conversation in kept:
        shapes = [skeleton(t.answer, names.get(conversation.diagram_id or "", [])) for t in conversation.turns]
        over = next((s for s in shapes if counts[s] >= limit), None)
        if over is not None:
            rejected.append(_reject(conversation, "skeleton", over[:200]))
            continue
        counts.update(shapes)
        varied.append(conversation)
    funnel["varied"] = len(varied)
    if judge is not None:
        varied, refused = judge(varied)
        rejected += refused
        funnel["judged"] = len(varied)
        of = {c.id: names.get(c.diagram_id or "", []) for c in varied}
        counts = Counter(skeleton(t.answer, of[c.id]) for c in varied for t in c.turns)
    return Sieved(
        kept=varied,
        rejected=rejected,
        funnel=funnel,
        reasons=dict(Counter(r.reason for r in rejected).most_common()),
        near_copies=len(copies),
        largest_skeleton=max(counts.values(), default=0),
        distinct_2=distinct((t.answer for c in varied for t in c.turns), 2),
    )


def names_elsewhere(diagrams: Iterable[DiagramRecord]) -> frozenset[str]:
    """Component names and technologies of all diagrams that can not be mistaken for plain words."""
    components = [c for d in diagrams for c in d.graph.components]
    names = {c.name for c in components if " " in c.name or "-" in c.name}
    products = {c.technology for c in components if c.technology and len(c.technology) > 3 and c.technology[0].isupper()}
    small = {name.lower() for name in products if rank(name.lower()) == 0}  # "put a redis in front"
    return frozenset((names | products | small) - _WORDS)


def _first_problem(
    conversation: Conversation, diagrams: Mapping[str, DiagramRecord], elsewhere: frozenset[str], sources: Mapping[str, str], max_chars: int
) -> tuple[str, str] | None:
    diagram = diagrams.get(conversation.diagram_id) if conversation.diagram_id else None
    if conversation.diagram_id and diagram is None:
        return "format", f"no diagram {conversation.diagram_id}"
    if not conversation.turns:
        return "format", "no turn"
    source = "" if conversation.diagram_id else sources.get(conversation.seed_id, "")
    before = ""
    for turn in conversation.turns:
        found = problem(turn, diagram, elsewhere, max_chars, source, before)
        if found is not None:
            return found.reason, f"{turn.family}: {found.detail}"
        before += " " + turn.question
    return None


def _reject(conversation: Conversation, reason: str, detail: str) -> Rejected:
    return Rejected(id=conversation.id, reason=reason, detail=detail, record=conversation.model_dump(mode="json", exclude_defaults=True))
