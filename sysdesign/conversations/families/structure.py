"""Questions about arrows: does one exist, of which mode, who calls whom, along which path."""

from __future__ import annotations

import itertools

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import PICTURE
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import wiring
from sysdesign.conversations.view import View
from sysdesign.records import Check


def arrow_query(view: View, pen: Pen) -> Asked | None:
    """Does A call B? Rule: edge lookup; half the time the arrow is absent or points the other way."""
    graph, facts = view.graph, Facts("edge lookup")
    if not graph.edges or len(graph.components) < 3:
        return None
    pairs = {(e.src, e.dst) for e in graph.edges}
    turn = pen.rng.random()
    if turn < 0.5:
        src, dst = pen.rng.choice(sorted(pairs))
    else:
        absent = sorted((b, a) for a, b in pairs if (b, a) not in pairs)
        if turn > 0.75 or not absent:
            ids = [c.id for c in graph.components]
            absent = [(a, b) for a in ids for b in ids if a != b and (a, b) not in pairs]
        if not absent:
            return None
        src, dst = pen.rng.choice(absent)
    yes, a, b = (src, dst) in pairs, pen.name(view.names[src]), pen.name(view.names[dst])
    facts.add(f"arrow from {view.names[src]} to {view.names[dst]}", yes)
    outgoing = [view.names[e.dst] for e in graph.edges if e.src == src]
    facts.add(f"callees of {view.names[src]}", list(dict.fromkeys(outgoing)))
    reverse = (dst, src) in pairs
    because = (
        f"[Arrows leave|From the picture, arrows go from|The arrows out of] {a} [go to|to|lead to] {pen.names(dict.fromkeys(outgoing))}."
    )
    if not outgoing:
        because = f"No arrow [leaves|starts at] {a}."
    if reverse and not yes:
        because = f"The arrow [runs|points|goes] the other way, from {b} to {a}."
    answer = (
        f"[Yes|Yes, it does], [an arrow leads|the {PICTURE} has an arrow] from {a} to {b}."
        if yes
        else f"[No|No, it does not], [no arrow leads|there is no arrow] from {a} to {b}."
    )
    return Asked(
        family="arrow_query",
        ask=(
            f"Does {a} [call|send anything to|point to|talk directly to] {b}?",
            f"Is there [an arrow|a direct call|a direct connection] from {a} to {b}[ in this {PICTURE}|]?",
            f"[Yes or no|True or false as yes or no]: {a} [calls|sends to] {b}[ directly|].",
            f"[Check|Look at] the arrows: does one [run|lead|go] from {a} to {b}?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected="yes" if yes else "no"),
        lead=(answer,),
        short=("Yes", "Yes.") if yes else ("No", "No."),
        steps=((because,),),
        trap=(
            "[Direction matters|The direction counts|Mind the arrowhead]: [an arrow|a call] back is [another|a different] "
            "[fact|statement].",
        ),
    )


def arrow_mode(view: View, pen: Pen) -> Asked | None:
    """Is the call synchronous or asynchronous? Rule: edge lookup; the line style must be drawn."""
    graph, facts = view.graph, Facts("edge lookup")
    drawn = [
        e for i, e in enumerate(graph.edges) if f"edge:{i}.mode" in view.visible and len(wiring.edges_between(graph, e.src, e.dst)) == 1
    ]
    if not drawn:
        return None
    wanted = pen.rng.choice(sorted({e.mode for e in drawn}))
    edge = pen.rng.choice([e for e in drawn if e.mode == wanted])
    a, b = pen.name(view.names[edge.src]), pen.name(view.names[edge.dst])
    word = {"sync": "synchronous", "async": "asynchronous"}[edge.mode]
    facts.add(f"mode of {view.names[edge.src]} -> {view.names[edge.dst]}", word)
    return Asked(
        family="arrow_mode",
        ask=(
            f"Is the [call|arrow|connection] from {a} to {b} synchronous or asynchronous?",
            f"[How|In which way] does {a} [reach|talk to|hand work to] {b}: synchronous or asynchronous?",
            f"Does {a} [wait for|block on] {b}, or is the arrow asynchronous? [Answer synchronous or asynchronous|One word].",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected=word),
        lead=(
            f"[The arrow|The call|The connection] from {a} to {b} is {word}.",
            f"[It is|This one is] {word}: {a} {'waits for' if edge.mode == 'sync' else 'does not wait for'} {b}.",
        ),
        short=(word, f"{word}."),
        steps=(
            (
                f"[The line|The arrow] from {a} to {b} is drawn [as|in the style of] an {word} [call|one]."
                if edge.mode == "async"
                else f"[The line|The arrow] from {a} to {b} is drawn [as|in the style of] a {word} [call|one].",
            ),
        ),
        so=(f"[So|Hence|Therefore] {a} {'fails or stalls with' if edge.mode == 'sync' else 'goes on without'} {b}.",),
        trap=("[Solid and dashed lines|Line styles] carry the [meaning|difference]; the protocol [does not|alone does not].",),
    )


def neighbours(view: View, pen: Pen) -> Asked | None:
    """What a component calls, or what calls it. Rule: edges by end."""
    graph, facts = view.graph, Facts("edges by end")
    out = pen.rng.random() < 0.5
    ends = sorted({e.src if out else e.dst for e in graph.edges})
    if not ends:
        return None
    node = pen.rng.choice(ends)
    name = pen.name(view.names[node])
    found = list(dict.fromkeys(view.names[e.dst if out else e.src] for e in graph.edges if (e.src if out else e.dst) == node))
    facts.add(f"{'callees' if out else 'callers'} of {view.names[node]}", found)
    listed = pen.names(found)
    ask = (
        (
            f"[What|Which components] does {name} [call|point to|send to][ directly|]?",
            f"[Where do|To what do] the arrows [out of|leaving] {name} [go|lead]?",
            f"[List|Name] [everything|all] that {name} calls[ directly|].",
        )
        if out
        else (
            f"[What|Which components] [calls|points to|sends to] {name}[ directly|]?",
            f"[Where do|From what do] the arrows into {name} come[ from|]?",
            f"[List|Name] [the direct callers|all callers] of {name}.",
        )
    )
    return Asked(
        family="neighbours",
        ask=ask,
        facts=facts.all(),
        check=Check(kind="set", expected=found),
        lead=(
            (f"{name} [calls|points to|sends to] {listed}." if out else f"{name} is [called by|reached from|pointed to by] {listed}."),
            f"[Following|Reading] the arrows [out of|from] {name}: {listed}."
            if out
            else f"[Following|Reading] the arrows into {name} back: {listed}.",
        ),
        short=(listed,),
        table=Table(header=("from", "to"), rows=tuple((name, pen.name(n)) if out else (pen.name(n), name) for n in found)),
        trap=("[Only direct arrows count|Direct arrows only]; [what lies further|anything further along] is [not asked|left out].",),
    )


def request_path(view: View, pen: Pen) -> Asked | None:
    """The path from an entry to a component. Rule: all simple paths; asked only where there is exactly one."""
    graph, facts = view.graph, Facts("only simple path")
    starts = sorted({f.entry for f in graph.flows} | {c.id for c in graph.components if c.type == "client"})
    found = [
        p for s in starts for c in graph.components if c.id != s and (p := wiring.only_path(graph, s, c.id)) is not None and len(p) >= 3
    ]
    if not found:
        return None
    path = pen.rng.choice(found)
    names = [view.names[n] for n in path]
    facts.add("path", names)
    safe = [pen.name(n) for n in names]
    sign = pen.rng.choice((" -> ", ", then ", " -> "))
    return Asked(
        family="request_path",
        ask=(
            f"[Trace|Follow|Give] the path [of a request |]from {safe[0]} to {safe[-1]}.",
            f"[How|By which hops|Through which components] does [a request|traffic|data] get from {safe[0]} to {safe[-1]}?",
            f"[List|Name] the [hops|components], in order, [from|between] {safe[0]} [to|and] {safe[-1]}[, ends included|].",
        ),
        facts=facts.all(),
        check=Check(kind="edges", expected=[[a, b] for a, b in itertools.pairwise(names)]),
        lead=(
            f"[The path is|It goes|The only path:|One path exists:] {sign.join(safe)}.",
            f"[Following|Reading along] the arrows: {sign.join(safe)}.",
        ),
        short=(sign.join(safe),),
        steps=tuple((f"{a} [calls|hands on to|passes to|reaches] {b}.",) for a, b in itertools.pairwise(safe)),
        table=Table(header=("from", "to"), rows=tuple(itertools.pairwise(safe))),
        trap=("[No other path|No second path] [leads there|exists], so [the answer is unique|nothing is left to choose].",),
    )
