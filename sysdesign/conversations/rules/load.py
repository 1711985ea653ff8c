"""Load through a call graph: rates by linear propagation, utilisation, the bottleneck, cache and queue arithmetic.

Rates are linear in the entry load, so the largest bearable load is the entry load over the largest utilisation. A minimum cut is
*not* that number: a request visits all of a service's callees, it does not choose one of them (only `rules.flow` is a min-cut).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sysdesign.graph import Architecture, Edge


def miss_ratio(graph: Architecture, edge: Edge) -> float:
    """Share of calls that take `edge`: 1, or what the cache in front of it does not answer."""
    if edge.via_cache is None:
        return 1.0
    return 1.0 - (graph.component(edge.via_cache).hit_ratio or 0.0)


def call_order(graph: Architecture, entry: str) -> tuple[str, ...] | None:
    """Components reachable from `entry`, callers before callees; None if a loop is reachable (then no rate is defined)."""
    callees: dict[str, list[str]] = {c.id: [] for c in graph.components}
    for edge in graph.edges:
        callees[edge.src].append(edge.dst)
    order: list[str] = []
    state: dict[str, int] = {}
    stack: list[tuple[str, int]] = [(entry, 0)]
    while stack:
        node, index = stack.pop()
        if index == 0:
            state[node] = 1
        if index < len(callees[node]):
            stack.append((node, index + 1))
            following = callees[node][index]
            if state.get(following) == 1:
                return None
            if following not in state:
                stack.append((following, 0))
        else:
            state[node] = 2
            order.append(node)
    return tuple(reversed(order))


def rates(graph: Architecture, entry: str, qps: float) -> dict[str, float] | None:
    """Requests a second at every component reached when `qps` enters at `entry`; None if the calls loop.

    rate(w) = sum over v->w of rate(v) * calls_per_request * miss_ratio; asynchronous work is load as well.
    """
    order = call_order(graph, entry)
    if order is None:
        return None
    found = dict.fromkeys(order, 0.0)
    found[entry] = qps
    outgoing: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        outgoing.setdefault(edge.src, []).append(edge)
    for node in order:
        for edge in outgoing.get(node, ()):
            found[edge.dst] += found[node] * edge.calls_per_request * miss_ratio(graph, edge)
    return found


def capacity(graph: Architecture, component_id: str) -> float | None:
    """Requests a second that all replicas bear together; None where it is not known."""
    component = graph.component(component_id)
    return None if component.capacity_qps is None else component.replicas * component.capacity_qps


def utilisations(graph: Architecture, entry: str, qps: float) -> dict[str, float] | None:
    """Rate over capacity for every reached component whose capacity is known; None if the calls loop."""
    reached = rates(graph, entry, qps)
    if reached is None:
        return None
    capacities = {node: capacity(graph, node) for node in reached}
    return {node: rate / limit for node, rate in reached.items() if (limit := capacities[node]) is not None and rate > 0}


def bottlenecks(used: Mapping[str, float], tie: float = 1e-9) -> tuple[str, ...]:
    """The components of the largest utilisation: one, or all that tie."""
    top = max(used.values())
    return tuple(node for node, value in used.items() if value >= top * (1 - tie))


def max_load(used: Mapping[str, float], qps: float) -> float:
    """The entry load at which the busiest component is at 100 %: rates are linear, so load over utilisation."""
    return qps / max(used.values())


def replicas_for(rate: float, capacity_qps: float, ceiling: float = 1.0) -> int:
    """Fewest replicas that keep utilisation at or below `ceiling`."""
    return max(1, math.ceil(rate / (capacity_qps * ceiling) - 1e-9))


def needed_hit_ratio(rate: float, limit: float) -> float:
    """Smallest hit ratio that keeps the store behind the cache at or below `limit`: 1 - limit / rate, never below 0."""
    return max(0.0, 1.0 - limit / rate)


def cached_mean_ms(hit: float, cache_ms: float, store_ms: float) -> float:
    """Mean read time: a hit costs the cache, a miss costs the cache and then the store."""
    return hit * cache_ms + (1 - hit) * (cache_ms + store_ms)


def queue_growth(arrivals: float, workers: int, per_worker: float) -> float:
    """Messages a second by which the queue grows; 0 when the workers keep up."""
    return max(0.0, arrivals - workers * per_worker)


def drain_s(backlog: float, arrivals: float, workers: int, per_worker: float) -> float | None:
    """Seconds to empty the backlog while work keeps arriving; None if it never empties."""
    spare = workers * per_worker - arrivals
    return None if spare <= 0 else backlog / spare


def in_flight(rate: float, mean_ms: float) -> float:
    """Little's law, L = lambda W (J. Little, Operations Research 9(3), 1961): requests inside at once."""
    return rate * mean_ms / 1000.0
