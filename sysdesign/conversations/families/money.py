"""Questions of money and of the cheapest enlargement, and pipelines whose flow really is conserved."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import journey, pick_flow, tell_load
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import capacity, load
from sysdesign.conversations.view import View
from sysdesign.records import Check


def monthly_cost(view: View, pen: Pen) -> Asked | None:
    """Cost of the drawn replicas. Rule: sum of replicas x price."""
    graph, facts = view.graph, Facts("sum of replicas x price")
    priced = [c for c in graph.components if c.cost_usd is not None and c.type not in ("client", "external")]
    if len(priced) < 2:
        return None
    if len(priced) > 8:
        priced = pen.rng.sample(priced, k=pen.rng.choice((3, 4, 5)))
    total = sum(c.replicas * (c.cost_usd or 0) for c in priced)
    rows = []
    for c in priced:
        view.tell(pen, c, "cost_usd")
        view.tell(pen, c, "replicas")
        facts.add(f"cost of {c.name}", c.replicas * (c.cost_usd or 0), "USD")
        facts.add(f"price per replica of {c.name}", c.cost_usd or 0, "USD")
        facts.add(f"replicas of {c.name}", c.replicas)
        rows.append((pen.name(c.name), str(c.replicas), pen.n(c.cost_usd or 0), pen.n(c.replicas * (c.cost_usd or 0))))
    facts.add("monthly cost", total, "USD")
    listed = pen.names(c.name for c in priced)
    return Asked(
        family="monthly_cost",
        ask=(
            f"What do {listed} cost [together|in total] [per month|a month], in US dollars?",
            f"[Add up|Sum] the monthly bill [for|of] {listed}.",
            f"[Give|Compute] the monthly cost of {listed} [together|in all], all replicas counted.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=total, unit="USD", tolerance=0.001),
        lead=(f"[Together|In total] {pen.n(total, 'USD')} a month.", f"[They cost|The bill is] {pen.n(total, 'USD')} [a month|per month]."),
        short=(pen.n(total, "USD"),),
        steps=(*((f"{n}: {r} x {p} = {c}.",) for n, r, p, c in rows), (f"[Sum|Added up]: {pen.n(total, 'USD')}.",)),
        table=Table(header=("component", "replicas", "price", "cost"), rows=tuple(rows)),
        trap=(
            "[Prices are per replica|Each price counts once per replica]; [traffic and storage fees|transfer fees] [come on "
            "top|are not in it].",
        ),
    )


def cheapest_fix(view: View, pen: Pen) -> Asked | None:
    """Extra replicas, and dollars, to bear a larger load. Rule: search per component, ceil(rate / capacity) - replicas."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("sum of missing replicas x price")
    if flow is None:
        return None
    factor = pen.rng.choice((1.5, 2, 2.5, 3, 4))
    rates = load.rates(graph, flow.entry, flow.peak_qps * factor)
    used = load.utilisations(graph, flow.entry, flow.peak_qps * factor)
    if rates is None or used is None:
        return None
    short = [graph.component(n) for n, u in used.items() if u > 1 + 1e-9]
    if not short or len(short) > 4 or len(used) > 8:
        return None
    tell_load(view, pen, flow)
    for node in used:
        view.tell(pen, graph.component(node), "capacity_qps")
        view.tell(pen, graph.component(node), "replicas")
    rows, total = [], 0
    for c in short:
        need = load.replicas_for(rates[c.id], c.capacity_qps or 1.0)
        total += need - c.replicas
        for what, value in (
            (f"replicas needed of {c.name}", need),
            (f"replicas of {c.name}", c.replicas),
            (f"extra replicas of {c.name}", need - c.replicas),
        ):
            facts.add(what, value)
        facts.add(f"rate at {c.name}", rates[c.id], "req/s")
        facts.add(f"capacity per replica of {c.name}", c.capacity_qps or 0, "req/s")
        rows.append((pen.name(c.name), pen.n(rates[c.id]), str(c.replicas), str(need), str(need - c.replicas)))
    facts.add("extra replicas", total)
    facts.add("factor", factor)
    facts.add("load", flow.peak_qps * factor, "req/s")
    facts.add("components to scale", [c.name for c in short])
    way, listed = journey(view, pen, flow), pen.names(c.name for c in short)
    return Asked(
        family="cheapest_fix",
        ask=(
            f"Peak load [grows|rises] {pen.n(factor)}-fold. How many replicas must be added in all so that nothing exceeds its "
            f"capacity? [Consider|Take] {way}.",
            f"[What is|Give] the smallest number of extra replicas that [bears|carries] {pen.n(factor)} times the peak, for {way}.",
            f"[Plan|Prepare] {pen.n(factor)} times the peak load: the fewest additional replicas, in total? It concerns {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=total, tolerance=0.0),
        lead=(
            f"{total} [more|extra] replica{'s' if total != 1 else ''}, at {listed}.",
            f"[Add|It takes] {total}: {'; '.join(f'{n} +{d}' for n, _, _, _, d in rows)}.",
        ),
        short=(str(total),),
        steps=(
            *((f"{n}: {r} needs {w} replica{'s' if w != '1' else ''}, {h} [run|exist], so +{d}.",) for n, r, h, w, d in rows),
            (f"[Everything else|The rest] [holds|is within capacity]; [in all|together] {total}.",),
        ),
        table=Table(header=("component", "rate", "replicas", "needed", "extra"), rows=tuple(rows)),
        trap=(
            "Scale only [what is over capacity|the overloaded parts]; [scaling everything|multiplying all replicas] [wastes "
            "money|is dearer].",
        ),
        so=(
            "[No single component is enough|Scaling one part alone does not do]."
            if len(short) > 1
            else f"[Then|After that] {listed} [is no longer the limit|holds].",
        ),
    )


def pipeline_flow(view: View, pen: Pen) -> Asked | None:
    """Largest flow through arrows taken as links. Rule: minimum cut, right here because bytes are conserved (unlike calls)."""
    graph, facts = view.graph, Facts("minimum cut")
    pairs = list(dict.fromkeys((e.src, e.dst) for e in graph.edges))
    if not 3 <= len(pairs) <= 9:
        return None
    sources = [c.id for c in graph.components if all(b != c.id for _, b in pairs) and any(a == c.id for a, _ in pairs)]
    sinks = [c.id for c in graph.components if all(a != c.id for a, _ in pairs) and any(b == c.id for _, b in pairs)]
    links = {pair: float(pen.rng.choice((2, 3, 4, 5, 6, 8, 10, 12))) for pair in pairs}
    ends = [(s, t) for s in sources for t in sinks if capacity.reaches(links, s, t)]
    if not ends:
        return None
    source, sink = pen.rng.choice(ends)
    value, cut = capacity.min_cut(links, source, sink)
    a, b = pen.name(view.names[source]), pen.name(view.names[sink])
    stated = "; ".join(f"{pen.name(view.names[x])} -> {pen.name(view.names[y])} {pen.n(limit)}" for (x, y), limit in links.items())
    facts.add("largest flow", value, "Gbit/s")
    facts.add("limiting links", [f"{view.names[x]} -> {view.names[y]}" for x, y in cut])
    for (x, y), limit in links.items():
        facts.add(f"link {view.names[x]} -> {view.names[y]}", limit, "Gbit/s")
    listed = "; ".join(f"{pen.name(view.names[x])} -> {pen.name(view.names[y])}" for x, y in cut)
    return Asked(
        family="pipeline_flow",
        ask=(
            f"Read the arrows as network links, in Gbit/s: {stated}. [What is|How large is] the [largest|maximum] flow from {a} "
            f"to {b}, in Gbit/s?",
            f"[Treat|Take] each arrow as a pipe with these capacities in Gbit/s: {stated}. How many Gbit/s can [flow|be moved] "
            f"from {a} to {b}?",
            f"Bulk data moves from {a} to {b} over links of {stated} (Gbit/s each). [Give|Compute] the maximum [throughput|flow].",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=value, unit="Gbit/s", tolerance=0.001),
        lead=(f"{pen.n(value)} Gbit/s, [limited by|through the cut] {listed}.", f"[At most|The maximum flow is] {pen.n(value)} Gbit/s."),
        short=(f"{pen.n(value)} Gbit/s",),
        steps=(
            (f"[The cut|A minimum cut] [is|consists of] {listed}.",),
            (
                f"[Its capacity is|Capacity of the cut:] {' + '.join(pen.n(links[c]) for c in cut)} = {pen.n(value)} Gbit/s[, and "
                "no flow can exceed it|].",
            ),
        ),
        trap=(
            "[Here flow is conserved|Bytes are conserved here], so a minimum cut [is right|applies]; for [requests|calls] [it "
            "would be wrong|it is not].",
        ),
    )
