"""Prose -> its sentences, and which of several candidate statements is the answer.

Answers lead with their result or end with it, and say it more than once when they derive it. The choice is made from the
answer alone, never from the expected value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
STEP = re.compile(r"(?m)^\s*(?:[-*•]\s+)?(?:step\s+)?\(?\d{1,2}[.):]\s|\bstep\s+\d{1,2}\b", re.IGNORECASE)
CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|overall|in total|total(?:s|ling)?|which gives|gives|that is|result|altogether|in all)\b|"
    r"\brounded (?:up|down)\b|"
    r"=>|⇒|(?m:^\s*->)",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"^\W*(?:(?:so|result|answer|therefore|thus|hence|conclusion|finally|in short)\b\s*[:,]?\s*|[-=]+>\s*)*", re.IGNORECASE
)


def sentences(text: str) -> list[str]:
    """Sentences and lines without markdown marks, list numbers, table rows and lead-ins such as "So:"; nothing empty."""
    plain = re.sub(r"[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}", "", text)
    lines = [line for line in plain.splitlines() if line.strip() and not line.lstrip().startswith(("#", "|", "```"))]
    parts = [part for line in lines for part in re.split(r"(?<=[.!?])\s+", STEP.sub(" ", line.strip()))]
    return [stripped for part in parts if (stripped := _LEAD_IN.sub("", part.strip()))]


def marked(text: str) -> str | None:
    """What follows the last "Answer:", to the end of its line."""
    found = re.findall(r"(?:^|\n|[.!?]\s)\W*(?:final\s+|short\s+)?answer(?:\s+is)?\s*[:=]\s*([^\n]+)", text, re.IGNORECASE)
    return str(found[-1]) if found else None


def pick(candidates: Sequence[T], same: Callable[[T, T], bool], *, concludes: bool) -> T | None:
    """The first or the last candidate, whichever is stated more often; on a tie the last if the text concludes, else the first."""
    if not candidates:
        return None
    first, last = candidates[0], candidates[-1]
    if same(first, last):
        return first
    often = [sum(same(other, one) for other in candidates) for one in (first, last)]
    if often[0] != often[1]:
        return first if often[0] > often[1] else last
    return last if concludes else first
