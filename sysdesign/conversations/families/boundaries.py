"""Questions about boundaries: what lies in a zone, what crosses it, what the outside can reach."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import wiring
from sysdesign.conversations.view import View
from sysdesign.records import Check


def zone_members(view: View, pen: Pen) -> Asked | None:
    """What lies inside a zone. Rule: nesting of zones."""
    graph, facts = view.graph, Facts("zone nesting")
    zones = [(z, wiring.members(graph, z.id)) for z in graph.zones]
    zones = [(z, inside) for z, inside in zones if 1 <= len(inside) <= 12]
    if not zones:
        return None
    zone, inside = pen.rng.choice(zones)
    found = [view.names[c] for c in inside]
    facts.add("zone", zone.name)
    facts.add(f"components in {zone.name}", found)
    name, listed = pen.name(zone.name), pen.names(found)
    return Asked(
        family="zone_members",
        ask=(
            f"[What|Which components] [lies|lie|are|is drawn] [inside|within] [the zone |]{name}?",
            f"[List|Name] [everything|all components] [inside|in] [the frame|the zone|the boundary] {name}.",
            f"[The frame|The boundary] {name} [encloses|contains] which components?",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=found),
        lead=(f"[Inside|Within|In] {name}: {listed}.", f"{name} [encloses|contains|holds] {listed}."),
        short=(listed,),
        table=Table(header=("zone", "component"), rows=tuple((name, pen.name(n)) for n in found)),
        trap=("[Nested frames count|Components of nested frames belong to it] [too|as well].",),
    )


def zone_crossings(view: View, pen: Pen) -> Asked | None:
    """Arrows that cross the boundary of a zone. Rule: exactly one end inside."""
    graph, facts = view.graph, Facts("one end inside")
    zones = [(z, wiring.crossings(graph, z.id)) for z in graph.zones]
    zones = [(z, e) for z, e in zones if 1 <= len(e) <= 8]
    if not zones:
        return None
    zone, cut = pen.rng.choice(zones)
    pairs = list(dict.fromkeys((view.names[e.src], view.names[e.dst]) for e in cut))
    name = pen.name(zone.name)
    facts.add("zone", zone.name)
    facts.add("crossing arrows", [f"{a} -> {b}" for a, b in pairs])
    listed = "; ".join(f"{pen.name(a)} -> {pen.name(b)}" for a, b in pairs)
    return Asked(
        family="zone_crossings",
        ask=(
            f"Which [arrows|calls|connections] cross the boundary of {name}?",
            f"[List|Name] every [call|arrow|connection] that [enters or leaves|crosses the edge of] {name}.",
            f"[What|Which traffic] [passes|goes through] the [border|boundary|frame] of {name}[, in either direction|]?",
        ),
        facts=facts.all(),
        check=Check(kind="edges", expected=[[a, b] for a, b in pairs]),
        lead=(
            f"[Crossing|Across] the boundary of {name}: {listed}.",
            f"[These|The] [arrows have|calls have] one end inside {name} and one outside: {listed}.",
        ),
        short=(listed,),
        steps=((f"[Inside|Within] {name} [lie|are] {pen.names(view.names[c] for c in wiring.members(graph, zone.id))}.",),),
        table=Table(header=("from", "to"), rows=tuple((pen.name(a), pen.name(b)) for a, b in pairs)),
        so=(
            "[Each of them|Every one of these] [needs|wants] [a firewall rule|an explicit rule|authentication and encryption] "
            "[at the boundary|there].",
        ),
        trap=("[Arrows with both ends inside|Internal arrows] do not [cross|count].",),
    )


def public_exposure(view: View, pen: Pen) -> Asked | None:
    """Which components clients reach with no gateway or load balancer between. Rule: search that stops at shields."""
    graph, facts = view.graph, Facts("reachable without a shield")
    clients = [c for c in graph.components if c.type == "client"]
    if not clients or not all(
        f"{c.id}.type" in view.visible for c in graph.components if c.type in ("client", "gateway", "lb", "cdn", "dns")
    ):
        return None
    found = [view.names[c] for c in wiring.exposed(graph)]
    facts.add("components reachable without gateway or load balancer", found)
    listed = pen.names(found, "none")
    verdict = (
        f"[Directly exposed|Reachable without a shield|Open to clients]: {listed}."
        if found
        else "[None|No component]: [every path from a client|all client traffic] passes a gateway or load balancer first."
    )
    return Asked(
        family="public_exposure",
        ask=(
            "Which [internal |]components can [clients|a client] reach without passing a [gateway or load balancer|load balancer "
            "or gateway]?",
            "[Is anything|What is] [directly exposed|reachable] [to clients|from outside], with no gateway or load balancer [in "
            "between|in front]?",
            "[List|Name] the components [exposed|open] to clients that no gateway or load balancer [shields|protects][; say none "
            "if there are none|].",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=found),
        lead=(verdict,),
        short=(listed,),
        steps=(
            (
                f"[Clients are|The clients drawn are|Start from] {pen.names(c.name for c in clients)}; [follow the arrows|go "
                "along the arrows] and stop at [each|every] gateway or load balancer.",
            ),
        ),
        so=(
            "[Put|Place] a gateway [in front|before them]." if found else "[Keep|Leave] it [that way|so] when [a client|a path] is added.",
        ),
        trap=("A CDN or DNS [in front|on the way] is no [access control|shield].",),
    )
