"""What makes a graph impossible: every broken rule is named at once, so that a hand-written graph is mended in one go.

Only contradictions are refused (an arrow to nowhere, a zone inside itself, a synchronous cycle that would never answer).
Poor design is not: a single point of failure is something to ask about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from sysdesign.errors import InputError
from sysdesign.graph import Architecture, Component, Edge

CACHES = ("cache", "cdn")
MAX_COMPONENTS = 60  # past this no picture of 1 MP stays legible


def validate(graph: Architecture, where: str = "graph") -> Architecture:
    """The graph itself. Raises InputError listing every broken rule."""
    broken = problems(graph)
    if broken:
        shown = "; ".join(broken)
        raise InputError(f"{where} {graph.title[:60]!r}", f"an architecture must be possible: {shown}", "mend what is named and try again")
    return graph


def problems(graph: Architecture) -> list[str]:
    """Every broken rule as a phrase that names the offender; empty when the graph is possible."""
    return [
        *_identity(graph),
        *_zones(graph),
        *(found for component in graph.components for found in _component(component)),
        *_edges(graph),
        *_cycle(graph),
        *_flows(graph),
    ]


def _identity(graph: Architecture) -> list[str]:
    found = []
    if not graph.components:
        found.append("a graph needs at least one component")
    if len(graph.components) > MAX_COMPONENTS:
        found.append(f"at most {MAX_COMPONENTS} components fit a legible picture, not {len(graph.components)}")
    for what, values in (
        ("component id", [c.id for c in graph.components]),
        ("component name", [c.name.casefold().strip() for c in graph.components]),
        ("zone id", [z.id for z in graph.zones]),
        ("zone name", [z.name.casefold().strip() for z in graph.zones]),
        ("flow id", [f.id for f in graph.flows]),
        ("flow name", [f.name.casefold().strip() for f in graph.flows]),
    ):
        found += [f"{what} {value!r} is used {count} times" for value, count in Counter(values).items() if count > 1]
    shared = {c.id for c in graph.components} & {z.id for z in graph.zones}
    found += [f"id {name!r} names a component and a zone" for name in sorted(shared)]
    texts = [graph.title, *(c.name for c in graph.components), *(z.name for z in graph.zones), *(f.name for f in graph.flows)]
    found += [f"name {text!r} is blank" for text in texts if not text.strip()]
    return found


def _zones(graph: Architecture) -> list[str]:
    parents = {zone.id: zone.parent for zone in graph.zones}
    found = [f"zone {z.id!r} lies in zone {z.parent!r}, which does not exist" for z in graph.zones if z.parent and z.parent not in parents]
    found += [
        f"component {c.id!r} lies in zone {c.zone!r}, which does not exist" for c in graph.components if c.zone and c.zone not in parents
    ]
    for zone in graph.zones:
        seen, at = {zone.id}, zone.parent
        while at is not None and at not in seen:
            seen.add(at)
            at = parents.get(at)
        if at == zone.id:
            found.append(f"zone {zone.id!r} lies inside itself")
    return found


def _component(c: Component) -> Iterable[str]:
    if c.hit_ratio is not None and c.type not in CACHES:
        yield f"{c.id!r} is a {c.type}: only a cache or CDN has a hit ratio"
    if len(set(c.azs)) != len(c.azs):
        yield f"{c.id!r} lists an availability zone twice"
    if len(c.azs) > c.replicas:
        yield f"{c.id!r} has {c.replicas} replica(s) in {len(c.azs)} availability zones"
    if c.replication is not None:
        if not c.stateful:
            yield f"{c.id!r} replicates data but is not stateful"
        if c.replication.w > c.replication.n or c.replication.r > c.replication.n:
            yield f"{c.id!r} asks more nodes (W={c.replication.w}, R={c.replication.r}) than it has (N={c.replication.n})"
        if c.replication.mode == "sync" and c.replication.lag_s > 0:
            yield f"{c.id!r} replicates synchronously, so its lag cannot be {c.replication.lag_s:g} s"


def _edges(graph: Architecture) -> list[str]:
    types = {c.id: c.type for c in graph.components}
    calls = {(e.src, e.dst) for e in graph.edges}
    found = []
    for index, e in enumerate(graph.edges):
        label = f"edge {index} ({e.src} -> {e.dst})"
        found += [f"{label} ends at {end!r}, which does not exist" for end in (e.src, e.dst) if end not in types]
        if e.src == e.dst:
            found.append(f"{label} is a loop")
        if e.via_cache is not None:
            found += _via_cache(e, e.via_cache, label, types, calls)
    pairs = Counter((e.src, e.dst, e.mode) for e in graph.edges)
    found += [f"{src} -> {dst} ({mode}) is drawn {count} times" for (src, dst, mode), count in pairs.items() if count > 1]
    for field in ("alt_group", "parallel_group"):
        groups = Counter((e.src, getattr(e, field)) for e in graph.edges if getattr(e, field) is not None)
        found += [f"{field} {name!r} of {src!r} has one member: a choice needs two" for (src, name), count in groups.items() if count < 2]
    return found


def _via_cache(e: Edge, cache: str, label: str, types: Mapping[str, str], calls: set[tuple[str, str]]) -> list[str]:
    if cache not in types:
        return [f"{label} goes through the misses of {cache!r}, which does not exist"]
    if types[cache] not in CACHES:
        return [f"{label} goes through the misses of {cache!r}, a {types[cache]}, not a cache"]
    if cache == e.dst:
        return [f"{label} goes through the misses of its own target"]
    if cache != e.src and (e.src, cache) not in calls:
        return [f"{label} goes through the misses of {cache!r}, which {e.src!r} never asks"]
    return []


def _cycle(graph: Architecture) -> list[str]:
    """A synchronous cycle never answers; asynchronous ones (a retry topic) are ordinary."""
    import networkx

    waits = networkx.DiGraph((e.src, e.dst) for e in graph.edges if e.mode == "sync" and e.src != e.dst)
    try:
        ring = [src for src, _ in networkx.find_cycle(waits)]
    except networkx.NetworkXNoCycle:
        return []
    return [f"synchronous calls run in a circle: {' -> '.join([*ring, ring[0]])}"]


def _flows(graph: Architecture) -> list[str]:
    ids = {c.id for c in graph.components}
    found = [f"flow {f.id!r} enters at {f.entry!r}, which does not exist" for f in graph.flows if f.entry not in ids]
    found += [f"flow {f.id!r} peaks at {f.peak_qps:g}/s, below its average {f.avg_qps:g}/s" for f in graph.flows if f.peak_qps < f.avg_qps]
    return found
