"""Sizing arithmetic: shards, storage, bandwidth, cost, and the one place where a minimum cut is the right answer (pipelines)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sysdesign.graph import Architecture

SECONDS_A_DAY = 86_400


def shards(data_gb: float, per_shard_gb: float, qps: float, per_shard_qps: float) -> int:
    """Fewest shards that hold the data and bear the load, spread evenly."""
    return max(1, math.ceil(max(data_gb / per_shard_gb, qps / per_shard_qps) - 1e-9))


def moved_share(shards_before: int, consistent: bool) -> float:
    """Share of keys that move when one shard is added: 1/(n+1) on a hash ring (Karger et al., STOC 1997), n/(n+1) modulo n."""
    return (1 if consistent else shards_before) / (shards_before + 1)


def storage_gb(writes_per_s: float, object_kb: float, days: float, copies: int) -> float:
    """Gigabytes (1 GB = 10^6 kB) kept after `days`, all copies counted."""
    return writes_per_s * SECONDS_A_DAY * days * object_kb * copies / 1e6


def bandwidth_mbit_s(qps: float, payload_kb: float) -> float:
    """Megabits a second: 1 kB = 8 kilobits."""
    return qps * payload_kb * 8 / 1000


def monthly_cost_usd(graph: Architecture) -> float | None:
    """Replicas times price over all components that run somewhere (clients and externals cost nothing here); None if a price is unknown."""
    total = 0.0
    for component in graph.components:
        if component.type in ("client", "external"):
            continue
        if component.cost_usd is None:
            return None
        total += component.replicas * component.cost_usd
    return total


def min_cut(links: Mapping[tuple[str, str], float], source: str, sink: str) -> tuple[float, tuple[tuple[str, str], ...]]:
    """Largest flow from `source` to `sink` and a smallest set of links that limits it (Ford and Fulkerson, 1956).

    Only for pipelines that conserve flow (bytes through links); never for call graphs.
    """
    import networkx

    pipes = networkx.DiGraph()
    for (src, dst), limit in links.items():
        pipes.add_edge(src, dst, capacity=limit)
    value, (near, _) = networkx.minimum_cut(pipes, source, sink)
    return float(value), tuple(link for link in links if link[0] in near and link[1] not in near)


def reaches(links: Mapping[tuple[str, str], float], source: str, sink: str) -> bool:
    """Whether any chain of links leads from `source` to `sink`."""
    found, todo = {source}, [source]
    while todo:
        node = todo.pop()
        following = [b for a, b in links if a == node and b not in found]
        found.update(following)
        todo.extend(following)
    return sink in found
