"""A diagram as a questioner may use it: the graph, what of it is drawn, and what a question therefore has to state itself.

An answer may stand only on what the reader can see. A family asks for every value through `tell`; a value that is not in the picture
becomes a sentence of the question, and a family that would have to state too many gives up.
"""

from __future__ import annotations

from collections.abc import Iterable

from sysdesign.conversations.pen import Pen
from sysdesign.graph import Architecture, Component, Edge, Flow
from sysdesign.records import Boxes, DiagramRecord

_INTROS = {  # how a stated value is introduced, and its unit
    "capacity_qps": ("Capacity per replica", "req/s"),
    "service_ms": ("Own mean time per request", "ms"),
    "p99_ms": ("Own p99", "ms"),
    "cost_usd": ("Monthly price per replica", "USD"),
    "storage_gb": ("Stored data", "GB"),
    "peak_qps": ("Peak load", "req/s"),
    "avg_qps": ("Average load", "req/s"),
    "slo_p99_ms": ("Latency objective (p99)", "ms"),
}
MAX_STATED = 9  # longer lists turn a question about a picture into a question about its text


class View:
    """What one question knows. `given` collects the statements that the question has to make; use a fresh view for each question."""

    def __init__(self, graph: Architecture, visible: Iterable[str], boxes: Boxes | None = None, size: tuple[int, int] = (1, 1)) -> None:
        self.graph = graph
        self.visible = frozenset(visible)
        self.boxes = boxes
        self.size = size
        self.names = {c.id: c.name for c in graph.components}
        self.stated: dict[str, list[str]] = {}
        self.index = {id(e): i for i, e in enumerate(graph.edges)}

    @classmethod
    def of(cls, record: DiagramRecord) -> View:
        """The view of a drawn diagram."""
        return cls(record.graph, record.visible, record.boxes, (record.width, record.height))

    def fresh(self, graph: Architecture | None = None) -> View:
        """The same picture with nothing stated yet; with `graph`, of a system that was changed in words."""
        return View(graph or self.graph, self.visible, self.boxes, self.size)

    def ambiguous(self) -> bool:
        """Whether two components carry one name: then no question about names has one answer."""
        return len({name.lower() for name in self.names.values()}) < len(self.names)

    def tell(self, pen: Pen, component: Component, field: str) -> None:
        """Make sure that `component.field` is known to the reader: drawn, or stated in the question."""
        if f"{component.id}.{field}" in self.visible:
            return
        name, value = pen.name(component.name), getattr(component, field)
        match field:
            case "replicas":
                self._state("Replicas", f"{name} {value}")
            case "type":
                self._state("Kind", f"{name} is a {value}")
            case "availability" | "hit_ratio":
                self._state(
                    {"availability": "Availability per replica", "hit_ratio": "Hit ratio"}[field], f"{name} {pen.percent(value or 0)}"
                )
            case _:
                intro, unit = _INTROS[field]
                self._state(intro, f"{name} {pen.n(value or 0, unit)}")

    def tell_edge(self, pen: Pen, edge: Edge, field: str) -> None:
        """The same for a value of an arrow; an undrawn default needs no statement where the convention of the picture covers it."""
        index = self.index[id(edge)]
        if f"edge:{index}.{field}" in self.visible:
            return
        value = getattr(edge, field)
        arrow = f"{pen.name(self.names[edge.src])} -> {pen.name(self.names[edge.dst])}"
        if field == "calls_per_request":
            if value == 1:
                self.convention("an arrow without a multiplier is one call per request")
            else:
                self._state("Calls per request", f"{arrow} {pen.n(value)}")
        elif field == "mode":
            if value == "async":
                self._state("Asynchronous arrows", arrow)
            else:
                self.convention("arrows are synchronous unless drawn or said otherwise")
        elif field == "dependency":
            if value == "soft":
                self._state("Optional dependencies (the caller degrades but still answers)", arrow)
            else:
                self.convention("a synchronous callee is required unless it is marked optional")
        elif field == "via_cache":
            if value is not None:
                self._state("Reached only on a cache miss", f"{arrow} (misses of {pen.name(self.names[value])})")
        elif field == "alt_group":
            if value is not None:
                self._state("Alternatives (any one of a group suffices)", f"{arrow} in group {value}")
        elif field == "parallel_group":
            if value is not None:
                self._state("Called in parallel", f"{arrow} in group {value}")
            else:
                self.convention("calls of one component run one after the other unless marked parallel")
        elif field == "retries":
            self._state("Retries", f"{arrow} {value}")
        elif field == "timeout_ms":
            self._state("Timeout", f"{arrow} {pen.n(value or 0, 'ms')}")
        elif field == "payload_kb":
            self._state("Payload per request", f"{arrow} {pen.n(value or 0)} kB")
        else:
            raise KeyError(field)

    def tell_flow(self, pen: Pen, flow: Flow, field: str) -> None:
        """The same for a load or an objective of a user journey."""
        if f"flow:{flow.id}.{field}" in self.visible:
            return
        value, where = getattr(flow, field), f"{pen.name(flow.name)} (entering at {pen.name(self.names[flow.entry])})"
        if field == "slo_availability":
            self._state("Availability objective", f"{where} {pen.percent(value or 0)}")
        else:
            intro, unit = _INTROS[field]
            self._state(intro, f"{where} {pen.n(value or 0, unit)}")

    def convention(self, text: str) -> None:
        """A rule for reading the picture; costs no statement."""
        self.stated.setdefault("Reading", [])
        if text not in self.stated["Reading"]:
            self.stated["Reading"].append(text)

    def _state(self, intro: str, text: str) -> None:
        if text not in self.stated.setdefault(intro, []):
            self.stated[intro].append(text)

    def too_much(self) -> bool:
        """Whether the question would have to state more values than a reader takes in."""
        return sum(len(texts) for intro, texts in self.stated.items() if intro != "Reading") > MAX_STATED

    def given(self, pen: Pen) -> str:
        """The sentences to put beside the question; empty when the picture says it all."""
        values = [f"{intro}: {'; '.join(texts)}." for intro, texts in self.stated.items() if intro != "Reading"]
        lead = pen.say("[Given: |Not drawn: |Assume: |Also known: |Take these as given. |Facts beside the picture: ]") if values else ""
        notes = self.stated.get("Reading", [])
        reading = ""
        if notes:
            reading = pen.say("[Reading: |Convention: |How to read it: |Note: ]") + "; ".join(notes) + "."
        return " ".join(part for part in (lead + " ".join(values), reading) if part)
