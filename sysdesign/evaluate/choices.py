"""Prose and lists -> the option, the name, or the set of names that an answer settles on.

The names that may be used come from the graph, and the question says which of them are its subject. The expected answer is not an
argument of anything here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sysdesign.evaluate.names import mentioned
from sysdesign.evaluate.stating import CONCLUDES, STEP, marked, pick, sentences
from sysdesign.models import structure

OPPOSITES = (
    ("yes", "no"), ("sync", "async"), ("synchronous", "asynchronous"), ("true", "false"), ("strong", "eventual"), ("hard", "soft"),
    ("left", "right"), ("above", "below"), ("read", "write"), ("public", "private"), ("push", "pull"),
)  # fmt: skip
SAME_CHOICE = {
    "synchronous": "sync",
    "synchronously": "sync",
    "asynchronous": "async",
    "asynchronously": "async",
    "true": "yes",
    "false": "no",
}
_NONE = re.compile(
    r"\W*(?:no\b|none\b|nothing\b|nobody\b|not one\b|there (?:is|are) (?:no|none)\b|\[\s*\]|the (?:list|set) is empty)", re.IGNORECASE
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|does|do|can|cannot|could|would|will|must|exists?|shows?|contains?|includes?|sends?|calls?|leads?|runs?|goes|go|points?|"
    r"connects?|talks?|writes?|reads?|uses?|depends?|fails?|stays?|keeps?|holds?|loses?|survives?|answers?|waits?|needs?|meets?|exceeds?|fits?|works?|draws?|"
    r"isn't|aren't|doesn't|don't|can't|won't)\b", re.IGNORECASE)  # fmt: skip
_BULLET = re.compile(r"(?m)^\s*(?:[-*•+]|\d{1,2}[.)])\s.*$")
_DENIES = re.compile(
    r"\b(?:no|not|none|never|n't|without|lacks?|absent|missing|neither|cannot|can't|isn't|doesn't|don't|unable|nothing|unanswerable|"
    r"unknown|unspecified|false premise|nowhere)\b|n't\b", re.IGNORECASE)  # fmt: skip


def named_choice(text: str, known: Sequence[str], subject: set[str]) -> str | None:
    """The known name, other than those of the subject, that the answer settles on."""
    named = [found[0] for sentence in sentences(text) if (found := [name for name in mentioned(sentence, known) if name not in subject])]
    return pick(named, lambda a, b: a == b, concludes=_concludes(text))


def option(text: str, options: tuple[str, str], question: str = "") -> str | None:
    """Which of two opposites the text settles on: a sentence that opens with one, else the one it ends up saying.

    A sentence in place of yes or no counts when it states something about the question's subject.
    """
    every = {spelling for pair in OPPOSITES if set(pair) & set(options) for spelling in pair} | set(options)
    every |= {long for long, short in SAME_CHOICE.items() if {short, long} & every}
    said = [[SAME_CHOICE.get(w, w) for w in re.findall(r"[a-z]+", sentence.lower()) if w in every] for sentence in sentences(text)]
    opening = [words[0] for words, sentence in zip(said, sentences(text), strict=True) if words and _opens(sentence, every)]
    if opening:
        return opening[-1] if _concludes(text) else opening[0]
    plain = [words[0] for words in said if words]
    if plain:
        return pick(plain, lambda a, b: a == b, concludes=True)
    first = next(iter(sentences(text)), "")
    if "yes" in options and len(text.split()) > 1 and _states(first, question):  # a sentence instead of the word
        return "no" if _DENIES.search(first) else "yes"
    return None


def _states(sentence: str, question: str) -> bool:
    """Whether it has a verb and speaks of what was asked: two of the question's longer words, or `it`, `they`, `there`."""
    words = re.findall(r"[a-z0-9]+", sentence.lower())
    asked = {word for word in re.findall(r"[a-z0-9]+", question.lower()) if len(word) > 3}
    short = len(words) <= 12 and bool({"it", "they", "there", "this", "that", "one", "both"} & set(words))
    return bool(_VERB.search(sentence)) and (not asked or short or len(asked & set(words)) >= 2)


def stated_set(text: str, known: Sequence[str], question: str) -> list[str] | None:
    """The names an answer lists; [] when it says that there are none, None when it says nothing of the kind.

    A list of short items is taken as it is. In prose names that the question mentions are its subject and not part of the answer.
    """
    plain = marked(text) or text
    if plain.lstrip().startswith(("[", "{", "```")) and (items := structure.listed(plain)) is not None:
        return _resolved(items, known)
    said = sentences(plain)
    if not said or any(_NONE.match(sentence) for sentence in (said[0], said[-1])):
        return [] if said else None
    prose = sentences(_BULLET.sub("", plain))
    named = mentioned(plain, known)
    if prose and not re.sub(r"\band\b|[\W_]", "", _without(plain, named)):
        return named  # nothing but names
    subject = set(mentioned(question, known))
    outside = [found for sentence in prose if (found := [name for name in mentioned(sentence, known) if name not in subject])]
    concludes = bool(prose) and (_concludes(plain) or not mentioned(prose[0], known))
    if chosen := pick(outside, lambda a, b: set(a) == set(b), concludes=concludes):
        return chosen
    inside = [found for sentence in prose if (found := mentioned(sentence, known))]  # a question that lists all names excludes nothing
    items = structure.listed(plain)
    if items is not None and (not inside or any(sentence.endswith(":") for sentence in prose)):
        return _resolved(items, known)
    return pick(inside, lambda a, b: set(a) == set(b), concludes=concludes) or named or None


def _resolved(items: Sequence[str], known: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for item in items for name in (mentioned(item, known) or [item])))


def _without(text: str, names: Sequence[str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(re.escape(name), "", text, flags=re.IGNORECASE)
    return text


def _concludes(text: str) -> bool:
    return bool(CONCLUDES.search(text) or STEP.search(text))


def _opens(sentence: str, words: set[str]) -> bool:
    return (re.findall(r"[a-z]+", sentence.lower()) or [""])[0] in words


def hedges(text: str, known: Sequence[str]) -> bool:
    """Names two and leaves it open: "Orders or Users"."""
    first = next(iter(sentences(text)), "")
    return len(mentioned(first, known)) > 1 and re.search(r"\b(?:either|or)\b", first, re.IGNORECASE) is not None


def item_of(line: str) -> str | None:
    """A bare short answer, for choices that no graph names."""
    words = re.sub(r"^(?:it is|it's|the|that is|this is)\s+", "", line.strip(" ."), flags=re.IGNORECASE)
    return words if 0 < len(words.split()) <= 4 else None
