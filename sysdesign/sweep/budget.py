"""What was spent, what a trial takes, and whether the next one still fits: the sweep ends between trials, never above its budget."""

from __future__ import annotations

import statistics

from sysdesign.config.sweep import Budget
from sysdesign.graph import Record
from sysdesign.sweep.book import Book


class Spent(Record):
    """Of all closed trials, over all restarts. `typical_s`: the median of a trial that ran to its end, or the file's estimate."""

    trials: int
    hours: float
    usd: float
    typical_s: float | None
    typical_usd: float | None


def spent(book: Book, usd_per_hour: float) -> Spent:
    """What the study has cost so far; running trials are not in it."""
    results = [result for trial in book.done() if (result := book.result(trial.number))]
    hours, usd = sum(r.seconds for r in results) / 3600, sum(r.cost_usd for r in results)
    whole = [r for r in results if r.end == "complete" and r.seconds]
    if whole:
        typical_s: float | None = statistics.median(r.seconds for r in whole)
        typical_usd: float | None = statistics.median(r.cost_usd for r in whole)
    else:
        typical_s = book.spec.budget.minutes_a_trial * 60 or None
        typical_usd = None if typical_s is None else typical_s / 3600 * usd_per_hour
    return Spent(trials=book.counted(), hours=hours, usd=usd, typical_s=typical_s, typical_usd=typical_usd)


def refusal(budget: Budget, so_far: Spent, running: int, *, fresh: bool) -> str:
    """Why no further trial may start, or "" if one may. `fresh`: it is not one that was counted already."""
    if fresh and so_far.trials >= budget.trials:
        return f"{budget.trials} trials are done"
    claims = running + 1  # running trials have not been paid for yet
    hours, usd = (so_far.typical_s or 0.0) / 3600, so_far.typical_usd or 0.0
    if budget.hours and so_far.hours + claims * hours > budget.hours:
        return f"another trial of about {hours:.2f} h would pass {budget.hours:g} h ({so_far.hours:.2f} h are used)"
    if budget.usd and so_far.usd + claims * usd > budget.usd:
        return f"another trial of about {usd:.2f} USD would pass {budget.usd:g} USD ({so_far.usd:.2f} USD are used)"
    return ""


def quote(book: Book, usd_per_hour: float, workers: int) -> str:
    """What the sweep will take, said before it starts."""
    budget, so_far = book.spec.budget, spent(book, usd_per_hour)
    left = max(budget.trials - so_far.trials + len(book.orphans), 0)
    parts = [f"{left} of {budget.trials} trials to run"]
    if so_far.typical_s is None:
        parts.append("minutes a trial unknown until the first one ends (budget.minutes_a_trial says your estimate)")
    else:
        minutes = left * so_far.typical_s / 60 / workers
        parts.append(f"about {minutes:.0f} min at {so_far.typical_s / 60:.1f} min a trial on {workers} at a time, less what is pruned")
        if so_far.typical_usd:
            parts.append(f"about {left * so_far.typical_usd:.2f} USD")
    limits = [f"{budget.hours:g} h" if budget.hours else "", f"{budget.usd:g} USD" if budget.usd else ""]
    parts.append("it stops at " + " or ".join(filter(None, limits)) if any(limits) else "no limit in hours or dollars")
    if so_far.hours:
        parts.append(f"{so_far.hours:.2f} h and {so_far.usd:.2f} USD are used")
    return "; ".join(parts)
