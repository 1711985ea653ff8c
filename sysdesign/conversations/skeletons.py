"""The skeleton of a text: what is left when names and numbers are masked. Two answers of one skeleton teach one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def skeleton(text: str, names: Iterable[str]) -> str:
    """Lower case, every name `@`, every number `#`; lists of names of any length look alike, white space does not count."""
    masked = text.lower()
    known = sorted({n.lower() for n in names}, key=len, reverse=True)
    if known:
        masked = re.sub("|".join(map(re.escape, known)), "@", masked)
    masked = _NUMBER.sub("#", masked)
    masked = re.sub(r"@(?:(?:, | and |; | -> |, then )@)+", "@@", masked)
    return re.sub(r"\s+", " ", masked).strip()
