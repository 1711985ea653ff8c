"""A word -> how ordinary it is in prose about systems, and lists of words that tell where a name stands."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

_FILE = Path(__file__).with_name("words.txt")
_DERIVED = re.compile(
    r".{3,}(?:ly|able|ible|ness|ment|tion|sion|ity|i[sz]e|i[sz]ed|i[sz]es|i[sz]ing|less|ful|ous|ive|ally|ance|ence|wards?|wise|ism)s?"
)
_ENDINGS = (
    ("'s", ("",)), ("n't", ("",)), ("s", ("",)), ("es", ("", "e")), ("ies", ("y",)), ("ed", ("", "e")), ("ied", ("y",)), ("ing", ("", "e")),
    ("er", ("", "e", "y")),
    ("ier", ("y",)), ("ers", ("", "e")), ("or", ("e", "")), ("ors", ("e", "")), ("est", ("", "e")), ("iest", ("y",)),
)  # fmt: skip
_PREFIX = re.compile(r"(?:un|re|over|under|non|pre|mis|sub|super|inter|multi|co|de|dis|out|up|down|mid)-?")


@lru_cache(maxsize=1)
def _sections() -> dict[str, frozenset[str]]:
    text = "\n".join(line for line in _FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    parts = re.split(r"^\[(\w+)\]$", text, flags=re.MULTILINE)
    return {name: frozenset(words.split()) for name, words in zip(parts[1::2], parts[2::2], strict=True)}


def section(name: str) -> frozenset[str]:
    """The words of one list of the file."""
    return _sections()[name]


@lru_cache(maxsize=65536)
def rank(word: str) -> int:
    """2: common, 1: rarer English, 0: no word of English that the list knows. `word` in lower case; inflections count as their stem."""
    common, rare = section("common"), section("rare")
    if word in common:
        return 2
    found = 1 if word in rare or derived(word) else 0
    for ending, stems in _ENDINGS:
        if word.endswith(ending) and len(base := word[: -len(ending)]) >= 2:
            doubled = (base[:-1],) if len(base) > 3 and base[-1] == base[-2] else ()
            for stem in (*(base + s for s in stems if len(base + s) > 2), *doubled):
                found = max(found, 2 if stem in common else 1 if stem in rare or (ending in ("'s", "s") and derived(stem)) else 0)
    if not found and (prefix := _PREFIX.match(word)) is not None and len(word) - prefix.end() >= 4:
        return min(1, rank(word[prefix.end() :]))
    return found


def derived(word: str) -> bool:
    """Whether its ending alone makes it English: `staleness`, `hopefully`."""
    return _DERIVED.fullmatch(word) is not None
