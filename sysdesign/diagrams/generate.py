"""From a seed prompt and a number to one architecture: `generate(cfg, prompts, seed, index)` is a pure function.

The prompt gives the domain, the parts and the load; the draw decides size, provider, wiring, zones and numbers. A share of the graphs
has meaningless names and unusual wiring, so that only the picture can answer.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.diagrams import numbers
from sysdesign.diagrams.vocabulary import EXTRA_NAMES, NONSENSE, NONSENSE_TITLES, PROVIDERS, TECHNOLOGIES
from sysdesign.diagrams.wiring import CALLERS, ORDER, Draft, Part, tangle, wire
from sysdesign.diagrams.zoning import regions, zones
from sysdesign.graph import Architecture, Component, ComponentType, Edge
from sysdesign.graph_rules import validate
from sysdesign.prompts import SeedPrompt

NAME_WIDTH = 24  # characters; longer names make boxes that crowd out the rest
_PRODUCTS = {name.casefold() for known in TECHNOLOGIES.values() for name, _, _ in known}
_PRODUCT_TYPES = ("cdn", "dns", "lb", "cache", "sql", "nosql", "object", "search", "queue", "stream", "warehouse")
_SUFFIX: dict[ComponentType, tuple[str, ...]] = {
    "service": ("Service", "API"), "worker": ("Worker", "Processor"), "cache": ("Cache",), "sql": ("DB",), "nosql": ("Store", "Table"),
    "object": ("Bucket", "Archive"), "search": ("Index",), "queue": ("Queue",), "stream": ("Events", "Stream"), "model": ("Model",),
}  # fmt: skip
# What a system of each pattern grows by, on top of services and stores.
_GROWTH: dict[str, tuple[ComponentType, ...]] = {
    "request-response": ("cache", "lb", "auth", "external"), "feed-fanout": ("cache", "queue", "worker", "nosql", "cdn"),
    "stream-processing": ("stream", "worker", "warehouse", "nosql"), "event-driven": ("stream", "worker", "queue", "function"),
    "batch": ("scheduler", "worker", "warehouse", "object"), "ml-serving": ("model", "cache", "stream", "worker"),
    "multi-region": ("dns", "sql", "cache", "lb"), "search": ("search", "worker", "queue", "cache"),
    "media": ("object", "worker", "cdn", "queue"),
    "ledger": ("sql", "queue", "external", "worker"), "edge-iot": ("stream", "function", "worker", "nosql"),
    "realtime": ("stream", "cache", "lb", "worker"),
}  # fmt: skip
# A client or third party is made of what its name says, or of nothing that is known.
_FITTING: dict[ComponentType, dict[str, tuple[str, ...]]] = {
    "client": {"mobile": ("Flutter", "Swift", "Kotlin"), "web": ("React", "Vue"), "portal": ("React", "Vue"), "console": ("React", "Vue")},
    "external": {"payment": ("Stripe", "Adyen", "PayPal"), "sms": ("Twilio",), "email": ("SendGrid",)},
}
_ANY: tuple[ComponentType, ...] = (
    "service",
    "service",
    "service",
    "sql",
    "nosql",
    "cache",
    "queue",
    "worker",
    "monitor",
    "external",
    "client",
    "object",
)
_AT_MOST = {
    "dns": 1,
    "lb": 2,
    "gateway": 2,
    "cdn": 1,
    "auth": 1,
    "monitor": 1,
    "warehouse": 1,
    "scheduler": 1,
    "client": 3,
    "search": 2,
    "object": 2,
}


def generate(cfg: DiagramsConfig, prompts: Sequence[SeedPrompt], seed: int, index: int, attempt: int = 0) -> Architecture:
    """Graph number `index` of `seed`; `attempt` draws another one for the same place (a repeated topology, an illegible layout)."""
    rng = random.Random(f"{seed}/{index}/{attempt}")
    prompt = prompts[index % len(prompts)]
    shift = 0.35 + 0.1 * prompt.difficulty
    span = cfg.max_components - cfg.min_components
    size = rng.randint(cfg.min_components, cfg.max_components)
    if rng.random() < 0.6:
        size = round(rng.triangular(cfg.min_components, cfg.max_components, cfg.min_components + shift * 0.6 * span))
    depth = min(cfg.max_nesting, rng.choice((0, 1, 1, 2, 2, 3, 3)))
    provider = rng.choice(PROVIDERS)
    nonsense = rng.random() < cfg.anonymous_share
    made: list = []
    if nonsense:
        draft = Draft(_nonsense_parts(size, rng))
        tangle(draft, cfg, rng)
        made = zones(draft, depth, provider, True, rng)
    else:
        mirrored = size >= 10 and depth > 0 and rng.random() < (0.6 if prompt.pattern == "multi-region" else 0.06)
        draft = Draft(_parts(prompt, size - 4 if mirrored else size, provider, rng))
        wire(draft, cfg, rng)
        made = regions(draft, provider, 4, rng) if mirrored else zones(draft, depth, provider, False, rng)
    title = f"{rng.choice(NONSENSE)} {rng.choice(NONSENSE_TITLES)}" if nonsense else prompt.title
    entries = [(p.id, p.name) for p in draft.parts if p.type in ("client", "scheduler")] or [(draft.parts[0].id, draft.parts[0].name)]
    wanted = (prompt.scale.read_qps_peak + prompt.scale.write_qps_peak) * rng.choice((0.1, 0.25, 0.5, 1, 1, 2))
    flows = numbers.flows(entries[:3], min(max(wanted, 20), 200_000), prompt.scale.peak_to_average, rng)
    missed = {e.via_cache for e in draft.edges if e.via_cache}
    ratios = {p.id: numbers.hit_ratio(rng) for p in draft.parts if p.id in missed}
    plain = [
        Component(id=p.id, name=p.name, type=p.type, technology=p.technology, zone=p.zone, hit_ratio=ratios.get(p.id)) for p in draft.parts
    ]
    rate = numbers.loads(_forward(draft), draft.edges, {f.entry: f.peak_qps for f in flows}, ratios)
    tight = rng.choice(
        [p.id for p in draft.parts if p.type in ("service", "sql", "nosql", "worker", "gateway", "search", "model")] or [draft.parts[-1].id]
    )
    worst = rng.choice((0.8, 0.85, 0.9, 1.1, 1.2, 1.35))
    components = [numbers.fill(c, rate[c.id], worst if c.id == tight else rng.uniform(0.25, 0.68), rng) for c in plain]
    graph = Architecture(
        title=title, domain="nonsense" if nonsense else prompt.domain, seed_id=prompt.id, components=tuple(components),
        edges=tuple(_together(draft.edges)),
        zones=tuple(made), flows=tuple(flows),
    )  # fmt: skip
    # read back, so that every number has the type of its field (2 and 2.0 would give one graph two identities)
    return validate(Architecture.model_validate(graph.model_dump()), f"generated graph {index}/{attempt}")


def _together(edges: Sequence[Edge]) -> list[Edge]:
    """Mirroring a region turns calls into alternatives; one that is left alone in its parallel group is no longer parallel."""
    members = Counter((e.src, e.parallel_group) for e in edges)
    return [
        e.model_copy(update={"parallel_group": None}) if e.parallel_group and members[e.src, e.parallel_group] < 2 else e for e in edges
    ]


def _forward(draft: Draft) -> list[str]:
    """Ids so that every synchronous call, and every asynchronous one that can, runs forward."""
    import networkx

    ids = [p.id for p in draft.parts]
    rank = {name: at for at, name in enumerate(ids)}
    waits = networkx.DiGraph()
    waits.add_nodes_from(ids)
    waits.add_edges_from((e.src, e.dst) for e in draft.edges)
    if not networkx.is_directed_acyclic_graph(waits):
        waits.remove_edges_from([(e.src, e.dst) for e in draft.edges if e.mode == "async" and rank[e.src] > rank[e.dst]])
    if not networkx.is_directed_acyclic_graph(waits):
        return ids
    return list(networkx.lexicographical_topological_sort(waits, key=rank.__getitem__))


def _parts(prompt: SeedPrompt, size: int, provider: str, rng: random.Random) -> list[Part]:
    """The prompt's own parts, thinned or extended to `size`."""
    wanted: list[tuple[ComponentType, str | None]] = [(c.type, c.technology) for c in prompt.components]
    while len(wanted) > max(size, 3):
        kinds = [kind for kind, _ in wanted]
        spare = [i for i, k in enumerate(kinds) if k not in ("client", "service") or kinds.count(k) > 1]
        wanted.pop(rng.choice(spare or range(len(wanted))))
    growth = (*_GROWTH[prompt.pattern], *_GROWTH[prompt.pattern], *_ANY)
    while len(wanted) < size:
        kind = rng.choice(growth)
        if sum(k == kind for k, _ in wanted) < _AT_MOST.get(kind, 7 if kind == "service" else 4):
            wanted.append((kind, None))
    if not any(kind == "client" for kind, _ in wanted):
        wanted[-1] = ("client", None)
    if not any(kind in CALLERS for kind, _ in wanted):  # something must answer clients and use the rest, however small the system
        at = next((i for i, (kind, _) in enumerate(wanted) if kind != "client"), len(wanted))
        wanted[at : at + 1] = [("service", None)]
    wanted.sort(key=lambda part: ORDER.index(part[0]))
    entities = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", e.name) for e in prompt.entities]  # FeatureRow -> Feature Row
    taken: set[str] = set()
    parts = []
    for kind, said in wanted:
        product = said is not None and kind != "external" and (kind in _PRODUCT_TYPES or said.casefold() in _PRODUCTS)
        name = _name(kind, None if product else said, entities, taken, rng)
        technology = said if product and rng.random() < 0.6 else _technology(kind, name, provider, rng)
        parts.append(Part(_ident(name, taken), name, kind, technology))
        taken |= {name.casefold(), parts[-1].id}
    return parts


def _name(kind: ComponentType, said: str | None, entities: Sequence[str], taken: set[str], rng: random.Random) -> str:
    options = [said] if said else []
    if kind in _SUFFIX:
        things = [f"{_title(entity)} {rng.choice(_SUFFIX[kind])}" for entity in entities]
        rng.shuffle(things)
        options += things if rng.random() < 0.6 else []
    pool = list(EXTRA_NAMES[kind])
    rng.shuffle(pool)
    options += [*pool, *(f"{pool[0]} {n}" for n in range(2, 50))]
    return next(o for o in (_title(x) for x in options) if o.casefold() not in taken and len(o) <= NAME_WIDTH)


def _title(text: str) -> str:
    return " ".join(word.capitalize() if word.islower() else word for word in re.sub(r"[_\s]+", " ", text).split())


def _ident(name: str, taken: set[str]) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "part"
    stem = stem if stem[0].isalpha() else f"p-{stem}"
    return next(i for i in (stem[:36], *(f"{stem[:34]}-{n}" for n in range(2, 99))) if i not in taken)


def _technology(kind: ComponentType, name: str, provider: str, rng: random.Random) -> str | None:
    if kind in _FITTING:
        if any(name.casefold() == known.casefold() for known, _, _ in TECHNOLOGIES[kind]):
            return None  # the name says it
        options = next((found for word, found in _FITTING[kind].items() if word in name.casefold()), None)
        return rng.choice(options) if options else None
    fitting = [name for name, owner, _ in TECHNOLOGIES[kind] if owner in (provider, "any")] or [name for name, _, _ in TECHNOLOGIES[kind]]
    return rng.choice(fitting)


def _nonsense_parts(size: int, rng: random.Random) -> list[Part]:
    names = rng.sample(NONSENSE, size)
    kinds: list[ComponentType] = ["client"]
    menu: tuple[ComponentType, ...] = (
        "service",
        "worker",
        "cache",
        "sql",
        "nosql",
        "queue",
        "stream",
        "gateway",
        "function",
        "object",
        "search",
        "model",
        "lb",
    )
    kinds += [rng.choice(menu) for _ in range(size - 1)]
    known = rng.random() < 0.5  # half of them name real technologies, in places where nobody would expect them
    return [
        Part(_ident(name, set()), name, kind, rng.choice(TECHNOLOGIES[kind])[0] if known and kind != "client" else None)
        for name, kind in zip(names, kinds, strict=True)
    ]
