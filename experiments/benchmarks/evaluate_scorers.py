"""Right answers with exactly one known fault each -> does every scorer punish that fault, and only that one?

    python -m experiments.benchmarks.evaluate_scorers [answers]

For each kind of check right answers are written in several forms (JSON, arrows, bullets, prose, box tokens), one fault is put in,
and the score must be what the fault demands, to 1e-9: not merely lower. The right answer must score 1 and the empty one 0.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sysdesign.evaluate.scoring import score
from sysdesign.graph import Architecture, Component, Edge, Zone
from sysdesign.records import Check

_KINDS = ("service", "sql", "cache", "queue", "worker", "gateway")
_WORDS = (
    "Orders",
    "Users",
    "Billing",
    "Search",
    "Catalog",
    "Media",
    "Session",
    "Ledger",
    "Profile",
    "Inventory",
    "Shipping",
    "Pricing",
    "Audit",
    "Mail",
)
_ROLES = {"service": "Service", "sql": "DB", "cache": "Cache", "queue": "Queue", "worker": "Worker", "gateway": "Gateway"}
Parts = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One answer. `demands`: the parts (and "score") that the fault must lead to; parts it does not name are free."""

    check: Check
    graph: Architecture
    question: str
    right: str
    fault: str
    wrong: str
    demands: Parts


def cases(count: int, seed: int) -> Iterator[Case]:
    """`count` cases, all faults in turn."""
    rng = random.Random(seed)
    makers: list[Callable[[Architecture, random.Random], Case]] = [
        _component_missing, _component_invented, _component_renamed, _edge_missing, _edge_reversed, _label_wrong, _zone_wrong,
        _slip_forgiven,
        _number_changed, _unit_changed, _scale_changed, _number_restyled, _choice_flipped, _name_swapped, _set_missing, _set_extra,
        _set_invented,
        _path_reversed, _box_moved, _box_of_other, _box_grown_little, _premise_accepted, _form_broken,
    ]  # fmt: skip
    for number in range(count):
        yield makers[number % len(makers)](_graph(rng), rng)


def _graph(rng: random.Random) -> Architecture:
    size = rng.randint(4, 10)
    names = rng.sample(_WORDS, size)
    kinds = [rng.choice(_KINDS) for _ in names]
    zones = (Zone(id="front", name="Public Subnet", kind="subnet"), Zone(id="back", name="Data Subnet", kind="subnet"))
    parts = tuple(
        Component(id=n.lower(), name=f"{n} {_ROLES[k]}", type=k, replicas=rng.randint(1, 9), zone=rng.choice(("front", "back")))  # type: ignore[arg-type]
        for n, k in zip(names, kinds, strict=True)
    )
    ends = {(rng.randrange(i), i) for i in range(1, size)} | {(rng.randrange(size - 1), size - 1)}
    protocols = ("gRPC", "SQL", "HTTP", "AMQP")
    edges = tuple(Edge(src=parts[a].id, dst=parts[b].id, protocol=rng.choice(protocols)) for a, b in sorted(ends))
    return Architecture(title="System", domain="test", seed_id="none", components=parts, edges=edges, zones=zones)


def _names(graph: Architecture) -> dict[str, str]:
    return {c.id: c.name for c in graph.components}


def _truth(graph: Architecture) -> dict[str, Any]:
    names, zones = _names(graph), {z.id: z.name for z in graph.zones}
    return {
        "components": [{"name": c.name, "type": c.type, "zone": zones[c.zone or ""]} for c in graph.components],
        "edges": [{"src": names[e.src], "dst": names[e.dst], "label": e.protocol} for e in graph.edges],
    }


def _extraction(graph: Architecture, fault: str, wrong: dict[str, Any], demands: Parts) -> Case:
    truth = _truth(graph)
    parts = {
        "component_f1": 1.0,
        "edge_f1": 1.0,
        "edge_label_f1": 1.0,
        "zone_accuracy": 1.0,
        "type_accuracy": 1.0,
        "hallucination": 0.0,
    } | demands
    whole = [parts[key] for key in ("component_f1", "edge_f1", "edge_label_f1", "zone_accuracy", "type_accuracy")]
    parts["score"] = sum(whole) / len(whole)
    shown = f"```json\n{json.dumps(wrong)}\n```"
    return Case(Check(kind="graph", expected=truth), graph, "Give the graph as JSON.", json.dumps(truth), fault, shown, parts)


def _touching(graph: Architecture, component_id: str) -> int:
    return sum(component_id in (e.src, e.dst) for e in graph.edges)


def _component_missing(graph: Architecture, rng: random.Random) -> Case:
    gone = rng.choice(graph.components)
    wrong = _truth(graph)
    wrong["components"] = [c for c in wrong["components"] if c["name"] != gone.name]
    wrong["edges"] = [e for e in wrong["edges"] if gone.name not in (e["src"], e["dst"])]
    n, m, lost = len(graph.components), len(graph.edges), _touching(graph, gone.id)
    f1 = 2 * (m - lost) / (2 * m - lost) if m > lost else 0.0
    part = (n - 1) / n
    return _extraction(graph, "component missing", wrong, {
        "component_f1": 2 * (n - 1) / (2 * n - 1), "edge_f1": f1, "edge_label_f1": f1, "zone_accuracy": part, "type_accuracy": part,
    })  # fmt: skip


def _component_invented(graph: Architecture, rng: random.Random) -> Case:
    wrong, n = _truth(graph), len(graph.components)
    wrong["components"].append({"name": "Quantum Annealer", "type": "service", "zone": "Data Subnet"})
    return _extraction(graph, "component invented", wrong, {"component_f1": 2 * n / (2 * n + 1), "hallucination": 1 / (n + 1)})


def _component_renamed(graph: Architecture, rng: random.Random) -> Case:
    target, n, m = rng.choice(graph.components), len(graph.components), len(graph.edges)
    wrong = json.loads(json.dumps(_truth(graph)).replace(f'"{target.name}"', '"Completely Different Thing"'))
    kept = m - _touching(graph, target.id)
    return _extraction(graph, "component renamed", wrong, {
        "component_f1": (n - 1) / n, "hallucination": 1 / n, "edge_f1": kept / m, "edge_label_f1": kept / m, "zone_accuracy": (n - 1) / n,
        "type_accuracy": (n - 1) / n,
    })  # fmt: skip


def _edge_missing(graph: Architecture, rng: random.Random) -> Case:
    wrong, m = _truth(graph), len(graph.edges)
    wrong["edges"].pop(rng.randrange(m))
    return _extraction(graph, "arrow missing", wrong, {"edge_f1": 2 * (m - 1) / (2 * m - 1), "edge_label_f1": 2 * (m - 1) / (2 * m - 1)})


def _edge_reversed(graph: Architecture, rng: random.Random) -> Case:
    wrong, m = _truth(graph), len(graph.edges)
    edge = wrong["edges"][rng.randrange(m)]
    edge["src"], edge["dst"] = edge["dst"], edge["src"]
    return _extraction(graph, "arrow reversed", wrong, {"edge_f1": (m - 1) / m, "edge_label_f1": (m - 1) / m, "edge_f1_undirected": 1.0})


def _label_wrong(graph: Architecture, rng: random.Random) -> Case:
    wrong, m = _truth(graph), len(graph.edges)
    wrong["edges"][rng.randrange(m)]["label"] = "Carrier Pigeon"
    return _extraction(graph, "label wrong", wrong, {"edge_label_f1": (m - 1) / m})


def _zone_wrong(graph: Architecture, rng: random.Random) -> Case:
    wrong, n = _truth(graph), len(graph.components)
    part = rng.choice(wrong["components"])
    part["zone"] = "Data Subnet" if part["zone"] == "Public Subnet" else "Public Subnet"
    return _extraction(graph, "zone wrong", wrong, {"zone_accuracy": (n - 1) / n})


def _slip_forgiven(graph: Architecture, rng: random.Random) -> Case:
    """One letter of one name misread: no fault at all, and neither are case and punctuation."""
    target = rng.choice(graph.components)
    slipped = target.name.lower().replace(" ", "-")
    at = rng.randrange(1, 4)
    slipped = slipped[:at] + "x" + slipped[at + 1 :]
    wrong = json.loads(json.dumps(_truth(graph)).replace(f'"{target.name}"', f'"{slipped}"'))
    return _extraction(graph, "slip of reading (forgiven)", wrong, {})


def _number(graph: Architecture, rng: random.Random, fault: str, say: Callable[[float], str], value: float) -> Case:
    truth = float(rng.randint(12, 900) * 10)
    right = rng.choice(
        ("The rate is {} req/s.", "3 x {third} = {} req/s, so it takes {} req/s.", "**{} req/s** reach it. It has 4 replicas.")
    ).format(f"{truth:,.0f}", f"{truth:,.0f}", third=f"{truth / 3:g}")
    return Case(
        Check(kind="number", expected=truth, unit="req/s"), graph, "How many requests a second?", right, fault,
        f"The gateway has 4 replicas. The rate is {say(truth)}.", {"score": value, "numeric": value},
    )  # fmt: skip


def _number_changed(graph: Architecture, rng: random.Random) -> Case:
    return _number(graph, rng, "number off by 5 %", lambda truth: f"{truth * 1.05:,.1f} req/s", 0.0)


def _unit_changed(graph: Architecture, rng: random.Random) -> Case:
    return _number(graph, rng, "unit wrong", lambda truth: f"{truth:,.0f} ms", 0.0)


def _scale_changed(graph: Architecture, rng: random.Random) -> Case:
    return _number(graph, rng, "thousand times too much", lambda truth: f"{truth:,.0f}k req/s", 0.0)


def _number_restyled(graph: Architecture, rng: random.Random) -> Case:
    return _number(graph, rng, "other spelling (forgiven)", lambda truth: f"about {truth / 1000:g}k requests per second", 1.0)


def _choice_flipped(graph: Architecture, rng: random.Random) -> Case:
    truth, other = rng.choice((("yes", "no"), ("no", "yes"), ("synchronous", "asynchronous")))
    right = {"yes": "Yes, it does.", "no": "No, there is no such arrow.", "synchronous": "The call is synchronous."}[truth]
    wrong = {"yes": "Yes, it does.", "no": "No, it does not.", "asynchronous": "The call is asynchronous."}[other]
    return Case(Check(kind="choice", expected=truth), graph, "Which is it?", right, "choice flipped", wrong, {"score": 0.0, "choice": 0.0})


def _name_swapped(graph: Architecture, rng: random.Random) -> Case:
    a, b = rng.sample(graph.components, 2)
    check = Check(kind="choice", expected=a.name)
    return Case(check, graph, "Which one breaks first?", f"It is **{a.name}**.", "other name", f"It is **{b.name}**.", {"score": 0.0})


def _listed(names: list[str], rng: random.Random) -> str:
    forms = (
        "\n".join(f"- {n}" for n in names),
        json.dumps(names),
        f"They are {', '.join(names)}.",
        "\n".join(f"{i}. {n}" for i, n in enumerate(names, 1)),
    )
    return rng.choice(forms)


def _set(graph: Architecture, rng: random.Random, fault: str, change: Callable[[list[str], list[str]], list[str]]) -> Case:
    names = [c.name for c in graph.components]
    truth = rng.sample(names, rng.randint(2, len(names) - 1))
    said = change(truth, [name for name in names if name not in truth])
    hits = len(set(said) & set(truth))
    f1 = 2 * hits / (len(said) + len(truth))
    demands = {"score": f1, "hallucination": sum(name not in names for name in said) / len(said)}
    return Case(
        Check(kind="set", expected=truth),
        graph,
        "Which components?",
        _listed(truth, rng),
        fault,
        "\n".join(f"- {n}" for n in said),
        demands,
    )


def _set_missing(graph: Architecture, rng: random.Random) -> Case:
    return _set(graph, rng, "one of the set missing", lambda truth, rest: truth[1:])


def _set_extra(graph: Architecture, rng: random.Random) -> Case:
    return _set(graph, rng, "one too many", lambda truth, rest: [*truth, rest[0]])


def _set_invented(graph: Architecture, rng: random.Random) -> Case:
    return _set(graph, rng, "one invented", lambda truth, rest: [*truth, "Quantum Annealer"])


def _path_reversed(graph: Architecture, rng: random.Random) -> Case:
    names = _names(graph)
    truth = [[names[e.src], names[e.dst]] for e in graph.edges]
    right = rng.choice(("\n".join(f"{a} -> {b}" for a, b in truth), json.dumps(truth), "; ".join(f"{a} → {b}" for a, b in truth)))
    at, m = rng.randrange(len(truth)), len(truth)
    wrong = "\n".join(f"{b} -> {a}" if i == at else f"{a} -> {b}" for i, (a, b) in enumerate(truth))
    demands = {"score": (m - 1) / m, "edge_f1_undirected": 1.0}
    return Case(Check(kind="edges", expected=truth), graph, "List the arrows.", right, "one arrow of a list reversed", wrong, demands)


def _box(graph: Architecture, rng: random.Random, fault: str, move: Callable[[list[int]], list[int]], hit: bool, name: str = "") -> Case:
    part = rng.choice(graph.components)
    x, y = rng.randint(50, 600), rng.randint(50, 600)
    truth = [x, y, x + rng.randint(60, 200), y + rng.randint(60, 200)]

    def token(box: list[int], of: str) -> str:
        return f"<|object_ref_start|>{of}<|object_ref_end|><|box_start|>({box[0]},{box[1]}),({box[2]},{box[3]})<|box_end|>"

    right = rng.choice((token(truth, part.name), json.dumps([{"bbox_2d": truth, "label": part.name}]), f"{part.name}: {tuple(truth)}"))
    wrong = token(move(truth), next(c.name for c in graph.components if c.id != part.id) if name else part.name)
    demands = {"score": float(hit), "box_found": float(hit)}
    return Case(Check(kind="boxes", expected={part.name: truth}), graph, f"Where is {part.name}?", right, fault, wrong, demands)


def _box_moved(graph: Architecture, rng: random.Random) -> Case:
    return _box(graph, rng, "box beside the thing", lambda b: [b[2] + 5, b[1], 2 * b[2] - b[0] + 5, b[3]], False)


def _box_of_other(graph: Architecture, rng: random.Random) -> Case:
    return _box(graph, rng, "box under another name", lambda b: b, False, name="other")


def _box_grown_little(graph: Architecture, rng: random.Random) -> Case:
    return _box(graph, rng, "box a little large (forgiven)", lambda b: [b[0] - 4, b[1] - 4, b[2] + 4, b[3] + 4], True)


def _premise_accepted(graph: Architecture, rng: random.Random) -> Case:
    check = Check(kind="reject", expected="Quantum Annealer")
    right = rng.choice(
        ("The diagram shows no Quantum Annealer.", "There is no such component.", "A Quantum Annealer is not part of this picture.")
    )
    wrong = rng.choice(("The Quantum Annealer has 3 replicas.", "It runs in the Data Subnet with 2 replicas.", "3"))
    return Case(check, graph, "How many replicas has the Quantum Annealer?", right, "false premise accepted", wrong, {"score": 0.0})


def _form_broken(graph: Architecture, rng: random.Random) -> Case:
    truth = _truth(graph)
    wrong = json.dumps(truth)[: -rng.randint(3, 9)] if rng.random() < 0.5 else "The picture shows a system with several parts."
    return Case(
        Check(kind="graph", expected=truth),
        graph,
        "Give the graph as JSON.",
        json.dumps(truth),
        "JSON cut off",
        wrong,
        {"score": 0.0, "format": 0.0},
    )


def verdict(case: Case) -> str | None:
    """None if the scorer does what the case demands, else what went wrong."""
    best = score(case.check, case.right, graph=case.graph, question=case.question)
    if best.value != 1.0:
        return f"right answer scores {best.value} ({'; '.join(best.faults)}): {case.right[:120]}"
    none = score(case.check, "", graph=case.graph, question=case.question)
    if none.value != 0.0:
        return f"empty answer scores {none.value}"
    found = score(case.check, case.wrong, graph=case.graph, question=case.question)
    for name, wanted in case.demands.items():
        got = found.value if name == "score" else found.parts.get(name)
        if got is None or abs(got - wanted) > 1e-9:
            return f"{case.fault}: {name} is {got}, must be {wanted:.4f} ({'; '.join(found.faults)}): {case.wrong[:160]}"
    return None


def main(count: int) -> int:
    held: Counter[str] = Counter()
    every: Counter[str] = Counter()
    complaints = []
    for case in cases(count, seed=3):
        every[case.fault] += 1
        complaint = verdict(case)
        held[case.fault] += complaint is None
        complaints += [complaint] if complaint else []
    print("| fault | answers | scored as demanded |\n|---|---|---|")
    for fault, total in every.items():
        print(f"| {fault} | {total} | {held[fault]} |")
    print(f"| all | {count} | {sum(held.values())} |")
    for complaint in complaints[:10]:
        print(f"- {complaint}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
