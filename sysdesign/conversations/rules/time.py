"""Time through a call graph: mean latency along sequential and parallel calls, contributions, and what tails do and do not add up to."""

from __future__ import annotations

from functools import cache

from sysdesign.conversations.rules.load import miss_ratio
from sysdesign.graph import Architecture, Edge


def mean_ms(graph: Architecture, start: str, parallel: bool = True) -> float | None:
    """Mean time to answer at `start`: own time plus every synchronous callee's, one after the other; of a parallel group the slowest.

    Means add up by linearity of expectation, so a call made with a probability (a cache miss) or n times counts so often. With
    `parallel=False` groups are called in sequence. None when a time is unknown or alternatives make the path undefined. For parallel
    groups the result treats the times as fixed: the mean of a maximum is larger than the maximum of means.
    """
    calls = sync_calls(graph)

    @cache
    def walk(node: str) -> float | None:
        component = graph.component(node)
        own = 0.0 if component.type == "client" else component.service_ms
        if own is None:
            return None
        groups: dict[str, float] = {}
        for edge in calls[node]:
            below = walk(edge.dst)
            if below is None or edge.alt_group is not None:
                return None
            spent = edge.calls_per_request * miss_ratio(graph, edge) * below
            if parallel and edge.parallel_group is not None:
                groups[edge.parallel_group] = max(groups.get(edge.parallel_group, 0.0), spent)
            else:
                own += spent
        return own + sum(groups.values())

    return walk(start)


def sync_calls(graph: Architecture) -> dict[str, list[Edge]]:
    """Synchronous calls by caller: only these keep the caller waiting."""
    found: dict[str, list[Edge]] = {c.id: [] for c in graph.components}
    for edge in graph.edges:
        if edge.mode == "sync":
            found[edge.src].append(edge)
    return found


def waiting_on(graph: Architecture, start: str) -> tuple[str, ...]:
    """Every component whose time the caller of `start` may wait for, `start` first, in call order."""
    calls, found = sync_calls(graph), [start]
    for node in found:  # grows while it is read
        found.extend(edge.dst for edge in calls[node] if edge.dst not in found)
    return tuple(dict.fromkeys(found))


def contributions(graph: Architecture, start: str) -> dict[str, float] | None:
    """Mean milliseconds that each component itself adds to one request at `start`, all calls in sequence; None as in `mean_ms`."""
    if mean_ms(graph, start, parallel=False) is None:
        return None
    calls = sync_calls(graph)
    visits = dict.fromkeys(waiting_on(graph, start), 0.0)

    def walk(node: str, times: float) -> None:
        visits[node] += times
        for edge in calls[node]:
            walk(edge.dst, times * edge.calls_per_request * miss_ratio(graph, edge))

    walk(start, 1.0)
    found = {node: visits[node] * (graph.component(node).service_ms or 0.0) for node in visits}
    return {node: spent for node, spent in found.items() if spent > 0}


def p99_bound(parts_ms: tuple[float, ...]) -> tuple[float, float]:
    """A time and the share of requests guaranteed to meet it: the sum of n p99s is met by at least 1 - 0.01 n (union bound).

    p99s do not add up to a p99: each part may be slow on different requests.
    """
    return sum(parts_ms), max(0.0, 1.0 - 0.01 * len(parts_ms))


def any_slow(share: float, fan_out: int) -> float:
    """Chance that at least one of `fan_out` independent calls is slow: 1 - (1 - p)^n (Dean and Barroso, CACM 56(2), 2013)."""
    return 1.0 - (1.0 - share) ** fan_out
