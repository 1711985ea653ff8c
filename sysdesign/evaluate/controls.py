"""Probes -> controls: the same questions asked so that a cheat shows.

- no picture: what is answered right without looking was guessed or remembered; the gap to the score is what seeing adds.
- graph as text: what is still wrong with the graph in words is a fault of reasoning, not of reading.
- names permuted: the graph as text with the names moved around; a model that answers from what such systems usually look
  like falls here, one that reads does not.
- absent component: a plausible thing that is not there is asked for; models tend to say yes to what usually co-occurs.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from sysdesign.evaluate.items import Control, Item
from sysdesign.evaluate.names import normal
from sysdesign.graph import Architecture
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
    """The graph in words a model can compute from: one JSON object a line, names instead of ids."""
    named = {component.id: (rename or {}).get(component.name, component.name) for component in graph.components}
    zones = {zone.id: zone.name for zone in graph.zones}
    lines: list[dict[str, Any]] = []
    for component in graph.components:
        fields = component.model_dump(mode="json", exclude_defaults=True, exclude={"id", "name", "zone"})
        inside = {"zone": zones[component.zone]} if component.zone in zones else {}
        technology = {} if rename else {key: value for key, value in fields.items() if key == "technology"}
        numbers = {key: value for key, value in fields.items() if key != "technology"}
        lines.append({"component": named[component.id], "replicas": component.replicas, **numbers, **technology, **inside})
    for edge in graph.edges:
        fields = edge.model_dump(mode="json", exclude_defaults=True, exclude={"src", "dst", "via_cache"})
        via = {"via_cache": named[edge.via_cache]} if edge.via_cache in named else {}
        lines.append({"from": named.get(edge.src, edge.src), "to": named.get(edge.dst, edge.dst), "mode": edge.mode, **fields, **via})
    for flow in graph.flows:
        fields = flow.model_dump(mode="json", exclude_defaults=True, exclude={"id", "name", "entry"})
        lines.append({"flow": flow.name, "enters_at": named.get(flow.entry, flow.entry), **fields})
    for zone in graph.zones:
        lines.append({"zone": zone.name, "kind": zone.kind, **({"inside": zones[zone.parent]} if zone.parent in zones else {})})
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)


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
