"""Questions that rest on something false or unknown, and comparisons of the picture with what somebody says about it."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts, Table
from sysdesign.conversations.families.load import told_utilisations
from sysdesign.conversations.families.words import PICTURE, journey, pick_flow
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules import load
from sysdesign.conversations.view import View
from sysdesign.records import Check

# Things people expect in such a picture; one that is not drawn makes a false premise. None is a component type's own word.
EXPECTED = (
    "Payments Ledger", "Fraud Scoring", "Search Index", "Dead Letter Queue", "Session Cache", "Image Resizer", "Email Worker",
    "Audit Stream",
    "Feature Flags", "Rate Limiter", "Backup Store", "Recommendation API", "Billing DB", "Config Server", "Secrets Vault", "Service Mesh",
    "Geo Index", "Inventory Cache", "Log Collector", "Standby Database", "Edge Function", "Partner Gateway",
    "Reporting Warehouse", "Token Store",
    "Coupon Service", "Shipping Adapter", "Chat Relay", "Metrics Store", "Schema Registry", "Archive Bucket",
)  # fmt: skip


def _absent(view: View, pen: Pen) -> str | None:
    """A plausible name that is not drawn, nor part of or around any drawn name."""
    drawn = " | ".join(view.names.values()).lower()
    found = [n for n in EXPECTED if n.lower() not in drawn and not any(word in drawn for word in n.lower().split() if len(word) > 5)]
    return pen.rng.choice(found) if found else None


def false_premise(view: View, pen: Pen) -> Asked | None:
    """A question about a component that is not drawn. Rule: the name must be rejected."""
    absent, facts = _absent(view, pen), Facts("not among the drawn names")
    if absent is None:
        return None
    near = pen.rng.choice(view.graph.components).name
    facts.add("not in the picture", absent)
    facts.add("drawn components", [c.name for c in view.graph.components])
    name, other = pen.name(absent), pen.name(near)
    return Asked(
        family="false_premise",
        ask=(
            f"How many replicas does the {name} [run|have]?",
            f"[What|Which protocol] does {other} use [to call|to reach] the {name}?",
            f"What [is the latency|is the monthly cost|would double the capacity] of the {name}?",
            f"[Which components|What] [call|calls|depends on] the {name} [in this {PICTURE}|here]?",
            f"[Why|For what reason] does {other} [call|go through] the {name}?",
        ),
        facts=facts.all(),
        check=Check(kind="reject", expected=absent),
        lead=(
            f"The {PICTURE} shows no {name}, so [this|that|the question] [cannot be answered|has no answer] [from it|here].",
            f"There is no {name} in the {PICTURE}[; nothing can be said about it|, so there is nothing to read off].",
            f"{name} is not [drawn|shown|part of this {PICTURE}]; [I cannot answer|no answer is possible] [for a component that "
            "is not there|from what is shown].",
        ),
        short=(f"There is no {name}.", f"No {name} is shown."),
        steps=((f"[Drawn are|The components are|What I see:] {pen.names(c.name for c in view.graph.components)}.",),),
        trap=(
            "[Guessing|Inventing a value] would be [worse than no answer|made up].",
            "[A common part of such systems|Something usual] need not be in this one.",
        ),
    )


def not_drawn(view: View, pen: Pen) -> Asked | None:
    """A value the picture does not give. Rule: the field is not visible, so it must be said to be unknown."""
    fields = {
        "replicas": "replica count", "capacity_qps": "capacity", "service_ms": "service time", "p99_ms": "p99 latency",
        "cost_usd": "monthly cost",
        "availability": "availability", "storage_gb": "stored volume",
    }  # fmt: skip
    found = [
        (c, f) for c in view.graph.components if c.type not in ("client", "external") for f in fields if f"{c.id}.{f}" not in view.visible
    ]
    if not found:
        return None
    component, field = pen.rng.choice(found)
    name, word, facts = pen.name(component.name), fields[field], Facts("not among the visible facts")
    facts.add("not in the picture", f"{word} of {component.name}")
    return Asked(
        family="not_drawn",
        ask=(
            f"[What is|Give|Read off] the {word} of {name}[ as drawn|] in this {PICTURE}.",
            f"[Which|What] {word} does the {PICTURE} [give|note|state] for {name}?",
            f"[From the {PICTURE}|Going by the {PICTURE}]: [what is|state] the {word} of {name}.",
        ),
        facts=facts.all(),
        check=Check(kind="reject", expected=f"{word} of {component.name}"),
        lead=(
            f"The {word} of {name} is not [shown|given|drawn|noted] in the {PICTURE}.",
            f"The {PICTURE} does not [show|give|note|say] the {word} of {name}[; it cannot be read off|, so it stays unknown].",
        ),
        short=(f"The {word} of {name} is not shown.", f"Not shown: {word} of {name}."),
        trap=("[A typical value|A guess from experience] would not be [a reading|read off the picture].",),
        so=("[Ask the owner|Check the configuration|Look at the dashboards] [for it|to find out].",),
    )


def runbook_diff(view: View, pen: Pen) -> Asked | None:
    """What a list claims and the picture does not show, or the other way round. Rule: set difference."""
    facts = Facts("set difference")
    names = [c.name for c in view.graph.components]
    if not 4 <= len(names) <= 14:
        return None
    missing_from_list = pen.rng.random() < 0.5
    listed = list(names)
    if missing_from_list:
        found = pen.rng.sample(listed, k=pen.rng.choice((1, 2)))
        listed = [n for n in listed if n not in found]
    else:
        found = []
        for _ in range(pen.rng.choice((1, 2))):
            extra = _absent(view, pen)
            if extra is not None and extra not in found:
                found.append(extra)
        if not found:
            return None
        listed += found
    pen.rng.shuffle(listed)
    ordered = [n for n in (*names, *found) if n in set(found)]
    ordered = list(dict.fromkeys(ordered))
    facts.add("difference", ordered)
    runbook, answer = ", ".join(pen.name(n) for n in listed), pen.names(ordered)
    side = "drawn but missing from the list" if missing_from_list else "in the list but not drawn"
    return Asked(
        family="runbook_diff",
        ask=(
            f"[A runbook|The service catalogue|A colleague's inventory] lists: {runbook}. What is {side}?",
            f"[Compare|Check] this list with the {PICTURE}: {runbook}. [Name|Give] what is {side}.",
            f"[Inventory|List]: {runbook}. Which components are {side}?",
        ),
        facts=facts.all(),
        check=Check(kind="set", expected=ordered),
        lead=(
            f"{answer} is {side}." if len(ordered) == 1 else f"{answer} are {side}.",
            f"[The difference is|They differ in] {answer}[: {side}|].",
        ),
        short=(answer,),
        table=Table(header=("component", "finding"), rows=tuple((pen.name(n), side) for n in ordered)),
        trap=("[The order of the list means|Order and length of the list mean] nothing[; only membership counts|].",),
    )


def change_effect(view: View, pen: Pen) -> Asked | None:
    """What a proposed change to one component does to the largest load. Rule: rules of load on the graph before and after."""
    flow, facts = pick_flow(view, pen), Facts("largest load before and after the change")
    if flow is None or (found := told_utilisations(view, pen, flow, facts)) is None:
        return None
    used, _ = found
    target = pen.rng.choice(sorted(used))
    component = view.graph.component(target)
    extra = pen.rng.choice((1, 1, 2, component.replicas))
    after = dict(used)
    after[target] = used[target] * component.replicas / (component.replicas + extra)
    before_load, after_load = load.max_load(used, flow.peak_qps), load.max_load(after, flow.peak_qps)
    gain = after_load - before_load
    name, entry, way = pen.name(component.name), pen.name(view.names[flow.entry]), journey(view, pen, flow)
    limits = [view.names[n] for n in load.bottlenecks(after)]
    for what, value in (("largest load before", before_load), ("largest load after", after_load), ("gain", gain)):
        facts.add(what, value, "req/s")
    facts.add("replicas added", extra)
    facts.add("peak load", flow.peak_qps, "req/s")
    facts.add("bottleneck after", limits)
    facts.add("bottleneck before", [view.names[n] for n in load.bottlenecks(used)])
    helps = gain > 1e-9 * before_load
    return Asked(
        family="change_effect",
        ask=(
            f"[Someone proposes|The plan is] {extra} more replica{'s' if extra != 1 else ''} of {name}. What is the largest load "
            f"at {entry} afterwards? [Consider|Take] {way}.",
            f"[Add|Suppose we add] {extra} replica{'s' if extra != 1 else ''} to {name}: [what load|how many requests per second] "
            f"can {entry} take then? It concerns {way}.",
            f"[Critique|Judge] the proposal to add {extra} replica{'s' if extra != 1 else ''} of {name}: which largest load at "
            f"{entry} results for {way}?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=after_load, unit="req/s", tolerance=0.01),
        lead=(
            f"{pen.n(after_load, 'req/s')}, up from {pen.n(before_load)}; [then|now] {pen.names(limits)} limits."
            if helps
            else f"{pen.n(after_load, 'req/s')}, [as before|unchanged]: {pen.names(limits)} [limits|is the limit], not {name}.",
        ),
        short=(pen.n(after_load, "req/s"),),
        steps=(
            (
                f"[Before|Today] the limit is {pen.n(before_load, 'req/s')}, [set by|at] "
                f"{pen.names(view.names[n] for n in load.bottlenecks(used))}.",
            ),
            (f"[Afterwards|With the change] the tightest is {pen.names(limits)}, at {pen.n(after_load, 'req/s')}.",),
        ),
        so=(
            (
                "[The proposal helps|Worth doing], until {x} [saturates|is full]."
                if helps
                else "[The money is better spent|Put the replicas] at {x}."
            ).format(x=pen.names(limits)),
        ),
        trap=(
            "[Only the tightest component|The bottleneck alone] [counts|decides]; [relieving another|work elsewhere] [does "
            "nothing|is wasted].",
        ),
    )
