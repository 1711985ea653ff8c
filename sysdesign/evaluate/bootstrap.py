"""Paired differences, grouped by graph -> mean, standard error and one-sided bounds that hold at a stated error rate.

Questions about one picture share its difficulty, so whole graphs are resampled, not questions; both models answer the same
questions, so differences are taken first (E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, 2024).

Bounds of a difference are studentised: where most graphs gain a little and a few lose a lot, percentiles of the resampled mean and
Student's t both promote too easily, 8 to 9 % at a nominal 3 % (B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993,
section 12.5, has the method). They are never narrower than Student's t, which few graphs or a lopsided sample may otherwise make them, and
beyond the error rate that the draws can resolve Student's tail goes on, as wide as theirs was there. Intervals of a mean, which are for
reading, are percentiles, for they stay between 0 and 1, widened for the number of graphs as in T. Hesterberg, "What Teachers Should
Know About the Bootstrap", The American Statistician 69(4), 2015.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

from sysdesign.graph import Record

_Z = NormalDist()
RESOLVED = 10  # resamples beyond a quantile that make it more than one of chance


class Estimate(Record):
    """A mean with its two-sided 95 % interval, over `n` values in `clusters` graphs; bounds are None below two graphs."""

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    unscored: int = 0


class Difference(Record):
    """A paired difference. `lows[k]` and `highs[k]` are the one-sided bounds at `alphas[k]`; None below two graphs."""

    mean: float
    n: int
    clusters: int
    se: float | None = None
    alphas: tuple[float, ...] = ()
    lows: tuple[float | None, ...] = ()
    highs: tuple[float | None, ...] = ()


def spend(alpha: float, attempt: int) -> float:
    """The error rate that attempt number `attempt` (from 1) on one probe set may use: 6 alpha / (pi k)^2.

    The series sums to `alpha`, so trying seeds until one passes never passes a model that is not better more often than that.
    """
    return 6.0 * alpha / (math.pi * attempt) ** 2


def series(alpha: float, attempts: int) -> list[float]:
    """What each of the first `attempts` may use."""
    return [spend(alpha, attempt) for attempt in range(1, attempts + 1)]


def estimate(values: Sequence[float | None], clusters: Sequence[str], *, draws: int, seed: int, floor: float = 0.0) -> Estimate | None:
    """Mean over the scored values, which lie between `floor` and 1; None when nothing was scored."""
    scored = [(value, cluster) for value, cluster in zip(values, clusters, strict=True) if value is not None]
    if not scored:
        return None
    sums, counts = _by_cluster([value for value, _ in scored], [cluster for _, cluster in scored])
    low = high = None
    mean = sum(sums) / sum(counts)
    if len(sums) > 1 and cluster_se(sums, counts) > 0:
        low, high = _percentiles(sums, counts, draws, seed)
    elif len(sums) > 1:
        unseen = 1 - 0.025 ** (1 / len(sums))  # a share of graphs that are unlike these and yet had a chance of 2.5 % not to be among them
        low, high = mean - unseen * (mean - floor), mean + unseen * (1 - mean)
    return Estimate(mean=mean, low=low, high=high, n=len(scored), clusters=len(sums), unscored=len(values) - len(scored))


def difference(
    new: Sequence[float | None],
    old: Sequence[float | None],
    clusters: Sequence[str],
    *,
    alphas: Sequence[float],
    draws: int,
    seed: int,
    reach: float = 1.0,
) -> Difference | None:
    """new - old over the questions that both have a score for; None when there is no such question.

    `reach`: the largest difference there can be, which no bound exceeds.
    """
    pairs = [(a - b, cluster) for a, b, cluster in zip(new, old, clusters, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    sums, counts = _by_cluster([value for value, _ in pairs], [cluster for _, cluster in pairs])
    mean, se = sum(sums) / sum(counts), None
    lows: list[float | None] = [None] * len(alphas)
    highs = list(lows)
    if len(sums) > 1:
        se, found = cluster_se(sums, counts), _studentised(sums, counts, draws, seed)
        lows = [max(-reach, mean - width(found, len(sums), alpha) * se) for alpha in alphas]
        highs = [min(reach, mean + width(-found[::-1], len(sums), alpha) * se) for alpha in alphas]
    return Difference(
        mean=mean, n=len(pairs), clusters=len(sums), se=se, alphas=tuple(alphas), lows=tuple(lows), highs=tuple(highs)
    )  # fmt: skip


def cluster_se(sums: Sequence[float], counts: Sequence[float]) -> float:
    """Standard error of the ratio sum/count over clusters, with the small-sample factor C/(C-1)."""
    mean, size = sum(sums) / sum(counts), len(sums)
    spread = sum((s - mean * n) ** 2 for s, n in zip(sums, counts, strict=True))
    return math.sqrt(size / (size - 1) * spread) / sum(counts)


def needed_clusters(se: float, clusters: int, *, alpha: float, power: float, effect: float) -> int:
    """Graphs needed to show `effect` (beyond the margin) with `power` at one-sided `alpha`, given the spread seen in `clusters` graphs."""
    if effect <= 0:
        raise ValueError("effect must be above 0")
    per_cluster = se * math.sqrt(clusters)
    found = max(2, math.ceil(((_Z.inv_cdf(1 - alpha) + _Z.inv_cdf(power)) * per_cluster / effect) ** 2))
    while power_of(per_cluster / math.sqrt(found), found, alpha=alpha, effect=effect) < power:  # Student's t needs a few more
        found += 1
    return found


def power_of(se: float, clusters: int, *, alpha: float, effect: float) -> float:
    """Chance that a true gain of `effect` beyond the margin passes at one-sided `alpha`: by the non-central t distribution."""
    from scipy.special import nctdtr

    if se == 0:
        return 1.0 if effect > 0 else 0.0
    return 1.0 - float(nctdtr(clusters - 1, effect / se, t_quantile(1 - alpha, clusters - 1)))


def t_quantile(p: float, freedom: int) -> float:
    """Student's t quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


def width(studentised: Any, clusters: int, alpha: float) -> float:
    """How many standard errors a one-sided bound at `alpha` lies from the mean, away from the upper tail of the sorted `studentised`."""
    import numpy as np

    student = t_quantile(1 - alpha, clusters - 1)
    if len(studentised) < 10 * RESOLVED:
        return student
    seen = max(alpha, RESOLVED / len(studentised))
    return student * max(1.0, float(np.quantile(studentised, 1 - seen)) / t_quantile(1 - seen, clusters - 1))


def _by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[list[float], list[float]]:
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
        counts[cluster] = counts.get(cluster, 0.0) + 1
    order = sorted(sums)
    return [sums[c] for c in order], [counts[c] for c in order]


def _weights(size: int, draws: int, seed: int) -> Iterator[Any]:
    """How often each cluster is drawn, (some draws, size) at a time."""
    import numpy as np

    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // size)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)  # 5 times as fast as `multinomial`


def _studentised(sums: Sequence[float], counts: Sequence[float], draws: int, seed: int) -> Any:
    """Sorted (mean of a resample - mean) / standard error of the resample, of those resamples that have a spread."""
    import numpy as np

    s, n, size = np.asarray(sums), np.asarray(counts), len(sums)
    mean, found = s.sum() / n.sum(), []
    for weights in _weights(size, draws, seed):
        total, count, ss, sn, nn = (weights @ np.stack([s, n, s * s, s * n, n * n], axis=1)).T
        means = total / count
        spread = ss - 2 * means * sn + means**2 * nn  # of the residuals sum - mean * count
        kept = spread > 1e-9 * (ss + nn)
        found.append((means - mean)[kept] * count[kept] / np.sqrt(size / (size - 1) * spread[kept]))
    return np.sort(np.concatenate(found))


def _percentiles(sums: Sequence[float], counts: Sequence[float], draws: int, seed: int) -> tuple[float, float]:
    import numpy as np

    s, n, size = np.asarray(sums), np.asarray(counts), len(sums)
    means = np.concatenate([(weights @ s) / (weights @ n) for weights in _weights(size, draws, seed)])
    widened = _Z.cdf(math.sqrt(size / (size - 1)) * t_quantile(0.025, size - 1))
    low, high = np.quantile(means, (widened, 1 - widened))
    return float(low), float(high)
