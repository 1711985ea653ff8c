"""Questions about mean time: latency along calls, budgets, the hop to shorten."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import journey, pick_flow
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import time
from sysdesign.conversations.view import View
from sysdesign.graph import Flow
from sysdesign.records import Check


def _timed(view: View, pen: Pen, flow: Flow) -> tuple[float, dict[str, float]] | None:
    """Mean milliseconds of a request at the flow's entry and each component's own part, all values told; None where undefined."""
    graph = view.graph
    total = time.mean_ms(graph, flow.entry)
    if total is None or total <= 0:
        return None
    parts = time.contributions(graph, flow.entry)
    if parts is None or len(parts) < 2:
        return None
    for node in time.waiting_on(graph, flow.entry):
        component = graph.component(node)
        if component.type != "client":
            view.tell(pen, component, "service_ms")
        for edge in graph.edges:
            if edge.src == node:
                view.tell_edge(pen, edge, "mode")
                if edge.mode == "sync":
                    view.tell_edge(pen, edge, "calls_per_request")
                    view.tell_edge(pen, edge, "parallel_group")
                    if edge.via_cache is not None:
                        view.tell_edge(pen, edge, "via_cache")
                        view.tell(pen, graph.component(edge.via_cache), "hit_ratio")
    return total, parts


def mean_latency(view: View, pen: Pen) -> Asked | None:
    """Mean time of a request. Rule: own time plus sequential calls, parallel groups by their slowest member."""
    flow, facts = pick_flow(view, pen), Facts("own time + calls, slowest of a parallel group")
    if flow is None or (found := _timed(view, pen, flow)) is None:
        return None
    total, parts = found
    facts.add("mean latency", total, "ms")
    entry = pen.name(view.names[flow.entry])
    for node, spent in parts.items():
        facts.add(f"time spent in {view.names[node]}", spent, "ms")
    summed = sum(parts.values())
    parallel = abs(summed - total) > 1e-9
    steps = [(f"{pen.name(view.names[n])}[ adds|:] {pen.n(spent, 'ms')}.",) for n, spent in parts.items()]
    if parallel:
        facts.add("sum if all calls were sequential", summed, "ms")
        steps.append(
            (
                f"[In sequence|One after the other] that would be {pen.n(summed, 'ms')}; [parallel calls|calls in parallel] "
                f"[count|cost] only their slowest[ member|], [which leaves|leaving] {pen.n(total, 'ms')}.",
            )
        )
    else:
        steps.append((f"[Added up|The sum|Together]: {pen.n(total, 'ms')}.",))
    way = journey(view, pen, flow)
    return Asked(
        family="mean_latency",
        ask=(
            f"[What is|Can you give|What do you estimate as] the mean latency of {way}, in milliseconds?",
            f"How long does {way} [take|need] on average, in milliseconds?",
            f"[Add up|Work out|Compute] the mean response time at {entry} along the synchronous calls.",
            f"[On average|In the mean], how many milliseconds [pass|go by] before {entry} [answers|responds]?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=total, unit="ms", tolerance=0.01),
        lead=(
            f"{entry} answers in {pen.n(total, 'ms')} on average.",
            f"[The mean latency is|It takes|On average it takes] {pen.n(total, 'ms')}.",
        ),
        short=(pen.n(total, "ms"),),
        steps=tuple(steps),
        table=Table(header=("component", "ms per request"), rows=tuple((pen.name(view.names[n]), pen.n(s)) for n, s in parts.items())),
        trap=(
            "[Asynchronous arrows do|Queued work does] not [keep the caller waiting|count].",
            "[Means add up|Adding is right for means]; [percentiles|p99 values] [would not|do not].",
        ),
    )


def latency_budget(view: View, pen: Pen) -> Asked | None:
    """Does the mean fit a budget? Rule: mean latency against the budget stated in the question."""
    flow, facts = pick_flow(view, pen), Facts("mean latency against the budget")
    if flow is None or (found := _timed(view, pen, flow)) is None:
        return None
    total, parts = found
    budget = float(max(1, round(total * pen.rng.choice((0.6, 0.75, 0.85, 1.2, 1.5, 2)))))
    if abs(budget - total) < 0.02 * total:
        return None
    fits, slack = total < budget, abs(budget - total)
    largest = max(parts.values())
    worst = [view.names[n] for n, s in parts.items() if s >= largest - 1e-9]
    for what, value in (
        ("mean latency", total),
        ("budget", budget),
        ("head room" if fits else "overrun", slack),
        ("largest contribution", largest),
    ):
        facts.add(what, value, "ms")
    facts.add("largest contributor", worst)
    for node, spent in parts.items():
        facts.add(f"time spent in {view.names[node]}", spent, "ms")
    entry, way = pen.name(view.names[flow.entry]), journey(view, pen, flow)
    return Asked(
        family="latency_budget",
        ask=(
            f"The budget for {way} is a mean of {pen.n(budget, 'ms')}. Is it [met|kept]?",
            f"Does {way} stay within {pen.n(budget, 'ms')} on average? [Yes or no|Answer yes or no], and by how much.",
            f"[Can|Does] {entry} answer within a mean of {pen.n(budget, 'ms')}?",
            f"[Check|Test] a mean latency budget of {pen.n(budget, 'ms')} at {entry}: [does it hold|is it met]?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if fits else "no"),
        lead=(
            f"[Yes|Yes, it is met]: {pen.n(total, 'ms')} [against|of] {pen.n(budget)}, [leaving|with] {pen.n(slack, 'ms')} [to "
            "spare|of head room]."
            if fits
            else f"[No|No, it is missed]: {pen.n(total, 'ms')} [against|instead of] {pen.n(budget)}, {pen.n(slack, 'ms')} too [much|slow].",
        ),
        short=("Yes.",) if fits else ("No.",),
        steps=(
            *((f"{pen.name(view.names[n])}[ takes|:] {pen.n(s, 'ms')}.",) for n, s in parts.items()),
            (f"[Mean latency|Total on the waiting path]: {pen.n(total, 'ms')}.",),
        ),
        table=Table(header=("component", "ms per request"), rows=tuple((pen.name(view.names[n]), pen.n(s)) for n, s in parts.items())),
        so=(
            f"[The largest part|Most of it|The biggest share] is {pen.names(worst)} with {pen.n(largest, 'ms')}[: start there|, "
            "the first place to look|].",
        ),
        trap=("[A mean within budget|Meeting the mean] [does not bound|says little about] the p99.",),
    )


def slowest_part(view: View, pen: Pen) -> Asked | None:
    """Which component to speed up first. Rule: largest visits x own time on the synchronous path."""
    flow, facts = pick_flow(view, pen), Facts("largest visits x own time")
    if flow is None or (found := _timed(view, pen, flow)) is None:
        return None
    total, parts = found
    if any(e.parallel_group for e in view.graph.edges):
        return None  # a member that is not the slowest of its group contributes nothing; not a fair question
    largest = max(parts.values())
    worst = [view.names[n] for n, s in parts.items() if s >= largest - 1e-9]
    facts.add("largest contributor", worst)
    facts.add("its contribution", largest, "ms")
    facts.add("mean latency", total, "ms")
    facts.add("its share", largest / total)
    for node, spent in parts.items():
        facts.add(f"time spent in {view.names[node]}", spent, "ms")
    way, listed = journey(view, pen, flow), pen.names(worst)
    return Asked(
        family="slowest_part",
        ask=(
            f"Which component [contributes most to|dominates] the mean latency of {way}?",
            f"[Where|In which component] [is most time spent|does most of the time go] for {way}?",
            f"[You may speed up one component|One component may be optimised]. Which one [cuts|shortens] {way} the most?",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=worst),
        lead=(
            f"{listed}, with {pen.n(largest, 'ms')} [of|out of] {pen.n(total, 'ms')}.",
            f"[Most time goes to|The largest share is|Start with] {listed}: {pen.n(largest, 'ms')}, "
            f"{pen.percent(largest / total)}[ of the total|].",
        ),
        short=(listed,),
        steps=tuple((f"{pen.name(view.names[n])}[ takes|:] {pen.n(s, 'ms')}[ in all|].",) for n, s in parts.items()),
        table=Table(header=("component", "ms per request"), rows=tuple((pen.name(view.names[n]), pen.n(s)) for n, s in parts.items())),
        trap=(
            "[The slowest single call|A slow box] need not [dominate|be it]: [how often it is called|the number of calls] "
            "[counts too|matters as much].",
        ),
        so=("[Even at zero cost there|Removing it entirely] [would leave|leaves] the [rest|remaining time] [untouched|as it is].",),
    )
