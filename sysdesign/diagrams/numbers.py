"""From arrows to loads, and from loads to capacities: numbers that a real system could have and a person can compute with.

Load enters with the flows and runs along the arrows (calls a request, cache misses only). Capacity and replicas then follow the load, so
utilisation is plausible, one component is clearly the tightest, and in a share of the graphs it is overloaded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from sysdesign.graph import Component, ComponentType, Edge, Flow, Replication

# A month in US dollars for one replica; mean time in ms; order of magnitude of what one replica handles a second.
_COST: Mapping[str, tuple[int, ...]] = {
    "small": (20, 30, 40, 50, 60, 80), "medium": (90, 120, 150, 180, 210, 240), "large": (300, 400, 450, 600, 750, 900, 1200),
}  # fmt: skip
_SIZE: Mapping[ComponentType, str] = {
    "sql": "large", "nosql": "large", "search": "large", "warehouse": "large", "model": "large", "stream": "medium", "cache": "medium",
    "lb": "small",
    "gateway": "medium", "queue": "small", "object": "small", "dns": "small", "cdn": "medium", "function": "small", "scheduler": "small",
}  # fmt: skip
_TIME_MS: Mapping[ComponentType, tuple[float, ...]] = {
    "cdn": (2, 3, 5, 8), "dns": (1, 2, 5), "lb": (0.5, 1, 2), "gateway": (2, 3, 4, 5), "service": (5, 8, 10, 12, 15, 20, 25),
    "worker": (20, 40, 50, 80, 120),
    "function": (15, 25, 40, 60), "cache": (0.5, 1, 2), "sql": (4, 6, 8, 10, 15), "nosql": (3, 4, 5, 8), "object": (20, 30, 50),
    "search": (15, 20, 30, 45),
    "queue": (1, 2, 3), "stream": (2, 3, 5), "warehouse": (200, 400, 800), "scheduler": (1, 2), "model": (30, 45, 60, 90, 150),
    "auth": (3, 5, 8),
    "monitor": (2, 5), "external": (80, 120, 150, 200, 300), "client": (),
}  # fmt: skip
_PER_REPLICA: Mapping[ComponentType, tuple[float, ...]] = {
    "lb": (20000, 40000, 50000), "cdn": (50000, 100000), "dns": (50000, 100000), "gateway": (2000, 3000, 5000, 8000),
    "cache": (20000, 40000, 50000, 80000),
    "service": (200, 300, 400, 500, 800, 1000, 1500), "worker": (40, 60, 80, 100, 150, 200), "function": (50, 80, 100, 200),
    "sql": (1500, 2000, 3000, 4000, 6000),
    "nosql": (3000, 4000, 5000, 8000, 10000), "object": (3000, 3500, 5500), "search": (400, 600, 800, 1200), "queue": (3000, 5000, 8000),
    "stream": (10000, 15000, 20000), "warehouse": (50, 80, 100, 200), "model": (30, 50, 80, 120, 200), "auth": (1000, 1500, 2000, 3000),
    "scheduler": (100, 200),
    "monitor": (5000, 10000, 20000), "external": (300, 500, 1000, 2000),
}  # fmt: skip
_AVAILABILITY = (0.99, 0.995, 0.999, 0.9995, 0.9999)
_STATEFUL = ("sql", "nosql", "object", "search", "queue", "stream", "warehouse", "cache")


def round2(value: float) -> float:
    """To two significant digits: what a person writes into a diagram."""
    if value <= 0:
        return 0.0
    scale = 10 ** (math.floor(math.log10(value)) - 1)
    rounded = round(value / scale) * scale
    return float(f"{rounded:.6g}")


def loads(order: Sequence[str], edges: Sequence[Edge], entering: Mapping[str, float], hit_ratios: Mapping[str, float]) -> dict[str, float]:
    """Requests a second at each component: what enters, plus what its callers send; cyclic (asynchronous) arrows back add nothing."""
    rank = {name: i for i, name in enumerate(order)}
    rate = {name: float(entering.get(name, 0.0)) for name in order}
    for name in order:
        for e in edges:
            if e.src == name and rank[e.dst] > rank[name]:
                misses = 1 - hit_ratios.get(e.via_cache, 0.0) if e.via_cache else 1.0
                rate[e.dst] += rate[name] * e.calls_per_request * misses
    return rate


def flows(entries: Sequence[tuple[str, str]], peak_qps: float, peak_to_average: float, rng: random.Random) -> list[Flow]:
    """One flow for each (id, name) at which load enters; the first carries most of it."""
    made = []
    for at, (entry, name) in enumerate(entries):
        peak = round2(peak_qps * (1 if at == 0 else rng.choice((0.1, 0.2, 0.3, 0.5))))
        average = min(peak, round2(peak / peak_to_average))
        made.append(
            Flow(
                id=f"f{at + 1}", name=f"{name} traffic", entry=entry, avg_qps=average, peak_qps=peak,
                slo_p99_ms=rng.choice((200, 250, 300, 400, 500, 800, 1000, 1500)),
                slo_availability=rng.choice((0.99, 0.995, 0.999, 0.9995)),
            )
        )  # fmt: skip
    return made


def hit_ratio(rng: random.Random) -> float:
    """Share of reads a cache or CDN answers."""
    return rng.choice((0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95))


def fill(component: Component, rate_qps: float, utilisation: float, rng: random.Random) -> Component:
    """The component with capacity, replicas, times, cost, availability and replication for the load it carries."""
    kind = component.type
    if kind == "client":
        return component
    capacity = rng.choice(_PER_REPLICA[kind])
    while rate_qps / (capacity * utilisation) > 12:
        capacity *= 2 if rng.random() < 0.5 else 5
    replicas = max(1, math.ceil(rate_qps / (capacity * utilisation)))
    if utilisation > 1:
        replicas = max(1, math.floor(rate_qps / capacity / 1.02))  # overloaded on purpose
    elif replicas == 1 and rng.random() < 0.45:
        replicas = rng.choice((2, 2, 3))
    mean = rng.choice(_TIME_MS[kind])
    zones = ("a", "b", "c")[: rng.choice((1, 2, 2, 3, 3))] if replicas > 1 else ("a",)
    stateful = kind in _STATEFUL
    return component.model_copy(
        update={
            "capacity_qps": float(capacity), "replicas": replicas, "service_ms": mean, "p99_ms": round2(mean * rng.choice((3, 4, 5, 6))),
            "cost_usd": float(rng.choice(_COST[_SIZE.get(kind, "small")])) if kind != "external" else None,
            "availability": rng.choice(_AVAILABILITY), "azs": zones[:replicas] if kind not in ("external", "cdn", "dns") else (),
            "stateful": stateful,
            "storage_gb": float(rng.choice((50, 100, 200, 500, 800, 1000, 2000, 5000))) if stateful and kind not in ("cache",
            "queue") else None,
            "replication": _replication(replicas, rng) if stateful and replicas > 1 and kind in ("sql", "nosql", "search",
            "stream") else None,
        }
    )  # fmt: skip


def _replication(replicas: int, rng: random.Random) -> Replication:
    n = min(replicas, rng.choice((2, 3, 3, 5)))
    if rng.random() < 0.5:
        return Replication(mode="async", n=n, w=1, r=1, lag_s=rng.choice((0.5, 1, 2, 5, 10, 30)))
    return Replication(mode="sync", n=n, w=rng.randint(1, n), r=rng.randint(1, n))
