"""Prose -> the component names in it that are not in the picture.

No list can hold what somebody may invent, so this goes the other way round: known names are masked, and what then is not plain English
is foreign. What is plain is read from the words (`words.txt`), their spelling (capitals inside a sentence, `camelCase`, `kafka-2`) and
their place (a cell or JSON string among names, a bare singular where English wants an article, a sentence that starts in lower case).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from sysdesign.conversations.words import derived, rank, section

_NOUNS = (
    "service|services|api|db|database|cache|queue|stream|topic|bus|store|bucket|index|gateway|worker|broker|proxy|balancer|cluster|bff|ledger|"
    "server|scheduler|warehouse|lake|vault|mesh|registry|relay|adapter|collector|resizer|limiter|function|model|provider|mart|table|app|portal|"
    "flags|scoring|engine|processor|handler|monitor|dashboard|archive|replica|consumer|producer|sidecar|log|lambda|agent|daemon|"
    "listener|poller|orchestrator|transcoder"
)  # fmt: skip
_NO_AGENTS = section("no_agents")
_OPENERS = section("openers")
_CAPITALS = section("capitals")
_DETERMINERS = section("determiners")
_PREPOSITIONS = section("prepositions")
_OBJECTS = section("objects")
_BEFORE_VERBS = section("before_verbs")
_TRADES = section("trades")
_FINITE = section("finite")
_SUBJECTS = section("subjects")
_PLAIN_FIRST = section("plain_first")
_PLAIN = section("plain")
_TAILS = section("tails")
_AGENTIVE = re.compile(r"[a-z]{3,}(?:er|or)")
_ADJECTIVE = re.compile(r".+(?:ous|ful|ish|ic|less|able|ible|ient|ive)")
_TITLED = re.compile(
    rf"\b(?:[A-Z][A-Za-z0-9]*(?:-[A-Za-z]+)? ){{1,3}}(?:{'|'.join(n.title() for n in _NOUNS.split('|'))}|DB|API|BFF|CDN|LB|DNS)\b"
)
_LOWER = re.compile(rf"\b(?:the|a|an|via|through|to|from|into|at|of|and|by) ([a-z]+) ({_NOUNS})\b")
_EXTENDED = re.compile(r"@[-_]v?\d+\b")
_BRACKETED = re.compile(r"\[\[(.+?)\]\]")
_JSON_KEY = re.compile(r'"[^"\n]+":')
_WORD = re.compile(r"@|[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*(?:'[a-z]+)?")
_STARTS = re.compile(r"(?:^|[.!?:|>\n]|\d[.)])[\s\"'(*`]*$|(?:^|\n)\s*[-*+] $|\($")
_CAMEL = re.compile(r"[a-z]{2}[A-Z]|[a-z][A-Z][a-z]{2}")
_NUMBERED = re.compile(r"([A-Za-z]{2,})[-_]v?\d+")
_PERCENTILE = re.compile(r"[pP]\d+s?")
_BESIDE = re.compile(r"[:),]| (?:and|or) @")
# A verb and not a plural: what stands behind it needs one.
_VERB = re.compile(r" [a-z]+[^s\W]s (?:\d|@|(?:the|a|an|its|up|as|between|all|out|back|below|above)\b)")


def foreign_names(text: str, known: Iterable[str], elsewhere: Collection[str] = (), allowed: str = "") -> list[str]:
    """Names in `text` that are neither in `known` nor in `allowed` (the question, say); `elsewhere`: names of other diagrams."""
    known = tuple(known)
    found = [name for name in _BRACKETED.findall(text) if name.lower() not in {k.lower() for k in known}]
    masked = _mask(text.replace("[[", "").replace("]]", ""), known)
    for match in _words_of(tuple(sorted(elsewhere))).finditer(masked) if elsewhere else ():
        found.append(match.group(0))
    found += _among_names(masked)
    masked = _JSON_KEY.sub("", masked)
    found += [name for m in _TITLED.finditer(masked) if " " in (name := _unled(m.group(0)))]
    found += [" ".join(m.groups()) for m in _LOWER.finditer(masked) if m.group(1) not in _PLAIN]
    found += _EXTENDED.findall(masked)
    found += _odd_words(masked, " | ".join(known).lower())
    said = allowed.lower()
    whole = [name for name in dict.fromkeys(found) if name.lower() not in said]
    return [name for name in whole if not any(name != other and name in other for other in whole)]


def _among_names(masked: str) -> Iterator[str]:
    """Cells of a table's columns, and JSON strings, that stand where the others are names."""
    lines = [line for line in masked.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    rows = [line.strip().strip("|").split("|") for line in lines[1:]]
    for column in zip(*(row for row in rows if len(row) == len(rows[0])), strict=True):
        cells = [cell.strip() for cell in column]
        if sum(cell == "@" for cell in cells) * 2 >= len(cells):
            yield from (cell for cell in cells if re.search(r"[A-Za-z]", cell.replace("@", "")))
    body = masked.strip().removeprefix("```json").removesuffix("```").strip()
    if not body.startswith("{"):
        return
    try:
        values = json.loads(body)
    except ValueError:
        return
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, list):
            yield from (v for v in value if isinstance(v, str) and re.search(r"[A-Za-z]", v.replace("@", "")))
        elif isinstance(value, str) and key != "unit" and "@" not in value and _nameable(value):
            yield value


def _nameable(value: str) -> bool:
    words = re.findall(r"[A-Za-z]+", value.lower())
    return any(rank(w) < 2 for w in words) or (len(words) > 1 and (words[-1] in _TAILS or _agent(words[-1])))


def _odd_words(text: str, drawn: str) -> Iterator[str]:
    """Words that are spelled or placed as names. `drawn`: the drawn names; a word or two of one are a short way to say it."""
    parts = frozenset(drawn.split())
    words = list(_WORD.finditer(text))
    for i, match in enumerate(words):
        word = match.group(0)
        before, after = words[i - 1] if i else None, words[i + 1] if i + 1 < len(words) else None
        gap = text[before.end() : match.start()] if before else text[: match.start()]
        follows = text[match.end() : after.start()] if after else text[match.end() :]
        if word == "@" or len(word) == 1 or _PERCENTILE.fullmatch(word):
            continue
        starts = _STARTS.search(text[max(0, match.start() - 12) : match.start()]) is not None or before is None
        last = before.group(0) if before and gap.strip(" \"'(*`") == "" else ""
        earlier = words[i - 2].group(0) if i > 1 and last else ""
        then = after.group(0) if after and follows == " " else ""
        if _two_capitals(word, then, starts) and f"{word} {then}".lower() not in drawn:
            yield f"{word} {then}"
        if word[0].islower() and "-" not in word and (name := _pair(word, then, starts, last)):
            yield name
            continue
        if word.lower() in parts:
            continue
        lead = (earlier, last)
        named = _capital(word, starts, last, then, follows) if word[0].isupper() else _small(word, starts, gap, lead, then, follows)
        if named or _identifier(word):
            yield word


def _identifier(word: str) -> bool:
    """`kafka-2`, `ledger_sync`, `LedgerSync`, `ledger-sync`; not `per-replica`, `read-heavy`, `p99`."""
    if (numbered := _NUMBERED.fullmatch(word)) is not None:
        return numbered.group(1).lower() not in _PLAIN_FIRST
    if _CAMEL.search(word):
        return True
    parts = re.split("[-_]", word.lower())
    if len(parts) == 1 or any(p.isdigit() for p in parts):
        return False
    if "_" in word or any(len(p) > 2 and p.isalpha() and rank(p) == 0 for p in parts):
        return True
    named = parts[-1] in _TAILS or _agent(parts[-1])
    return named and (parts[0] not in _PLAIN if len(parts) == 2 else any(p not in _PLAIN for p in parts[:-1]))


def _two_capitals(word: str, then: str, starts: bool) -> bool:
    if not word[0].isupper() or not then[:1].isupper() or len(then) == 1 or then in _CAPITALS:
        return False
    if then.isupper() and rank(then.lower()) and rank(word.lower()):
        return False
    return not (starts and (word in _OPENERS or word.lower() in _SUBJECTS))


def _capital(word: str, starts: bool, last: str, then: str, follows: str) -> bool:
    """A capital inside a sentence, or a word that opens one but is no English opener."""
    lower = word.lower().removesuffix("'s")
    if word.isupper() and rank(lower):
        return False
    if not starts:
        return lower.title() not in _CAPITALS and word not in _CAPITALS and not (last[:1].isupper() and word.isupper())
    if lower in _SUBJECTS or word in _CAPITALS or derived(lower):
        return False
    if all(rank(part) == 0 for part in lower.split("-")):
        return True
    if "-" in lower:
        return False
    bare = not lower.endswith(("ing", "ed")) and not (lower.endswith("s") and rank(lower[:-1]))
    verb = then in _FINITE or _VERB.match(follows) is not None
    verb = verb or (rank(lower) < 2 and then.endswith("s") and not then.endswith("ss") and rank(then) > 0)
    return bare and (verb or (rank(lower) < 2 and _BESIDE.match(follows) is not None))


def _small(word: str, starts: bool, gap: str, lead: tuple[str, str], then: str, follows: str) -> bool:
    """A word that is no English, where a noun without an article stands; two words run together wherever they stand."""
    if rank(word) or len(word) < 3 or "-" in word:
        return False
    if any(word.endswith(tail) and (len(tail) > 3 or rank(word[: -len(tail)])) for tail in _TAILS if 1 < len(tail) < len(word) - 2):
        return True
    further, last = (w.lower() for w in lead)
    if last in _PREPOSITIONS and last != "to" and not (last == "that" and then in _OBJECTS):
        return True
    if word.endswith(("ed", "ing", "ly", "est")) or then in _OBJECTS:
        return False
    if last == "to":
        return follows[:1] not in (" ", "-") or then in ("and", "or")
    qualified = last in _DETERMINERS or (further in _DETERMINERS and last not in _PREPOSITIONS and last not in _FINITE)
    return (starts and bool(gap.strip())) or not (qualified or last in _BEFORE_VERBS)


def _pair(word: str, then: str, starts: bool, last: str) -> str:
    """An unusual word before what components are called: `ledger sync`, `the pricing hub`."""
    if not (then in _TAILS or _agent(then)) or word in _PLAIN or _ADJECTIVE.fullmatch(word):
        return ""
    if word in _FINITE or word in _PREPOSITIONS or word.endswith(("ed", "ly", "est")) or (word.endswith("ing") and word not in _TRADES):
        return ""
    usual = rank(word) == 2 and not starts and last and last.lower() not in _PREPOSITIONS and last.lower() not in _DETERMINERS
    return "" if usual else f"{word} {then}"


def _agent(word: str) -> bool:
    return _AGENTIVE.fullmatch(word) is not None and word not in _NO_AGENTS


def _unled(name: str) -> str:
    """The name without what merely opens the sentence ("No Backup Store", "A CDN")."""
    first, _, rest = name.partition(" ")
    return _unled(rest) if rest and first in _OPENERS else name


def bare(text: str) -> str:
    """The text without the double brackets around names."""
    return _BRACKETED.sub(r"\1", text)


def _mask(text: str, known: tuple[str, ...]) -> str:
    pattern = _known_pattern(known)
    return pattern.sub("@", text) if pattern is not None else text


@lru_cache(maxsize=256)
def _known_pattern(known: tuple[str, ...]) -> re.Pattern[str] | None:
    names = sorted({k for k in known if k}, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, names)) + r")(?!\w)", re.IGNORECASE) if names else None


@lru_cache(maxsize=8)
def _words_of(names: tuple[str, ...]) -> re.Pattern[str]:
    ordered = sorted(names, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, ordered)) + r")(?!\w)")
