"""A set of texts -> near copies, over-used skeletons and how varied the set is."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from sysdesign.conversations.skeletons import skeleton
from sysdesign.records import Conversation

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-case words and signs; numbers are words."""
    return _WORD.findall(text.lower())


def shingles(text: str, n: int = 3) -> frozenset[int]:
    """Hashes of the text's word n-grams; a text shorter than n is one shingle."""
    tokens = words(text)
    grams = [" ".join(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))]
    return frozenset(int.from_bytes(hashlib.blake2b(g.encode(), digest_size=8).digest(), "big") for g in grams)


def spoken(conversation: Conversation) -> str:
    """Everything said, as one text."""
    return "\n".join(f"{t.question}\n{t.answer}" for t in conversation.turns)


def near_copies(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Index of each text that is nearly a copy of an earlier kept one -> that one.

    Exact 3-gram Jaccard, no sketches: a prefix filter finds every pair that can reach the threshold (Chaudhuri et al., ICDE 2006) and
    each is then measured. Threshold 1 finds equal texts only.
    """
    sets = [shingles(t) for t in texts]
    frequency: Counter[int] = Counter(s for found in sets for s in found)
    index: dict[int, list[int]] = {}
    copies: dict[int, int] = {}
    for i, found in enumerate(sets):
        ordered = sorted(found, key=lambda s: (frequency[s], s))
        prefix = ordered[: len(ordered) - int(threshold * len(ordered) - 1e-9)] or ordered[:1]
        if threshold >= 1:
            prefix = ordered[:1]
        for j in dict.fromkeys(c for s in prefix for c in index.get(s, ())):
            shared = len(found & sets[j])
            if shared >= threshold * (len(found) + len(sets[j]) - shared) - 1e-9:
                copies[i] = j
                break
        else:
            for s in prefix:
                index.setdefault(s, []).append(i)
    return copies


def distinct(texts: Iterable[str], n: int) -> float:
    """Different word n-grams over all word n-grams (Li et al., NAACL 2016)."""
    seen: set[str] = set()
    total = 0
    for text in texts:
        tokens = re.findall(r"\w+", text.lower())
        for i in range(len(tokens) - n + 1):
            seen.add(" ".join(tokens[i : i + n]))
            total += 1
    return len(seen) / total if total else 0.0


def skeleton_counts(conversations: Iterable[Conversation], names: dict[str, list[str]]) -> Counter[str]:
    """How often each skeleton answers; `names`: component names by diagram id."""
    return Counter(skeleton(t.answer, names.get(c.diagram_id or "", [])) for c in conversations for t in c.turns)
