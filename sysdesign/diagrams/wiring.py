"""From a list of parts to arrows between them: who calls whom, who hands work to whom, and over what protocol.

Two grammars: `wire` joins parts as engineers do (clients enter at the edge, services own stores, queues feed workers), and
`tangle` joins them at random. In both, synchronous calls only run forward in the order of the parts, so they never form a circle.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.diagrams.vocabulary import PROTOCOLS
from sysdesign.graph import ComponentType, Edge

STORES: tuple[ComponentType, ...] = ("sql", "nosql", "object", "search", "warehouse")
LEAVES: tuple[ComponentType, ...] = (*STORES, "external", "model", "auth", "monitor", "cache")
FRONT: tuple[ComponentType, ...] = ("lb", "gateway", "service", "function", "stream", "queue", "worker")  # what clients can call
CALLERS: tuple[ComponentType, ...] = ("service", "worker", "function", "gateway")  # what calls the rest
ORDER: tuple[ComponentType, ...] = (
    "client", "dns", "cdn", "lb", "gateway", "auth", "service", "scheduler", "queue", "stream", "function", "worker", "model", "cache",
    "sql", "nosql", "object", "search", "warehouse", "external", "monitor",
)  # fmt: skip


@dataclass
class Part:
    """A component before its numbers are known."""

    id: str
    name: str
    type: ComponentType
    technology: str | None
    zone: str | None = None


@dataclass
class Draft:
    """A graph under construction; `parts` are in `ORDER`."""

    parts: list[Part]
    edges: list[Edge] = field(default_factory=list)

    def of(self, *types: ComponentType) -> list[str]:
        """Ids of the parts of these types, in order."""
        return [p.id for p in self.parts if p.type in types]

    def out(self, src: str) -> list[Edge]:
        """Arrows that leave `src`."""
        return [e for e in self.edges if e.src == src]

    def has(self, src: str, dst: str) -> bool:
        """Is there an arrow from `src` to `dst`?"""
        return any(e.src == src and e.dst == dst for e in self.edges)


def join(draft: Draft, rng: random.Random, src: str, dst: str, **fields: Any) -> None:
    """Add one arrow with the protocol its target speaks; does nothing where the arrow exists or would be a loop."""
    if src == dst or draft.has(src, dst):
        return
    types = {p.id: p.type for p in draft.parts}
    fields.setdefault("protocol", rng.choice(PROTOCOLS[types[dst]]))
    if types[dst] in ("queue", "stream") or types[src] in ("queue", "stream", "scheduler") or types[dst] == "monitor":
        fields.setdefault("mode", "async")
    if types[dst] == "monitor":
        fields.setdefault("dependency", "soft")
    draft.edges.append(Edge(src=src, dst=dst, **fields))


def wire(draft: Draft, cfg: DiagramsConfig, rng: random.Random) -> None:
    """Join the parts as the usual design does; every part ends up with an arrow."""
    hubs = _front(draft, rng)
    _services(draft, cfg, rng, hubs)
    _stores(draft, rng)
    _messages(draft, rng)
    _leaves(draft, rng)
    _extra(draft, cfg, rng)
    _orphans(draft, rng)
    _decorate(draft, rng)
    rank = {p.id: i for i, p in enumerate(draft.parts)}
    draft.edges.sort(key=lambda e: (rank[e.src], rank[e.dst]))


def tangle(draft: Draft, cfg: DiagramsConfig, rng: random.Random) -> None:
    """Join the parts at random: forward arrows of any kind between any types, a few asynchronous ones back."""
    ids = [p.id for p in draft.parts]
    protocols = ("gRPC", "HTTP", "AMQP", "TCP", "MQTT", "UDP")
    for at in range(1, len(ids)):
        near = ids[max(0, at - 6) : at]
        mode = "async" if rng.random() < 0.25 else "sync"
        join(draft, rng, rng.choice(near), ids[at], mode=mode, protocol=rng.choice(protocols))
    for _ in range(round(len(ids) * (0.2 + cfg.extra_edges))):
        a, b = sorted(rng.sample(range(len(ids)), 2))
        if rng.random() < 0.15 and a > 0 and not draft.has(ids[a], ids[b]):
            join(draft, rng, ids[b], ids[a], mode="async", protocol=rng.choice(protocols))
        else:
            join(draft, rng, ids[a], ids[b], mode="async" if rng.random() < 0.2 else "sync", protocol=rng.choice(protocols))
    for cache in draft.of("cache", "cdn"):
        asking = [e.src for e in draft.edges if e.dst == cache and e.mode == "sync"]
        _misses(draft, rng, asking, cache)
    _decorate(draft, rng)


def _front(draft: Draft, rng: random.Random) -> list[str]:
    """Clients to the entry; returns the hubs that call the front services."""
    clients, cdns, lbs, gateways = draft.of("client"), draft.of("cdn"), draft.of("lb"), draft.of("gateway")
    door = next(part for kinds in (FRONT[:1], FRONT[1:2], FRONT[2:]) for part in draft.of(*kinds))
    for at, client in enumerate(clients):
        for dns in draft.of("dns")[:1]:
            join(draft, rng, client, dns, calls_per_request=0.1)
        entry = gateways[at % len(gateways)] if gateways and not lbs else door
        if cdns:
            cdn = cdns[at % len(cdns)]
            join(draft, rng, client, cdn)
            if not draft.has(cdn, entry):
                join(draft, rng, cdn, entry, via_cache=cdn)
            if rng.random() < 0.3:
                join(draft, rng, client, entry, protocol="WebSocket", calls_per_request=0.2)
        else:
            join(draft, rng, client, entry)
    for cdn in cdns:
        for bucket in draft.of("object")[:1]:
            if rng.random() < 0.6:
                join(draft, rng, cdn, bucket, via_cache=cdn)
    if lbs and gateways:
        for gateway in gateways:
            join(draft, rng, lbs[0], gateway)
    hubs = gateways or lbs[:1]
    inner = lbs[1:] if hubs != lbs[:1] or len(lbs) > 1 else []
    for lb in inner:
        join(draft, rng, hubs[0], lb)
    return hubs + inner


def _services(draft: Draft, cfg: DiagramsConfig, rng: random.Random, hubs: list[str]) -> None:
    services = draft.of("service")
    depth = dict.fromkeys(hubs, 0)
    front = rng.randint(1, max(1, min(cfg.max_fan_out, (len(services) + 1) // 2)))
    for at, service in enumerate(services):
        open_hubs = [h for h in hubs if len(draft.out(h)) < cfg.max_fan_out + 2]
        callers = [s for s in services[:at] if depth.get(s, 0) < cfg.max_depth and len(draft.out(s)) < cfg.max_fan_out]
        if not hubs and at == 0:
            depth[service] = 1
            continue
        parent = rng.choice(open_hubs) if open_hubs and (at < front or not callers) else rng.choice(callers or hubs or services[:at])
        depth[service] = depth.get(parent, 0) + 1
        join(
            draft,
            rng,
            parent,
            service,
            calls_per_request=rng.choice((1, 1, 1, 1, 2, 3, 0.5)) if parent not in hubs else rng.choice((1, 1, 1, 0.5, 0.2)),
        )
    for auth in draft.of("auth"):
        join(draft, rng, (hubs or services or draft.of("function", "client"))[0], auth)
    for function in draft.of("function"):
        if hubs and rng.random() < 0.5:
            join(draft, rng, rng.choice(hubs), function, protocol="invoke", calls_per_request=rng.choice((1, 0.5, 0.2)))


def _stores(draft: Draft, rng: random.Random) -> None:
    owners = draft.of("service", "function") or draft.of("worker") or draft.of("gateway", "lb", "client")
    idle = list(owners)
    rng.shuffle(idle)
    databases = draft.of("sql", "nosql")
    for store in [*databases, *draft.of("object", "search")]:
        owner = idle.pop() if idle else rng.choice(owners)
        join(draft, rng, owner, store, calls_per_request=rng.choice((1, 1, 1, 2, 3)))
        if rng.random() < 0.3:
            join(draft, rng, rng.choice(owners), store)
    for cache in draft.of("cache"):
        with_store = [o for o in owners if any(e.dst in databases and e.via_cache is None for e in draft.out(o))]
        owner = rng.choice(with_store or owners)
        join(draft, rng, owner, cache, calls_per_request=rng.choice((1, 1, 2)))
        _misses(draft, rng, [owner], cache)


def _misses(draft: Draft, rng: random.Random, askers: list[str], cache: str) -> None:
    """Send one call of each asker through the cache: a database first, else anything synchronous."""
    stores = set(draft.of(*STORES))
    for asker in askers:
        open_calls = [
            i for i, e in enumerate(draft.edges)
            if e.src == asker and e.mode == "sync" and e.via_cache is None and e.alt_group is None and e.dst not in draft.of("cache", "cdn")
        ]  # fmt: skip
        best = [i for i in open_calls if draft.edges[i].dst in stores] or open_calls
        if best:
            at = rng.choice(best)
            draft.edges[at] = draft.edges[at].model_copy(update={"via_cache": cache})


def _messages(draft: Draft, rng: random.Random) -> None:
    producers = draft.of("service") or draft.of("gateway", "function", "lb", "client")
    workers, functions, channels = draft.of("worker"), draft.of("function"), draft.of("queue", "stream")
    for at, channel in enumerate(channels):
        for producer in rng.sample(producers, min(len(producers), rng.choice((1, 1, 2)))):
            join(draft, rng, producer, channel, calls_per_request=rng.choice((1, 1, 0.5, 0.2)))
        consumers = (
            workers[at :: len(channels)]
            or [f for f in functions if not any(e.dst == f for e in draft.edges)]
            or draft.of("warehouse", "search")
        )
        for consumer in consumers:
            join(
                draft, rng, channel, consumer, protocol="consume" if consumer in workers else "trigger" if consumer in functions else "sink"
            )
    for at, scheduler in enumerate(draft.of("scheduler")):
        targets = (workers + functions)[at::2] or producers[-1:]
        for target in targets[:3]:
            join(draft, rng, scheduler, target, protocol="cron")
    for worker in workers:
        if not any(e.dst == worker for e in draft.edges):
            join(
                draft,
                rng,
                rng.choice(channels or draft.of("scheduler") or producers),
                worker,
                mode="async",
                protocol=rng.choice(("consume", "trigger")),
            )
        targets = [t for t in draft.of(*STORES, "external", "model") if not any(e.dst == t for e in draft.edges)] or draft.of(*STORES)
        for target in rng.sample(targets, min(len(targets), rng.choice((1, 1, 2)))):
            join(draft, rng, worker, target)


def _leaves(draft: Draft, rng: random.Random) -> None:
    callers = draft.of(*CALLERS[:2]) or draft.of(*CALLERS[2:])
    externals = [x for x in draft.of("external") if not any(e.dst == x for e in draft.edges)]
    if len(externals) >= 2 and callers and rng.random() < 0.6:
        caller = rng.choice(callers)
        for external in externals[:2]:
            join(draft, rng, caller, external, alt_group="a1", retries=rng.choice((0, 1, 2)))
        externals = externals[2:]
    for external in externals:
        join(draft, rng, rng.choice(callers), external, retries=rng.choice((0, 1, 2, 3)), dependency=rng.choice(("hard", "soft")))
    for leaf in draft.of("model", "warehouse"):
        if not any(e.dst == leaf for e in draft.edges):
            feeders = (draft.of("worker", "stream") or callers) if leaf in draft.of("warehouse") else callers
            join(draft, rng, rng.choice(feeders), leaf)
    watched = draft.of("service", "gateway", "worker")
    for monitor in draft.of("monitor"):
        for source in rng.sample(watched, min(len(watched), rng.choice((1, 2, 3)))):
            join(draft, rng, source, monitor)


def _extra(draft: Draft, cfg: DiagramsConfig, rng: random.Random) -> None:
    """A few more arrows of kinds that exist in real systems."""
    rank = {p.id: i for i, p in enumerate(draft.parts)}
    services, targets = draft.of("service"), draft.of("service", "sql", "nosql", "queue", "stream", "search", "object")
    for _ in range(round(len(draft.parts) * cfg.extra_edges)):
        if services and targets:
            src, dst = rng.choice(services), rng.choice(targets)
            if rank[src] < rank[dst] and len(draft.out(src)) < cfg.max_fan_out:
                join(draft, rng, src, dst, calls_per_request=rng.choice((1, 1, 2)))


def _orphans(draft: Draft, rng: random.Random) -> None:
    """Nothing but clients and schedulers stands without an incoming arrow."""
    rank = {p.id: i for i, p in enumerate(draft.parts)}
    for part in draft.parts:
        if part.type in ("client", "scheduler"):
            if not draft.out(part.id):
                later = [p.id for p in draft.parts if p.type in ("service", "gateway", "worker", "function", "lb")] or [draft.parts[-1].id]
                join(draft, rng, part.id, rng.choice(later))
        elif not any(e.dst == part.id for e in draft.edges):
            before = [p.id for p in draft.parts if p.type not in LEAVES and p.type != "dns" and rank[p.id] < rank[part.id]]
            join(draft, rng, rng.choice(before), part.id)


def _decorate(draft: Draft, rng: random.Random) -> None:
    """Timeouts, payloads, retries and parallel calls."""
    types = {p.id: p.type for p in draft.parts}
    for at, edge in enumerate(draft.edges):
        update: dict[str, object] = {"payload_kb": rng.choice((0.5, 1, 2, 4, 8, 16, 32, 64, 120, 250))}
        if edge.mode == "sync" and types[edge.src] != "client":
            update["timeout_ms"] = rng.choice((50, 100, 200, 300, 500, 800, 1000, 1500, 2000, 3000))
            if edge.retries == 0 and rng.random() < 0.25:
                update["retries"] = rng.choice((1, 2, 3))
            if types[edge.dst] in ("service", "model", "search") and rng.random() < 0.12:
                update["dependency"] = "soft"
        draft.edges[at] = edge.model_copy(update=update)
    for part in draft.parts:
        free = [i for i, e in enumerate(draft.edges) if e.src == part.id and e.mode == "sync" and e.via_cache is e.alt_group is None]
        free = [i for i in free if types[draft.edges[i].dst] != "cache" and part.type != "client"]
        if len(free) >= 2 and rng.random() < 0.4:
            for i in free[: rng.choice((2, 2, 3))]:
                draft.edges[i] = draft.edges[i].model_copy(update={"parallel_group": "p1"})
