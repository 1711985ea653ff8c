"""Text <-> facts: does a text state a fact, and which numbers does it print.

A printed number states a value if rounding the value to the printed digits gives it; shares may be printed as per cent. So a check is
exact at the precision that the writer chose, and needs no tolerance.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sysdesign.records import Fact

NUMBER = re.compile(r"(?<![\w.,-])(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?)(?![\d])(\s?%|[kKMG](?![A-Za-z]))?")
_SCALES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_LIST_MARK = re.compile(r"^\s*(?:Step \d+: |\d+[.)] )", re.MULTILINE)


@lru_cache(maxsize=1024)
def printed_numbers(text: str) -> tuple[tuple[str, float, float], ...]:
    """Every number outside list marks as (as printed, value, half a unit of its last digit); per cent become shares."""
    found = []
    for match in NUMBER.finditer(_LIST_MARK.sub("", text)):
        digits, suffix = match.group(1).replace(",", ""), (match.group(2) or "").strip()
        decimals = len(digits.partition(".")[2])
        scale = 0.01 if suffix == "%" else _SCALES.get(suffix, 1.0)
        found.append((match.group(0).strip(), float(digits) * scale, 0.5 * 10**-decimals * scale))
    return tuple(found)


_TERM = r"-?\d[\d,]*(?:\.\d+)?(?:\s?%)?"
_EQUATION = re.compile(
    rf"(?<! x )(?<!over )(?<! of )(?<![/+*^)-] )(?<![\w.,)^-])({_TERM}(?: ?(?:x|\*|/|\+|-|\^|over|of) ?{_TERM})+) (?:=|is) ({_TERM})"
)
_OPERATION = re.compile(rf" ?(x|\*|/|\+|-|\^|over|of) ?({_TERM})")


def wrong_equations(text: str) -> list[str]:
    """Printed equations of bare numbers ("3 x 40 = 120") that do not come out within 1 %, read from left to right."""
    found = []
    for match in _EQUATION.finditer(text):
        first = re.match(_TERM, match.group(1))
        if first is None:
            continue
        total, result = _value(first.group(0)), _value(match.group(2))
        for sign, term in _OPERATION.findall(match.group(1)[first.end() :]):
            value = _value(term)
            if sign in ("/", "over", "of") and value == 0:
                break
            total = {
                "x": total * value, "*": total * value, "+": total + value, "-": total - value,
                "^": total**value if abs(value) < 50 else total,
            }.get(sign, total / value if value else total)  # fmt: skip
        if abs(total - result) > 0.01 * max(abs(total), abs(result)) + 1e-9:
            found.append(match.group(0))
    return found


def _value(term: str) -> float:
    number = float(term.replace(",", "").rstrip("% "))
    return number / 100 if term.endswith("%") else number


def matches(printed: float, half_unit: float, value: float) -> bool:
    """Whether `value`, rounded as printed, reads `printed`."""
    return abs(printed - value) <= half_unit * 1.0001 + 1e-12 * abs(value)


def states(text: str, fact: Fact) -> bool:
    """Whether the text states the fact: prints its number (or its per cent), or names every name in it."""
    value = fact.value
    if isinstance(value, bool):
        return True  # said by the choice of words; the choice check reads it
    if isinstance(value, int | float):
        return any(matches(p, h, float(value)) or matches(p, h, float(value) / 100) for _, p, h in printed_numbers(text))
    names = (value,) if isinstance(value, str) else value
    lowered = text.lower()
    return all(name.lower() in lowered for name in names)
