"""A plan -> what a person reads in a terminal, and what a script reads as JSON."""

from __future__ import annotations

import json
from typing import Any

from sysdesign.plan.planner import Bill, Line, Plan
from sysdesign.plan.points import Points

OVER, WORST_OVER, WITHIN, NONE = "over", "worst case over", "within", "no budget"


def verdict(plan: Plan) -> str:
    """How the total stands to runtime.budget_usd; 0 is no budget, and then nothing may be bought."""
    if plan.budget_usd <= 0:
        return NONE
    return OVER if plan.chosen.usd > plan.budget_usd else WORST_OVER if plan.chosen.worst_usd > plan.budget_usd else WITHIN


def text(plan: Plan, points: Points) -> str:
    """The whole table."""
    bill = plan.chosen
    where = bill.machine.name + (
        "" if bill.machine.usd == 0 else f" at ${bill.machine.usd:.2f} an hour (up to ${bill.machine.usd_high:.2f})"
    )
    out = [f"{plan.profile} on {where}", ""]
    out.append(f"{'stage':14} {'minutes':>9} {'worst':>8} {'VRAM GiB':>9} {'RAM GiB':>8} {'disk GB':>8} {'API $':>8} {'machine $':>10}")
    out += [_row(line) for line in bill.lines]
    if bill.setup_minutes:
        usd = bill.setup_minutes / 60 * bill.machine.usd
        out.append(f"{'setting up':14} {'~' + _minutes(bill.setup_minutes):>9} {_minutes(2 * bill.setup_minutes):>8} {'':>35} {usd:10.2f}")
    out += [
        f"{'total':14} {_minutes(bill.minutes):>9} {'':>8} {_gib(bill.vram_gib):>9} {'':>8} {bill.disk_gb:8.1f} {bill.api_usd:8.2f} "
        f"{bill.usd - bill.api_usd:10.2f}",
        "",
        f"${bill.usd:.2f} expected, ${bill.worst_usd:.2f} at worst. {_budget(plan)}",
    ]
    out += [f"! {note}" for note in plan.notes]
    if plan.others:
        out += [
            "",
            "the same job on every card, cheapest first:",
            f"  {'card':12} {'$':>7} {'worst $':>8} {'hours':>6} {'VRAM GiB':>9}  training",
        ]
        out += [_side(other) for other in plan.others]
    out += ["", *_about(plan, points)]
    return "\n".join(out)


def as_json(plan: Plan, points: Points) -> str:
    """Everything, for scripts."""
    found: dict[str, Any] = {
        "profile": plan.profile,
        **_bill(plan.chosen),
        "budget_usd": plan.budget_usd,
        "verdict": verdict(plan),
        "notes": list(plan.notes),
        "machines": [{key: value for key, value in _bill(other).items() if key != "stages"} for other in plan.others],
        "prices_as_of": str(points.as_of),
    }
    return json.dumps(found, indent=2)


def sources(points: Points) -> str:
    """Every figure and where it comes from."""
    rows = [f"{name:26} {figure.value:>10g}  {figure.source}" for part in (points.costs, points.requests) for name, figure in part.items()]
    rows += [f"{name:26} {card.usd:>10g}  $ an hour, up to {card.usd_high:g}: {card.source}" for name, card in points.cards.items()]
    rows += [
        f"{point.passes} x {point.tokens} tokens{'':6} {point.step_ms:>10g}  ms, {point.peak_gib} GiB, layers {point.full} full "
        f"{point.lean} lean, fp8 {point.fp8}: measured on one H200, experiments/benchmarks/train_h200.py, {points.as_of}"
        for point in points.train_points
    ]
    rows.append(f"{'unsloth':26} {points.unsloth.tokens_per_s:>10g}  tokens/s, {points.unsloth.peak_gib} GiB: {points.unsloth.source}")
    return "\n".join([*rows, "API prices: sysdesign/models/prices.v1.yaml, each with its source"])


def _row(line: Line) -> str:
    found = line.estimate
    if line.cached:
        return f"{found.stage:14} {'in the store':>18}"
    about = "" if found.measured or line.corrected_by else "~"
    corrected = f"  [{line.corrected_by} own runs]" if line.corrected_by else ""
    return (
        f"{found.stage:14} {about + _minutes(line.minutes):>9} {_minutes(line.worst_minutes):>8} {_gib(found.vram_gib):>9} "
        f"{found.ram_gib:8.1f} {found.disk_gb:8.2f} {found.api_usd:8.2f} {line.machine_usd:10.2f}  {found.how}{corrected}"
    )


def _side(bill: Bill) -> str:
    training = next(line for line in bill.lines if line.estimate.stage == "train")
    why = bill.why_not
    about = "" if bill.machine.card is not None and bill.machine.card.measured else "~"
    told = f"does not fit: {why[0]}" if why else "in the store" if training.cached else f"{about}{training.estimate.how}"
    cost = "-" if why else f"{bill.usd:.2f}", "-" if why else f"{bill.worst_usd:.2f}", "-" if why else f"{bill.machine_minutes / 60:.1f}"
    return f"  {bill.machine.name:12} {cost[0]:>7} {cost[1]:>8} {cost[2]:>6} {_gib(bill.vram_gib):>9}  {told}"


def _bill(bill: Bill) -> dict[str, Any]:
    return {
        "machine": bill.machine.name,
        "usd": round(bill.usd, 4),
        "worst_usd": round(bill.worst_usd, 4),
        "api_usd": round(bill.api_usd, 4),
        "minutes": round(bill.minutes, 2),
        "machine_minutes": round(bill.machine_minutes, 2),
        "vram_gib": round(bill.vram_gib, 2),
        "disk_gb": round(bill.disk_gb, 2),
        "why_not": list(bill.why_not),
        "stages": [
            {
                **line.estimate.model_dump(),
                "cached": line.cached,
                "minutes": round(line.minutes, 2),
                "worst_minutes": round(line.worst_minutes, 2),
                "machine_usd": round(line.machine_usd, 4),
                "machine_worst_usd": round(line.machine_worst_usd, 4),
                "own_runs": line.corrected_by,
            }
            for line in bill.lines
        ],
    }


def _budget(plan: Plan) -> str:
    match verdict(plan):
        case "no budget":
            return "No budget is set (runtime.budget_usd 0): nothing can be bought from an API."
        case "within":
            return f"Within the budget of ${plan.budget_usd:.2f}."
        case "over":
            return f"OVER the budget of ${plan.budget_usd:.2f}."
        case _:
            return f"Expected within the budget of ${plan.budget_usd:.2f}; the worst case is not, and would be stopped there."


def _about(plan: Plan, points: Points) -> list[str]:
    cached = "" if any(line.cached for line in plan.chosen.lines) else " Nothing of it is in the store."
    return [
        f"~ estimate (scaled from an H200 by peak, or not yet measured); the other times were measured by this project.{cached}",
        f"Rents of {points.as_of}; every figure with its source: python -m pipelines.plan --sources true",
    ]


def _minutes(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value / 60:.1f} h"


def _gib(value: float) -> str:
    return f"{value:.1f}" if value else "-"
