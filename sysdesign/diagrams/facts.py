"""Which facts of a graph are drawn, and the words they are drawn in: the visible-facts contract.

A *kind* is a field (`component.replicas`); a *key* is one fact (`gateway.replicas`, `edge:3.protocol`, `flow:f1.peak_qps`). What a
legend line says for all ("no xN: one call") makes the unmarked ones visible too; a value of None is never visible.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from sysdesign.diagrams.vocabulary import TYPE_WORDS
from sysdesign.graph import Architecture, Component, Edge, Flow

COMPONENT_KINDS = (
    "technology", "replicas", "capacity_qps", "service_ms", "p99_ms", "azs", "stateful", "replication", "storage_gb", "cost_usd",
    "availability", "hit_ratio",
)  # fmt: skip
EDGE_KINDS = (
    "protocol",
    "calls_per_request",
    "via_cache",
    "payload_kb",
    "timeout_ms",
    "retries",
    "dependency",
    "alt_group",
    "parallel_group",
)
FLOW_KINDS = ("avg_qps", "peak_qps", "slo_p99_ms", "slo_availability")
KINDS = frozenset(
    [f"component.{k}" for k in (*COMPONENT_KINDS, "name", "type", "zone")]
    + [f"edge.{k}" for k in (*EDGE_KINDS, "src", "dst", "mode")]
    + [f"flow.{k}" for k in (*FLOW_KINDS, "name", "entry")]
    + ["zone.name", "zone.kind", "zone.parent"]
)

# Kinds that one sort of question needs together; a picture draws a few of these bundles.
BUNDLES: dict[str, tuple[str, ...]] = {
    "protocols": ("component.technology", "edge.protocol"),
    "capacity": (
        "component.replicas", "component.capacity_qps", "component.hit_ratio", "edge.calls_per_request", "edge.via_cache", "flow.avg_qps",
        "flow.peak_qps",
    ),
    "latency": ("component.service_ms", "component.hit_ratio", "edge.calls_per_request", "edge.via_cache", "edge.parallel_group",
    "flow.slo_p99_ms"),
    "tail": ("component.p99_ms", "edge.parallel_group", "edge.timeout_ms", "edge.retries", "flow.slo_p99_ms"),
    "availability": ("component.replicas", "component.availability", "edge.dependency", "edge.alt_group", "flow.slo_availability"),
    "placement": ("component.replicas", "component.azs", "component.capacity_qps", "flow.peak_qps", "edge.calls_per_request",
    "edge.via_cache", "component.hit_ratio"),
    "data": ("component.technology", "component.stateful", "component.replication", "component.storage_gb"),
    "traffic": ("edge.payload_kb", "edge.calls_per_request", "edge.via_cache", "component.hit_ratio", "flow.avg_qps", "flow.peak_qps"),
    "cost": ("component.replicas", "component.cost_usd", "component.technology"),
}  # fmt: skip


def choose(graph: Architecture, density: float, rng: random.Random) -> list[tuple[str, ...]]:
    """Fact bundles to draw, most wanted first; a renderer drops the last ones until the picture is legible."""
    if rng.random() < 0.5 * (1 - density):
        return [BUNDLES["protocols"]] if rng.random() < 0.6 else []
    most = 1 + round(density * (3 if len(graph.components) <= 12 else 2))
    names = rng.sample(sorted(BUNDLES), min(len(BUNDLES), rng.randint(1, max(1, most))))
    return [BUNDLES[name] for name in names]


def number(value: float) -> str:
    """12000 -> "12,000", 0.5 -> "0.5", 3.0 -> "3"."""
    return f"{value:,.10g}" if value < 1e10 else f"{value:g}"


def percent(share: float) -> str:
    """0.9995 -> "99.95%"."""
    return f"{share * 100:.6g}%"


def subtitle(c: Component, show: Collection[str]) -> str:
    """The line under a name: type, and the technology where it is shown."""
    word = TYPE_WORDS[c.type]
    if "component.technology" in show and c.technology and c.technology.casefold() != c.name.casefold():
        return f"{word}: {c.technology}"
    return word


def component_texts(c: Component, show: Collection[str]) -> list[str]:
    """The numbers of one box, one short phrase each."""
    found: list[str] = []
    if c.type == "client":
        return found
    if "component.replicas" in show and c.type != "external":
        found.append(f"x{c.replicas}")
    if "component.capacity_qps" in show and c.capacity_qps is not None:
        found.append(f"{number(c.capacity_qps)} rps")
    if "component.service_ms" in show and c.service_ms is not None:
        found.append(f"{number(c.service_ms)} ms")
    if "component.p99_ms" in show and c.p99_ms is not None:
        found.append(f"p99 {number(c.p99_ms)} ms")
    if "component.hit_ratio" in show and c.hit_ratio is not None:
        found.append(f"hit {percent(c.hit_ratio)}")
    if "component.availability" in show and c.availability is not None:
        found.append(percent(c.availability))
    if "component.cost_usd" in show and c.cost_usd is not None:
        found.append(f"${number(c.cost_usd)}/mo")
    if "component.storage_gb" in show and c.storage_gb is not None:
        found.append(f"{number(c.storage_gb)} GB")
    if "component.azs" in show and c.azs:
        found.append(f"AZ {'+'.join(c.azs)}")
    if "component.stateful" in show and c.stateful:
        found.append("stateful")
    if "component.replication" in show and c.replication is not None:
        r = c.replication
        found.append(f"{r.mode} N={r.n} W={r.w} R={r.r}")
        if r.mode == "async":
            found.append(f"lag {number(r.lag_s)} s")
    return found


def edge_texts(e: Edge, show: Collection[str], names: dict[str, str]) -> list[str]:
    """The label of one arrow, one short phrase each; empty for an unlabelled arrow."""
    found: list[str] = []
    if "edge.protocol" in show and e.protocol:
        found.append(e.protocol)
    if "edge.calls_per_request" in show and e.calls_per_request != 1:
        found.append(f"x{number(e.calls_per_request)}")
    if "edge.via_cache" in show and e.via_cache:
        found.append("on miss" if e.via_cache == e.src else f"on {names[e.via_cache]} miss")
    if "edge.payload_kb" in show and e.payload_kb is not None:
        found.append(f"{number(e.payload_kb)} KB")
    if "edge.timeout_ms" in show and e.timeout_ms is not None:
        found.append(f"t/o {number(e.timeout_ms)} ms")
    if "edge.retries" in show and e.retries:
        found.append(f"{e.retries} retr{'y' if e.retries == 1 else 'ies'}")
    if "edge.dependency" in show and e.dependency == "soft":
        found.append("optional")
    if "edge.alt_group" in show and e.alt_group:
        found.append(f"either {e.alt_group}")
    if "edge.parallel_group" in show and e.parallel_group:
        found.append(f"par {e.parallel_group}")
    return found


def flow_text(f: Flow, show: Collection[str], names: dict[str, str]) -> str:
    """One line of the legend for a journey."""
    parts = []
    if "flow.avg_qps" in show:
        parts.append(f"avg {number(f.avg_qps)} rps")
    if "flow.peak_qps" in show:
        parts.append(f"peak {number(f.peak_qps)} rps")
    if "flow.slo_p99_ms" in show and f.slo_p99_ms is not None:
        parts.append(f"p99 target {number(f.slo_p99_ms)} ms")
    if "flow.slo_availability" in show and f.slo_availability is not None:
        parts.append(f"SLO {percent(f.slo_availability)}")
    return f"Flow {f.name} (enters at {names[f.entry]}): {', '.join(parts)}" if parts else ""


def legend(graph: Architecture, show: Collection[str]) -> list[str]:
    """The lines under a picture that say what holds where nothing is marked, and the flows."""
    names = {c.id: c.name for c in graph.components}
    notes = []
    if graph.edges:
        notes.append("solid arrow: waits for the answer, dashed: asynchronous")
    per = [
        word
        for kind, word in (("capacity_qps", "rps"), ("cost_usd", "$"), ("availability", "%"), ("storage_gb", "GB"))
        if f"component.{kind}" in show
    ]
    if per:
        notes.append(f"{', '.join(per)} in a box: each replica")
    unmarked = [
        text
        for kind, text in (
            ("calls_per_request", "1 call a request"), ("retries", "no retries"), ("dependency", "needed"), ("alt_group", "no alternative"),
            ("parallel_group", "one after another"),
        )
        if f"edge.{kind}" in show and graph.edges
    ]  # fmt: skip
    if unmarked:
        notes.append(f"unmarked arrow: {', '.join(unmarked)}")
    if "edge.via_cache" in show and any(e.via_cache for e in graph.edges):
        notes.append("on miss: only what the cache cannot answer")
    if "component.stateful" in show:
        notes.append("unmarked box: stateless")
    return [*(text for text in (flow_text(f, show, names) for f in graph.flows) if text), *notes]


def visible(graph: Architecture, show: Collection[str]) -> tuple[str, ...]:
    """Keys of every fact that a picture with these kinds shows, in drawing order."""
    keys: list[str] = []
    for c in graph.components:
        keys += [f"{c.id}.name", f"{c.id}.type"] + ([f"{c.id}.zone"] if graph.zones else [])
        for kind in COMPONENT_KINDS:
            value = getattr(c, kind)
            hidden = (c.type == "client" and kind != "technology") or (kind == "replicas" and c.type == "external")
            if f"component.{kind}" in show and value is not None and value != () and not hidden:
                keys.append(f"{c.id}.{kind}")
    by_legend = ("calls_per_request", "retries", "dependency", "alt_group", "parallel_group", "via_cache")
    for index, e in enumerate(graph.edges):
        keys += [f"edge:{index}.src", f"edge:{index}.dst", f"edge:{index}.mode"]
        keys += [
            f"edge:{index}.{kind}" for kind in EDGE_KINDS if f"edge.{kind}" in show and (kind in by_legend or getattr(e, kind) is not None)
        ]
    for zone in graph.zones:
        keys += [f"zone:{zone.id}.name", f"zone:{zone.id}.kind", f"zone:{zone.id}.parent"]
    for f in graph.flows:
        kinds = [kind for kind in FLOW_KINDS if f"flow.{kind}" in show and getattr(f, kind) is not None]
        keys += [f"flow:{f.id}.{kind}" for kind in (["name", "entry", *kinds] if kinds else [])]
    return tuple(keys)
