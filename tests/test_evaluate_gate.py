"""The gate on models whose true gain is known, its bounds against exact ones, and every reason it can give."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from experiments.benchmarks.evaluate_gate import HELD, outcomes, series, student
from sysdesign.config.evaluate import Gate
from sysdesign.evaluate.bootstrap import Difference, Estimate, difference, estimate, needed_clusters, power_of, spend, t_quantile
from sysdesign.evaluate.gate import Evidence, decide, power_statement

GATE = Gate(draws=2_000)
GAIN = Difference(mean=0.12, n=300, clusters=75, se=0.03, alphas=(0.03, 0.008), lows=(0.06, 0.02), highs=(0.18, 0.2))
SPOKE = Estimate(mean=0.0, low=0.0, high=0.0, n=60, clusters=30)
GOOD = Evidence(
    gain=GAIN, headline=HELD, hallucination=HELD, format_validity=Estimate(mean=1.0, low=1.0, high=1.0, n=50, clusters=50),
    families={"path": HELD},
    leaks=0, parity=True, unanswered=0.0, through="llamacpp", ships=True, rates={"base": SPOKE, "tuned": SPOKE},
)  # fmt: skip


def test_models_at_the_margin_are_rarely_promoted_and_better_ones_mostly() -> None:
    margin, _ = outcomes(0.03, 100, seed=21)
    better, claimed = outcomes(0.20, 40, seed=22)
    assert margin["promote"] <= 9  # 3 % of 100 is 3; 10 or more has a chance of 0.1 %
    assert better["promote"] >= 36 and claimed > 0.95


def test_trying_models_that_are_no_better_until_one_passes_rarely_works() -> None:
    counted, freely = series(60, seed=31, draws=1_000)
    assert counted <= 6 and counted < freely  # 4.2 % of 60 is 2.5; 7 or more has a chance of 1 %


def test_over_all_attempts_on_one_probe_set_five_percent_hold() -> None:
    assert student(3_000, seed=5) <= 0.05 * 3_000  # 4.2 % are expected; above 5 % has a chance of 1 %
    rng = random.Random(9)
    for clusters in (2, 5, 12, 75):
        new, old = ([rng.random() ** 3 for _ in range(3 * clusters)] for _ in range(2))
        found = difference(new, old, [f"g{i // 3}" for i in range(3 * clusters)], alphas=(0.03, 0.0005), draws=1_000, seed=1)
        assert found is not None and found.se is not None
        for alpha, low, high in zip(found.alphas, found.lows, found.highs, strict=True):
            reach = t_quantile(1 - alpha, clusters - 1) * found.se
            assert low is not None and high is not None
            assert low <= max(-1.0, found.mean - reach) + 1e-12 and high >= min(1.0, found.mean + reach) - 1e-12


def test_models_that_lose_everything_on_a_few_graphs_do_not_slip_through() -> None:
    counted, _ = series(40, seed=31, draws=1_000, shape="lopsided")
    assert counted <= 3  # Student's t and percentiles of the mean promote 6 to 8 of 40


def test_everything_held_promotes_once_and_a_second_attempt_meets_a_stricter_bound() -> None:
    assert decide(GOOD, GATE).verdict == "promote"
    second = decide(GOOD, GATE, attempt=2)
    assert second.verdict == "inconclusive" and second.alpha < decide(GOOD, GATE).alpha
    spent = decide(GOOD, GATE, attempt=9)
    assert spent.verdict == "inconclusive" and any("spent" in reason for reason in spent.reasons)


@pytest.mark.parametrize(("change", "verdict", "reason"), [
    ({"parity": False}, "reject", "certificate failed"),
    ({"parity": None}, "inconclusive", "no parity certificate"),
    ({"leaks": 2}, "inconclusive", "leak into training"),
    ({"leaks": None}, "inconclusive", "not checked"),
    ({"gain": None}, "inconclusive", "no probe was scored"),
    ({"gain": GAIN.model_copy(update={"n": 40, "clusters": 6})}, "inconclusive", "at least 300 of 75"),
    ({"gain": GAIN.model_copy(update={"mean": 0.0, "lows": (-0.03, -0.04), "highs": (0.02, 0.03)})}, "reject", "does not reach"),
    ({"gain": GAIN.model_copy(update={"mean": 0.0, "lows": (-0.3, -0.4), "highs": (0.3, 0.4)})}, "inconclusive", "must exceed"),
    ({"headline": None}, "inconclusive", "headline"),
    ({"headline": HELD.model_copy(update={"mean": -0.2, "lows": (-0.3,), "highs": (-0.1,)})}, "reject", "headline"),
    ({"hallucination": HELD.model_copy(update={"mean": 0.1, "lows": (0.05,), "highs": (0.2,)})}, "reject", "invented"),
    ({"format_validity": Estimate(mean=0.5, low=0.4, high=0.6, n=50, clusters=50)}, "reject", "format"),
    ({"format_validity": None}, "inconclusive", "format"),
    ({"families": {"path": HELD.model_copy(update={"mean": -0.2, "highs": (-0.1,)})}}, "reject", "shown to be worse at: path"),
    ({"unanswered": 1.0}, "reject", "empty"),
    ({"against_champion": HELD.model_copy(update={"mean": -0.1, "lows": (-0.2,), "highs": (-0.05,)})}, "reject", "champion"),
    ({"champion_missing": "the champion was not asked"}, "inconclusive", "champion"),
    ({"ships": False, "through": "transformers"}, "inconclusive", "were not asked"),
    ({"hallucination": None, "rates": {"base": SPOKE}}, "inconclusive", "fallen silent"),
    ({"hallucination": None, "rates": {"tuned": SPOKE}}, "promote", "not measured"),
    ({"judge_wins": (10.0, 30)}, "inconclusive", "judge"),
])  # fmt: skip
def test_each_part_can_stop_a_promotion(change: dict[str, object], verdict: str, reason: str) -> None:
    decided = decide(GOOD.model_copy(update=change), GATE)
    assert decided.verdict == verdict and any(reason in line for line in decided.reasons), decided.reasons


def test_the_power_statement_says_how_many_are_needed() -> None:
    assert "underpowered: needs n >=" in power_statement(GAIN.model_copy(update={"se": 0.06}), GATE)
    assert "underpowered" not in power_statement(GAIN.model_copy(update={"se": 0.02}), GATE)
    assert "underpowered" in power_statement(None, GATE)
    few = power_statement(GAIN.model_copy(update={"n": 80, "clusters": 80, "se": 0.01}), GATE)
    assert "needs n >= 300 probes" in few
    n = needed_clusters(0.06, 75, alpha=0.05, power=0.8, effect=0.07)
    assert power_of(0.06 * (75 / n) ** 0.5, n, alpha=0.05, effect=0.07) == pytest.approx(0.8, abs=0.01)


def test_all_attempts_together_spend_alpha() -> None:
    assert sum(spend(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, abs=1e-5)


def test_bounds_agree_with_student_t_and_grow_with_clustering() -> None:
    rng = random.Random(5)
    new, old = [rng.gauss(0.6, 0.2) for _ in range(200)], [rng.gauss(0.5, 0.2) for _ in range(200)]
    alone = difference(new, old, [f"g{i}" for i in range(200)], alphas=(0.05,), draws=20_000, seed=1)
    assert alone is not None and alone.se is not None and alone.lows[0] is not None
    assert alone.lows[0] == pytest.approx(alone.mean + t_quantile(0.05, 199) * alone.se, abs=0.004)
    shared = [rng.gauss(0, 0.3) for _ in range(40)]
    lumpy = [value + shared[i // 5] for i, value in enumerate(new)]
    grouped = difference(lumpy, old, [f"g{i // 5}" for i in range(200)], alphas=(0.05,), draws=5_000, seed=1)
    single = difference(lumpy, old, [f"g{i}" for i in range(200)], alphas=(0.05,), draws=5_000, seed=1)
    assert grouped and single and grouped.se and single.se and grouped.se > 1.5 * single.se


def test_what_was_not_measured_is_none_and_counted() -> None:
    assert estimate([None, None], ["a", "b"], draws=1_000, seed=0) is None
    found = estimate([1.0, None, 0.0], ["a", "a", "b"], draws=1_000, seed=0)
    assert found is not None and (found.n, found.unscored, found.mean) == (2, 1, 0.5)
    assert estimate([1.0], ["a"], draws=1_000, seed=0).low is None  # type: ignore[union-attr]


def test_an_interval_without_spread_is_as_wide_as_unseen_graphs_allow() -> None:
    found = estimate([0.0] * 20, [f"g{i % 10}" for i in range(20)], draws=1_000, seed=0)
    assert found is not None and (found.low, found.high) == (0.0, pytest.approx(1 - 0.025**0.1))  # the exact binomial bound for 0 of 10
    gap = estimate([0.0] * 20, [f"g{i}" for i in range(20)], draws=1_000, seed=0, floor=-1.0)
    assert gap is not None and gap.low == pytest.approx(-(gap.high or 0)) and 0.15 < (gap.high or 0) < 0.18


def test_a_gate_that_can_show_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be above margin"):
        Gate(margin=0.1, worthwhile_gain=0.1)


def test_a_later_attempt_must_beat_the_champion_by_the_stricter_bound() -> None:
    lows = (0.02, -0.01, -0.02)
    against = HELD.model_copy(update={"mean": 0.05, "alphas": (0.03, 0.01, 0.005), "lows": lows, "highs": (0.1, 0.11, 0.12)})
    gate = GATE.model_copy(update={"max_attempts": 3})
    gain = GOOD.gain.model_copy(update={"alphas": (0.03, 0.01, 0.005), "lows": (0.2,) * 3, "highs": (0.4,) * 3})  # type: ignore[union-attr]
    evidence = GOOD.model_copy(update={"against_champion": against, "gain": gain})
    assert decide(evidence, gate).verdict == "promote"
    later = decide(evidence, gate, attempt=2)
    assert later.verdict == "inconclusive" and "lower bound -0.010 at 1.00%" in " ".join(later.reasons)
    single = evidence.model_copy(update={"against_champion": against.model_copy(update={"lows": (0.02,), "highs": (0.1,)})})
    assert decide(single, gate, attempt=2).verdict == "inconclusive"
