"""Words and picks that every topic shares: what a component type is called, which user journey a question is about."""

from __future__ import annotations

from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules.load import call_order
from sysdesign.conversations.view import View
from sysdesign.graph import ComponentType, Flow

KINDS: dict[ComponentType, tuple[str, str]] = {
    "client": ("client", "clients"), "cdn": ("CDN", "CDNs"), "dns": ("DNS", "DNS servers"), "lb": ("load balancer", "load balancers"),
    "gateway": ("gateway", "gateways"), "service": ("service", "services"), "worker": ("worker", "workers"),
    "function": ("function", "functions"), "cache": ("cache", "caches"), "sql": ("SQL database", "SQL databases"),
    "nosql": ("NoSQL database", "NoSQL databases"), "object": ("object store", "object stores"), "search": ("search engine",
    "search engines"),
    "queue": ("queue", "queues"), "stream": ("event stream", "event streams"), "warehouse": ("data warehouse", "data warehouses"),
    "scheduler": ("scheduler", "schedulers"), "model": ("ML model", "ML models"), "auth": ("auth component", "auth components"),
    "monitor": ("monitoring component", "monitoring components"), "external": ("external system", "external systems"),
}  # fmt: skip
STORES = ("sql", "nosql", "object", "search", "warehouse")
PICTURE = "[diagram|picture|drawing|architecture diagram]"


def pick_flow(view: View, pen: Pen) -> Flow | None:
    """A user journey whose calls do not loop; None if the diagram has none."""
    usable = [f for f in view.graph.flows if call_order(view.graph, f.entry) is not None]
    return pen.rng.choice(usable) if usable else None


def journey(view: View, pen: Pen, flow: Flow) -> str:
    """How a question names the journey."""
    entry = pen.name(view.names[flow.entry])
    if len(view.graph.flows) == 1:
        return f"[a request that enters|traffic that enters|a request entering] at {entry}"
    return f"the [{pen.name(flow.name)} journey|journey '{pen.name(flow.name)}'], which [enters|starts] at {entry}"


def tell_load(view: View, pen: Pen, flow: Flow, target: str | None = None) -> None:
    """State what rate propagation needs and the picture does not show: the peak load, multipliers, cache detours.

    With `target` only the arrows on the way to it.
    """
    view.tell_flow(pen, flow, "peak_qps")
    order = set(call_order(view.graph, flow.entry) or ())
    leading = set(order)
    if target is not None:
        leading, todo = {target}, [target]
        while todo:
            node = todo.pop()
            before = {e.src for e in view.graph.edges if e.dst == node and e.src in order} - leading
            leading |= before
            todo += before
    for edge in view.graph.edges:
        if edge.src in order and edge.dst in leading:
            view.tell_edge(pen, edge, "calls_per_request")
            if edge.via_cache is not None:
                view.tell_edge(pen, edge, "via_cache")
                view.tell(pen, view.graph.component(edge.via_cache), "hit_ratio")
    if len(view.graph.flows) > 1:
        view.convention(f"only the load of '{pen.name(flow.name)}' counts")


def tell_dependencies(view: View, pen: Pen, reached: frozenset[str] | set[str]) -> None:
    """State what AND/OR reasoning needs: which arrows are asynchronous, optional or alternatives of each other."""
    for edge in view.graph.edges:
        if edge.src in reached:
            view.tell_edge(pen, edge, "mode")
            if edge.mode == "sync":
                view.tell_edge(pen, edge, "dependency")
                view.tell_edge(pen, edge, "alt_group")
