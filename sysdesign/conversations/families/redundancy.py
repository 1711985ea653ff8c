"""Questions about redundancy: availability of a request, error budgets, zone loss, quorums, lag, consensus groups."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import journey, pick_flow, tell_dependencies, tell_load
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import faults, load
from sysdesign.conversations.view import View
from sysdesign.records import Check


def availability(view: View, pen: Pen) -> Asked | None:
    """Availability of a request. Rule: product over needs of 1 - (1 - a)^n, failures independent."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("product of 1 - (1 - a)^n")
    if flow is None or (value := faults.request_availability(graph, flow.entry)) is None:
        return None
    needed = faults.needs(graph, flow.entry)
    tell_dependencies(view, pen, needed)
    parts = [c for c in graph.components if c.id in needed and c.type != "client"]
    if not 2 <= len(parts) <= 8:
        return None
    rows = []
    for c in parts:
        view.tell(pen, c, "availability")
        view.tell(pen, c, "replicas")
        each = faults.replicated_availability(c.availability or 1.0, c.replicas)
        facts.add(f"availability of {c.name}", each)
        facts.add(f"availability of one replica of {c.name}", c.availability or 1.0)
        facts.add(f"replicas of {c.name}", c.replicas)
        rows.append((pen.name(c.name), str(c.replicas), pen.percent(c.availability or 1.0), pen.percent(each)))
    facts.add("availability of the request", value)
    minutes = faults.error_budget_minutes(value)
    facts.add("expected outage in 30 days", minutes, "min")
    facts.add("days", 30)
    way, weakest = journey(view, pen, flow), min(rows, key=lambda r: float(r[3].rstrip("% ")))
    return Asked(
        family="availability",
        ask=(
            f"[What availability, in percent,|Which availability, in percent,] does {way} [reach|have], failures independent?",
            f"[Estimate|Compute|Work out] the availability of {way} in percent (independent failures).",
            f"With independent failures, [what percentage of the time|how many percent of the time] is {way} answered?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=value * 100, unit="%", tolerance=0.0005),
        lead=(
            f"{pen.percent(value)}, [about|roughly] {pen.n(minutes, 'min')} of outage in 30 days.",
            f"[The request|It] is [answered|available] {pen.percent(value)} of the time.",
        ),
        short=(pen.percent(value),),
        steps=(
            *((f"{n}: {r} replica{'s' if r != '1' else ''} at {a}[ give|:] {e}.",) for n, r, a, e in rows),
            (f"[The product|Multiplied] [is|gives] {pen.percent(value)}.",),
        ),
        table=Table(header=("component", "replicas", "one replica", "together"), rows=tuple(rows)),
        trap=(
            "[Independence is assumed|Failures are assumed independent]; [a shared zone or a bad deploy|one bad deploy] breaks that.",
            "[Serial dependencies multiply|Each dependency multiplies in]; [only replicas help|replicas lift a factor].",
        ),
        so=(f"[The weakest factor is|Most is lost at] {weakest[0]}.",),
    )


def error_budget(view: View, pen: Pen) -> Asked | None:
    """Minutes of outage that an objective allows. Rule: (1 - SLO) x window."""
    facts = Facts("(1 - SLO) x window")
    flows = [f for f in view.graph.flows if f.slo_availability is not None]
    drawn = bool(flows)
    flow = pen.rng.choice(flows or list(view.graph.flows)) if view.graph.flows else None
    if flow is None:
        return None
    objective = flow.slo_availability if drawn and flow.slo_availability else pen.rng.choice((0.99, 0.995, 0.999, 0.9995, 0.9999))
    if drawn:
        view.tell_flow(pen, flow, "slo_availability")
    days = pen.rng.choice((7, 28, 30, 90, 365))
    minutes = faults.error_budget_minutes(objective, days)
    for what, value, unit in (
        ("error budget", minutes, "min"),
        ("objective", objective, None),
        ("days", days, None),
        ("allowed share", 1 - objective, None),
        ("minutes in the window", days * 1440, "min"),
    ):
        facts.add(what, value, unit)
    where = pen.name(flow.name)
    aim = "the drawn availability objective" if drawn else f"an availability objective of {pen.percent(objective)}"
    return Asked(
        family="error_budget",
        ask=(
            f"How many minutes of full outage in {days} days does {aim} [allow|leave] [for|to] {where}?",
            f"{where} has {aim}. [What is|Give] the error budget [over|for] {days} days, in minutes.",
            f"For {where}, [convert|turn] {aim} into minutes of outage [per|in] {days} days.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=minutes, unit="min", tolerance=0.01),
        lead=(
            f"{pen.n(minutes, 'min')} in {days} days.",
            f"[The budget is|It allows|There are] {pen.n(minutes, 'min')} [per|in] {days} days.",
        ),
        short=(pen.n(minutes, "min"),),
        steps=(
            (f"[Allowed share|May fail]: 1 - {pen.percent(objective)} = {pen.percent(1 - objective)}.",),
            (f"{days} days are {pen.n(days * 1440)} minutes; the share of it is {pen.n(minutes, 'min')}.",),
        ),
        trap=("[Partial outages|Partial failures] [use it up|spend it] in proportion[ to the requests lost|].",),
    )


def zone_failover(view: View, pen: Pen) -> Asked | None:
    """Does a component bear the peak with one zone gone? Rule: capacity x (z - 1) / z >= rate."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("capacity x (z - 1) / z against the rate")
    if flow is None or (rates := load.rates(graph, flow.entry, flow.peak_qps)) is None:
        return None
    known = [n for n in rates if rates[n] > 0 and graph.component(n).capacity_qps is not None and graph.component(n).replicas >= 2]
    if not known:
        return None
    component = graph.component(pen.rng.choice(known))
    spread = len(component.azs)
    zones = spread if spread >= 2 and component.replicas % spread == 0 else next((z for z in (3, 2) if component.replicas % z == 0), 0)
    if not zones:
        return None
    tell_load(view, pen, flow, component.id)
    view.tell(pen, component, "capacity_qps")
    view.tell(pen, component, "replicas")
    limit, rate = component.replicas * (component.capacity_qps or 0), rates[component.id]
    left = limit * (zones - 1) / zones
    holds, name, way = faults.survives_zone_loss(limit, zones, rate), pen.name(component.name), journey(view, pen, flow)
    remaining = component.replicas * (zones - 1) // zones
    for what, value, unit in (
        ("capacity left", left, "req/s"),
        ("rate", rate, "req/s"),
        ("capacity", limit, "req/s"),
        ("zones", zones, None),
        ("zones left", zones - 1, None),
        ("replicas", component.replicas, None),
        ("replicas left", remaining, None),
        ("capacity per replica", component.capacity_qps or 0, "req/s"),
        ("safe utilisation", faults.safe_utilisation(zones), None),
    ):
        facts.add(what, value, unit)
    return Asked(
        family="zone_failover",
        ask=(
            f"{name} is spread evenly over {zones} availability zones. Does it [still bear|survive] the peak when one zone [is "
            f"lost|fails]? It concerns {way}.",
            f"One of {zones} equal zones [fails|goes dark] at peak. Is what is left of {name} enough for {way}?",
            f"[Can|Could] {name} lose one of its {zones} zones at peak without being overloaded? [Consider|Take] {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if holds else "no"),
        lead=(
            f"[Yes|Yes, it does]: {pen.n(left, 'req/s')} [remain|are left], the rate is {pen.n(rate)}."
            if holds
            else f"[No|No, it does not]: {pen.n(left, 'req/s')} [remain|are left], the rate is {pen.n(rate)}.",
        ),
        short=("Yes.",) if holds else ("No.",),
        steps=(
            (f"[All zones|With {zones} zones]: {component.replicas} x {pen.n(component.capacity_qps or 0)} = {pen.n(limit, 'req/s')}.",),
            (f"[One zone less|After the loss]: {remaining} replica{'s' if remaining != 1 else ''}, {pen.n(left, 'req/s')}.",),
            (f"[Peak rate|Needed] at {name}: {pen.n(rate, 'req/s')}.",),
        ),
        so=(
            f"[Keep|Hold] utilisation [at or below|under] {pen.percent(faults.safe_utilisation(zones))} [to be safe|in normal operation].",
        ),
        trap=("[Autoscaling|Starting replacements] is [too slow|no substitute] when a zone [is gone|goes dark].",),
    )


def quorum(view: View, pen: Pen) -> Asked | None:
    """Consistency or fault tolerance of a replicated store. Rules: R + W > N; N - W and N - R losses."""
    graph, facts = view.graph, Facts("quorum arithmetic")
    stores = [c for c in graph.components if c.replication is not None]
    if not stores:
        return None
    store = pen.rng.choice(stores)
    copies = store.replication
    if copies is None:
        return None
    n, w, r = copies.n, copies.w, copies.r
    drawn = f"{store.id}.replication" in view.visible
    name, turn = pen.name(store.name), pen.rng.choice(("strong", "writes", "reads"))
    strong, (writes, reads) = faults.reads_see_last_write(n, w, r), faults.tolerated_failures(n, w, r)
    for what, value in (("N", n), ("W", w), ("R", r), ("R + W", r + w)):
        facts.add(what, value)
    given = "" if drawn else f"{name} keeps N = {n} copies, writes wait for W = {w}, reads ask R = {r}. "
    sums = (f"R + W = {r} + {w} = {r + w}, N = {n}.",)
    if turn == "strong":
        facts.add("reads see the last write", strong)
        ask = (
            f"{given}[Does every read of {name} see|Is a read of {name} sure to see] the [last|latest] acknowledged write?",
            f"{given}[Do|Will] read and write quorums of {name} always [overlap|share a node]? [Yes or no.|]",
            f"{given}Are reads from {name} strongly consistent [by quorum|in the quorum sense], yes or no?",
        )
        lead: tuple[str, ...] = (
            f"[Yes|Yes, they do]: R + W = {r + w} is larger than N = {n}, so the quorums overlap."
            if strong
            else f"[No|Not always, so no]: R + W = {r + w} does not exceed N = {n}; a read may miss the last write.",
        )
        check, short = Check(kind="choice", expected="yes" if strong else "no"), ("Yes.",) if strong else ("No.",)
        steps: tuple[tuple[str, ...], ...] = (sums, ("[Overlap needs|The condition is] R + W > N.",))
    else:
        value, need, letter = (writes, w, "W") if turn == "writes" else (reads, r, "R")
        facts.add(f"nodes that may be lost for {turn}", value)
        ask = (
            f"{given}How many nodes of {name} may [be lost|fail] before {turn} [stop|fail|are refused]?",
            f"{given}[What number of|How many] lost nodes do {turn} to {name} [survive|tolerate]?",
            f"{given}[Give|Compute|State] the number of {name} nodes whose loss {turn} [still tolerate|survive].",
        )
        lead = (f"{turn.capitalize()} survive the loss of {value} node{'s' if value != 1 else ''}.", f"{value}: {turn} need {need} of {n}.")
        check, short = Check(kind="number", expected=value, tolerance=0.0), (str(value),)
        steps = ((f"{turn.capitalize()} need {letter} = {need} of N = {n}.",), (f"N - {letter} = {n} - {need} = {value}.",))
    return Asked(
        family="quorum",
        ask=ask,
        facts=facts.all(),
        check=check,
        lead=lead,
        short=short,
        steps=steps,
        trap=(
            "[Overlap alone|R + W > N] [does not order|says nothing about ordering] concurrent writes[; versions must|].",
            "[Small quorums|Low R and W] [are fast and risk stale reads|trade consistency for latency].",
        ),
    )


def replica_loss(view: View, pen: Pen) -> Asked | None:
    """Data lost when an asynchronously replicated primary dies. Rules: writes/s x lag; 0 when synchronous."""
    graph, facts = view.graph, Facts("writes x replication lag")
    stores = [c for c in graph.components if c.stateful and c.type in ("sql", "nosql", "search")]
    if not stores:
        return None
    store = pen.rng.choice(stores)
    lag = float(pen.rng.choice((0.2, 0.5, 1, 2, 5, 10, 30)))
    if store.replication is not None and store.replication.mode == "async" and store.replication.lag_s > 0:
        lag = store.replication.lag_s
    rate, name = float(pen.rng.choice((40, 120, 250, 600, 900, 1500, 3200))), pen.name(store.name)
    lost = rate * lag
    for what, value, unit in (("writes at risk", lost, None), ("lag", lag, "s"), ("writes per second", rate, None)):
        facts.add(what, value, unit)
    return Asked(
        family="replica_loss",
        ask=(
            f"{name} takes {pen.n(rate)} writes per second and its replica lags {pen.n(lag, 's')} behind, asynchronously. How "
            "many acknowledged writes can a crash of the primary lose?",
            f"[The replica|A follower|The standby] of {name} is {pen.n(lag, 's')} behind at {pen.n(rate)} writes per second. [Up to how "
            "many|How many] writes are lost on failover[, at most|]?",
            f"Asynchronous replication of {name}, lag {pen.n(lag, 's')}, {pen.n(rate)} writes per second: [what is|give] the "
            "largest loss of acknowledged writes.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=lost, tolerance=0.01),
        lead=(
            f"[Up to|As many as] {pen.n(lost)} writes.",
            f"[A failover|A crash] can lose {pen.n(lost)} acknowledged writes[ at {name}|].",
        ),
        short=(pen.n(lost),),
        steps=(
            (f"[Not yet copied|In the lag window]: {pen.n(rate)} x {pen.n(lag)} = {pen.n(lost)} writes.",),
            (f"[The recovery point|RPO] is the lag, {pen.n(lag, 's')}.",),
        ),
        trap=("[Synchronous replication|Waiting for the replica] [brings it to 0|avoids it], [at the price of|and costs] write latency.",),
    )


def consensus_size(view: View, pen: Pen) -> Asked | None:
    """Members a majority group may lose. Rule: floor((n - 1) / 2)."""
    facts = Facts("floor((n - 1) / 2)")
    stores = [c for c in view.graph.components if c.stateful or c.type in ("sql", "nosql", "stream", "auth", "scheduler", "queue")]
    if not stores:
        return None
    store, n = pen.rng.choice(stores), pen.rng.choice((3, 4, 5, 6, 7, 9))
    lost, name = faults.raft_tolerance(n), pen.name(store.name)
    for what, value in (("members", n), ("majority", n // 2 + 1), ("losses tolerated", lost)):
        facts.add(what, value)
    return Asked(
        family="consensus_size",
        ask=(
            f"{name} is run as a Raft group of {n} members. How many may fail before it stops accepting writes?",
            f"[Suppose|Say] {name} needs a majority of {n} members to [commit|agree]. How many losses does it [tolerate|survive]?",
            f"A consensus group of {n} [backs|stands behind] {name}. [How many members can it lose|Give the number of members it "
            "can lose]?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=lost, tolerance=0.0),
        lead=(
            f"{lost} member{'s' if lost != 1 else ''}; a majority of {n // 2 + 1} [must remain|has to stay up].",
            f"[It survives|It tolerates] the loss of {lost}.",
        ),
        short=(str(lost),),
        steps=((f"[Majority of|More than half of] {n}: {n // 2 + 1}.",), (f"{n} - {n // 2 + 1} = {lost}.",)),
        trap=("An even member count [adds no tolerance|buys nothing]: [it raises the majority as well|the majority grows with it].",),
    )
