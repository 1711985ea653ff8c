"""Questions about load: rates, bottlenecks, the largest bearable load, the replicas it takes."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import journey, pick_flow, tell_load
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import load
from sysdesign.conversations.view import View
from sysdesign.graph import Flow
from sysdesign.records import Check


def component_rate(view: View, pen: Pen) -> Asked | None:
    """Requests a second at one component. Rule: linear propagation, rate(w) = sum of rate(v) x calls x misses."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("rate propagation")
    if flow is None or (rates := load.rates(graph, flow.entry, flow.peak_qps)) is None:
        return None
    targets = [n for n in rates if n != flow.entry and rates[n] > 0]
    if not targets:
        return None
    target = pen.rng.choice(targets)
    tell_load(view, pen, flow, target)
    name, rate = pen.name(view.names[target]), rates[target]
    facts.add(f"rate at {view.names[target]}", rate, "req/s")
    facts.add(f"load at {view.names[flow.entry]}", flow.peak_qps, "req/s")
    steps = []
    for edge in graph.edges:
        if edge.dst == target and edge.src in rates:
            share = rates[edge.src] * edge.calls_per_request * load.miss_ratio(graph, edge)
            facts.add(f"rate at {view.names[edge.src]}", rates[edge.src], "req/s")
            facts.add(f"calls per request {view.names[edge.src]} -> {view.names[edge.dst]}", edge.calls_per_request)
            misses = ""
            if edge.via_cache is not None:
                facts.add(f"miss ratio of {view.names[edge.via_cache]}", load.miss_ratio(graph, edge))
                misses = f" x {pen.n(load.miss_ratio(graph, edge))} misses"
            facts.add(f"rate {view.names[edge.src]} -> {view.names[edge.dst]}", share, "req/s")
            src = pen.name(view.names[edge.src])
            steps.append(
                (
                    f"[From|Via|Out of] {src}: {pen.n(rates[edge.src])} x {pen.n(edge.calls_per_request)}{misses} = "
                    f"{pen.n(share, 'req/s')}.",
                    f"{src} [contributes|sends|adds] {pen.n(rates[edge.src])} x {pen.n(edge.calls_per_request)}{misses} = "
                    f"{pen.n(share, 'req/s')}.",
                )
            )
    way = journey(view, pen, flow)
    return Asked(
        family="component_rate",
        ask=(
            f"[At peak load|At peak], how many requests per second [reach|arrive at|hit] {name}? [Consider|Take] {way}.",
            f"[What|Which] [rate|load] does {name} [see|get|receive] at peak[, given|, for] {way}?",
            f"[Compute|Work out|Propagate the peak load and give] the [request rate|rate] at {name}. It concerns {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=rate, unit="req/s", tolerance=0.01),
        lead=(
            f"{name} [sees|receives|gets] {pen.n(rate, 'req/s')}[ at peak|].",
            f"[The peak rate at|At peak, the rate at|Load on] {name} is {pen.n(rate, 'req/s')}.",
        ),
        short=(pen.n(rate, "req/s"),),
        steps=(*steps, (f"[Together|Summed|In all|The sum is] {pen.n(rate, 'req/s')}[ at {name}|].",)),
        trap=(
            "[Every incoming arrow adds|All incoming arrows count]; [following|taking] only one path [misses load|undercounts].",
            "[Multipliers|Calls per request] [multiply|compound] along the path[; they do not add|].",
        ),
    )


def told_utilisations(view: View, pen: Pen, flow: Flow, facts: Facts) -> tuple[dict[str, float], Table] | None:
    """Utilisations over the reached components of known capacity, with their table; None unless two or more are known."""
    graph = view.graph
    used = load.utilisations(graph, flow.entry, flow.peak_qps)
    rates = load.rates(graph, flow.entry, flow.peak_qps)
    if used is None or rates is None or len(used) < 2:
        return None
    tell_load(view, pen, flow)
    rows = []
    for node in used:
        component = graph.component(node)
        view.tell(pen, component, "capacity_qps")
        view.tell(pen, component, "replicas")
        limit = component.replicas * (component.capacity_qps or 0)
        facts.add(f"rate at {component.name}", rates[node], "req/s")
        facts.add(f"capacity of {component.name}", limit, "req/s")
        facts.add(f"replicas of {component.name}", component.replicas)
        facts.add(f"capacity per replica of {component.name}", component.capacity_qps or 0, "req/s")
        facts.add(f"utilisation of {component.name}", used[node])
        rows.append((pen.name(component.name), pen.n(rates[node]), pen.n(limit), pen.percent(used[node])))
    if len(used) < sum(1 for n in rates if rates[n] > 0 and graph.component(n).type != "client"):
        view.convention("components without a stated capacity do not limit")
    return used, Table(header=("component", "rate", "capacity", "utilisation"), rows=tuple(rows))


def bottleneck(view: View, pen: Pen) -> Asked | None:
    """Which component saturates first. Rule: largest rate / (replicas x capacity); ties are all named."""
    flow, facts = pick_flow(view, pen), Facts("largest utilisation")
    if flow is None or (found := told_utilisations(view, pen, flow, facts)) is None:
        return None
    used, table = found
    names = [view.names[n] for n in load.bottlenecks(used)]
    top = max(used.values())
    facts.add("bottleneck", names)
    facts.add("utilisation at the bottleneck", top)
    listed = pen.names(names)
    second = sorted(used.values())[-2] if len(names) == 1 else top
    facts.add("second highest utilisation", second)
    steps = tuple((f"{n}: {r} [over|of|/] {c} [is|=] {u}.",) for n, r, c, u in table.rows)
    way = journey(view, pen, flow)
    return Asked(
        family="bottleneck",
        ask=(
            f"Which component [saturates|gives out|hits its limit] first [as load grows|when traffic rises]? [Consider|Take] {way}.",
            f"[Where|What] is the bottleneck [at peak|under the peak load][ of this design|]? It concerns {way}.",
            f"[Find|Name|Identify] the bottleneck for {way}.",
            f"[Load|Traffic] keeps [growing|rising]: what [breaks|saturates] first? [Look at|Consider] {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=names),
        lead=(
            f"[The bottleneck is|The first to saturate is|First at its limit:|The tightest spot is] {listed}, at "
            f"{pen.percent(top)} [of capacity|utilisation][ at peak|].",
            f"{listed} [limits the system|saturates first|is the bottleneck], [running|loaded] at {pen.percent(top)}.",
        ),
        short=(listed,),
        steps=(*steps, (f"[The largest|The highest] is {pen.percent(top)}, at {listed}.",)),
        table=table,
        trap=(
            "[The highest rate|The busiest arrow] is not [the criterion|what counts]; [rate over capacity is|utilisation is].",
            "[A low per-replica capacity|A small box] need not [limit|be the limit]: [compare|weigh] [rate against total "
            "capacity|utilisations].",
        ),
        so=(
            f"[Adding replicas|Scaling] anywhere else [changes nothing|buys nothing|does not help] [until|before] {listed} is "
            "[relieved|widened].",
        ),
    )


def max_load(view: View, pen: Pen) -> Asked | None:
    """Largest entry load the system bears. Rule: peak / largest utilisation (rates are linear; not a min-cut)."""
    flow, facts = pick_flow(view, pen), Facts("peak over largest utilisation")
    if flow is None or (found := told_utilisations(view, pen, flow, facts)) is None:
        return None
    used, table = found
    names, top, most = [view.names[n] for n in load.bottlenecks(used)], max(used.values()), load.max_load(used, flow.peak_qps)
    facts.add("bottleneck", names)
    facts.add("peak load", flow.peak_qps, "req/s")
    facts.add("largest load", most, "req/s")
    listed, entry, way = pen.names(names), pen.name(view.names[flow.entry]), journey(view, pen, flow)
    fits = flow.peak_qps <= most
    return Asked(
        family="max_load",
        ask=(
            f"[What is|How high is] the [largest|highest] load at {entry} that [this design|the system] [bears|can serve] [before "
            "something saturates|without overload]?",
            f"How [much|many requests per second] can [enter|arrive] at {entry} before the first component [is full|saturates]? "
            f"[Consider|Take] {way}.",
            f"[Compute|Work out] the [maximum|sustainable] [throughput|load] for {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=most, unit="req/s", tolerance=0.01),
        lead=(
            f"[At most|Up to|The limit is] {pen.n(most, 'req/s')} at {entry}; [then|beyond that] {listed} [is full|saturates].",
            f"{listed} [caps|limits] {entry} at {pen.n(most, 'req/s')}.",
        ),
        short=(pen.n(most, "req/s"),),
        steps=(
            *((f"{n} runs at {u}[ at peak|].",) for n, _, _, u in table.rows),
            (f"[Load scales linearly|Rates are linear], so the limit is {pen.n(flow.peak_qps)} / {pen.n(top)} = {pen.n(most, 'req/s')}.",),
        ),
        table=table,
        trap=(
            "[A minimum cut|Max-flow] does not [apply|answer this]: a request [visits all callees|goes to every callee], it does "
            "not [choose one|split].",
            "[Adding up|Summing] the capacities [overestimates|says nothing]; [the tightest component|one component] decides.",
        ),
        so=(
            (
                "[The stated peak fits|Peak is covered|The peak load fits]."
                if fits
                else "[The stated peak does not fit|Peak load is too much|The design is overloaded at peak]."
            ),
        ),
    )


def replicas_needed(view: View, pen: Pen) -> Asked | None:
    """Replicas of one component for a utilisation ceiling. Rule: ceil(rate / (capacity x ceiling))."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("ceil of rate over capacity")
    if flow is None or (rates := load.rates(graph, flow.entry, flow.peak_qps)) is None:
        return None
    known = [n for n in rates if rates[n] > 0 and graph.component(n).capacity_qps is not None]
    if not known:
        return None
    component = graph.component(pen.rng.choice(known))
    tell_load(view, pen, flow, component.id)
    view.tell(pen, component, "capacity_qps")
    ceiling = pen.rng.choice((0.5, 0.6, 0.7, 0.75, 0.8))
    rate, each = rates[component.id], component.capacity_qps or 1.0
    count = load.replicas_for(rate, each, ceiling)
    name, way = pen.name(component.name), journey(view, pen, flow)
    facts.add(f"replicas of {component.name} needed", count)
    facts.add(f"rate at {component.name}", rate, "req/s")
    facts.add("capacity per replica", each, "req/s")
    facts.add("ceiling", ceiling)
    facts.add("usable capacity per replica", each * ceiling, "req/s")
    facts.add("exact quotient", rate / (each * ceiling))
    return Asked(
        family="replicas_needed",
        ask=(
            f"How many replicas of {name} keep [it|its utilisation] at or below {pen.percent(ceiling)} at peak? [Consider|Take] {way}.",
            f"[Size|Dimension] {name} for the peak of {way}, [with|allowing] at most {pen.percent(ceiling)} utilisation: how "
            "many replicas?",
            f"[What|Which] replica count does {name} need [at peak|for the peak load] if {pen.percent(ceiling)} utilisation is "
            f"the ceiling? It concerns {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=count, tolerance=0.0),
        lead=(f"{name} needs {count} [replica|instance]{'s' if count != 1 else ''}.", f"[It takes|Plan for|Run] {count} of {name}."),
        short=(str(count),),
        steps=(
            (f"[At peak {name} sees|The peak rate at {name} is|Rate at {name} at peak:] {pen.n(rate, 'req/s')}.",),
            (f"[One replica may carry|Usable per replica:] {pen.n(each)} x {pen.n(ceiling)} = {pen.n(each * ceiling, 'req/s')}.",),
            (f"{pen.n(rate)} / {pen.n(each * ceiling)} = {pen.n(rate / (each * ceiling))}, [rounded up|so] {count}.",),
        ),
        trap=(
            "[Round up|Always round up], [never to the nearest|not to nearest].",
            "[Head room|Reserve] is for [failures and bursts|bursts], [do not plan it away|not for average load].",
        ),
    )
