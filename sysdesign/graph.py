"""The typed architecture graph: the ground truth that every picture draws and every answer is computed from.

A graph is an immutable record. Its identity is the sha256 of its canonical JSON; its topology signature is a
Weisfeiler-Lehman hash that ignores every name and number, so that two systems wired alike fall into the same split.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import networkx

ComponentType = Literal[
    "client", "cdn", "dns", "lb", "gateway", "service", "worker", "function", "cache", "sql", "nosql", "object",
    "search", "queue", "stream", "warehouse", "scheduler", "model", "auth", "monitor", "external",
]  # fmt: skip
ZoneKind = Literal["region", "az", "vpc", "subnet", "trust", "cluster", "edge"]
Ident = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Label = Annotated[str, Field(min_length=1, max_length=300)]


class Record(BaseModel):
    """Frozen, and closed: an unknown field is a mistake, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Replication(Record):
    """Copies of a stateful component: `n` nodes, writes acknowledged by `w`, reads asking `r`; lag in seconds when async."""

    mode: Literal["sync", "async"]
    n: Annotated[int, Field(ge=1, le=99)]
    w: Annotated[int, Field(ge=1, le=99)]
    r: Annotated[int, Field(ge=1, le=99)]
    lag_s: Annotated[float, Field(ge=0)] = 0.0


class Component(Record):
    """One box. Capacities, costs and availabilities are *per replica*; None means unknown, and so unanswerable."""

    id: Ident
    name: Label  # as drawn
    type: ComponentType
    technology: str | None = None
    replicas: Annotated[int, Field(ge=1, le=999)] = 1
    capacity_qps: Annotated[float, Field(gt=0)] | None = None
    service_ms: Annotated[float, Field(ge=0)] | None = None  # mean own time a request
    p99_ms: Annotated[float, Field(ge=0)] | None = None
    zone: Ident | None = None  # innermost zone
    azs: tuple[str, ...] = ()  # availability zones the replicas are spread over
    stateful: bool = False
    replication: Replication | None = None
    storage_gb: Annotated[float, Field(ge=0)] | None = None
    cost_usd: Annotated[float, Field(ge=0)] | None = None  # a month
    availability: Annotated[float, Field(gt=0, le=1)] | None = None
    hit_ratio: Annotated[float, Field(ge=0, le=1)] | None = None  # caches and CDNs only


class Edge(Record):
    """One arrow: `src` calls (sync) or hands work to (async) `dst`."""

    src: Ident
    dst: Ident
    protocol: str | None = None
    mode: Literal["sync", "async"] = "sync"
    calls_per_request: Annotated[float, Field(gt=0, le=1000)] = 1.0  # calls to dst for each request that src handles
    via_cache: Ident | None = None  # only misses of this cache take the edge
    payload_kb: Annotated[float, Field(ge=0)] | None = None
    timeout_ms: Annotated[float, Field(gt=0)] | None = None
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    dependency: Literal["hard", "soft"] = "hard"  # soft: src still answers, degraded, when dst is down
    alt_group: str | None = None  # edges of one src with the same group are alternatives: any one suffices
    parallel_group: str | None = None  # edges of one src with the same group are called at the same time


class Zone(Record):
    """A drawn boundary; `parent` nests it."""

    id: Ident
    name: Label
    kind: ZoneKind
    parent: Ident | None = None


class Flow(Record):
    """A named user journey that enters at a component, with its load (requests a second) and its objectives."""

    id: Ident
    name: Label
    entry: Ident
    avg_qps: Annotated[float, Field(gt=0)]
    peak_qps: Annotated[float, Field(gt=0)]
    slo_p99_ms: Annotated[float, Field(gt=0)] | None = None
    slo_availability: Annotated[float, Field(gt=0, lt=1)] | None = None


class Architecture(Record):
    """A system: components, edges, nested zones and flows, in drawing order."""

    title: Label
    domain: str
    seed_id: str  # the seed prompt it was generated from, or the headline prompt it belongs to
    components: tuple[Component, ...]
    edges: tuple[Edge, ...] = ()
    zones: tuple[Zone, ...] = ()
    flows: tuple[Flow, ...] = ()

    def canonical_json(self) -> str:
        """The one spelling: sorted keys, no spaces, fields at their default left out."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))

    def sha256(self) -> str:
        """Identity: 64 hex digits over `canonical_json()`."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def component(self, component_id: str) -> Component:
        """The component of that id; KeyError if there is none."""
        found = next((c for c in self.components if c.id == component_id), None)
        if found is None:
            raise KeyError(component_id)
        return found

    def digraph(self) -> networkx.MultiDiGraph:
        """Nodes are component ids with `type`; edges carry their `Edge` as attribute `edge`."""
        import networkx

        graph = networkx.MultiDiGraph()
        for component in self.components:
            graph.add_node(component.id, type=component.type)
        for edge in self.edges:
            graph.add_edge(edge.src, edge.dst, edge=edge, mode=edge.mode)
        return graph

    def topology(self) -> str:
        """Signature for splits: Weisfeiler-Lehman hash (3 rounds) over component types and edge directions, no names.

        Directed WL hashes changed in networkx 3.5; the pin in pyproject.toml keeps them stable.
        """
        import warnings

        import networkx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # says what the line above says
            return networkx.weisfeiler_lehman_graph_hash(networkx.DiGraph(self.digraph()), node_attr="type", iterations=3)
