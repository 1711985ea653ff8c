"""Questions of pure structure: who calls whom, paths, zones, exposure."""

from __future__ import annotations

from sysdesign.graph import Architecture, Edge


def edges_between(graph: Architecture, src: str, dst: str) -> tuple[Edge, ...]:
    """Arrows from `src` to `dst`, in drawing order."""
    return tuple(e for e in graph.edges if e.src == src and e.dst == dst)


def only_path(graph: Architecture, entry: str, target: str, limit: int = 2) -> tuple[str, ...] | None:
    """The path from `entry` to `target` if there is exactly one, else None: an ambiguous path is not asked for."""
    import itertools

    import networkx

    arrows = networkx.DiGraph((e.src, e.dst) for e in graph.edges)
    if entry not in arrows or target not in arrows:
        return None
    paths = list(itertools.islice(networkx.all_simple_paths(arrows, entry, target), limit))
    return tuple(paths[0]) if len(paths) == 1 else None


def zone_chain(graph: Architecture, zone: str | None) -> tuple[str, ...]:
    """The zone and those around it, innermost first."""
    parents = {z.id: z.parent for z in graph.zones}
    found: list[str] = []
    while zone is not None and zone not in found:
        found.append(zone)
        zone = parents.get(zone)
    return tuple(found)


def members(graph: Architecture, zone: str) -> tuple[str, ...]:
    """Components inside `zone`, at any depth, in drawing order."""
    return tuple(c.id for c in graph.components if zone in zone_chain(graph, c.zone))


def crossings(graph: Architecture, zone: str) -> tuple[Edge, ...]:
    """Arrows with exactly one end inside `zone`."""
    inside = set(members(graph, zone))
    return tuple(e for e in graph.edges if (e.src in inside) != (e.dst in inside))


def exposed(graph: Architecture) -> tuple[str, ...]:
    """Components that a client, or a CDN in front of it, calls without a gateway or load balancer between; in drawing order."""
    types = {c.id: c.type for c in graph.components}
    outside = {"client", "cdn", "dns", "external"}
    shields = {"gateway", "lb"}
    reached: set[str] = {c.id for c in graph.components if c.type == "client"}
    todo = list(reached)
    while todo:
        node = todo.pop()
        for edge in graph.edges:
            if edge.src == node and edge.dst not in reached:
                reached.add(edge.dst)
                if types[edge.dst] in outside:  # behind a shield or a service nothing is directly public
                    todo.append(edge.dst)
    return tuple(c.id for c in graph.components if c.id in reached and c.type not in outside | shields)
