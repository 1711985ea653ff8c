"""Questions of size and money: shards, hot keys, storage, bandwidth, cost, and pipelines whose flow really is conserved."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts
from sysdesign.conversations.families.words import STORES, journey, pick_flow, tell_load
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import capacity, load
from sysdesign.conversations.view import View
from sysdesign.graph import Component
from sysdesign.records import Check


def _store(view: View, pen: Pen) -> Component | None:
    """Some component that keeps data."""
    stores = [c for c in view.graph.components if c.type in STORES or c.stateful]
    return pen.rng.choice(stores) if stores else None


def shard_count(view: View, pen: Pen) -> Asked | None:
    """Fewest shards for data and load. Rule: ceil(max(data / cap, qps / cap))."""
    store, facts = _store(view, pen), Facts("ceil of the larger of data and load per shard")
    if store is None:
        return None
    rng = pen.rng
    if store.storage_gb and f"{store.id}.storage_gb" in view.visible:
        data = store.storage_gb
        given = ""
    else:
        data = float(rng.choice((600, 1200, 2400, 3600, 5000, 9000, 16000)))
        given = f"{pen.name(store.name)} must hold {pen.n(data, 'GB')}. "
    each_gb = float(rng.choice((200, 250, 400, 500, 800, 1000)))
    qps, each_qps = float(rng.choice((8000, 15000, 24000, 40000, 75000))), float(rng.choice((2000, 2500, 4000, 5000, 8000)))
    count, name = capacity.shards(data, each_gb, qps, each_qps), pen.name(store.name)
    by_data, by_load = data / each_gb, qps / each_qps
    for what, value, unit in (
        ("shards", count, None),
        ("data", data, "GB"),
        ("data per shard", each_gb, "GB"),
        ("load", qps, "req/s"),
        ("load per shard", each_qps, "req/s"),
        ("shards by data", by_data, None),
        ("shards by load", by_load, None),
    ):
        facts.add(what, value, unit)
    return Asked(
        family="shard_count",
        ask=(
            f"{given}Its load is {pen.n(qps, 'req/s')}; one shard holds {pen.n(each_gb, 'GB')} and serves "
            f"{pen.n(each_qps, 'req/s')}. How many shards does {name} need[ at least|]?",
            f"{given}[How many|Give the fewest] shards of {name} for {pen.n(qps, 'req/s')}, [if|when] each [holds|takes] "
            f"{pen.n(each_gb, 'GB')} and {pen.n(each_qps, 'req/s')}?",
            f"{given}[Shard|Partition] {name}: {pen.n(qps, 'req/s')} in all, per shard {pen.n(each_gb, 'GB')} and "
            f"{pen.n(each_qps, 'req/s')}. [What is the least number of shards|How few shards suffice]?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=count, tolerance=0.0),
        lead=(
            f"{count} shard{'s' if count != 1 else ''}, [decided|set|driven] by {'data' if by_data >= by_load else 'load'}.",
            f"{name} needs {count} shard{'s' if count != 1 else ''}.",
        ),
        short=(str(count),),
        steps=(
            (f"[By data|Data]: {pen.n(data)} / {pen.n(each_gb)} = {pen.n(by_data)}.",),
            (f"[By load|Load]: {pen.n(qps)} / {pen.n(each_qps)} = {pen.n(by_load)}.",),
            (f"The larger [quotient|one], rounded up, [is|gives] {count}.",),
        ),
        trap=(
            "[An even spread is assumed|This assumes even keys]; [one hot key|a skewed key] [needs more|breaks it].",
            "[Do not add|Never add] the two [demands|quotients]; [take|use] the larger.",
        ),
    )


def resharding(view: View, pen: Pen) -> Asked | None:
    """Share of keys that move when a shard is added. Rules: 1/(n+1) on a ring, n/(n+1) modulo n."""
    store, facts = _store(view, pen), Facts("moved keys when a shard is added")
    if store is None:
        return None
    n, ring = pen.rng.choice((3, 4, 5, 7, 8, 9, 11, 15, 19)), pen.rng.random() < 0.5
    share, name = capacity.moved_share(n, ring), pen.name(store.name)
    for what, value in (("moved share", share), ("shards before", n), ("shards after", n + 1)):
        facts.add(what, value)
    way = "[consistent hashing|a hash ring]" if ring else "[hash modulo shard count|plain modulo hashing]"
    numerator = 1 if ring else n
    return Asked(
        family="resharding",
        ask=(
            f"{name} is sharded {n} ways with {way}. What percentage of keys moves when one shard is added?",
            f"[Add|We add] one shard to the {n} of {name}, placed by {way}: how many percent of the keys [move|change place], on average?",
            f"With {way}, [going|growing] {name} from {n} to {n + 1} shards moves what percentage of keys?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=share * 100, unit="%", tolerance=0.01),
        lead=(
            f"[About|On average] {pen.percent(share)} of the keys [move|change shard].",
            f"{pen.percent(share)}[ on average|]: {numerator} of {n + 1}.",
        ),
        short=(pen.percent(share),),
        steps=(
            (
                f"[The new shard takes its even part|A ring hands over only the new shard's part], {numerator} of {n + 1}."
                if ring
                else f"[A key stays only if both remainders agree|Remainders agree for one key in {n + 1}], so {numerator} of "
                f"{n + 1} move.",
            ),
            (f"{numerator} / {n + 1} = {pen.percent(share)}.",),
        ),
        trap=(
            "[Modulo hashing moves almost everything|Changing the modulus reshuffles the cache]."
            if not ring
            else "[Virtual nodes|Many points per node] keep the parts even[; few points do not|].",
        ),
    )


def hot_key(view: View, pen: Pen) -> Asked | None:
    """Does a hot key overload its shard? Rule: share x load + even part of the rest against one shard's capacity."""
    store, facts = _store(view, pen), Facts("hot share x load + even rest against a shard")
    if store is None:
        return None
    rng = pen.rng
    n, qps, share = rng.choice((4, 8, 10, 16)), float(rng.choice((8000, 12000, 20000, 40000))), rng.choice((0.05, 0.1, 0.15, 0.2, 0.3))
    each = float(rng.choice((1500, 2000, 3000, 4000, 5000, 8000)))
    hot, rest = qps * share, qps * (1 - share) / n
    total, name = hot + rest, pen.name(store.name)
    if abs(total - each) < 0.01 * each:
        return None
    over = total > each
    for what, value in (
        ("load of the hot shard", total),
        ("hot key", hot),
        ("even part of the rest", rest),
        ("capacity of a shard", each),
        ("total load", qps),
        ("hot share", share),
        ("rest of the load", 1 - share),
    ):
        facts.add(what, value, "req/s" if value > 1 else None)
    facts.add("shards", n)
    return Asked(
        family="hot_key",
        ask=(
            f"{name} has {n} shards for {pen.n(qps, 'req/s')}; one key draws {pen.percent(share)} of it, the rest is even. A "
            f"shard takes {pen.n(each, 'req/s')}. Is the hot shard overloaded?",
            f"One key of {name} [gets|attracts] {pen.percent(share)} of {pen.n(qps, 'req/s')}, the other traffic spreads evenly "
            f"over {n} shards of {pen.n(each, 'req/s')}. Does that shard [overload|exceed its limit]? [Yes or no.|]",
            f"[Hot key|Skew]: {pen.percent(share)} of {pen.n(qps, 'req/s')} on one key of {name}, {n} shards, "
            f"{pen.n(each, 'req/s')} each. [Overloaded, yes or no|Is that shard overloaded]?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if over else "no"),
        lead=(
            f"[Yes|Yes, it is]: that shard sees {pen.n(total, 'req/s')} [against|with a limit of] {pen.n(each)}."
            if over
            else f"[No|No, it is not]: that shard sees {pen.n(total, 'req/s')} [against|with a limit of] {pen.n(each)}.",
        ),
        short=("Yes.",) if over else ("No.",),
        steps=(
            (f"[The hot key|Hot]: {pen.n(share)} x {pen.n(qps)} = {pen.n(hot, 'req/s')}.",),
            (f"[Its part of the rest|Even rest]: {pen.n(1 - share)} x {pen.n(qps)} / {n} = {pen.n(rest, 'req/s')}.",),
            (f"Together {pen.n(total, 'req/s')}.",),
        ),
        so=(
            "[Split the key|Salt the key|Cache it before the store] [if|when] it grows[ further|]."
            if not over
            else "[Split the key|Salt the key|Cache it before the store]; [more shards do not help|adding shards does not split a key].",
        ),
        trap=("[More shards leave|Resharding leaves] a single key [where it is|on one shard].",),
    )


def storage_estimate(view: View, pen: Pen) -> Asked | None:
    """Stored volume. Rule: writes/s x 86,400 x days x size x copies."""
    store, facts = _store(view, pen), Facts("writes x seconds x size x copies")
    if store is None:
        return None
    rng = pen.rng
    writes, size, days = (
        float(rng.choice((20, 50, 120, 250, 400, 800, 1500))),
        float(rng.choice((0.5, 1, 2, 4, 8, 20, 64))),
        rng.choice((7, 30, 90, 180, 365)),
    )
    copies = store.replication.n if store.replication is not None and f"{store.id}.replication" in view.visible else rng.choice((1, 2, 3))
    daily = writes * capacity.SECONDS_A_DAY * size / 1e6
    total, name = capacity.storage_gb(writes, size, days, copies), pen.name(store.name)
    for what, value, unit in (
        ("storage", total, "GB"),
        ("storage a day, one copy", daily, "GB"),
        ("writes per second", writes, None),
        ("object size", size, "kB"),
        ("days", days, None),
        ("copies", copies, None),
        ("seconds a day", capacity.SECONDS_A_DAY, "s"),
        ("gigabyte", 1e6, "kB"),
    ):
        facts.add(what, value, unit)
    return Asked(
        family="storage_estimate",
        ask=(
            f"{name} [takes|receives] {pen.n(writes)} writes per second of {pen.n(size)} kB, kept {days} days in {copies} "
            f"cop{'ies' if copies > 1 else 'y'}. [How many GB is that|How many GB|What is that in GB]?",
            f"[Estimate|Work out|Compute] the storage of {name} in GB: {pen.n(writes)} writes/s, {pen.n(size)} kB each, {days} days, "
            f"{copies} cop{'ies' if copies > 1 else 'y'} (1 GB = 10^6 kB).",
            f"How much [disk|space], in GB, does {name} need [for|to keep] {days} days of {pen.n(writes)} writes/s at {pen.n(size)} kB, "
            f"stored {copies} time{'s' if copies > 1 else ''}?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=total, unit="GB", tolerance=0.01),
        lead=(f"[About|Roughly|Some] {pen.n(total, 'GB')}.", f"{name} [needs|fills] {pen.n(total, 'GB')}."),
        short=(pen.n(total, "GB"),),
        steps=(
            (f"[A day|Daily]: {pen.n(writes)} x {pen.n(capacity.SECONDS_A_DAY)} x {pen.n(size)} kB = {pen.n(daily, 'GB')}.",),
            (f"x {days} days x {copies} = {pen.n(total, 'GB')}.",),
        ),
        trap=("[Indexes, compaction and free space|Indexes and overhead] [come on top|are extra].",),
    )


def bandwidth_estimate(view: View, pen: Pen) -> Asked | None:
    """Traffic on an arrow. Rule: rate x payload x 8."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("rate x payload x 8")
    if flow is None or (rates := load.rates(graph, flow.entry, flow.peak_qps)) is None:
        return None
    arrows = [e for e in graph.edges if rates.get(e.src, 0) > 0]
    if not arrows:
        return None
    drawn = [e for i, e in enumerate(graph.edges) if e in arrows and e.payload_kb and f"edge:{i}.payload_kb" in view.visible]
    edge = pen.rng.choice(drawn or arrows)
    tell_load(view, pen, flow, edge.dst)
    size = edge.payload_kb if drawn and edge.payload_kb else float(pen.rng.choice((1, 2, 4, 8, 16, 40, 120)))
    rate = rates[edge.src] * edge.calls_per_request * load.miss_ratio(graph, edge)
    if rate <= 0:
        return None
    mbit = capacity.bandwidth_mbit_s(rate, size)
    a, b, way = pen.name(view.names[edge.src]), pen.name(view.names[edge.dst]), journey(view, pen, flow)
    for what, value, unit in (
        ("bandwidth", mbit, "Mbit/s"),
        ("rate", rate, "req/s"),
        ("payload", size, "kB"),
        ("kilobytes per second", rate * size, "kB"),
        ("bits per byte", 8, None),
    ):
        facts.add(what, value, unit)
    stated = "" if drawn else f" of {pen.n(size)} kB"
    return Asked(
        family="bandwidth_estimate",
        ask=(
            f"How many Mbit/s [go|flow] from {a} to {b} at peak with a payload{stated or ' as drawn'} per request? [Consider|Take] {way}.",
            f"[Estimate|Compute] the peak bandwidth {a} -> {b} in Mbit/s, payload{stated or ' as drawn'}; it concerns {way}.",
            f"At peak every call {a} -> {b} carries a payload{stated or ' as drawn'}. [What is that in|Give] megabits per second, "
            f"for {way}.",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=mbit, unit="Mbit/s", tolerance=0.01),
        lead=(f"{pen.n(mbit, 'Mbit/s')}[ at peak|].", f"[The arrow carries|That is|It comes to] {pen.n(mbit, 'Mbit/s')}."),
        short=(pen.n(mbit, "Mbit/s"),),
        steps=(
            (f"{pen.n(rate, 'req/s')} [take|use] this arrow.",),
            (f"{pen.n(rate)} x {pen.n(size)} kB = {pen.n(rate * size)} kB/s.",),
            (f"[Times|x] 8 [bits a byte|bits], that is {pen.n(mbit, 'Mbit/s')}.",),
        ),
        trap=("[Bytes are not bits|Mind the factor 8]; [protocol overhead|framing] [comes on top|is extra].",),
    )
