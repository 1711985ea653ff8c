"""Prose -> the component names in it that are not in the picture.

Known names are masked first; what then still looks like a component (in brackets, a name from another diagram, capitalised words that
end in a component noun, a hyphenated service id, a lower-case kind with an unusual modifier) is foreign.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

_NOUNS = (
    "service|services|api|db|database|cache|queue|stream|topic|bus|store|bucket|index|gateway|worker|broker|proxy|balancer|cluster|bff|ledger|"
    "server|scheduler|warehouse|lake|vault|mesh|registry|relay|adapter|collector|resizer|limiter|function|model|provider|mart|table|app|portal|"
    "flags|scoring|engine|processor|handler|monitor|dashboard|archive|replica|consumer|producer|sidecar|log|lambda|agent|daemon|"
    "listener|poller|orchestrator|transcoder"
)  # fmt: skip
_TITLED = re.compile(
    rf"\b(?:[A-Z][A-Za-z0-9]*(?:-[A-Za-z]+)? ){{1,3}}(?:{'|'.join(n.title() for n in _NOUNS.split('|'))}|DB|API|BFF|CDN|LB|DNS)\b"
)
_EXTENDED = re.compile(rf"@ (?:{'|'.join(n.title() for n in _NOUNS.split('|'))}|DB|API)\b")
_IDENT = re.compile(rf"\b[a-z0-9]+(?:[-_][a-z0-9]+)*[-_](?:svc|srv|lb|cdn|{_NOUNS})\b")
_LOWER = re.compile(rf"\b(?:the|a|an|via|through|to|from|into|at|of|and|by) ([a-z]+) ({_NOUNS})\b")
_AGENT = re.compile(r"\b[a-z]+(?:[-_][a-z]+)*[-_][a-z]{3,}(?:er|or)\b")  # profile-enricher, email-sender
_BRACKETED = re.compile(r"\[\[(.+?)\]\]")
_OPENERS = frozenset(
    re.findall(
        r"\S+",
        "A An The This That Its Their No Any Each Every One Only Both All Add Use Put With Without Then So If When Once And But Of For "
        "From To Via Through At In On Now Yes Not Also Losing Take Scale Read",
    )
)
# Words that are capitalised inside a sentence without naming a component.
_CAPITALS = frozenset({"Raft", "Mermaid", "Yes", "No", "Mbit", "Gbit", "Little's", "Little", "JSON", "API", "Capacity", "Drawn"})
_CAPITALISED = re.compile(r"(?<=[a-z,;] )[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9']*(?: [A-Z][A-Za-z0-9]+)*")
_JSON_KEY = re.compile(r'"\w+":')
# Words that qualify a component without naming one.
_PLAIN = frozenset(
    re.findall(
        r"\S+",
        """
        a an the this that its their each every any one no same other another single first second third last next new old whole
        full bare own shared common local remote central downstream upstream slow fast hot cold warm empty small large bigger
        tight tightest weakest busiest slowest largest smallest busy idle spare extra more fewer few many most least good bad
        right wrong direct only sole required optional hard soft asynchronous synchronous async sync replicated unreplicated
        redundant stateful stateless primary secondary backup standby read write sql nosql object search event data message job
        work external internal public private load api time hash ring sorted overloaded affected failed failing lost dead broken
        down healthy remaining needed missing critical main given drawn shown named called average mean peak total real typical
        usual possible potential actual final initial current present existing cheap expensive relational distributed partitioned
        sharded indexed in-memory key-value plain simple separate dedicated service cache queue database store worker application
        web mobile app client user server cloud network edge ml model auth monitoring replica consumer producer token dlq fallback
        degraded stale busier hottest two three four five six seven eight nine ten both all some several per circuit retry better
        best by circuit-breaker connection thread priority rate
        """,
    )
)


def foreign_names(text: str, known: Iterable[str], elsewhere: Collection[str] = (), allowed: str = "") -> list[str]:
    """Names in `text` that are neither in `known` nor in `allowed` (the question, say); `elsewhere`: names of other diagrams."""
    found = [name for name in _BRACKETED.findall(text) if name.lower() not in {k.lower() for k in known}]
    masked = _mask(_JSON_KEY.sub("", text.replace("[[", "").replace("]]", "")), tuple(known))
    for match in _words_of(tuple(sorted(elsewhere))).finditer(masked) if elsewhere else ():
        found.append(match.group(0))
    found += [name for m in _TITLED.finditer(masked) if " " in (name := _unled(m.group(0)))]
    found += [m.group(0) for m in _IDENT.finditer(masked) if _unusual(re.split("[-_]", m.group(0)))]
    found += [m.group(0) for m in _AGENT.finditer(masked) if _unusual(re.split("[-_]", m.group(0)))]
    found += [m.group(0) for m in _CAPITALISED.finditer(masked) if m.group(0) not in _CAPITALS]
    found += [m.group(0) for m in _EXTENDED.finditer(masked)]
    found += [" ".join(m.groups()) for m in _LOWER.finditer(masked) if m.group(1) not in _PLAIN]
    said = allowed.lower()
    return [name for name in dict.fromkeys(found) if name.lower() not in said]


def _unled(name: str) -> str:
    """The name without what merely opens the sentence ("No Backup Store", "A CDN")."""
    first, _, rest = name.partition(" ")
    return _unled(rest) if rest and first in _OPENERS else name


def _unusual(parts: list[str]) -> bool:
    """Whether a hyphenated word names something: `per-replica` does not, `user-profile-service` does."""
    return len(parts) > 2 or parts[0] not in _PLAIN


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
