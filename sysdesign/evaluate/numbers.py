"""Free text -> the quantities it states: value, unit and position, so that "12k req/s" and "12,000 requests a second" are equal.

Which of several numbers is *the* answer is decided here too, by position and unit alone, never by looking at the expected value:
a scorer that accepts any matching number rewards an answer that lists them all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from sysdesign.evaluate.stating import CONCLUDES, STEP, pick

# dimension -> spellings -> factor to the dimension's base unit; spellings are lower case without dots and spaces
_UNITS: dict[str, dict[str, float]] = {
    "rate": {
        **dict.fromkeys(
            ("qps", "rps", "tps", "req/s", "reqs/s", "requests/s", "request/s", "calls/s", "call/s", "msg/s", "msgs/s", "messages/s",
             "message/s", "events/s", "event/s", "jobs/s", "writes/s", "reads/s", "queries/s", "ops/s", "/s"), 1.0),
        **dict.fromkeys(("rpm", "req/min", "requests/min", "messages/min", "events/min", "/min"), 1 / 60),
    },
    "time": {
        **dict.fromkeys(("us", "µs", "microsecond", "microseconds"), 1e-6),
        **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
        **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
        **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
        **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
        **dict.fromkeys(("d", "day", "days"), 86400.0),
    },
    "share": {
        **dict.fromkeys(("%", "percent", "pct"), 0.01),
        **dict.fromkeys(("ratio", "fraction", "share", "probability"), 1.0),
    },
    "data": {
        **dict.fromkeys(("b", "byte", "bytes"), 1.0),
        **dict.fromkeys(("kb", "kilobyte", "kilobytes"), 1e3), **dict.fromkeys(("mb", "megabyte", "megabytes"), 1e6),
        **dict.fromkeys(("gb", "gigabyte", "gigabytes"), 1e9), **dict.fromkeys(("tb", "terabyte", "terabytes"), 1e12),
        **dict.fromkeys(("pb", "petabyte", "petabytes"), 1e15),
        "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40,
    },
    "bandwidth": {
        **dict.fromkeys(("bit/s", "bits/s", "bps"), 1 / 8), **dict.fromkeys(("kbit/s", "kbps", "kb/s(bits)"), 1e3 / 8),
        **dict.fromkeys(("mbit/s", "mbps"), 1e6 / 8), **dict.fromkeys(("gbit/s", "gbps"), 1e9 / 8),
        **dict.fromkeys(("b/s", "bytes/s"), 1.0), "kb/s": 1e3, "mb/s": 1e6, "gb/s": 1e9,
    },
    "money": {**dict.fromkeys(("$", "usd", "dollar", "dollars", "us$"), 1.0)},
}  # fmt: skip
_FACTOR = {spelling: (dimension, factor) for dimension, units in _UNITS.items() for spelling, factor in units.items()}
_SCALE = {"k": 1e3, "m": 1e6, "bn": 1e9, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_WORDS = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
        ]
    )
}
_PER = r"(?:(?:\s*/\s*|\s+(?:per|a|an|each)\s+)(?:s|sec|second|min|minute)\b)"
_NUMBER = re.compile(
    r"(?<![\w.])(?P<money>(?:US)?\$\s?)?(?P<sign>[-−])?"
    r"(?P<digits>\d{1,3}(?:[,\u00a0\u202f']\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)"
    r"(?![\d])(?:\s?(?P<scale>thousand|million|billion|trillion|bn|[kKM](?![A-Za-zµ])))?"
)
_RATE_WORD = re.compile(
    r"\s*(?:(?:http|api|read|write|cache|database|db|user|incoming|outgoing)\s+)?"
    r"(?:requests?|reqs?|calls?|messages?|msgs?|events?|queries|query|jobs?|writes?|reads?|operations?|ops|lookups?|tasks?|items?)" + _PER,
    re.IGNORECASE,
)
_UNIT_WORD = re.compile(r"\s*(?P<unit>%|[A-Za-zµ]+(?:/[A-Za-z]+)?|/\s?(?:s|sec|min)\b)")
_WORD_NUMBER = re.compile(rf"(?<![\w-])({'|'.join(_WORDS)})(?![\w-])", re.IGNORECASE)
_MARKED_ANSWER = re.compile(r"\b(?:final\s+)?answer\b(?:\s+is)?\s*[:=]?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A stated number. `value` is in the base unit of `dimension` (requests a second, seconds, share, bytes, bytes/s, US dollars);
    dimension None is a bare number or a count of something.
    """

    value: float
    dimension: str | None
    start: int
    end: int
    operand: bool  # stands left of a result, as in "3 x 40 = 120"
    factor: float = 1.0  # of the unit as written
    word: bool = False  # "three"


def unit_of(unit: str | None) -> tuple[str | None, float]:
    """(dimension, factor to its base unit) of a unit as checks spell it; (None, 1) for counts and unknown units."""
    if not unit:
        return None, 1.0
    spelled = unit.strip().lower().replace(".", "")
    spelled = re.sub(r"\s+(?:per|a)\s+(?:month|mo)$|/(?:month|mo)$", "", spelled)
    if re.fullmatch(rf".*{_PER}", spelled) and not re.match(r"[kmgt]?(?:b|bits?|bytes?)\b", spelled):
        return "rate", 1 / 60 if "min" in spelled else 1.0
    spelled = re.sub(r"\s*(?:per|a)\s+sec(?:ond)?$", "/s", spelled).replace(" ", "")
    return _FACTOR.get(spelled, (None, 1.0))


def quantities(text: str) -> list[Quantity]:
    """Every number in `text`, in order. Digits that are part of a name ("db-2", "v1.2") are not numbers."""
    found = []
    for match in _NUMBER.finditer(text):
        before = text[max(0, match.start() - 1) : match.start()]
        if before in "-_#" and before and not match["sign"]:
            continue
        sign = -1.0 if match["sign"] and not re.search(r"[\w)]\s?$", text[: match.start("sign")]) else 1.0
        value = sign * float(re.sub(r"[,\u00a0\u202f']", "", match["digits"])) * _SCALE.get((match["scale"] or "").lower(), 1.0)
        dimension, factor, end = _unit_after(text, match.end())
        if match["money"]:
            dimension, factor = "money", 1.0
        if (
            dimension is None
            and re.match(r"[-\w]", text[end : end + 1] or " ")
            and match["scale"] is None
            and text[end : end + 1] not in "-x"
        ):
            continue  # "3rd", "2xlarge"
        found.append(Quantity(value * factor, dimension, match.start(), end, _is_operand(text, end), factor))
    for match in _WORD_NUMBER.finditer(text):
        if match[1].lower() == "one" and re.match(r"\s+(?:of|can|is|more|that|another)\b", text[match.end() :]):
            continue  # the pronoun
        found.append(Quantity(float(_WORDS[match[1].lower()]), None, match.start(), match.end(), _is_operand(text, match.end()), word=True))
    return sorted(found, key=lambda quantity: quantity.start)


def stated(text: str, unit: str | None) -> float | None:
    """The number that `text` gives as its answer, in `unit`; None when it states none of that dimension.

    After the last "answer:" if there is one. Otherwise answers lead with their result or end with it: where the first and the last
    candidate differ, the one that is stated more often is meant, because a result is derived once and said once; on a tie the last one
    if the text counts steps or concludes ("so", "="), else the first. Candidates carry the unit asked for; only if none does, the
    dimension; only if none does, no unit at all. Operands of written equations and the numbers of list items are no candidates.
    """
    dimension, factor = unit_of(unit)
    if (value := _from_json(text)) is not None:
        return value
    plain = STEP.sub(" ", re.sub(r"[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}|\\[()\[\]]|(?<=\d)\{,\}", "", text))
    every = quantities(plain)
    fitting = [q for q in every if q.dimension == dimension]
    if dimension is not None:
        fitting = [q for q in fitting if q.factor == factor] or fitting
    if not fitting and dimension is not None:
        fitting = [replace(q, value=q.value * factor) for q in every if q.dimension is None]
    fitting = [q for q in fitting if not q.word] or fitting
    results = [q for q in fitting if not q.operand] or fitting
    if not results:
        return None
    marks = list(_MARKED_ANSWER.finditer(plain))
    after = [q for q in results if marks and q.start >= marks[-1].start()]
    if after:
        return after[0].value / factor
    between = plain[results[0].end : results[-1].start]
    concludes = bool(CONCLUDES.search(between) or "=" in between or STEP.search(text))
    chosen = pick(_one_a_sentence(results, plain), lambda a, b: close(a.value, b.value, 0.001), concludes=concludes)
    return chosen.value / factor if chosen else None


def close(found: float, expected: float, tolerance: float | None) -> bool:
    """Within the relative tolerance (1 % where the check names none); an expected 0 must be met."""
    if expected == 0:
        return abs(found) < 1e-9
    return abs(found - expected) <= (0.01 if tolerance is None else tolerance) * abs(expected) + 1e-12


def arithmetic(text: str) -> tuple[int, int]:
    """(right, stated) over every written equation such as "3 x 40 = 120" or "1 - 0.8 = 0.2".

    Right means within 1 %, or within half of the last digit that was written. Operators: + - x * / and parentheses.
    """
    plain = re.sub(r"(?<=\d)[,\u00a0\u202f](?=\d{3})", "", text.replace("×", "*").replace("·", "*").replace("−", "-").replace("÷", "/"))
    plain = re.sub(r"(?<=[\d)])\s*x\s*(?=[\d(])", "*", plain)
    right = total = 0
    for match in re.finditer(r"(?<![\w.])([\d.(][\d.()+*/ \t-]*[\d)])\s*(=|≈)\s*(-?\d+(?:\.\d+)?)(?![\d.]*\s*[*/+^x])", plain):
        value = _evaluate(match[1])
        if value is None or not re.search(r"[+*/-]", match[1].lstrip("-")):
            continue
        said, decimals = float(match[3]), len(match[3].partition(".")[2])
        percent = re.match(r"\s?%", plain[match.end() :]) is not None
        total += 1
        right += any(abs(v - said) <= max(0.01 * abs(v), 0.5 * 10.0**-decimals) for v in ((value, value * 100) if percent else (value,)))
    return right, total


def _from_json(text: str) -> float | None:
    """The number of a JSON answer, taken to be in the unit asked for."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = json.loads(found[0]) if found and found.start() < 20 else None
    except ValueError:
        return None
    number = next((value[key] for key in ("answer", "result", "value") if key in value), None) if isinstance(value, dict) else None
    return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None


def _one_a_sentence(results: list[Quantity], text: str) -> list[Quantity]:
    """The number that each sentence states: after an equals sign or a conclusion the last one, else the first ("3 of 5 may fail")."""
    groups: dict[int, list[Quantity]] = {}
    for found in results:
        groups.setdefault(len(re.findall(r"(?<=[.!?;:])\s|\n", text[: found.start])), []).append(found)
    chosen = []
    for group in groups.values():
        between = text[group[0].end : group[-1].start]
        chosen.append(group[-1] if "=" in between or CONCLUDES.search(between) else group[0])
    return chosen


def _unit_after(text: str, at: int) -> tuple[str | None, float, int]:
    rate = _RATE_WORD.match(text, at)
    if rate:
        return "rate", 1 / 60 if "min" in rate[0].lower() else 1.0, rate.end()
    word = _UNIT_WORD.match(text, at)
    if word:
        spelled = word["unit"].replace(" ", "")
        gap = text[at : word.start("unit")]
        known = _FACTOR.get(spelled.lower())
        if spelled in ("d", "h", "b", "B", "s", "m") and gap and spelled != "s":
            known = None  # "3 b" is not three bytes
        if known:
            return known[0], known[1], word.end()
    return None, 1.0, at


def _is_operand(text: str, end: int) -> bool:
    return re.match(r"\s*(?:[A-Za-z%µ/]+\s*){0,3}(?:[*×·x÷+]|/|(?<=\s)[-−](?=\s))\s*[\d($.]", text[end : end + 40]) is not None or (
        re.match(r"\s*(?:[A-Za-z%µ/]+\s*){0,3}[)\]]?\s*=\s*[\d$(]", text[end : end + 40]) is not None
    )


def _evaluate(expression: str) -> float | None:
    """Value of + - * / with parentheses; None where it does not parse, so that prose with stray signs is not an error."""
    tokens = re.findall(r"\d+(?:\.\d+)?|\.\d+|[-+*/()]", expression)

    def total(at: int) -> tuple[float, int]:
        value, at = product(at)
        while at < len(tokens) and tokens[at] in "+-":
            other, after = product(at + 1)
            value, at = (value + other if tokens[at] == "+" else value - other), after
        return value, at

    def product(at: int) -> tuple[float, int]:
        value, at = atom(at)
        while at < len(tokens) and tokens[at] in "*/":
            other, after = atom(at + 1)
            value, at = (value * other if tokens[at] == "*" else value / other), after
        return value, at

    def atom(at: int) -> tuple[float, int]:
        if tokens[at] == "(":
            value, at = total(at + 1)
            if tokens[at] != ")":
                raise ValueError
            return value, at + 1
        if tokens[at] == "-":
            value, at = atom(at + 1)
            return -value, at
        return float(tokens[at]), at + 1

    try:
        value, end = total(0)
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None
    return value if end == len(tokens) else None
