"""Probes -> controls: the same questions asked so that a cheat shows.

- no picture: what is answered right without looking was guessed or remembered; the gap to the score is what seeing adds.
- graph as text: what is still wrong with the graph in words is a fault of reasoning, not of reading.
- names permuted: the graph as text with the names moved around; a model that answers from what such systems usually look
  like falls here, one that reads does not.
- absent component: a plausible thing that is not there is asked for; models tend to say yes to what usually co-occurs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from sysdesign.evaluate.items import Control, Item
from sysdesign.evaluate.names import normal
from sysdesign.graph import Architecture, Record
from sysdesign.models.chat import Message
from sysdesign.records import Check

_ABSENT = (
    "Redis Cache", "Kafka Stream", "Elasticsearch Cluster", "CDN Edge", "Rate Limiter", "RabbitMQ Queue", "Feature Store", "Audit Log",
    "Fraud Detector", "Session Store", "Config Server", "Data Lake", "WebSocket Hub", "GraphQL Gateway",
)  # fmt: skip
_ASKS = (
    "How many replicas of {name} does the diagram show?",
    "Which component calls {name} in this diagram?",
    "What protocol is used on the arrow into {name}?",
    "In which zone is {name} drawn?",
)


def control_items(probes: Sequence[Item], count: int, seed: int) -> list[Item]:
    """At most `count` probes with a picture, spread over the graphs, each in up to four variants."""
    drawn = [item for item in probes if item.images and item.graph is not None]
    order = random.Random(seed).sample(drawn, len(drawn))
    nth: dict[str, int] = {}  # how many of its graph came before it
    rank = {}
    for item in order:
        rank[item.id] = nth.get(item.cluster, 0)
        nth[item.cluster] = rank[item.id] + 1
    ranked = sorted(order, key=lambda item: rank[item.id])
    made: list[Item] = []
    seen: set[str] = set()
    for item in ranked[:count]:
        made += [_without_picture(item), *_as_text(item)]
        if item.cluster not in seen:
            seen.add(item.cluster)
            made.append(_absent(item, random.Random(f"{seed}/{item.cluster}")))
        if permuted := _permuted(item, random.Random(f"{seed}/{item.id}")):
            made.append(permuted)
    return made


def describe(graph: Architecture, rename: dict[str, str] | None = None) -> str:
    """The graph in words a model can compute from: one element a line, names instead of ids, only what differs from the default.

    Terse on purpose: a graph of twenty components must fit beside a question in the context that the picture would take.
    """
    named = {component.id: (rename or {}).get(component.name, component.name) for component in graph.components}
    zones = {zone.id: zone.name for zone in graph.zones}
    lines = []
    for component in graph.components:
        facts = _facts(component, {"id", "name", "zone", "type", *(("technology",) if rename else ())})
        place = f" in {zones[component.zone]}" if component.zone in zones else ""
        lines.append(f"{named[component.id]}: {component.type}{place}, {component.replicas} replicas{facts}")
    for edge in graph.edges:
        via = f", only misses of {named[edge.via_cache]}" if edge.via_cache in named else ""
        facts = _facts(edge, {"src", "dst", "via_cache", "mode"})
        lines.append(f"{named.get(edge.src, edge.src)} -> {named.get(edge.dst, edge.dst)}: {edge.mode}{facts}{via}")
    for flow in graph.flows:
        title = "traffic" if rename else flow.name  # a flow is named after its entry
        lines.append(f"flow {title} enters at {named.get(flow.entry, flow.entry)}{_facts(flow, {'id', 'name', 'entry'})}")
    lines += [f"zone {zone.name}: {zone.kind}{f' in {zones[zone.parent]}' if zone.parent in zones else ''}" for zone in graph.zones]
    return "\n".join(lines)


def _facts(element: Record, without: set[str]) -> str:
    """ ", capacity_qps 500, stateful" and so on, for every field that is set and not shown already."""
    fields = element.model_dump(mode="json", exclude_defaults=True, exclude={*without, "replicas"})
    said = [key if value is True else f"{key} {_plain(value)}" for key, value in fields.items()]
    return "".join(f", {part}" for part in said)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, list):
        return "/".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e15 else str(value)


def _without_picture(item: Item) -> Item:
    return _variant(item, "no_picture", tuple(message.model_copy(update={"images": ()}) for message in item.messages))


def _as_text(item: Item) -> list[Item]:
    assert item.graph is not None
    if item.check and item.check.kind == "boxes":
        return []  # places are not in the graph
    return [_variant(item, "graph_as_text", _texted(item, describe(item.graph), item.question))]


def _permuted(item: Item, rng: random.Random) -> Item | None:
    """Names rotated among the components, in the graph, the question and the expected answer alike."""
    assert item.graph is not None
    names = [component.name for component in item.graph.components]
    if item.check is None or item.check.kind in ("boxes", "reject", "text", "graph") or len(names) < 3:
        return None
    shuffled = rng.sample(names, len(names))
    rename = dict(zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True))
    expected = item.check.expected
    check = item.check.model_copy(update={"expected": expected if item.check.kind == "number" else _renamed(expected, rename)})
    graph = item.graph.model_copy(
        update={"components": tuple(c.model_copy(update={"name": rename[c.name]}) for c in item.graph.components)}
    )
    messages = _texted(item, describe(item.graph, rename), _substitute(item.question, rename))
    return _variant(item, "names_permuted", messages).model_copy(update={"check": check, "graph": graph, "reference": ""})


def _absent(item: Item, rng: random.Random) -> Item:
    assert item.graph is not None
    there = normal(" ".join(f"{c.name} {c.technology or ''} {c.type}" for c in item.graph.components))
    free = [name for name in _ABSENT if not any(f" {word} " in f" {there} " for word in normal(name).split())]
    name = rng.choice(free or ["Quantum Annealer"])
    last = item.messages[-1].model_copy(update={"text": rng.choice(_ASKS).format(name=name)})
    variant = _variant(item, "absent_component", (*item.messages[:-1], last))
    return variant.model_copy(update={"check": Check(kind="reject", expected=name), "reference": "", "facts": ()})


def _variant(item: Item, control: Control, messages: tuple[Message, ...]) -> Item:
    return item.model_copy(update={"id": f"{item.id}#{control}", "set": "control", "control": control, "of": item.id, "messages": messages})


def _texted(item: Item, text: str, question: str) -> tuple[Message, ...]:
    last = item.messages[-1].model_copy(update={"text": f"The architecture, one element a line:\n{text}\n\n{question}", "images": ()})
    return (*(message.model_copy(update={"images": ()}) for message in item.messages[:-1]), last)


def _renamed(value: Any, rename: dict[str, str]) -> Any:
    if isinstance(value, str):
        return rename.get(value, value)
    if isinstance(value, list | tuple):
        return [_renamed(part, rename) for part in value]
    return value


def _substitute(text: str, rename: dict[str, str]) -> str:
    """All names at once, longest first, so that a new name is never renamed again."""
    pattern = "|".join(re.escape(name) for name in sorted(rename, key=len, reverse=True))
    return re.sub(rf"(?<!\w)({pattern})(?!\w)", lambda match: rename[match[1]], text)
