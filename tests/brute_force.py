"""Slow, independent answers to the same questions: path enumeration, simulation, all subsets. Nothing here is shared with the rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from sysdesign.graph import Architecture, Component, Edge, Flow, Zone

TYPES = ("gateway", "lb", "service", "service", "service", "cache", "sql", "nosql", "queue", "worker", "external", "cdn")


def random_graph(seed: int, size: int | None = None) -> Architecture:
    """A small acyclic system with every feature: multipliers, caches, soft and asynchronous calls, alternatives, parallel groups, zones."""
    rng = random.Random(seed)
    n = size or rng.randint(4, 9)
    zones = [Zone(id="outer", name="Outer", kind="vpc"), Zone(id="inner", name="Inner", kind="subnet", parent="outer")]
    parts = [Component(id="c0", name="Client", type="client")]
    for i in range(1, n):
        kind = rng.choice(TYPES)
        parts.append(
            Component(
                id=f"c{i}", name=f"Part {i}", type=kind, replicas=rng.randint(1, 4), capacity_qps=rng.randint(50, 900),
                service_ms=rng.randint(1, 40),
                zone=rng.choice((None, "outer", "inner")), availability=rng.choice((0.9, 0.95, 0.99, 0.999)), cost_usd=rng.randint(10, 99),
                hit_ratio=rng.choice((0.0, 0.5, 0.75, 1.0)) if kind in ("cache", "cdn") else None,
            )
        )  # fmt: skip
    caches = [c.id for c in parts if c.hit_ratio is not None]
    edges: list[Edge] = []
    for i in range(n - 1):
        targets = rng.sample(range(i + 1, n), k=min(n - 1 - i, rng.choice((1, 1, 2, 2, 3))))
        alternative = len(targets) >= 2 and rng.random() < 0.2
        parallel = len(targets) >= 2 and not alternative and rng.random() < 0.4
        for j in targets:
            edges.append(
                Edge(
                    src=f"c{i}", dst=f"c{j}", mode="sync" if alternative or rng.random() < 0.8 else "async",
                    calls_per_request=rng.choice((1, 1, 1, 2, 3)), via_cache=rng.choice(caches) if caches and rng.random() < 0.25 else None,
                    dependency="soft" if rng.random() < 0.15 else "hard",
                    alt_group="alt" if alternative else None, parallel_group="par" if parallel else None, retries=rng.randint(0, 3),
                )
            )  # fmt: skip
    flows = (Flow(id="f", name="Visit", entry="c0", avg_qps=10, peak_qps=rng.randint(20, 400)),)
    return Architecture(
        title=f"Random {seed}", domain="test", seed_id="t", components=tuple(parts), edges=tuple(edges), zones=tuple(zones), flows=flows
    )


def paths(graph: Architecture, start: str, keep: Callable[[Edge], bool] = lambda e: True) -> list[tuple[Edge, ...]]:
    """Every walk along edges from `start`, the empty one too (the graph is acyclic)."""
    found: list[tuple[Edge, ...]] = [()]
    for edge in graph.edges:
        if edge.src == start and keep(edge):
            found += [(edge, *rest) for rest in paths(graph, edge.dst, keep)]
    return found


def weight(graph: Architecture, path: tuple[Edge, ...]) -> float:
    """How often one request at the start of the path takes all of it."""
    times = 1.0
    for edge in path:
        hit = next((c.hit_ratio or 0.0 for c in graph.components if c.id == edge.via_cache), 0.0)
        times *= edge.calls_per_request * (1 - hit)
    return times


def rates(graph: Architecture, start: str, qps: float) -> dict[str, float]:
    """Sum over all paths instead of propagation."""
    found: dict[str, float] = {}
    for path in paths(graph, start):
        end = path[-1].dst if path else start
        found[end] = found.get(end, 0.0) + qps * weight(graph, path)
    return found


def works(graph: Architecture, node: str, down: set[str]) -> bool:
    """Ask the component and let it ask on, as a request would."""
    if node in down:
        return False
    groups: dict[str, list[bool]] = {}
    for edge in graph.edges:
        if edge.src != node or edge.mode == "async" or edge.dependency == "soft":
            continue
        up = works(graph, edge.dst, down)
        if edge.alt_group is None:
            if not up:
                return False
        else:
            groups.setdefault(edge.alt_group, []).append(up)
    return all(any(ups) for ups in groups.values())


def availability(graph: Architecture, entry: str) -> float:
    """Exact: every pattern of components up and down, weighted; replicas enumerated one by one."""
    parts = [c for c in graph.components if c.type != "client"]
    chances = []
    for part in parts:
        up = 0.0
        for pattern in itertools.product((True, False), repeat=part.replicas):
            chance = 1.0
            for alive in pattern:
                chance *= (part.availability or 1.0) if alive else 1 - (part.availability or 1.0)
            up += chance if any(pattern) else 0.0
        chances.append(up)
    total = 0.0
    for pattern in itertools.product((True, False), repeat=len(parts)):
        chance = 1.0
        for alive, up in zip(pattern, chances, strict=True):
            chance *= up if alive else 1 - up
        if works(graph, entry, {p.id for p, alive in zip(parts, pattern, strict=True) if not alive}):
            total += chance
    return total


def clock(graph: Architecture, node: str, start: float = 0.0) -> float:
    """When a request that arrives at `start` is answered: a clock runs through own time and calls, groups start together."""
    component = graph.component(node)
    now = start + (0.0 if component.type == "client" else float(component.service_ms or 0))
    waiting: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        if edge.src == node and edge.mode == "sync":
            if edge.parallel_group is None:
                now = _calls(graph, edge, now)
            else:
                waiting.setdefault(edge.parallel_group, []).append(edge)
    for group in waiting.values():
        now = max(_calls(graph, edge, now) for edge in group)
    return now


def _calls(graph: Architecture, edge: Edge, now: float) -> float:
    share = 1.0
    if edge.via_cache is not None:
        share -= next(c.hit_ratio or 0.0 for c in graph.components if c.id == edge.via_cache)
    took = clock(graph, edge.dst, 0.0)
    whole = int(edge.calls_per_request)
    return now + sum(share * took for _ in range(whole)) + share * took * (edge.calls_per_request - whole)


def min_cut(links: dict[tuple[str, str], float], source: str, sink: str) -> float:
    """Smallest capacity over every way to put the nodes on two sides."""
    nodes = sorted({n for pair in links for n in pair} - {source, sink})
    best = float("inf")
    for pattern in itertools.product((True, False), repeat=len(nodes)):
        near = {source} | {n for n, side in zip(nodes, pattern, strict=True) if side}
        best = min(best, sum(c for (a, b), c in links.items() if a in near and b not in near))
    return best


def connected(graph: Architecture, start: str, end: str, without: str | None = None) -> bool:
    """Whether arrows lead from `start` to `end` when one component is deleted."""
    if without in (start, end):
        return False
    seen, todo = {start}, [start]
    while todo:
        node = todo.pop()
        for edge in graph.edges:
            if edge.src == node and edge.dst not in seen and edge.dst != without:
                seen.add(edge.dst)
                todo.append(edge.dst)
    return end in seen
