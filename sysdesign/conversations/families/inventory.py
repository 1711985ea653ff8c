"""Questions that take stock of the picture: counts, kinds, drawn values, and the whole graph as code."""

from __future__ import annotations

import json

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.words import KINDS, PICTURE
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.view import View
from sysdesign.records import Check


def inventory_count(view: View, pen: Pen) -> Asked | None:
    """How many components, or arrows, or arrows of a kind. Rule: count."""
    graph, facts = view.graph, Facts("count")
    options = [("components", len(graph.components)), ("arrows", len(graph.edges))]
    if graph.edges and all(f"edge:{i}.mode" in view.visible for i in range(len(graph.edges))):
        options += [
            (f"{mode} arrows", sum(e.mode == word for e in graph.edges))
            for mode, word in (("asynchronous", "async"), ("synchronous", "sync"))
        ]
    what, count = pen.rng.choice(options)
    facts.add(f"number of {what}", count)
    names = pen.names(c.name for c in graph.components)
    boxes = "[components|boxes|system components]" if what == "components" else what
    found = boxes if count != 1 else what.removesuffix("s")
    steps: tuple[tuple[str, ...], ...] = ()
    if what == "components":
        facts.add("components", [c.name for c in graph.components])
        steps = ((f"[Listing|Naming|Going through] [them|the boxes] one by one: {names}.", f"[The boxes are|These are drawn:] {names}."),)
    return Asked(
        family="inventory_count",
        ask=(
            f"How many {boxes} [does this {PICTURE} show|are drawn here|are in the {PICTURE}|can you count in this {PICTURE}]?",
            f"[Count|Tally|Give the number of] the {boxes} [in this {PICTURE}|shown|drawn here].",
            f"[What is|Tell me] the [total |]number of {boxes} [in the {PICTURE}|here].",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=count, tolerance=0.0),
        lead=(
            f"[The {PICTURE} shows|There {'is' if count == 1 else 'are'}|I count|The {PICTURE} has] {count} {found}.",
            f"[Counting them gives|In all there {'is' if count == 1 else 'are'}|The count is] {count} {found}.",
        ),
        short=(f"{count}", f"{count} {found}"),
        steps=steps,
        trap=("[Legend entries and zone frames|Zones and labels|Frames and text labels] are not [counted|components].",),
    )


def inventory_kind(view: View, pen: Pen) -> Asked | None:
    """Which components are of a kind. Rule: filter by type; the types must be drawn."""
    graph, facts = view.graph, Facts("filter by type")
    if not all(f"{c.id}.type" in view.visible for c in graph.components):
        return None
    kind = pen.rng.choice(sorted({c.type for c in graph.components}))
    names = [c.name for c in graph.components if c.type == kind]
    facts.add(f"components of kind {kind}", names)
    one, many = KINDS[kind]
    listed = pen.names(names)
    return Asked(
        family="inventory_kind",
        ask=(
            f"Which [components|boxes|parts] [of this {PICTURE}|here|in the {PICTURE}] are {many}?",
            f"[List|Name|Give] [every {one}|all {many}] [in this {PICTURE}|that you see|drawn here].",
            f"[What|Which] {many} does [this system|the {PICTURE}|this architecture] [have|use|contain]?",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=names),
        lead=(
            f"[The {many} are|Drawn as {many}:|As {many} I see|{many} in the {PICTURE}:] {listed}."
            if len(names) > 1
            else f"[There is one {one}|The only {one} is|One {one} is drawn]: {listed}.",
        ),
        short=(listed,),
        table=Table(header=("component", "kind"), rows=tuple((pen.name(n), one) for n in names)),
        trap=(f"[A name alone does not make a box a {one}|The shape counts, not the name]; [read|go by] the [icon or shape|kind drawn].",),
    )


_ATTRIBUTES = {
    "technology": (
        "technology",
        "",
        (
            "What [technology|product] is {n} [built on|made of]?",
            "What [technology|product] does {n} [use|run on]?",
            "Which technology [stands behind|implements|powers|runs] {n}?",
        ),
    ),
    "replicas": (
        "replicas",
        "",
        (
            "How many [replicas|instances|copies] of {n} [run|are there|are drawn]?",
            "[Read|Give] the [replica count|number of replicas] of {n}.",
            "{n} [runs with|has] how many replicas?",
        ),
    ),
    "capacity_qps": (
        "capacity per replica",
        "req/s",
        (
            "What [load|rate] [can|does] one replica of {n} [handle|bear|take]?",
            "[Read|Give] the [per-replica capacity|capacity per replica] of {n}.",
            "How many requests per second does each {n} replica [handle|serve]?",
        ),
    ),
    "service_ms": (
        "own time",
        "ms",
        ("How long does {n} itself [take|need] per request?", "[Read|Give] the [own|mean] time [of|drawn at] {n}."),
    ),
    "cost_usd": (
        "price per replica",
        "USD",
        ("What does one replica of {n} cost [a month|per month]?", "[Read|Give] the monthly [price|cost] per replica of {n}."),
    ),
}


def attribute_read(view: View, pen: Pen) -> Asked | None:
    """One drawn value of one component. Rule: lookup."""
    found = [(c, f) for c in view.graph.components for f in _ATTRIBUTES if f"{c.id}.{f}" in view.visible and getattr(c, f) is not None]
    if not found:
        return None
    component, field = pen.rng.choice(found)
    word, unit, ask = _ATTRIBUTES[field]
    value, name, facts = getattr(component, field), pen.name(component.name), Facts("lookup")
    facts.add(f"{word} of {component.name}", value, unit or None)
    text = pen.name(value) if isinstance(value, str) else pen.n(value, unit)
    check = (
        Check(kind="choice", expected=value)
        if isinstance(value, str)
        else Check(kind="number", expected=value, unit=unit or None, tolerance=0.001)
    )
    return Asked(
        family="attribute_read",
        ask=(
            *(a.format(n=name) for a in ask),
            f"[What|Which] {word} [does the {PICTURE} give|is written|is noted|does the label give] for {name}?",
            f"[Look at|Find] {name}[ in the {PICTURE}|]: [what is its {word}|which {word} is noted]?",
        ),
        facts=facts.all(),
        check=check,
        lead=(
            f"[The {word} of {name} is|{name}, {word}:|For {name} the {PICTURE} [gives|notes]] {text}.",
            f"[The label at|The box of|Next to] {name} [says|reads|shows] {text}.",
        ),
        short=(text,),
        trap=(f"[This is|That is|It is] the [label|value] of {name} [itself|only], not of [a neighbour|the box next to it].",),
    )


def extract_graph(view: View, pen: Pen) -> Asked | None:
    """The whole picture as JSON, Mermaid or a list of arrows. Rule: canonical components and edges."""
    graph, facts = view.graph, Facts("canonical graph")
    if not graph.edges or len(graph.components) > 30:
        return None
    typed = all(f"{c.id}.type" in view.visible for c in graph.components)
    components = [{"name": c.name, **({"type": c.type} if typed else {})} for c in graph.components]
    labelled = any(f"edge:{i}.protocol" in view.visible for i in range(len(graph.edges))) and pen.rng.random() < 0.6
    edges = [
        {"src": view.names[e.src], "dst": view.names[e.dst], **({"label": e.protocol} if labelled and e.protocol and drawn else {})}
        for e, drawn in ((e, f"edge:{i}.protocol" in view.visible) for i, e in enumerate(graph.edges))
    ]
    style = pen.rng.choice(("json", "mermaid", "list"))
    if style != "json":  # neither form says a kind or a protocol
        components = [{"name": c["name"]} for c in components]
        edges = [{"src": e["src"], "dst": e["dst"]} for e in edges]
    facts.add("components", [c.name for c in graph.components])
    facts.add("arrows", [f"{e['src']} -> {e['dst']}" for e in edges])
    if style == "json":
        text = json.dumps({"components": components, "edges": edges}, separators=(", ", ": "), ensure_ascii=False)
        if pen.rng.random() < 0.5:
            lines = (
                ",\n".join(f"  {json.dumps(c, ensure_ascii=False)}" for c in components),
                ",\n".join(f"  {json.dumps(e, ensure_ascii=False)}" for e in edges),
            )
            text = f'{{"components": [\n{lines[0]}\n], "edges": [\n{lines[1]}\n]}}'
        block, wanted = (
            f"```json\n{text}\n```",
            "JSON with components" + (" and edges, the protocol as label" if labelled else " and edges"),
        )
    elif style == "mermaid":
        number = {c.id: f"n{i}" for i, c in enumerate(graph.components)}
        seen: set[str] = set()

        def node(component_id: str) -> str:
            first = component_id not in seen
            seen.add(component_id)
            return number[component_id] + (f'["{view.names[component_id]}"]' if first else "")

        lines_ = [f"  {node(e.src)} {'-.->' if e.mode == 'async' else '-->'} {node(e.dst)}" for e in graph.edges]
        alone = [f"  {node(c.id)}" for c in graph.components if c.id not in seen]
        block, wanted = "```mermaid\nflowchart LR\n" + "\n".join(lines_ + alone) + "\n```", "a Mermaid flowchart"
    else:
        block, wanted = "\n".join(f"{e['src']} -> {e['dst']}" for e in edges), "a list of arrows, one `from -> to` a line"
        alone_names = [c.name for c in graph.components if all(c.id not in (e.src, e.dst) for e in graph.edges)]
        block += ("\nunconnected: " + ", ".join(alone_names)) if alone_names else ""
    return Asked(
        family="extract_graph",
        ask=(
            f"[Transcribe|Extract|Convert|Write out] this {PICTURE} as {wanted}.",
            f"[Turn|Translate] the {PICTURE} into {wanted}.",
            f"[Give me|I need|Produce] {wanted} [of|for] [this {PICTURE}|this system|what is drawn here].",
            f"[Read|Look at] the whole {PICTURE} and [return|reply with] {wanted}.",
        ),
        facts=facts.all(),
        check=Check(kind="graph", expected={"components": components, "edges": edges}),
        lead=("",),
        block=block,
        block_kind=style,
    )
