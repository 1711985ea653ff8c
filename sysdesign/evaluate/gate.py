"""Evidence -> promote, reject or inconclusive, with every reason in words.

One primary endpoint (gain on the probes) and guardrails that must all hold, so no error rate is inflated by testing many things.
Promote: shown better than the margin and nothing missing. Reject: shown not to reach the margin, or shown harm. Everything else,
a missing part above all, is inconclusive: a gate that passes what it could not measure is no gate.

One part may be missing: the rate of invented components where the base names too few to have one. Holding the tuned model to a rate of 0
then would forbid it to learn to speak, and waiting would end nothing; silence costs recall and F1, which the gain counts. A tuned model
that falls silent where the base speaks is another matter: it leaves the rate open, and promotes nothing.

What ships must itself have been asked. The certificate compares a few answers within tolerances that are wider than the margin of the
gain can be, so it cannot stand in for the answers of the files.
"""

from __future__ import annotations

import math
from typing import Literal

from sysdesign.config.evaluate import Gate
from sysdesign.evaluate.bootstrap import Difference, Estimate, needed_clusters, power_of, spend
from sysdesign.graph import Record

Outcome = Literal["promote", "reject", "inconclusive"]
RATE_GRAPHS = 10  # fewer graphs on which both models name components say nothing about a rate


class Evidence(Record):
    """Everything the gate looks at; differences are tuned minus base (or minus champion)."""

    gain: Difference | None  # probe score
    headline: Difference | None  # headline score by rules
    hallucination: Difference | None  # over the answers in which both name components
    format_validity: Estimate | None  # of the tuned model
    families: dict[str, Difference] = {}
    leaks: int | None = None  # probes or headline prompts that training saw; None: not checked
    parity: bool | None = None  # None: no certificate
    rates: dict[str, Estimate] = {}  # rate of invented components by model, over its own answers that name any
    through: str = ""  # how the answers came: llamacpp, transformers
    ships: bool = False  # whether the very files that ship gave the tuned model's answers
    unanswered: float | None = None  # share of empty answers of the tuned model
    against_champion: Difference | None = None
    champion_missing: str = ""  # why a champion that exists could not be compared; empty when there is none, or it was
    judge_wins: tuple[float, int] | None = None  # (won, decided), ties split; None: not run, or not to be trusted


class Criterion(Record):
    """One line of the verdict. `passed` None: could not be decided. `harm`: shown to be wrong, which rejects."""

    name: str
    passed: bool | None
    harm: bool = False
    waived: bool = False  # could not be decided and does not have to be; the detail says why
    detail: str


class Verdict(Record):
    """The decision and what it stands on."""

    verdict: Outcome
    attempt: int
    alpha: float
    reasons: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    power: str


def decide(evidence: Evidence, gate: Gate, *, attempt: int = 1) -> Verdict:
    """The verdict for this attempt on this probe set. `attempt` counts finished evaluations of different models on it."""
    alpha = spend(gate.alpha, attempt)
    criteria = [
        _gain(evidence.gain, gate, attempt),
        _enough(evidence.gain, gate),
        _attempts(gate, attempt),
        _headline(evidence.headline, gate),
        _hallucination(evidence, gate),
        _format(evidence.format_validity, gate),
        _families(evidence.families),
        _answers(evidence.unanswered),
        _leaks(evidence.leaks),
        _parity(evidence.parity),
        _asked(evidence),
        _champion(evidence, gate, attempt),
    ]
    if evidence.judge_wins is not None:
        criteria.append(_judge(*evidence.judge_wins))
    if any(c.harm for c in criteria):
        verdict: Outcome = "reject"
        reasons = [c.detail for c in criteria if c.harm]
    elif all(c.passed or c.waived for c in criteria):
        verdict, reasons = "promote", [criteria[0].detail, "every guardrail holds", *(c.detail for c in criteria if c.waived)]
    else:
        verdict, reasons = "inconclusive", [c.detail for c in criteria if not (c.passed or c.waived)]
    return Verdict(
        verdict=verdict,
        attempt=attempt,
        alpha=alpha,
        reasons=tuple(reasons),
        criteria=tuple(criteria),
        power=power_statement(evidence.gain, gate, attempt),
    )


def power_statement(gain: Difference | None, gate: Gate, attempt: int = 1) -> str:
    """What this probe set could have shown, in one sentence; says "underpowered: needs n >= ..." where that is so."""
    if gain is None or gain.se is None:
        return f"underpowered: no spread can be seen in {gain.clusters if gain else 0} graphs; needs at least {gate.min_graphs} graphs"
    if gain.se == 0:
        least = f"at least {gate.min_probes} probes of {gate.min_graphs} graphs are required"
        return f"power unknown: the models differ by the same amount on every graph; {least}"
    alpha, effect = spend(gate.alpha, attempt), gate.worthwhile_gain - gate.margin
    has = power_of(gain.se, gain.clusters, alpha=alpha, effect=effect)
    needs = max(needed_clusters(gain.se, gain.clusters, alpha=alpha, power=gate.power, effect=effect), gate.min_graphs)
    about = (
        f"a true gain of {gate.worthwhile_gain:+.2f} would pass {has:.0%} of the time with these {gain.n} probes of {gain.clusters} graphs"
    )
    if has >= gate.power and gain.clusters >= gate.min_graphs and gain.n >= gate.min_probes:
        return about
    probes = max(math.ceil(needs * gain.n / gain.clusters), gate.min_probes)
    return f"underpowered: needs n >= {probes} probes of {needs} graphs; {about}"


def _gain(gain: Difference | None, gate: Gate, attempt: int) -> Criterion:
    name = "gain on the probes"
    if gain is None:
        return Criterion(name=name, passed=None, detail="no probe was scored for both models")
    at = min(attempt, len(gain.lows)) - 1
    low, high = gain.lows[at], gain.highs[at]
    if low is None or high is None:
        return Criterion(name=name, passed=None, detail=f"gain {gain.mean:+.3f} on one graph has no bound")
    says = f"gain {gain.mean:+.3f}, lower bound {low:+.3f} at {gain.alphas[at]:.2%}, must exceed {gate.margin:+.3f}"
    if low > gate.margin:
        return Criterion(name=name, passed=True, detail=says)
    if high <= gate.margin and gain.clusters >= gate.min_graphs:
        return Criterion(
            name=name, passed=False, harm=True, detail=f"gain {gain.mean:+.3f}, upper bound {high:+.3f}: does not reach {gate.margin:+.3f}"
        )
    return Criterion(name=name, passed=None, detail=says)


def _enough(gain: Difference | None, gate: Gate) -> Criterion:
    n, graphs = (gain.n, gain.clusters) if gain else (0, 0)
    enough = n >= gate.min_probes and graphs >= gate.min_graphs
    return Criterion(
        name="size of the probe set", passed=enough or None,
        detail=f"{n} probes of {graphs} held-out graphs; at least {gate.min_probes} of {gate.min_graphs} are required",
    )  # fmt: skip


def _attempts(gate: Gate, attempt: int) -> Criterion:
    fresh = attempt <= gate.max_attempts
    says = f"attempt {attempt} of {gate.max_attempts} on this probe set"
    return Criterion(
        name="attempts", passed=fresh or None, detail=says if fresh else f"{says}: it is spent, make a new one with another dataset.seed"
    )


def _headline(headline: Difference | None, gate: Gate) -> Criterion:
    name = "headline prompts"
    if headline is None or headline.lows[0] is None:
        return Criterion(name=name, passed=None, detail="the headline prompts were not scored")
    low, high = headline.lows[0], headline.highs[0]
    says = (
        f"headline difference {headline.mean:+.3f}, must not be below 0; lower bound {low:+.3f}, must exceed {-gate.non_inferiority:+.3f}"
    )
    harm = high is not None and high < -gate.non_inferiority
    return Criterion(name=name, passed=(low > -gate.non_inferiority and headline.mean >= 0) or None, harm=harm, detail=says)


def _hallucination(evidence: Evidence, gate: Gate) -> Criterion:
    name, rate = "invented components", evidence.hallucination
    spoke = {role: (found.n, found.clusters) if (found := evidence.rates.get(role)) else (0, 0) for role in ("base", "tuned")}
    if rate is None or rate.clusters < RATE_GRAPHS or rate.highs[0] is None or rate.lows[0] is None:
        silent = spoke["base"][1] < RATE_GRAPHS
        who, (n, graphs) = ("base", spoke["base"]) if silent else ("tuned model", spoke["tuned"])
        both = rate.clusters if rate else 0
        says = (
            f"rate of invented components not measured: both models name components on {both} graphs, {RATE_GRAPHS} are needed; "
            f"the {who} names any in {n} answers on {graphs} graphs"
        )
        why = "there is no rate to hold the tuned model to" if silent else "it may have fallen silent where the base speaks"
        return Criterion(name=name, passed=None, waived=silent, detail=f"{says}: {why}")
    says = (
        f"rate of invented components {rate.mean:+.3f}, upper bound {rate.highs[0]:+.3f}, may rise by {gate.hallucination:.3f}; "
        f"over {rate.n} answers on {rate.clusters} graphs in which both name components "
        f"(the base in {spoke['base'][0]}, the tuned model in {spoke['tuned'][0]})"
    )
    return Criterion(name=name, passed=(rate.highs[0] <= gate.hallucination) or None, harm=rate.lows[0] > gate.hallucination, detail=says)


def _format(validity: Estimate | None, gate: Gate) -> Criterion:
    name = "format validity"
    if validity is None:
        return Criterion(name=name, passed=None, detail="no question asked for JSON, arrows or boxes, so format validity is unknown")
    says = f"format validity {validity.mean:.1%} of {validity.n}, must be {gate.format_validity:.0%}"
    harm = validity.high is not None and validity.high < gate.format_validity and validity.clusters >= 10
    return Criterion(name=name, passed=(validity.mean >= gate.format_validity) or None, harm=harm, detail=says)


def _families(families: dict[str, Difference]) -> Criterion:
    """`highs[0]` of each family is already at alpha / number of families (Bonferroni)."""
    worse = [
        f"{name} ({d.mean:+.3f})" for name, d in sorted(families.items()) if d.clusters >= 5 and d.highs[0] is not None and d.highs[0] < 0
    ]
    detail = f"shown to be worse at: {', '.join(worse)}" if worse else f"none of {len(families)} kinds of question is shown to be worse"
    return Criterion(name="regressions", passed=not worse if families else None, harm=bool(worse), detail=detail)


def _answers(unanswered: float | None) -> Criterion:
    if unanswered is None:
        return Criterion(name="answers", passed=None, detail="nothing was asked")
    silent = unanswered > 0.5
    return Criterion(name="answers", passed=(unanswered <= 0.02) or None, harm=silent, detail=f"{unanswered:.1%} of the answers are empty")


def _leaks(leaks: int | None) -> Criterion:
    if leaks is None:
        return Criterion(name="contamination", passed=None, detail="contamination was not checked")
    detail = (
        "no probe or headline prompt was seen in training" if not leaks else f"{leaks} questions leak into training; they were not scored"
    )
    return Criterion(name="contamination", passed=(leaks == 0) or None, detail=detail)


def _parity(parity: bool | None) -> Criterion:
    details = {
        None: "no parity certificate for the shipped files",
        False: "the parity certificate failed",
        True: "the parity certificate holds",
    }
    return Criterion(name="parity", passed=parity or None, harm=parity is False, detail=details[parity])


def _asked(evidence: Evidence) -> Criterion:
    if evidence.ships:
        return Criterion(name="what was asked", passed=True, detail="the very files that ship gave the answers")
    if evidence.through == "llamacpp":
        detail = "another file was asked than the one that ships: unset evaluate.quant, or make that one export.ship"
    else:
        detail = f"the files that ship were not asked (through {evidence.through or 'unknown'}): evaluate with evaluate.through llamacpp"
    return Criterion(name="what was asked", passed=None, detail=detail)


def _champion(evidence: Evidence, gate: Gate, attempt: int) -> Criterion:
    name, against = "champion", evidence.against_champion
    if evidence.champion_missing:
        return Criterion(name=name, passed=None, detail=evidence.champion_missing)
    if against is None:
        return Criterion(name=name, passed=True, detail="there is no champion to beat")
    at = min(attempt, gate.max_attempts) - 1  # as for the gain: trying again until one passes must not pass more often
    low, high = (against.lows[at], against.highs[at]) if at < len(against.lows) else (None, None)
    if low is None or high is None:
        return Criterion(name=name, passed=None, detail="the difference to the champion has no bound at this attempt")
    says = f"difference to the champion {against.mean:+.3f}, lower bound {low:+.3f} at {against.alphas[at]:.2%}, must exceed 0"
    return Criterion(name=name, passed=(low > 0) or None, harm=high < 0, detail=says)


def _judge(won: float, decided: int) -> Criterion:
    enough = decided > 0 and won / decided >= 2 / 3
    return Criterion(
        name="judge",
        passed=enough or None,
        detail=f"the judge preferred the tuned answer in {won:g} of {decided}, ties split; 2 of 3 are required",
    )
