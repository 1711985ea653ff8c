"""What fails with what: AND/OR dependencies of a request, single points of failure, blast radius, availability, quorums.

A request needs *every* hard synchronous callee (AND) and, of alternatives, any one (OR). Articulation points of the drawing are a
different set: a leaf database is no articulation point, yet every request that must read it dies with it.
"""

from __future__ import annotations

import math
from functools import cache

from sysdesign.graph import Architecture, Edge


def hard_calls(graph: Architecture) -> dict[str, tuple[list[str], list[list[str]]]]:
    """For each component: the callees it cannot answer without, and its groups of alternatives."""
    plain: dict[str, list[str]] = {c.id: [] for c in graph.components}
    groups: dict[str, dict[str, list[str]]] = {c.id: {} for c in graph.components}
    for edge in graph.edges:
        if _is_hard(edge):
            if edge.alt_group is None:
                plain[edge.src].append(edge.dst)
            else:
                groups[edge.src].setdefault(edge.alt_group, []).append(edge.dst)
    return {node: (plain[node], list(groups[node].values())) for node in plain}


def _is_hard(edge: Edge) -> bool:
    return edge.mode == "sync" and edge.dependency == "hard"


def needs(graph: Architecture, start: str) -> frozenset[str]:
    """Components whose loss alone makes `start` fail: itself, the needs of its hard callees, and what all alternatives share.

    Exact for one failure at a time. The hard synchronous calls must not loop.
    """
    calls = hard_calls(graph)

    @cache
    def walk(node: str) -> frozenset[str]:
        found = {node}
        plain, groups = calls[node]
        for callee in plain:
            found |= walk(callee)
        for group in groups:
            found |= frozenset.intersection(*(walk(callee) for callee in group))
        return frozenset(found)

    return walk(start)


def touches(graph: Architecture, start: str) -> frozenset[str]:
    """Everything a request to `start` may call over hard synchronous edges, alternatives included."""
    calls, found, todo = hard_calls(graph), {start}, [start]
    while todo:
        plain, groups = calls[todo.pop()]
        for callee in [*plain, *(c for group in groups for c in group)]:
            if callee not in found:
                found.add(callee)
                todo.append(callee)
    return frozenset(found)


def single_points(graph: Architecture, entry: str) -> tuple[str, ...]:
    """Unreplicated components, clients aside, whose loss makes requests at `entry` fail; in drawing order."""
    needed = needs(graph, entry)
    return tuple(c.id for c in graph.components if c.id in needed and c.replicas == 1 and c.type != "client")


def blast_radius(graph: Architecture, failed: str) -> tuple[str, ...]:
    """The other components that stop answering when all of `failed` is down; in drawing order."""
    return tuple(c.id for c in graph.components if c.id != failed and failed in needs(graph, c.id))


def waypoints(graph: Architecture, entry: str, target: str) -> tuple[str, ...] | None:
    """Components on *every* path from `entry` to `target`, ends left out, in path order: its dominators. None if there is no path."""
    import networkx

    arrows = networkx.DiGraph((e.src, e.dst) for e in graph.edges)
    if entry not in arrows or target not in arrows or not networkx.has_path(arrows, entry, target):
        return None
    above = networkx.immediate_dominators(arrows, entry)
    found, node = [], target
    while node != entry:
        node = above[node]
        found.append(node)
    return tuple(reversed(found[:-1])) if found else ()


def replicated_availability(each: float, replicas: int, needed: int = 1) -> float:
    """Chance that at least `needed` of `replicas` independent copies are up (binomial); one of n: 1 - (1 - a)^n."""
    return sum(math.comb(replicas, k) * each**k * (1 - each) ** (replicas - k) for k in range(needed, replicas + 1))


def request_availability(graph: Architecture, entry: str) -> float | None:
    """Product over the needed components, each counted once, failures independent, clients aside.

    None when an availability is unknown or alternatives are involved (then a product is not exact).
    """
    needed = needs(graph, entry)
    if needed != touches(graph, entry):
        return None
    product = 1.0
    for component in graph.components:
        if component.id in needed and component.type != "client":
            if component.availability is None:
                return None
            product *= replicated_availability(component.availability, component.replicas)
    return product


def error_budget_minutes(objective: float, days: float = 30.0) -> float:
    """Minutes of full outage that the objective allows in the window (Google SRE book, ch. 3: 1 - SLO)."""
    return (1.0 - objective) * days * 24 * 60


def survives_zone_loss(capacity_qps: float, zones: int, peak_qps: float) -> bool:
    """Whether capacity spread evenly over `zones` still bears the peak with one zone gone."""
    return capacity_qps * (zones - 1) / zones >= peak_qps


def safe_utilisation(zones: int) -> float:
    """Highest utilisation at which the loss of one of `zones` equal zones overloads nothing: (z - 1) / z."""
    return (zones - 1) / zones


def retry_amplification(retries: tuple[int, ...]) -> int:
    """Attempts at the last layer for one request when every try fails: the product of (1 + retries) over the layers."""
    return math.prod(1 + r for r in retries)


def reads_see_last_write(n: int, w: int, r: int) -> bool:
    """Whether every read quorum overlaps every write quorum: R + W > N (Gifford, SOSP 1979)."""
    return r + w > n


def tolerated_failures(n: int, w: int, r: int) -> tuple[int, int]:
    """Node losses after which writes, and reads, still find their quorum: N - W and N - R."""
    return n - w, n - r


def raft_tolerance(n: int) -> int:
    """Members a majority group may lose: floor((n - 1) / 2) (Ongaro and Ousterhout, ATC 2014)."""
    return (n - 1) // 2
