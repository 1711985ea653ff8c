"""Questions about what stands between load and capacity: caches that absorb it, queues that delay it, pools that hold it."""

from __future__ import annotations

import math

from sysdesign.conversations.asked import Asked, Facts
from sysdesign.conversations.families.words import STORES, journey, pick_flow, tell_load
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import load
from sysdesign.conversations.view import View
from sysdesign.graph import Architecture
from sysdesign.records import Check


def cache_load(view: View, pen: Pen) -> Asked | None:
    """Load behind a cache. Rule: calls x (1 - hit ratio)."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("misses reach the store")
    if flow is None or (rates := load.rates(graph, flow.entry, flow.peak_qps)) is None:
        return None
    cached = [
        e for e in graph.edges if e.via_cache is not None and rates.get(e.src, 0) > 0 and graph.component(e.via_cache).hit_ratio is not None
    ]
    if not cached:
        return None
    edge = pen.rng.choice(cached)
    cache = graph.component(edge.via_cache or "")
    tell_load(view, pen, flow, edge.dst)
    hit, before = cache.hit_ratio or 0.0, rates[edge.src] * edge.calls_per_request
    behind = before * load.miss_ratio(graph, edge)
    src, dst, name = pen.name(view.names[edge.src]), pen.name(view.names[edge.dst]), pen.name(cache.name)
    for what, value, unit in (
        ("reads that leave the cache for the store", behind, "req/s"),
        ("reads before the cache", before, "req/s"),
        ("hit ratio", hit, None),
        ("miss ratio", 1 - hit, None),
    ):
        facts.add(what, value, unit)
    return Asked(
        family="cache_load",
        ask=(
            f"How many [reads|requests] per second from {src} [get past|miss in] {name} and reach {dst} at peak?",
            f"{name} [sits before|shields] {dst}. [What|Which rate] is left for {dst} [from|out of] {src} at peak?",
            f"[Compute|Work out] the [miss traffic|load] from {src} to {dst} behind {name} at peak.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=behind, unit="req/s", tolerance=0.01),
        lead=(
            f"{pen.n(behind, 'req/s')} [miss|get past] {name} and [reach|hit|land on] {dst}.",
            f"{dst} [sees|receives] {pen.n(behind, 'req/s')} of misses.",
        ),
        short=(pen.n(behind, "req/s"),),
        steps=(
            (f"{src} [asks for|issues|makes] {pen.n(before, 'req/s')}.",),
            (f"[The miss ratio is|Misses are] 1 - {pen.n(hit)} = {pen.n(1 - hit)}.",),
            (f"{pen.n(before)} x {pen.n(1 - hit)} = {pen.n(behind, 'req/s')}.",),
        ),
        trap=("Hits [never|do not] reach the store[; use the misses|].",),
        so=(f"[A cold|An empty] {name} [would pass|passes] all {pen.n(before)} to {dst}.",),
    )


def cache_outage(view: View, pen: Pen) -> Asked | None:
    """Does the store survive the loss of its cache? Rule: hit ratio 0, then rate > capacity."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("rate without the cache against capacity")
    if flow is None:
        return None
    cached = [
        e
        for e in graph.edges
        if e.via_cache is not None and (graph.component(e.via_cache).hit_ratio or 0) > 0 and load.capacity(graph, e.dst) is not None
    ]
    if not cached:
        return None
    edge = pen.rng.choice(cached)
    cold_rates = load.rates(without_cache(view, edge.via_cache or ""), flow.entry, flow.peak_qps)
    warm = load.rates(graph, flow.entry, flow.peak_qps)
    if cold_rates is None or warm is None or cold_rates.get(edge.dst, 0) <= 0:
        return None
    tell_load(view, pen, flow, edge.dst)
    store = graph.component(edge.dst)
    view.tell(pen, store, "capacity_qps")
    view.tell(pen, store, "replicas")
    rate, limit = cold_rates[edge.dst], load.capacity(graph, edge.dst) or 0.0
    over = rate > limit
    name, db = pen.name(view.names[edge.via_cache or ""]), pen.name(store.name)
    facts.add(f"rate at {store.name} without the cache", rate, "req/s")
    facts.add(f"capacity of {store.name}", limit, "req/s")
    facts.add(f"rate at {store.name} with the cache", warm[edge.dst], "req/s")
    facts.add("overloaded", over)
    facts.add("replicas", store.replicas)
    facts.add("capacity per replica", store.capacity_qps or 0, "req/s")
    return Asked(
        family="cache_outage",
        ask=(
            f"[If|When] {name} [is lost|goes down|restarts empty] at peak, is {db} overloaded?",
            f"{name} [fails|is flushed] at peak [and every read goes to|so all reads hit] {db}. Does {db} [become|get] "
            "overloaded? [Yes or no.|]",
            f"Would {db} be overloaded at peak without {name}?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if over else "no"),
        lead=(
            f"[Yes|Yes, it is overloaded]: {db} would [see|face|get] {pen.n(rate, 'req/s')} [against|with] a capacity of {pen.n(limit)}."
            if over
            else f"[No|No, it holds]: {db} would [see|face|get] {pen.n(rate, 'req/s')} and [bears|can take] {pen.n(limit)}.",
        ),
        short=("Yes.",) if over else ("No.",),
        steps=(
            (f"With {name} [up|warm], {db} [sees|gets] {pen.n(warm[edge.dst], 'req/s')}.",),
            (f"[Without it|With a hit ratio of 0] the rate [rises to|becomes] {pen.n(rate, 'req/s')}.",),
            (f"Capacity: {store.replicas} x {pen.n(store.capacity_qps or 0)} = {pen.n(limit, 'req/s')}.",),
        ),
        so=(
            (
                "[Warm the cache|Shed load|Limit concurrency] [before|while] [taking traffic|it refills]."
                if over
                else "[The cache here saves|It is there for] latency, [not|rather than] [survival|capacity]."
            ),
        ),
        trap=("[Size|Judge] the store [for the cold cache|without the cache], not [for the average|with it warm].",),
    )


def without_cache(view: View, cache_id: str) -> Architecture:
    """The graph with that cache's hit ratio at 0."""
    parts = tuple(c.model_copy(update={"hit_ratio": 0.0}) if c.id == cache_id else c for c in view.graph.components)
    return view.graph.model_copy(update={"components": parts})


def needed_hit_ratio(view: View, pen: Pen) -> Asked | None:
    """The hit ratio that keeps a store within its capacity at a larger load. Rule: 1 - capacity / rate."""
    graph, facts = view.graph, Facts("1 - capacity / rate")
    stores = [c for c in graph.components if c.type in STORES and c.capacity_qps is not None and any(e.dst == c.id for e in graph.edges)]
    if not stores:
        return None
    store = pen.rng.choice(stores)
    limit = store.replicas * (store.capacity_qps or 1.0)
    reads = float(round(limit * pen.rng.choice((1.5, 2, 2.5, 4, 5, 8, 10)), -1 if limit < 100 else -2)) or limit * 2
    if reads <= limit:
        return None
    view.tell(pen, store, "capacity_qps")
    view.tell(pen, store, "replicas")
    ratio, name = load.needed_hit_ratio(reads, limit), pen.name(store.name)
    for what, value, unit in (
        ("needed hit ratio", ratio, None),
        ("reads", reads, "req/s"),
        ("capacity", limit, "req/s"),
        ("capacity per replica", store.capacity_qps or 0, "req/s"),
        ("replicas", store.replicas, None),
        ("share the store can take", limit / reads, None),
    ):
        facts.add(what, value, unit)
    return Asked(
        family="needed_hit_ratio",
        ask=(
            f"Reads [for|of] {name} [grow|rise] to {pen.n(reads, 'req/s')}. What hit ratio must a cache in front of it "
            "[reach|have] [so that it is not overloaded|to protect it]?",
            f"[What|Which] cache hit ratio [keeps|would keep] {name} within capacity at {pen.n(reads, 'req/s')} of reads?",
            f"At {pen.n(reads, 'req/s')} of reads, [what|how high] must the hit ratio [before|in front of] {name} be [at least|as "
            "a minimum]?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=ratio * 100, unit="%", tolerance=0.01),
        lead=(
            f"[At least|A minimum of|It needs] {pen.percent(ratio)}.",
            f"[The cache must answer|A cache has to absorb] {pen.percent(ratio)} of the reads[ before {name}|].",
        ),
        short=(pen.percent(ratio),),
        steps=(
            (f"{name} [bears|takes] {store.replicas} x {pen.n(store.capacity_qps or 0)} = {pen.n(limit, 'req/s')}.",),
            (f"[That is|So it can take] {pen.n(limit)} / {pen.n(reads)} = {pen.percent(limit / reads)} of the reads.",),
            (f"[The rest|What is left], {pen.percent(ratio)}, must be hits.",),
        ),
        trap=("[A cold start|An empty cache] has a hit ratio of 0[; plan for it|].",),
    )


def queue_backlog(view: View, pen: Pen) -> Asked | None:
    """Growth, drain time or worker count of a queue. Rules: max(0, in - n x each); backlog / (n x each - in); ceil(in / each)."""
    graph, facts = view.graph, Facts("queue balance")
    pairs = [
        (e.src, e.dst)
        for e in graph.edges
        if graph.component(e.src).type in ("queue", "stream") and graph.component(e.dst).type in ("worker", "function", "service")
    ]
    pairs += [
        (e.dst, e.src)
        for e in graph.edges
        if graph.component(e.dst).type in ("queue", "stream") and graph.component(e.src).type == "worker"
    ]
    pairs = [(q, w) for q, w in pairs if graph.component(w).capacity_qps is not None]
    if not pairs:
        return None
    queue, worker = pen.rng.choice(pairs)
    who = graph.component(worker)
    view.tell(pen, who, "capacity_qps")
    view.tell(pen, who, "replicas")
    each, count = who.capacity_qps or 1.0, who.replicas
    drained = each * count
    q, w = pen.name(view.names[queue]), pen.name(who.name)
    facts.add("rate per worker", each, "msg/s")
    facts.add("workers", count)
    facts.add("drain rate", drained, "msg/s")
    base = ((f"{w} [drains|consumes|takes] {count} x {pen.n(each)} = {pen.n(drained, 'msg/s')}.",),)
    turn = pen.rng.choice(("growth", "drain", "workers"))
    if turn == "growth":
        arrivals = float(math.ceil(drained * pen.rng.choice((1.2, 1.25, 1.5, 1.75, 2, 3))))
        value, unit = load.queue_growth(arrivals, count, each), "msg/s"
        ask = (
            f"Messages [arrive|come in] at {q} at {pen.n(arrivals, 'msg/s')}, [drained|consumed] by {w}. How fast does the "
            "backlog grow, in messages per second?",
            f"{pen.n(arrivals, 'msg/s')} [enter|flow into] {q} and only {w} [consumes|drains] them. [What is|Give] the growth of "
            "the backlog[ per second|].",
            f"[Producers write|Input is] {pen.n(arrivals, 'msg/s')} to {q}; {w} [reads|consumes]. [By how much|How fast] does the "
            "queue [grow|fill] each second?",
        )
        steps: tuple[tuple[str, ...], ...] = (
            *base,
            (f"[Arrivals minus drain|The difference]: {pen.n(arrivals)} - {pen.n(drained)} = {pen.n(value, 'msg/s')}.",),
        )
        lead = (f"{q} grows by {pen.n(value, 'msg/s')}.", f"[The backlog|Its backlog] [grows|rises] by {pen.n(value, 'msg/s')}.")
    elif turn == "drain":
        arrivals = float(math.floor(drained * pen.rng.choice((0.2, 0.4, 0.5, 0.6, 0.75, 0.8))))
        backlog = pen.rng.choice((1e4, 5e4, 1e5, 2.5e5, 6e5, 1e6, 2e6))
        spent = load.drain_s(backlog, arrivals, count, each)
        if spent is None:
            return None
        value, unit = spent, "s"
        facts.add("backlog", backlog)
        facts.add("spare rate", drained - arrivals, "msg/s")
        ask = (
            f"{q} holds {pen.n(backlog)} messages and {pen.n(arrivals, 'msg/s')} keep arriving. How many seconds [does|will] {w} "
            "[need|take] to [empty|drain] it?",
            f"A backlog of {pen.n(backlog)} [sits|waits] in {q} while {pen.n(arrivals, 'msg/s')} [come in|arrive]. [When is it "
            f"empty|How long until it is drained], in seconds, [with|by] {w}?",
            f"After an outage {q} has {pen.n(backlog)} messages; input is {pen.n(arrivals, 'msg/s')}. [Compute|Give] the seconds "
            f"{w} needs to catch up.",
        )
        steps = (
            *base,
            (f"[Spare|Net] rate: {pen.n(drained)} - {pen.n(arrivals)} = {pen.n(drained - arrivals, 'msg/s')}.",),
            (f"{pen.n(backlog)} / {pen.n(drained - arrivals)} = {pen.n(value, 's')}.",),
        )
        lead = (f"[It takes|That takes|{w} needs] {pen.n(value, 's')}.", f"{q} is [empty|drained] after {pen.n(value, 's')}.")
    else:
        arrivals = float(math.ceil(drained * pen.rng.choice((0.7, 1.3, 1.8, 2.2, 2.7, 3.4))))
        value, unit = float(load.replicas_for(arrivals, each)), ""
        facts.add("exact quotient", arrivals / each)
        ask = (
            f"Input to {q} is {pen.n(arrivals, 'msg/s')}. How many replicas of {w} keep up?",
            f"[What|Which] number of {w} replicas [stops the backlog from growing|holds the queue steady] when "
            f"{pen.n(arrivals, 'msg/s')} [reach|enter] {q}?",
            f"{pen.n(arrivals, 'msg/s')} [arrive|flow] into {q}: [how many|give the fewest] replicas of {w} [that suffice|do you need]?",
        )
        steps = (
            (f"[Each|One] {w} [drains|consumes] {pen.n(each, 'msg/s')}.",),
            (f"{pen.n(arrivals)} / {pen.n(each)} = {pen.n(arrivals / each)}, [rounded up|so] {pen.n(value)}.",),
        )
        lead = (
            f"[It takes|Run|You need] {pen.n(value)} replica{'s' if value != 1 else ''} of {w}.",
            f"{pen.n(value)} {w} replica{'s keep' if value != 1 else ' keeps'} up.",
        )
    facts.add("arrivals", arrivals, "msg/s")
    facts.add({"growth": "backlog growth", "drain": "time to drain", "workers": "workers needed"}[turn], value, unit or None)
    return Asked(
        family="queue_backlog",
        ask=ask,
        facts=facts.all(),
        check=Check(kind="number", expected=value, unit=unit or None, tolerance=0.01),
        lead=lead,
        short=(pen.n(value, unit),),
        steps=steps,
        trap=(
            "[New messages keep arriving|Arrivals go on] [while|as] the backlog [drains|is worked off].",
            "A queue [hides|smooths] [bursts|a burst]; it does not [add capacity|make workers faster].",
        ),
        so=("[Watch|Alert on] the [age of the oldest message|lag], not [only |]the [queue length|depth].",),
    )


def in_flight(view: View, pen: Pen) -> Asked | None:
    """Concurrent requests inside a component. Rule: Little's law, L = rate x time."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("Little's law")
    if flow is None or (rates := load.rates(graph, flow.entry, flow.peak_qps)) is None:
        return None
    known = [n for n in rates if rates[n] > 0 and graph.component(n).service_ms]
    if not known:
        return None
    component = graph.component(pen.rng.choice(known))
    tell_load(view, pen, flow, component.id)
    view.tell(pen, component, "service_ms")
    rate, own = rates[component.id], component.service_ms or 0.0
    inside, name, way = load.in_flight(rate, own), pen.name(component.name), journey(view, pen, flow)
    for what, value, unit in (
        (f"in flight at {component.name}", inside, None),
        (f"rate at {component.name}", rate, "req/s"),
        ("own time", own, "ms"),
        ("own time in seconds", own / 1000, "s"),
    ):
        facts.add(what, value, unit)
    return Asked(
        family="in_flight",
        ask=(
            f"How many requests is {name} itself working on at once at peak, on average? [Consider|Take] {way}.",
            "[By|Using] Little's law, [how large must|what is the average occupancy of] a [worker pool|connection pool|thread "
            f"pool] at {name} [be |]at peak? It concerns {way}.",
            f"[Compute|Give] the mean [concurrency|number in flight] at {name} at peak, its own time only, for {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=inside, tolerance=0.01),
        lead=(
            f"[On average|In the mean] {pen.n(inside)} requests are [in flight|inside] at {name}.",
            f"{name} [holds|works on] {pen.n(inside)} requests at once[ on average|].",
        ),
        short=(pen.n(inside),),
        steps=(
            (f"[Peak rate|The rate] at {name}: {pen.n(rate, 'req/s')}.",),
            (f"[Time inside|Own time]: {pen.n(own, 'ms')} = {pen.n(own / 1000, 's')}.",),
            (f"L = {pen.n(rate)} x {pen.n(own / 1000)} = {pen.n(inside)}.",),
        ),
        trap=("[This is a mean|It is the mean]; a pool needs [head room|reserve] [for bursts|above it].",),
    )
