"""Questions about tails and retries: sums of p99s, fan-out, retry amplification, the order of timeouts."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import faults, time
from sysdesign.conversations.view import View
from sysdesign.records import Check


def tail_sum(view: View, pen: Pen) -> Asked | None:
    """What a sum of p99s guarantees. Rule: union bound, n parts -> at least 1 - 0.01 n of requests."""
    graph, facts = view.graph, Facts("union bound over p99s")
    timed = [c for c in graph.components if c.p99_ms is not None and c.type != "client"]
    if len(timed) < 2:
        return None
    chosen = pen.rng.sample(timed, k=min(len(timed), pen.rng.choice((2, 3, 3, 4))))
    for component in chosen:
        view.tell(pen, component, "p99_ms")
        facts.add(f"p99 of {component.name}", component.p99_ms or 0, "ms")
    total, share = time.p99_bound(tuple(c.p99_ms or 0.0 for c in chosen))
    facts.add("sum of the p99s", total, "ms")
    facts.add("share of requests guaranteed within it", share)
    facts.add("calls", len(chosen))
    facts.add("share within one p99", 0.99)
    facts.add("share beyond one p99", 0.01)
    listed = pen.names(c.name for c in chosen)
    return Asked(
        family="tail_sum",
        ask=(
            f"[A request|Each request] [passes|visits] {listed} once each, one after the other. What share of requests is "
            "guaranteed to finish "
            "within the sum of their p99s, and what is that sum in ms?",
            f"[Add|Sum] the p99s of {listed}. [What is|Give] the sum in milliseconds, and what does it guarantee?",
            f"{listed} are called in sequence. [Can their p99s be added|Do the p99s add up to a p99|Is the sum of their p99s the "
            "p99]? [Give|State] the sum in ms and what "
            "it bounds.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=total, unit="ms", tolerance=0.01),
        lead=(
            f"The sum is {pen.n(total, 'ms')}; [at least|no fewer than] {pen.percent(share)} of requests [finish within it|are "
            "that fast], [not 99 %|so it is no p99].",
            f"{pen.n(total, 'ms')}, [which bounds|a bound for] at least {pen.percent(share)} of requests.",
        ),
        short=(f"{pen.n(total, 'ms')} for {pen.percent(share)}",),
        steps=(
            (f"{' + '.join(pen.n(c.p99_ms or 0) for c in chosen)} = {pen.n(total, 'ms')}.",),
            (
                f"[Each|Every] part may [miss|exceed] its p99 on [another|a different] 1 % of requests, {len(chosen)} x 1 % in "
                "the worst case.",
            ),
        ),
        trap=("p99s do not add [up|]: [the tails may fall on different requests|slow calls need not coincide].",),
    )


def fan_out_tail(view: View, pen: Pen) -> Asked | None:
    """Chance that a fan-out meets a slow call. Rule: 1 - (1 - p)^n for independent calls."""
    graph, facts = view.graph, Facts("1 - (1 - p)^n")
    fans = {c.id: [e for e in graph.edges if e.src == c.id and e.mode == "sync"] for c in graph.components if c.type != "client"}
    wide = [
        (node, edges)
        for node, edges in fans.items()
        if sum(e.calls_per_request for e in edges) >= 2
        and all(e.calls_per_request == int(e.calls_per_request) and e.via_cache is None for e in edges)
    ]
    if not wide:
        return None
    node, edges = pen.rng.choice(wide)
    count = int(sum(e.calls_per_request for e in edges))
    for edge in edges:
        view.tell_edge(pen, edge, "calls_per_request")
    share = pen.rng.choice((0.001, 0.005, 0.01, 0.02, 0.05))
    chance, name = time.any_slow(share, count), pen.name(view.names[node])
    for what, value in (
        ("chance of at least one slow call", chance),
        ("calls", count),
        ("share of slow calls", share),
        ("chance that none is slow", 1 - chance),
        ("chance that one call is fast", 1 - share),
    ):
        facts.add(what, value)
    callees = pen.names(dict.fromkeys(view.names[e.dst] for e in edges))
    return Asked(
        family="fan_out_tail",
        ask=(
            f"Each synchronous call out of {name} is slow with probability {pen.percent(share)}, independently. What percentage "
            "of its requests meets at least one slow call?",
            f"{name} [waits for|needs] all its synchronous callees; {pen.percent(share)} of calls are slow. How many percent of "
            "requests are [hit|slowed]?",
            f"[Tail at scale|Fan-out]: with {pen.percent(share)} slow calls, [how likely|with what chance in percent] is a "
            f"request at {name} slow[, calls independent|]?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=chance * 100, unit="%", tolerance=0.02),
        lead=(
            f"{pen.percent(chance)} of [its requests|the requests at {name}] meet at least one slow call.",
            f"[About|Some] {pen.percent(chance)}.",
        ),
        short=(pen.percent(chance),),
        steps=(
            (f"{name} makes {count} synchronous call{'s' if count != 1 else ''} per request[ (to {callees})|].",),
            (f"[All fast|None slow]: {pen.n(1 - share)}^{count} = {pen.percent(1 - chance)}.",),
            (f"[At least one slow|The rest]: {pen.percent(chance)}.",),
        ),
        trap=("[The slowest call decides|One slow call is enough], so the tail [grows|worsens] with [the fan-out|every callee].",),
        so=("[Hedged requests|Backup requests|Fewer callees] [cut|reduce] it.",),
    )


def retry_storm(view: View, pen: Pen) -> Asked | None:
    """Attempts at the end of a chain when every layer retries. Rule: product of (1 + retries)."""
    graph, facts = view.graph, Facts("product of (1 + retries)")
    chains = [(a, b) for a in graph.edges for b in graph.edges if a.dst == b.src and a.src != b.dst and a.mode == b.mode == "sync"]
    if not chains:
        return None
    drawn = [c for c in chains if all(e.retries > 0 for e in c)]
    chain = list(pen.rng.choice(drawn or chains))
    longer = [e for e in graph.edges if e.src == chain[-1].dst and e.mode == "sync" and e.dst not in {x.src for x in chain}]
    if longer and pen.rng.random() < 0.5:
        chain.append(pen.rng.choice(longer))
    asked = [e.retries for e in chain] if drawn else [pen.rng.randint(1, 3) for _ in chain]
    names = [view.names[chain[0].src], *(view.names[e.dst] for e in chain)]
    if drawn:
        for edge in chain:
            view.tell_edge(pen, edge, "retries")
    attempts = faults.retry_amplification(tuple(asked))
    facts.add("attempts", attempts)
    facts.add("chain", names)
    said = []
    for edge, count in zip(chain, asked, strict=True):
        facts.add(f"retries {view.names[edge.src]} -> {view.names[edge.dst]}", count)
        facts.add(f"attempts {view.names[edge.src]} -> {view.names[edge.dst]}", count + 1)
        said.append(f"{pen.name(view.names[edge.src])} retries {pen.name(view.names[edge.dst])} {count} time{'s' if count != 1 else ''}")
    first, last = pen.name(names[0]), pen.name(names[-1])
    given = "" if drawn else f"[Suppose|Say|Assume] {', '.join(said)}. "
    factors = " x ".join(str(1 + c) for c in asked)
    return Asked(
        family="retry_storm",
        ask=(
            f"{given}If {last} [fails|rejects] every call, how many [attempts|calls] does one request at {first} [cause|make] there, "
            f"along {' -> '.join(pen.name(n) for n in names)}?",
            f"{given}{last} is down. [How many times|How often] is it [called|tried] for one request at {first} via "
            f"{' -> '.join(pen.name(n) for n in names[1:])}?",
            f"{given}[Compute|Give|Work out] the retry amplification from {first} to {last} along "
            f"{' -> '.join(pen.name(n) for n in names)}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=attempts, tolerance=0.0),
        lead=(
            f"{last} [gets|receives|sees] {attempts} attempts[ for one request|].",
            f"[One request|A single request] [becomes|turns into] {attempts} attempts at {last}.",
        ),
        short=(f"{attempts}", f"{attempts} attempts"),
        steps=(
            *((f"{s}: {c + 1} attempts[ per call|].",) for s, c in zip(said, asked, strict=True)),
            (f"[Layers multiply|They multiply]: {factors} = {attempts}.",),
        ),
        trap=("[Retries multiply|Layers multiply]; [they do not add|adding them is wrong].",),
        so=("[Retry at one layer only|Give a retry budget|Add a circuit breaker|Use back-off with jitter].",),
    )


def timeout_order(view: View, pen: Pen) -> Asked | None:
    """Is a caller's timeout long enough? Rule: caller timeout > (1 + retries) x callee timeout."""
    graph, facts = view.graph, Facts("caller timeout > (1 + retries) x callee timeout")
    chains = [(a, b) for a in graph.edges for b in graph.edges if a.dst == b.src and a.src != b.dst and a.mode == b.mode == "sync"]
    if not chains:
        return None
    drawn = [c for c in chains if all(e.timeout_ms for e in c)]
    outer, inner = pen.rng.choice(drawn or chains)
    retries = inner.retries
    if drawn:
        limit, each = outer.timeout_ms or 1.0, inner.timeout_ms or 1.0
        view.tell_edge(pen, outer, "timeout_ms")
        view.tell_edge(pen, inner, "timeout_ms")
        view.tell_edge(pen, inner, "retries")
    else:
        each, retries = float(pen.rng.choice((50, 100, 200, 250, 400))), pen.rng.randint(1, 3)
        limit = float(pen.rng.choice((1, 1.5, 2, 3, 5)) * each * (1 + retries) // 1)
        limit = max(limit, 10.0) if pen.rng.random() < 0.5 else float(round(each * 1.5))
    worst = (1 + retries) * each
    fine = limit > worst
    a, b, c = (pen.name(view.names[n]) for n in (outer.src, outer.dst, inner.dst))
    for what, value, unit in (
        ("caller timeout", limit, "ms"),
        ("callee timeout", each, "ms"),
        ("retries", retries, None),
        ("attempts", retries + 1, None),
        ("worst wait", worst, "ms"),
    ):
        facts.add(what, value, unit)
    given = (
        ""
        if drawn
        else f"[Suppose|Say|Assume] {a} waits {pen.n(limit, 'ms')} for {b}; {b} waits {pen.n(each, 'ms')} for {c} and retries "
        f"{retries} time{'s' if retries != 1 else ''}. "
    )
    return Asked(
        family="timeout_order",
        ask=(
            f"{given}[Is the timeout {a} -> {b}|Does {a} wait] long enough for {b} to use all its tries at {c}?",
            f"{given}[Might|May|Could] {a} give up before {b} has [finished|exhausted] its tries at {c}? [Answer|Say] whether the "
            "timeouts are ordered "
            "correctly, yes or no.",
            f"{given}Are the timeouts along {a} -> {b} -> {c} [in the right order|consistent|ordered correctly], yes or no?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if fine else "no"),
        lead=(
            f"[Yes|Yes, they are]: {a} waits {pen.n(limit, 'ms')}, {b} needs at most {pen.n(worst, 'ms')}."
            if fine
            else f"[No|No, they are not]: {a} gives up after {pen.n(limit, 'ms')}, {b} may need {pen.n(worst, 'ms')}.",
        ),
        short=("Yes.",) if fine else ("No.",),
        steps=(
            (f"[Worst case at|The longest wait of] {b}: {retries + 1} [attempts|rounds] x {pen.n(each)} = {pen.n(worst, 'ms')}.",),
            (f"{a} allows {pen.n(limit, 'ms')}.",),
        ),
        trap=("[A caller that gives up first|An impatient caller] [wastes|throws away] [work that is still running|the callee's work].",),
        so=("[Propagate deadlines|Pass the remaining deadline on] [instead of fixed timeouts|so that no layer works in vain].",),
    )
