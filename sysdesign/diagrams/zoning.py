"""From wired parts to nested zones: networks, trust boundaries, clusters, regions, or none at all.

Every zone that is drawn holds something, and clients and third parties stay outside, as they do in real systems.
"""

from __future__ import annotations

import random

from sysdesign.diagrams.vocabulary import NONSENSE, NONSENSE_ZONES
from sysdesign.diagrams.wiring import STORES, Draft, Part
from sysdesign.graph import Edge, Zone, ZoneKind

_REGIONS = {
    "aws": ("us-east-1", "eu-west-1", "ap-south-1"), "gcp": ("us-central1", "europe-west4", "asia-east1"),
    "azure": ("East US", "West Europe", "Japan East"), "open": ("DC Frankfurt", "DC Virginia", "DC Osaka"),
}  # fmt: skip
_NETWORK = {"aws": "VPC", "gcp": "VPC", "azure": "VNet", "open": "Network"}
_OUTSIDE = ("client", "external", "dns", "cdn")
_TIER = {
    "lb": "public",
    "gateway": "public",
    "auth": "app",
    "monitor": "app",
    "scheduler": "app",
    "queue": "app",
    "stream": "app",
    "model": "app",
}


def zones(draft: Draft, depth: int, provider: str, nonsense: bool, rng: random.Random) -> list[Zone]:
    """Assigns `zone` to the parts and returns the zones, at most `depth` deep."""
    if nonsense:
        made = _random(draft, depth, rng)
    elif depth == 0:
        made = []
    elif depth == 1:
        made = rng.choice((_tiers, _one_network, _trust))(draft, None, provider, rng)
    else:
        outer: list[Zone] = []
        parent = None
        if depth >= 3:
            parent = "region"
            outer.append(Zone(id="region", name=rng.choice(_REGIONS[provider]), kind="region"))
        outer.append(Zone(id="net", name=f"{rng.choice(('Production', 'Main', 'Core'))} {_NETWORK[provider]}", kind="vpc", parent=parent))
        made = outer + rng.choice((_tiers, _cluster))(draft, "net", provider, rng)
        for part in draft.parts:
            if part.zone is None and part.type not in _OUTSIDE:
                part.zone = parent if parent and part.type == "object" else "net"
    return _occupied(draft, made)


def regions(draft: Draft, provider: str, room: int, rng: random.Random) -> list[Zone]:
    """Copy a part of the system into a second region: alternatives for whoever calls it, asynchronous copies of its data."""
    near, far = rng.sample(_REGIONS[provider], 2)
    chosen = [p for p in draft.parts if p.type in ("gateway", "service", "sql", "nosql", "cache", "lb")][: max(2, room)]
    ids = {p.id for p in chosen}
    suffix = {p.id: f"{p.id[:36]}-r2" for p in chosen}
    added: list[Edge] = []
    for at, edge in enumerate(draft.edges):
        copied_cache = suffix.get(edge.via_cache, edge.via_cache) if edge.via_cache else None
        if edge.src in ids:
            added.append(
                edge.model_copy(update={"src": suffix[edge.src], "dst": suffix.get(edge.dst, edge.dst), "via_cache": copied_cache})
            )
        elif edge.dst in ids and edge.mode == "sync" and edge.via_cache in (None, edge.src):
            group = {"alt_group": f"geo{at}", "parallel_group": None}
            draft.edges[at] = edge.model_copy(update=group)
            added.append(edge.model_copy(update={**group, "dst": suffix[edge.dst]}))
    for part in chosen:
        if part.type in ("sql", "nosql"):
            added.append(Edge(src=part.id, dst=suffix[part.id], mode="async", protocol="replicate", payload_kb=8, dependency="soft"))
        part.zone = "near"
        tag = far.split()[-1].split("-")[0]
        draft.parts.append(Part(suffix[part.id], f"{part.name} {tag}", part.type, part.technology, "far"))
    pointless = {e.via_cache for e in added} - {p.id for p in draft.parts}
    kept = [e if e.via_cache not in pointless else e.model_copy(update={"via_cache": None}) for e in added]
    draft.edges += _asked(draft, kept)
    for part in draft.parts:
        if part.zone is None and part.type not in _OUTSIDE:
            part.zone = "near"
    return _occupied(draft, [Zone(id="near", name=near, kind="region"), Zone(id="far", name=far, kind="region")])


def _asked(draft: Draft, added: list[Edge]) -> list[Edge]:
    """Copied calls keep a cache only where their new caller asks it."""
    asks = {(e.src, e.dst) for e in [*draft.edges, *added]}
    return [e if e.via_cache in (None, e.src) or (e.src, e.via_cache) in asks else e.model_copy(update={"via_cache": None}) for e in added]


def _tiers(draft: Draft, parent: str | None, provider: str, rng: random.Random) -> list[Zone]:
    words = {"public": "Public subnet", "app": "App subnet", "data": "Data subnet"}
    if parent is None and rng.random() < 0.5:
        words = {"public": "Edge tier", "app": "Service tier", "data": "Data tier"}
    for part in draft.parts:
        if part.type not in _OUTSIDE and not (parent and part.type == "object"):
            part.zone = _TIER.get(part.type, "data" if part.type in STORES or part.type == "cache" else "app")
    return [Zone(id=key, name=name, kind="subnet", parent=parent) for key, name in words.items()]


def _one_network(draft: Draft, parent: str | None, provider: str, rng: random.Random) -> list[Zone]:
    for part in draft.parts:
        if part.type not in _OUTSIDE:
            part.zone = "net1"
    return [Zone(id="net1", name=f"{rng.choice(('Private', 'Production', 'Backend'))} {_NETWORK[provider]}", kind="vpc", parent=parent)]


def _trust(draft: Draft, parent: str | None, provider: str, rng: random.Random) -> list[Zone]:
    for part in draft.parts:
        if part.type in ("lb", "gateway"):
            part.zone = "dmz"
        elif part.type in ("sql", "nosql", "auth", "warehouse"):
            part.zone = "restricted"
        elif part.type not in _OUTSIDE:
            part.zone = "internal"
    return [
        Zone(id=key, name=name, kind="trust", parent=parent)
        for key, name in (("dmz", "DMZ"), ("internal", "Internal zone"), ("restricted", "Restricted zone"))
    ]


def _cluster(draft: Draft, parent: str | None, provider: str, rng: random.Random) -> list[Zone]:
    name = {"aws": "EKS cluster", "gcp": "GKE cluster", "azure": "AKS cluster", "open": "Kubernetes cluster"}[provider]
    for part in draft.parts:
        if part.type in ("service", "worker", "gateway", "scheduler", "model", "auth", "function"):
            part.zone = "cluster"
    made = [Zone(id="cluster", name=name, kind="cluster", parent=parent)]
    workers = [p for p in draft.parts if p.type == "worker"]
    if len(workers) >= 2 and rng.random() < 0.6:
        made.append(Zone(id="pool", name="Worker pool", kind="cluster", parent="cluster"))
        for part in workers:
            part.zone = "pool"
    return made


def _random(draft: Draft, depth: int, rng: random.Random) -> list[Zone]:
    names = rng.sample(NONSENSE, depth)
    made: list[Zone] = []
    span = len(draft.parts)
    start, end = 1, span
    kinds: tuple[ZoneKind, ...] = ("trust", "cluster", "subnet", "vpc")
    for level in range(depth):
        start, end = start + rng.randint(0, 1), end - rng.randint(0, max(1, span // 4))
        if end - start < 2:
            break
        parent = made[-1].id if made else None
        made.append(Zone(id=f"z{level}", name=f"{rng.choice(NONSENSE_ZONES)} {names[level]}", kind=rng.choice(kinds), parent=parent))
        for part in draft.parts[start:end]:
            part.zone = made[-1].id
    return made


def _occupied(draft: Draft, made: list[Zone]) -> list[Zone]:
    """Drop zones that hold nothing."""
    used = {p.zone for p in draft.parts if p.zone}
    parents = {z.id: z.parent for z in made}
    for zone in list(used):
        at = parents.get(zone)
        while at:
            used.add(at)
            at = parents.get(at)
    return [z for z in made if z.id in used]
