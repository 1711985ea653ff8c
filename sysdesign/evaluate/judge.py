"""Two answers to each headline prompt and a language model -> how often the tuned one was preferred, and how far that may be trusted.

Every pair is judged twice with positions swapped; a verdict that does not survive the swap is a tie. A grade without a quote that stands
in the answer is 0, and an answer that the checks prove wrong is capped, whatever the judge says. The judge is first tried on twenty
labelled pairs: below a kappa of 0.6 its opinion is shown and decides nothing. Nothing here runs unless it is configured.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sysdesign.config.evaluate import ChatJudge
from sysdesign.errors import ConfigError
from sysdesign.evaluate.controls import describe
from sysdesign.evaluate.items import Item
from sysdesign.graph import Record
from sysdesign.models.chat import ChatModel, Message
from sysdesign.models.structure import json_values
from sysdesign.prompts import read_prompt, read_yaml

PROMPT = "evaluate/judge.v1.md"
PAIRS = "evaluate/judge_pairs.v1.yaml"
WEIGHTS = {1: 12, 2: 12, 3: 10, 4: 14, 5: 16, 6: 16, 7: 10, 8: 10}
CAPPED = (2, 5, 6, 8)  # at most 2 where a check proves the answer wrong
CLEAR = 3.0  # of 100: a smaller difference is a tie
NEEDED_KAPPA = 0.6
MOST_NONSENSE = 0.2  # share of replies that may be unusable before the whole judgement is
MAX_WORDS = 1_600
Winner = Literal["tuned", "base", "tie"]


class Grade(Record):
    """One criterion: 0 to 4, and the words of the answer that earn it."""

    grade: float | None = None
    quote: str = ""


class Side(Record):
    """Grades of one answer."""

    grades: dict[str, Grade | None]
    errors: tuple[str, ...] = ()


class Pair(Record):
    """A labelled pair for calibration; `label` is what careful readers agreed on."""

    task: str
    facts: tuple[str, ...] = ()
    a: str
    b: str
    label: Literal["a", "b", "tie"]


class Judgement(Record):
    """What the judge said. `won` counts a tie as a half. `usable` false: too much nonsense, no conclusion."""

    model: str
    won: float
    decided: int
    ties: int
    nonsense: int
    calls: int
    usable: bool
    agreement: float | None = None  # Cohen's kappa with the labelled pairs
    pairs: int = 0
    by_item: dict[str, Winner] = {}

    @property
    def counts(self) -> bool:
        """Whether the gate may look at it."""
        return self.usable and self.agreement is not None and self.agreement >= NEEDED_KAPPA


Scores = Mapping[str, tuple[float | None, float | None]]  # item -> score by check of (base, tuned)


def open_judge(cfg: ChatJudge, *, store: Path, budget_usd: float, teachers: frozenset[str]) -> ChatModel:
    """The judge behind the chat seam; a paid one buys through the ledger in `store`, so a verdict is never paid for twice.

    Raises ConfigError when the judge would grade its own family's pupil or bill without a known price, LimitError when nothing may be
    spent, ServiceError without a key.
    """
    family = cfg.family.strip().lower() or ("local" if cfg.kind == "chat" else cfg.kind)
    if family in teachers:
        law = "must be of another family than the teacher, whose style it would prefer"
        raise ConfigError("evaluate.judge", law, "choose another provider, or judge.kind none", family)
    from sysdesign.models.paid import Spender, open_ledger, open_provider, own_host

    if cfg.kind == "chat":
        from sysdesign.models.openai_http import OpenAiHttp

        if not cfg.base_url:
            raise ConfigError("evaluate.judge.base_url", "must be set for a local judge", "for example http://localhost:11434/v1")
        if not own_host(cfg.base_url):
            law = "must be this machine or a private network: a server that bills has no price here, and so no cap"
            raise ConfigError("evaluate.judge.base_url", law, "use judge.kind anthropic or openai, with this base_url", cfg.base_url)
        return OpenAiHttp(cfg.base_url, cfg.model, name=cfg.model, key_env=cfg.key_env)
    from sysdesign.models.paid_chat import PaidChat

    provider = open_provider(cfg.kind, cfg.model, key_env=cfg.key_env, base_url=cfg.base_url, where="evaluate.judge")
    return PaidChat(Spender(provider, open_ledger(store, budget_usd)))


def judge(
    model: ChatModel, items: Sequence[Item], base: Mapping[str, str], tuned: Mapping[str, str], right: Scores, *, max_tokens: int
) -> Judgement:
    """Judge the labelled pairs, then every headline item, each in both orders; one that makes sense of no pair is asked no further.

    Raises what the model raises: LimitError at the end of the budget, ServiceError when it cannot be reached.
    """
    tally: Counter[str] = Counter()
    found: dict[str, Winner] = {}
    kappa, pairs = calibrate(model, max_tokens=max_tokens, tally=tally)
    for item in items if pairs else ():
        wrong = {
            side: value is not None and value < 0.5 for side, value in zip(("base", "tuned"), right.get(item.id, (None, None)), strict=True)
        }
        winner = _both_ways(model, _task(item), base[item.id], tuned[item.id], (wrong["base"], wrong["tuned"]), max_tokens, tally)
        if winner is not None:
            found[item.id] = {"a": "base", "b": "tuned", "tie": "tie"}[winner]  # type: ignore[assignment]
    counts = Counter(found.values())
    usable = bool(found) and tally["nonsense"] <= MOST_NONSENSE * tally["calls"]
    return Judgement(
        model=model.name, won=counts["tuned"] + counts["tie"] / 2, decided=len(found), ties=counts["tie"], nonsense=tally["nonsense"],
        calls=tally["calls"], usable=usable, agreement=kappa, pairs=pairs, by_item=found,
    )  # fmt: skip


def calibrate(model: ChatModel, *, max_tokens: int, tally: Counter[str]) -> tuple[float | None, int]:
    """(kappa, pairs judged) on the labelled pairs."""
    labels, said = [], []
    for entry in read_yaml(PAIRS):
        pair = Pair.model_validate(entry)
        task = "\n\n".join([f"TASK: {pair.task}", "FACTS:\n" + ("\n".join(pair.facts) or "none"), "EXPECTED: none"])
        winner = _both_ways(model, task, pair.a, pair.b, (False, False), max_tokens, tally)
        if winner is not None:
            labels.append(pair.label)
            said.append(winner)
    return (kappa(labels, said) if labels else None), len(labels)


def kappa(labels: Sequence[str], said: Sequence[str]) -> float:
    """Cohen's kappa: agreement beyond what the two distributions of answers would give by chance."""
    n = len(labels)
    agree = sum(a == b for a, b in zip(labels, said, strict=True)) / n
    ours, theirs = Counter(labels), Counter(said)
    chance = sum(ours[key] * theirs[key] for key in ours) / n**2
    return 1.0 if chance == 1 else (agree - chance) / (1 - chance)


def plain(answer: str) -> str:
    """Without markdown decoration and beyond the word limit: judges prefer what looks polished (arXiv 2604.23178, 2026)."""
    text = re.sub(r"```\w*|[*_#`|]+|^\s*[-•]\s+", " ", answer, flags=re.MULTILINE)
    return " ".join(text.split()[:MAX_WORDS])


def _both_ways(
    model: ChatModel, task: str, a: str, b: str, wrong: tuple[bool, bool], max_tokens: int, tally: Counter[str]
) -> Literal["a", "b", "tie"] | None:
    first = _ask(model, task, a, b, wrong, max_tokens, tally)
    second = _ask(model, task, b, a, wrong[::-1], max_tokens, tally) if first else None  # half a verdict is none
    if first is None or second is None:
        return None
    back = {"a": "b", "b": "a", "tie": "tie"}[second]
    return first if first == back else "tie"


def _ask(
    model: ChatModel, task: str, a: str, b: str, wrong: tuple[bool, bool], max_tokens: int, tally: Counter[str]
) -> Literal["a", "b", "tie"] | None:
    """One verdict; a reply that breaks the form is asked for once more and then counted as nonsense."""
    system = Message(role="system", text=read_prompt(PROMPT).strip())
    user = Message(role="user", text=f"{task}\n\nANSWER A:\n{plain(a) or '(empty)'}\n\nANSWER B:\n{plain(b) or '(empty)'}")
    for seed in (0, 1):
        tally["calls"] += 1
        reply = model.reply([system, user], max_tokens=max_tokens, seed=seed)
        totals = _totals(reply.text, plain(a), plain(b), wrong)
        if totals is not None:
            difference = totals[0] - totals[1]
            return "tie" if abs(difference) < CLEAR else "a" if difference > 0 else "b"
        tally["nonsense"] += 1
    return None


def _totals(reply: str, a: str, b: str, wrong: tuple[bool, bool]) -> tuple[float, float] | None:
    """Weighted totals out of 100 over the criteria that both sides have; None when the reply breaks the form."""
    value = next((v for v in json_values(reply) if isinstance(v, dict) and "A" in v and "B" in v), None)
    if value is None:
        return None
    try:
        sides = [Side.model_validate({k: v for k, v in value[name].items() if k in ("grades", "errors")}) for name in ("A", "B")]
    except (ValidationError, AttributeError):
        return None
    called = [n for n in WEIGHTS if all((g := side.grades.get(str(n))) is not None and g.grade is not None for side in sides)]
    if not called:
        return None
    weights = sum(WEIGHTS[n] for n in called)
    totals = []
    for side, text, bad in zip(sides, (a, b), wrong, strict=True):
        points = 0.0
        for n in called:
            grade = side.grades[str(n)]
            assert grade is not None and grade.grade is not None
            quoted = bool(grade.quote.strip()) and _squeezed(grade.quote) in _squeezed(text)
            earned = min(4.0, max(0.0, grade.grade)) if quoted else 0.0
            points += WEIGHTS[n] * (min(2.0, earned) if bad and n in CAPPED else earned) / 4
        totals.append(100 * points / weights)
    return totals[0], totals[1]


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", plain(text).lower())


def _task(item: Item) -> str:
    drawn = f"\nThe picture shows:\n{describe(item.graph)}" if item.graph is not None else ""
    facts = "\n".join(f"{fact.name}: {fact.value} {fact.unit or ''}".strip() for fact in item.facts)
    expected: dict[str, Any] = item.rubric.model_dump(mode="json", exclude_defaults=True) if item.rubric else {}
    if item.check is not None and item.check.expected is not None:
        expected["right answer"] = item.check.expected
    return "\n\n".join(
        [f"TASK: {item.question}{drawn}", f"FACTS:\n{facts or 'none'}", f"EXPECTED: {json.dumps(expected, ensure_ascii=False)}"]
    )
