"""Conversations against the held-out evaluation prompts: what shares their words or their graph must not be taught."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sysdesign.prompts import HeadlinePrompt
from sysdesign.records import Conversation, DiagramRecord

SHARED_GRAM = 13  # words in a row, after Brown et al. (GPT-3, 2020), appendix C
CONTAINED_GRAM, CONTAINED_SHARE = 8, 0.5


class Leaks:
    """The evaluation prompts as n-grams and graph identities."""

    def __init__(self, prompts: Sequence[HeadlinePrompt]) -> None:
        texts = [_words(p.prompt) for p in prompts]
        self.long = {g: p.id for p, t in zip(prompts, texts, strict=True) for g in _grams(t, SHARED_GRAM)}
        self.short = {p.id: frozenset(_grams(t, CONTAINED_GRAM)) for p, t in zip(prompts, texts, strict=True)}
        self.graphs = {p.graph.sha256(): p.id for p in prompts if p.graph is not None}

    def found(self, conversation: Conversation, diagram: DiagramRecord | None) -> str | None:
        """Which evaluation prompt this gives away, and how; None if none."""
        if diagram is not None and diagram.graph_sha256 in self.graphs:
            return f"graph of {self.graphs[diagram.graph_sha256]}"
        for turn in conversation.turns:
            for text in (turn.question, turn.answer):
                tokens = _words(text)
                hit = next((self.long[g] for g in _grams(tokens, SHARED_GRAM) if g in self.long), None)
                if hit is not None:
                    return f"{SHARED_GRAM} words in a row of {hit}"
                ours = set(_grams(tokens, CONTAINED_GRAM))
                for name, theirs in self.short.items():
                    if theirs and len(ours & theirs) > CONTAINED_SHARE * len(theirs):
                        return f"over half of the {CONTAINED_GRAM}-grams of {name}"
        return None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(tokens: Sequence[str], n: int) -> list[str]:
    return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
