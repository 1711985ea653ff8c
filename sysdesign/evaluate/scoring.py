"""A check and an answer -> a score between 0 and 1 with its parts, or no score: unscored is None and counted, never 0.

An answer that is empty, or lacks the form asked for, scores 0 on the question and counts against format validity. Only a free
text check, or a check without an expected value, is unscored. An answer that names no component has no rate of invented ones: a rate
of 0 would make silence look safe, and recall and F1 already charge for it. Nothing here looks for the expected value in the
answer before it has decided what the answer says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sysdesign.evaluate.choices import OPPOSITES, SAME_CHOICE, hedges, item_of, named_choice, option, stated_set
from sysdesign.evaluate.names import foreign_technologies, match_names, mentioned, normal
from sysdesign.evaluate.numbers import arithmetic, close, stated
from sysdesign.evaluate.stating import marked
from sysdesign.graph import Architecture, Record
from sysdesign.models import structure
from sysdesign.records import Check

IOU = 0.5  # the usual threshold for "found it"
_KEYS = ("answer", "result", "value", "choice", "name", "component")
_NO_ANSWER = re.compile(
    r"(?:(?:cannot|can't|can not|could not|impossible to|not possible to|unable to|no way to)\s+(?:be\s+)?(?:tell|told|say|said|"
    r"answer|determine|know|"
    r"read|compute|calculate|derive|state|give|infer|find)|(?:is|are|was|were)\s*(?:not|n't)\s+(?:shown|drawn|given|stated|present|visible|labell?ed|included|part|in\b|there|"
    r"specified|noted|recorded|printed|indicated|known|available|readable|any|a\s)|(?:does|do|did)\s*(?:not|n't)\s+(?:show|contain|include|have|exist|appear|state|give|say|list|draw|mention|feature|specify|note|record|print|indicate|tell)|there\s+(?:is|are)\s+no\b|"
    r"(?:shows?|contains?|has|have|includes?|see|find)\s+no\b|\bno\s+(?:such|component|node|box|element|service)\b|\babsent\b|\bnowhere\b|unanswerable|isn't|aren't|unknown\b|"
    r"not\s+(?:in|on|part\s+of|among|shown|present|drawn|given|stated)\b)", re.IGNORECASE)  # fmt: skip
_SMALL = frozenset({"a", "an", "the", "of", "in", "for", "per", "to", "at", "on"})
_CAPITALS = re.compile(r"(?<=[a-z,;:] )(?:[A-Z][\w/-]+)(?: [A-Z][\w/-]+)*")  # in mid-sentence: a name
_SAYS = re.compile(r"[\w\[{]")  # "!" says nothing; "[]" is how JSON says none
_STANDS = re.compile(r"\b(?:it|this|that|such|one|component|value|figure|number|drawing|diagram|picture)\b", re.IGNORECASE)


class Score(Record):
    """`value` 0 to 1, or None for unscored. `parts` are named numbers that are averaged over questions; `faults` say why, for readers."""

    value: float | None
    parts: dict[str, float] = {}
    faults: tuple[str, ...] = ()


def score(check: Check | None, answer: str, *, graph: Architecture | None = None, question: str = "", cut: bool = False) -> Score:
    """Score one answer. `cut`: it ran into the token limit. `graph` and `question` give the names that may be used."""
    text = answer.strip()
    parts: dict[str, float] = {"truncated": float(cut), "empty": float(not _SAYS.search(text))}
    right, equations = arithmetic(text)
    if equations:
        parts["arithmetic"] = right / equations
    if graph is not None and text:
        allowed = f"{graph.title} {question} {_words(graph)}"
        parts["invented_products"] = float(bool(foreign_technologies(text, allowed)))
    if check is None or check.kind == "text" or check.expected is None:
        return Score(value=None, parts=parts)
    found = _score(check, text, graph, question)
    return Score(value=found.value, parts=parts | found.parts, faults=found.faults + (("cut at the token limit",) if cut else ()))


def _score(check: Check, text: str, graph: Architecture | None, question: str) -> Score:
    match check.kind:
        case "number":
            return _number(check, text)
        case "choice":
            return _choice(check, text, graph, question)
        case "set":
            return _set([str(name) for name in check.expected], text, graph, question)
        case "edges":
            return _edges(check.expected, text, graph)
        case "graph":
            return _graph(check.expected, text)
        case "boxes":
            return _boxes(check.expected, text)
        case "reject":
            return _reject(str(check.expected), text, _names(graph) if graph else [])
    return Score(value=None)


def _number(check: Check, text: str) -> Score:
    found = stated(text, check.unit)
    if found is None:
        return Score(value=0.0, parts={"numeric": 0.0}, faults=("states no number" + (f" in {check.unit}" if check.unit else ""),))
    right = close(found, float(check.expected), check.tolerance)
    return Score(
        value=float(right), parts={"numeric": float(right)}, faults=() if right else (f"says {found:g}, is {float(check.expected):g}",)
    )


def _choice(check: Check, text: str, graph: Architecture | None, question: str) -> Score:
    expected = str(check.expected)
    options = next((pair for pair in OPPOSITES if normal(expected) in pair), None)
    value = next((v[key] for v in structure.json_values(text) if isinstance(v, dict) for key in _KEYS if isinstance(v.get(key), str)), None)
    plain = value or marked(text) or text
    if options:
        said = option(plain, options, question)
        right = said == SAME_CHOICE.get(normal(expected), normal(expected))
    else:
        known = list(dict.fromkeys([expected, *(_values(graph) if graph else [])]))
        said = named_choice(plain, known, set(mentioned(question, known))) or named_choice(plain, known, set()) or item_of(plain)
        right = said is not None and bool(match_names([said], [expected])) and not hedges(plain, known)
    fault = () if right else (f"says {said}, is {expected}" if said else "chooses nothing",)
    return Score(value=float(right), parts={"choice": float(right)}, faults=fault)


def _set(expected: list[str], text: str, graph: Architecture | None, question: str) -> Score:
    known = list(dict.fromkeys([*expected, *(_names(graph) if graph else [])]))
    items = stated_set(text, known, question)
    if items is None:
        return Score(value=0.0, parts={"set_f1": 0.0, "set_exact": 0.0}, faults=("names nothing",))
    if not expected or not items:
        right = not expected and not items
        fault = () if right else (("the true set is empty",) if not expected else ("says that there is none",))
        return Score(value=float(right), parts={"set_f1": float(right), "set_exact": float(right)}, faults=fault)
    hit, f1 = _f1(items, expected)
    invented = [item for item in items if not match_names([item], known)] if graph else []
    parts = {"set_f1": f1, "set_exact": float(f1 == 1.0)} | ({"hallucination": len(invented) / len(items)} if graph else {})
    missing = [name for j, name in enumerate(expected) if j not in hit.values()]
    wrong = [name for i, name in enumerate(items) if i not in hit]
    return Score(value=f1, parts=parts, faults=_differences(missing, wrong))


def _edges(expected: Any, text: str, graph: Architecture | None) -> Score:
    found = structure.edges(text)
    truth = [(str(edge[0]), str(edge[1])) for edge in expected]
    if found is None:
        right = not truth and bool(re.search(r"\b(?:none|no|nothing)\b|\[\s*\]", text, re.IGNORECASE))
        return Score(
            value=float(right), parts={"edge_f1": float(right), "format": float(right)}, faults=() if right else ("lists no arrows",)
        )
    names = list(dict.fromkeys([*(name for edge in truth for name in edge), *(_names(graph) if graph else [])]))
    parts = _edge_parts([(edge.src, edge.dst) for edge in found], truth, names) | {"format": 1.0}
    if graph and found:
        ends = list(dict.fromkeys(name for edge in found for name in (edge.src, edge.dst)))
        parts["hallucination"] = 1 - len(match_names(ends, names)) / len(ends)
    return Score(value=parts["edge_f1"], parts=parts, faults=() if parts["edge_f1"] == 1 else ("arrows differ",))


def _graph(expected: dict[str, Any], text: str) -> Score:
    found = structure.graph(text)
    zero = {"component_f1": 0.0, "edge_f1": 0.0, "edge_f1_undirected": 0.0, "format": 0.0}
    if found is None:
        return Score(value=0.0, parts=zero, faults=("no JSON or Mermaid graph",))
    truth = [str(component["name"]) for component in expected["components"]]
    pairs, component_f1 = _f1(list(found.components), truth)
    arrows = [(str(edge["src"]), str(edge["dst"])) for edge in expected["edges"]]
    parts = {"component_f1": component_f1, "format": 1.0} | _edge_parts([(e.src, e.dst) for e in found.edges], arrows, truth)
    if found.components:
        parts["hallucination"] = 1 - len(pairs) / len(found.components)
    types = {str(c["name"]): str(c["type"]) for c in expected["components"] if c.get("type")}
    told = [
        (found.types[found.components[i]], types[truth[j]])
        for i, j in pairs.items()
        if truth[j] in types and found.components[i] in found.types
    ]
    if types:  # a graph without types has none of them right
        parts["type_accuracy"] = sum(normal(a) == normal(b) for a, b in told) / len(types)
    labels = {(str(e["src"]), str(e["dst"])): str(e["label"]) for e in expected["edges"] if e.get("label")}
    if labels:
        parts["edge_label_f1"] = _labelled_f1(found.edges, labels, truth)
    zones = {str(c["name"]): str(c["zone"]) for c in expected["components"] if c.get("zone")}
    if zones:
        placed = {truth[pairs[i]]: found.zones.get(found.components[i]) for i in pairs}
        parts["zone_accuracy"] = sum(normal(placed.get(name) or "") == normal(zone) for name, zone in zones.items()) / len(zones)
    missing = [name for j, name in enumerate(truth) if j not in pairs.values()]
    wrong = [name for i, name in enumerate(found.components) if i not in pairs]
    faults = _differences(missing, wrong) + (("arrows differ",) if parts["edge_f1"] < 1 else ())
    scored = [component_f1, parts["edge_f1"], *(parts[key] for key in ("edge_label_f1", "zone_accuracy", "type_accuracy") if key in parts)]
    return Score(value=sum(scored) / len(scored), parts=parts, faults=faults)


def _boxes(expected: dict[str, Any], text: str) -> Score:
    truth = {name: box for name, box in expected.items() if box is not None}
    if not truth:
        return Score(value=None)
    found = structure.boxes(text)
    if found is None:
        return Score(value=0.0, parts={"box_iou": 0.0, "box_found": 0.0, "format": 0.0}, faults=("gives no box",))
    names = list(truth)
    if len(truth) == 1 and len(found) == 1:  # one was asked for: its name may be left out
        pairs = (
            {0: 0}
            if not next(iter(found))
            else match_names([next(iter(found))], names) or match_names([mentioned_in(next(iter(found)), names)], names)
        )
    else:
        pairs = match_names(list(found), names)
    overlaps = [0.0] * len(names)
    for i, j in pairs.items():
        overlaps[j] = _iou(list(found.values())[i], truth[names[j]])
    hits = sum(overlap >= IOU for overlap in overlaps)
    value = 2 * hits / (len(names) + len(found))
    parts = {"box_iou": sum(overlaps) / len(overlaps), "box_found": value, "format": 1.0}
    return Score(value=value, parts=parts, faults=tuple(f"{names[j]}: overlap {o:.2f}" for j, o in enumerate(overlaps) if o < IOU))


def _reject(absent: str, text: str, names: Sequence[str]) -> Score:
    """The false premise must be denied of what was asked for: by its name, or by a word that stands for it while nothing else is named.

    Something else is a component of the graph, or words in capitals, that do not occur in `absent`.
    """
    name, said = normal(absent), False
    others = [other for other in names if f" {normal(other)} " not in f" {name} "]
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text):
        flat = f" {normal(sentence)} "
        named = not name or f" {name} " in flat or all(f" {word} " in flat for word in name.split() if word not in _SMALL)
        elsewhere = any(f" {normal(other)} " in flat for other in others) or any(
            not set(normal(found).split()) & set(name.split()) for found in _CAPITALS.findall(sentence)
        )
        stands = _STANDS.search(sentence) or len(sentence.split()) <= 2
        denies = _NO_ANSWER.search(sentence) or re.match(r"[\s*_`\"]*(?:none|nothing|neither|no\s+\w)", sentence, re.IGNORECASE)
        if denies and (named or (stands and not elsewhere)):
            said = True
            break
    return Score(value=float(said), parts={"rejects_false_premise": float(said)}, faults=() if said else ("accepts the false premise",))


def _f1(found: Sequence[str], truth: Sequence[str]) -> tuple[dict[int, int], float]:
    pairs = match_names(found, truth)
    return pairs, 2 * len(pairs) / (len(found) + len(truth)) if found or truth else 1.0


def _edge_parts(found: Sequence[tuple[str, str]], truth: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, float]:
    ends = list(dict.fromkeys(name for edge in found for name in edge))
    canonical = {ends[i]: names[j] for i, j in match_names(ends, names).items()}
    canonical = {end: next(iter(mentioned(end, names)[-1:]), f"?{end}") for end in ends} | canonical  # "It goes Web App" is Web App
    pairs = {(canonical[a], canonical[b]) for a, b in found}
    wanted = set(truth)
    loose, loosely = {frozenset(p) for p in pairs}, {frozenset(p) for p in wanted}
    return {
        "edge_f1": 2 * len(pairs & wanted) / (len(pairs) + len(wanted)) if pairs or wanted else 1.0,
        "edge_f1_undirected": 2 * len(loose & loosely) / (len(loose) + len(loosely)) if loose or loosely else 1.0,
    }


def _labelled_f1(found: Sequence[structure.StatedEdge], labels: dict[tuple[str, str], str], names: Sequence[str]) -> float:
    ends = list(dict.fromkeys(name for edge in found for name in (edge.src, edge.dst)))
    canonical = {ends[i]: names[j] for i, j in match_names(ends, names).items()}
    said = {(canonical.get(e.src, ""), canonical.get(e.dst, "")): normal(e.label) for e in found if e.label}
    hits = sum(said.get(edge) == normal(label) for edge, label in labels.items())
    return 2 * hits / (len(said) + len(labels))


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    area = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    return shared / (sum(area) - shared) if sum(area) - shared > 0 else 0.0


def mentioned_in(text: str, names: Sequence[str]) -> str:
    """The first of `names` that `text` mentions, or the text itself."""
    return next(iter(mentioned(text, names)), text)


def _names(graph: Architecture) -> list[str]:
    return [component.name for component in graph.components]


def _values(graph: Architecture) -> list[str]:
    """Everything a choice may be: names, technologies, protocols, zones."""
    stacks = [component.technology for component in graph.components] + [edge.protocol for edge in graph.edges]
    return [*_names(graph), *(value for value in dict.fromkeys(stacks) if value), *(zone.name for zone in graph.zones)]


def _words(graph: Architecture) -> str:
    inside = [part for c in graph.components for part in (c.name, c.technology or "", c.type)]
    return " ".join([*inside, *(edge.protocol or "" for edge in graph.edges), *(zone.name for zone in graph.zones)])


def _differences(missing: Sequence[str], wrong: Sequence[str]) -> tuple[str, ...]:
    return (*((f"missing: {', '.join(missing)}",) if missing else ()), *((f"wrong: {', '.join(wrong)}",) if wrong else ()))
