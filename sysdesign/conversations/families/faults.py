"""Questions about failure: single points, waypoints, blast radius, isolation, reach."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import PICTURE, journey, pick_flow, tell_dependencies
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import faults, load
from sysdesign.conversations.view import View
from sysdesign.records import Check


def single_points(view: View, pen: Pen) -> Asked | None:
    """Unreplicated components every request needs. Rule: AND/OR needs with one replica."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("needed by AND/OR dependencies and unreplicated")
    if flow is None:
        return None
    reached = faults.touches(graph, flow.entry)
    tell_dependencies(view, pen, reached)
    for component in graph.components:
        if component.id in reached and component.type != "client":
            view.tell(pen, component, "replicas")
    found = [view.names[c] for c in faults.single_points(graph, flow.entry)]
    safe = [c.name for c in graph.components if c.id in reached and c.type != "client" and c.name not in found]
    facts.add("single points of failure", found)
    facts.add("needed or alternative components that are no single point", safe)
    rows = []
    for c in graph.components:
        if c.id in reached and c.type != "client":
            facts.add(f"replicas of {c.name}", c.replicas)
            rows.append((pen.name(c.name), str(c.replicas), "yes" if c.name in found else "no"))
    listed, way = pen.names(found), journey(view, pen, flow)
    verdict = (
        f"[Single points of failure|The single points of failure are|Any of these alone stops requests]: {listed}."
        if found
        else "[There is none|No single instance is critical]: every needed component is [replicated|redundant] or has an alternative."
    )
    return Asked(
        family="single_points",
        ask=(
            f"Which components are single points of failure for {way}?",
            f"[The loss of which single instance|Which one instance, when lost,] [breaks|stops] {way}?",
            f"[List|Name|Find] [the|all] single points of failure of {way}[; say none if there are none|].",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=found),
        lead=(verdict,),
        short=(listed,),
        steps=(
            (f"[A request needs|Required synchronously are|Hard dependencies:] {pen.names([*found, *safe])}.",),
            (
                f"[Of these|Among them] [only one replica runs|a single replica runs] [of|for] {listed}."
                if found
                else "[All of them|Each] [run|has] several replicas or alternatives.",
            ),
        ),
        table=Table(header=("component", "replicas", "single point of failure"), rows=tuple(rows)),
        trap=(
            "[Asynchronous and optional callees|Queues' consumers and optional callees] do not [count|fail the request].",
            "[Being in the middle of the picture|A central place in the drawing] [proves nothing|is no criterion]; [a leaf|an "
            "end point] [can|may] be [critical|a single point] too.",
        ),
        so=(
            (
                f"[Run a second replica|Add a replica] of {pen.name(found[0])} first."
                if found
                else "[Keep it so|Test it] [by killing instances|with failure drills]."
            ),
        ),
    )


def waypoints(view: View, pen: Pen) -> Asked | None:
    """Components on every path between two. Rule: dominators."""
    graph, facts = view.graph, Facts("dominators")
    starts = sorted({f.entry for f in graph.flows} | {c.id for c in graph.components if c.type == "client"})
    found = [(s, c.id, w) for s in starts for c in graph.components if c.id != s and (w := faults.waypoints(graph, s, c.id)) is not None]
    found = [x for x in found if x[2]] or found
    if not found:
        return None
    start, target, between = pen.rng.choice(found)
    names = [view.names[n] for n in between]
    facts.add("components on every path", names)
    a, b, listed = pen.name(view.names[start]), pen.name(view.names[target]), pen.names(names)
    return Asked(
        family="waypoints",
        ask=(
            f"Which components [lie on every path|must every request pass] from {a} to {b}[, ends not counted|, apart from the two ends]?",
            f"[Going|Getting] from {a} to {b}: what can not be [avoided|bypassed]?",
            f"[List|Name] the [mandatory|unavoidable] [hops|components] between {a} and {b}.",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=names),
        lead=(
            f"[Every path|Each path|All traffic] from {a} to {b} [passes|goes through] {listed}."
            if names
            else f"[None|Nothing]: the paths from {a} to {b} share [only their ends|no other component].",
        ),
        short=(listed,),
        steps=tuple(
            (f"[Remove {pen.name(n)} and|Take {pen.name(n)} away and|Without {pen.name(n)}] no path from {a} to {b} [is left|remains].",)
            for n in names
        ),
        trap=("[Test by removal|Try deleting it]: if [another|a] path [remains|is left], the component is [avoidable|not mandatory].",),
    )


def blast_radius(view: View, pen: Pen) -> Asked | None:
    """What stops answering when a component is down. Rule: everything that needs it by AND/OR dependencies."""
    graph, facts = view.graph, Facts("components that need it")
    candidates = [c for c in graph.components if c.type != "client" and any(e.dst == c.id for e in graph.edges)]
    if not candidates:
        return None
    failed = pen.rng.choice(candidates)
    tell_dependencies(view, pen, {c.id for c in graph.components})
    found = [view.names[n] for n in faults.blast_radius(graph, failed.id)]
    direct = list(
        dict.fromkeys(view.names[e.src] for e in graph.edges if e.dst == failed.id and e.mode == "sync" and e.dependency == "hard")
    )
    facts.add(f"stops answering without {failed.name}", found)
    facts.add(f"hard synchronous callers of {failed.name}", direct)
    name, listed = pen.name(failed.name), pen.names(found)
    return Asked(
        family="blast_radius",
        ask=(
            f"[All of|Every replica of] {name} [is|goes] down. Which other components stop answering?",
            f"[What is|How large is] the blast radius of [losing|a full outage of] {name}?",
            f"{name} [fails completely|is gone]: [who|what] [fails with it|can no longer answer]?",
            f"[List|Name] [everything|every component] that [can not answer|fails] without {name}[; say none if nothing does|].",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=found),
        lead=(
            f"[It takes down|With it fail|These stop answering too:] {listed}."
            if found
            else f"[None|Nothing else]: no component [needs {name} synchronously|has to wait for {name}].",
        ),
        short=(listed,),
        steps=(
            (f"[Direct hard callers|Callers that need {name}]: {pen.names(direct)}.",),
            (
                "[Going up|Following] [the hard synchronous arrows|those arrows] [backwards|against their direction] "
                f"[gives|leads to] {listed}.",
            ),
        ),
        trap=(
            "[Callees|What it calls] [keep running|stay up]; [only callers are hit|failure travels up, to the callers].",
            "[Asynchronous and optional callers|Asynchronous senders] [carry on|go on].",
        ),
        so=(
            f"[A fallback|A timeout with a fallback|A degraded answer] at {pen.name(direct[0])} would [contain|limit] it."
            if direct
            else f"[Work waits|It only delays work] until {name} is back.",
        ),
    )


def async_isolation(view: View, pen: Pen) -> Asked | None:
    """Does a user request survive the loss of a component? Rule: it is not among the request's needs."""
    graph, flow, facts = view.graph, pick_flow(view, pen), Facts("not among the needs of the request")
    if flow is None:
        return None
    needed = faults.needs(graph, flow.entry)
    isolated = [
        c
        for c in graph.components
        if c.id not in needed and c.type not in ("client", "monitor") and any(e.dst == c.id or e.src == c.id for e in graph.edges)
    ]
    critical = [c for c in graph.components if c.id in needed and c.id != flow.entry and c.type != "client"]
    pool = isolated if isolated and (not critical or pen.rng.random() < 0.6) else critical
    if not pool:
        return None
    failed = pen.rng.choice(pool)
    tell_dependencies(view, pen, {c.id for c in graph.components})
    survives = failed.id not in needed
    name, way = pen.name(failed.name), journey(view, pen, flow)
    facts.add(f"answered without {failed.name}", survives)
    facts.add("needed components", [view.names[c.id] for c in graph.components if c.id in needed and c.type != "client"])
    listed = pen.names(view.names[c.id] for c in graph.components if c.id in needed and c.type != "client")
    return Asked(
        family="async_isolation",
        ask=(
            f"{name} [stops|goes down]. Is {way} still answered?",
            f"[Does|Would] {way} still get an answer [while|when] all of {name} is down? [Yes or no.|]",
            f"Can {way} be answered without {name}?",
            f"Is {way} isolated from a failure of {name}, yes or no?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if survives else "no"),
        lead=(
            f"[Yes|Yes, it is]: [the answer does not wait for|nothing on the synchronous path needs] {name}."
            if survives
            else f"[No|No, it is not]: {name} is [needed synchronously|a hard synchronous dependency].",
        ),
        short=("Yes.",) if survives else ("No.",),
        steps=(
            (f"[The answer needs|Needed synchronously are|Hard dependencies:] {listed}.",),
            (f"{name} is [not among them|not one of them]." if survives else f"{name} is [among them|one of them].",),
        ),
        trap=(
            "[A backlog|Work in the queue] [builds up|waits], [so isolation delays work, it does not lose it|but the user does "
            "not notice at once]."
            if survives
            else "[One hard arrow|A single required call] is enough to [couple|tie] the two.",
        ),
    )


def reachable(view: View, pen: Pen) -> Asked | None:
    """Everything a component can reach. Rule: forward search over all arrows."""
    graph, facts = view.graph, Facts("forward reachability")
    starts = [c for c in graph.components if any(e.src == c.id for e in graph.edges)]
    if not starts:
        return None
    start = pen.rng.choice(starts)
    order = load.call_order(graph, start.id)
    if order is None or not 2 <= len(order) - 1 <= 12:
        return None
    found = [c.name for c in graph.components if c.id in order and c.id != start.id]
    facts.add(f"reachable from {start.name}", found)
    name, listed = pen.name(start.name), pen.names(found)
    direct = list(dict.fromkeys(view.names[e.dst] for e in graph.edges if e.src == start.id))
    facts.add(f"called directly by {start.name}", direct)
    return Asked(
        family="reachable",
        ask=(
            f"Which components [are reached|can be reached] from {name}, directly or [indirectly|through others]?",
            f"[List|Name] everything downstream of {name}[ in the {PICTURE}|].",
            f"Follow all arrows from {name}: [what do you reach|where do they lead in the end]? [Name every component|List them all].",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=found),
        lead=(f"[Downstream of|From] {name} [lie|you reach]: {listed}.", f"{name} [reaches|leads to] {listed}."),
        short=(listed,),
        steps=(
            (f"[Directly|In one step]: {pen.names(direct)}.",),
            (f"[Following on|Step by step from there|Going on from these], the [whole set|full list] is {listed}.",),
        ),
        trap=("[Both solid and dashed arrows count|Asynchronous arrows count here too].",),
    )
