"""Grammar strings and values -> sentences: `[a|b]` picks one, nested as deep as needed, and numbers keep one style within a turn.

A phrasing is a sentence with alternatives in square brackets; one such line spells dozens of sentences, which is what keeps two
thousand rule-made answers from sharing a handful of skeletons. Literal brackets and bars in names are protected by `Pen.name`.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable, Sequence

_GUARD = str.maketrans("[|]", "\x01\x02\x03")
_UNGUARD = str.maketrans("\x01\x02\x03", "[|]")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
UNITS = {
    "req/s": ("req/s", "requests/s", "requests per second", "qps", "rps"),
    "msg/s": ("msg/s", "messages/s", "messages per second"),
    "ms": ("ms", "ms", "milliseconds"),
    "s": ("s", "seconds"),
    "USD": ("USD", "dollars"),
    "min": ("minutes", "min"),
    "GB": ("GB",),
    "Mbit/s": ("Mbit/s", "megabits per second"),
}


def expand(line: str, rng: random.Random) -> str:
    """One sentence of the grammar line; the innermost choices are made first."""
    while (found := _CHOICE.search(line)) is not None:
        line = line[: found.start()] + rng.choice(found.group(1).split("|")) + line[found.end() :]
    return line.replace("  ", " ").translate(_UNGUARD)  # an empty alternative leaves two spaces


def spellings(line: str) -> int:
    """How many sentences a grammar line spells (nested choices counted as a tree, duplicates too)."""
    while (found := _CHOICE.search(line)) is not None:
        count = sum(functools.reduce(lambda a, m: a * int(m), re.findall(r"\x04(\d+)\x05", part), 1) for part in found.group(1).split("|"))
        line = line[: found.start()] + f"\x04{count}\x05" + line[found.end() :]
    return functools.reduce(lambda a, m: a * int(m), re.findall(r"\x04(\d+)\x05", line), 1)


def plain_number(value: float, digits: int = 4) -> str:
    """Up to `digits` significant digits, no exponent, no trailing zeros; whole numbers are never rounded below 10 million."""
    if abs(value - round(value)) < 1e-9 and abs(value) < 1e7:
        return str(round(value))
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else -len(re.match(r"0\.(0*)", f"{abs(value):.12f}").group(1))  # type: ignore[union-attr]
    decimals = max(0, digits - magnitude)
    text = f"{value:.{decimals}f}" if decimals else str(round(value))
    return text.rstrip("0").rstrip(".") if "." in text else text


class Pen:
    """Writes one turn: draws from `rng`, remembers whether thousands are separated and which word each unit goes by."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.separated = rng.random() < 0.5
        self.words = {unit: rng.choice(words) for unit, words in UNITS.items()}

    def say(self, lines: str | Sequence[str]) -> str:
        """One sentence of one of the grammar lines."""
        return expand(lines if isinstance(lines, str) else self.rng.choice(lines), self.rng)

    def n(self, value: float, unit: str = "") -> str:
        """The number in this turn's style, with its unit."""
        text = plain_number(value)
        whole, dot, rest = text.partition(".")
        if self.separated and len(whole.lstrip("-")) > 3:
            whole = f"{int(whole):,}"
        return f"{whole}{dot}{rest}" + (f" {self.words.get(unit, unit)}" if unit else "")

    def percent(self, share: float) -> str:
        """`0.125` as `12.5 %`; shares very near 1 keep enough nines to tell them apart."""
        digits = 4
        while digits < 10 and share < 1 and plain_number(share * 100, digits) == "100":
            digits += 1
        if share > 0.99 and share < 1:
            digits += 2
        return plain_number(share * 100, digits) + self.rng.choice((" %", "%"))

    @staticmethod
    def name(name: str) -> str:
        """A component's name, safe inside a grammar line."""
        return name.translate(_GUARD)

    def names(self, names: Iterable[str], nothing: str = "none") -> str:
        """`a, b and c`."""
        safe = [self.name(n) for n in names]
        if not safe:
            return nothing
        return safe[0] if len(safe) == 1 else f"{', '.join(safe[:-1])} and {safe[-1]}"
