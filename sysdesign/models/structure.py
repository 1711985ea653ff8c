"""Free text -> the graph, edges, list or boxes that it states, in whichever common form it states them.

Understood: JSON (fenced or bare), Mermaid flowcharts, markdown tables and bullets, arrows in prose, Qwen's box tokens. `None` means that
the form asked for is not there, which is a format fault and not an empty answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from sysdesign.graph import Record

_ARROW = r"(?:--?>|--\s?[^->|\n]{1,40}?\s?--?>|=+>|→|⟶|➜|~+>)"
_SRC, _DST = ("src", "source", "from", "caller", "start"), ("dst", "target", "to", "destination", "callee", "end")
_BOX = re.compile(
    r"\(?\s*(\d{1,4}(?:\.\d+)?)\s*,\s*(\d{1,4}(?:\.\d+)?)\s*\)?\s*,\s*\(?\s*(\d{1,4}(?:\.\d+)?)\s*,\s*(\d{1,4}(?:\.\d+)?)\s*\)?"
)


class StatedEdge(Record):
    """One arrow as written."""

    src: str
    dst: str
    label: str | None = None


class StatedGraph(Record):
    """What an answer says the picture shows."""

    components: tuple[str, ...]
    types: dict[str, str] = {}
    edges: tuple[StatedEdge, ...] = ()
    zones: dict[str, str] = {}  # component -> zone


def json_values(text: str) -> Iterator[Any]:
    """Every JSON object or array that stands in `text`, fenced blocks first, outermost only."""
    decoder = json.JSONDecoder()
    blocks = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    for part in [*blocks, text]:
        at = 0
        while (start := min((i for i in (part.find("{", at), part.find("[", at)) if i >= 0), default=-1)) >= 0:
            try:
                value, at = decoder.raw_decode(part, start)
            except (ValueError, RecursionError):
                at = start + 1
            else:
                yield value


def graph(text: str) -> StatedGraph | None:
    """Components and edges of the first JSON graph, else of a Mermaid block, else of an arrow list; None when the answer holds none."""
    for value in json_values(text):
        found = _json_graph(value)
        if found is not None:
            return found
    return _mermaid(text) or _arrow_list(text)


def edges(text: str) -> list[StatedEdge] | None:
    """Arrows, from JSON, Mermaid, a two-column table, or lines like `A -> B (label)`; None when there is none of these."""
    stated = graph(text)
    if stated is not None:
        return list(stated.edges)
    for value in json_values(text):
        listed = value.get("edges", value.get("connections")) if isinstance(value, dict) else value
        if isinstance(listed, list):
            found = [edge for item in listed if (edge := _json_edge(item, {})) is not None]
            if found or not listed:
                return found
    found = []
    for line in text.splitlines():
        found += _table_edge(line) or [edge for part in line.split(";") for edge in _line_edges(part)]
    return found or None


def listed(text: str) -> list[str] | None:
    """The items of the list that an answer gives: JSON array, bullets, numbered lines; None when it is prose."""
    for value in json_values(text):
        items = next((v for v in value.values() if isinstance(v, list)), None) if isinstance(value, dict) else value
        if isinstance(items, list) and all(isinstance(item, str | dict) for item in items):
            names = [item if isinstance(item, str) else _name(item) for item in items]
            return [name for name in names if name]
    bullets = [m[1] for line in text.splitlines() if (m := re.match(r"\s*(?:[-*•+]|\d{1,2}[.)])\s+(.*\S)", line))]
    return [_item(bullet) for bullet in bullets] or None


def boxes(text: str) -> dict[str, tuple[float, float, float, float]] | None:
    """Name -> box in 0-1000, from Qwen's box tokens, JSON (`bbox_2d`, `box`), or `name: (x0, y0), (x1, y1)`; None when no box is there.

    A box without a name has the name "".
    """
    found: dict[str, tuple[float, float, float, float]] = {}
    for match in re.finditer(r"(?:<\|object_ref_start\|>(.*?)<\|object_ref_end\|>)?\s*<\|box_start\|>(.*?)<\|box_end\|>", text, re.DOTALL):
        if corners := _BOX.search(match[2]):
            found.setdefault((match[1] or "").strip(), _corners(corners))
    if found:
        return found
    for value in json_values(text):
        found |= _json_boxes(value)
    if found:
        return found
    for line in text.splitlines():
        if corners := _BOX.search(line):
            name = re.sub(r"<[^>]*>|[*`:\[(=]+", " ", line[: corners.start()]).strip(" -•")
            found.setdefault(name, _corners(corners))
    return found or None


def _json_graph(value: Any) -> StatedGraph | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("graph"), dict):
        value = value["graph"]
    listed = next((value[key] for key in ("components", "nodes", "services") if isinstance(value.get(key), list)), None)
    if listed is None:
        return None
    names: list[str] = []
    types: dict[str, str] = {}
    zones: dict[str, str] = {}
    ids: dict[str, str] = {}
    for item in listed:
        name = item if isinstance(item, str) else _name(item) if isinstance(item, dict) else ""
        if not name:
            continue
        names.append(name)
        if isinstance(item, dict):
            ids[str(item.get("id", name))] = name
            if isinstance(item.get("type"), str):
                types[name] = item["type"]
            if isinstance(item.get("zone"), str):
                zones[name] = item["zone"]
    links: list[Any] = next((value[key] for key in ("edges", "connections", "links", "arrows") if isinstance(value.get(key), list)), [])
    found = [edge for item in links if (edge := _json_edge(item, ids)) is not None]
    if isinstance(value.get("zones"), dict):
        zones |= {str(member): str(zone) for zone, members in value["zones"].items() if isinstance(members, list) for member in members}
    return StatedGraph(components=tuple(dict.fromkeys(names)), types=types, edges=tuple(found), zones=zones)


def _json_edge(item: Any, ids: dict[str, str]) -> StatedEdge | None:
    if isinstance(item, str):
        return next(iter(_line_edges(item)), None)
    if isinstance(item, list) and 2 <= len(item) <= 3 and all(isinstance(part, str) for part in item):
        return StatedEdge(src=ids.get(item[0], item[0]), dst=ids.get(item[1], item[1]), label=item[2] if len(item) == 3 else None)
    if isinstance(item, dict):
        src = next((item[key] for key in _SRC if isinstance(item.get(key), str)), None)
        dst = next((item[key] for key in _DST if isinstance(item.get(key), str)), None)
        label = next((item[key] for key in ("label", "protocol", "type") if isinstance(item.get(key), str)), None)
        if src is not None and dst is not None:
            return StatedEdge(src=ids.get(src, src), dst=ids.get(dst, dst), label=label)
    return None


def _mermaid(text: str) -> StatedGraph | None:
    block = re.search(r"```mermaid\s*\n(.*?)(?:```|\Z)", text, re.DOTALL) or re.search(
        r"(?:^|\n)((?:flowchart|graph)\s+(?:LR|RL|TB|TD|BT)\b.*)", text, re.DOTALL
    )
    if not block:
        return None
    names: dict[str, str] = {}
    zones: dict[str, str] = {}
    links: list[tuple[str, str, str | None]] = []
    stack: list[str] = []
    node = r"([\w.-]*\w)(?:\s*(?:\[\(|\[\[|\(\(|\[/|\{\{|\[|\(|\{|>)\"?([^\"\[\](){}]*?)\"?(?:\)\]|\]\]|\)\)|/\]|\}\}|\]|\)|\}))?"
    arrow = r"\s*(?:-->|---|-\.->|==>|--\s*([^->|\n]+?)\s*-->)\s*(?:\|\"?([^|\"]*)\"?\|)?\s*"
    for raw in block[1].splitlines():
        line = raw.strip().rstrip(";")
        if opened := re.match(r"subgraph\s+([\w-]+)?\s*(?:\[\"?([^\]\"]*)\"?\])?(.*)", line):
            stack.append((opened[2] or opened[1] or opened[3] or "").strip())
            continue
        if line == "end":
            stack = stack[:-1]
            continue
        if not line or re.match(r"(?:flowchart|graph|classDef|class|style|linkStyle|direction|%%)\b", line):
            continue
        at, previous, label = 0, None, None
        while found := re.compile(node).match(line, at):
            key = found[1]
            names[key] = found[2].strip() if found[2] else names.get(key, key)
            if stack:
                zones.setdefault(key, stack[-1])
            if previous is not None:
                links.append((previous, key, label))
            link = re.compile(arrow).match(line, found.end())
            if not link:
                break
            previous, label, at = key, (link[1] or link[2] or "").strip() or None, link.end()
    return StatedGraph(
        components=tuple(dict.fromkeys(names.values())),
        edges=tuple(StatedEdge(src=names[a], dst=names[b], label=text) for a, b, text in links),
        zones={names[key]: zone for key, zone in zones.items()},
    )


def _arrow_list(text: str) -> StatedGraph | None:
    """Lines of `A -> B`, if that is what most of the answer is."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = [_line_edges(line) for line in lines]
    if sum(map(bool, found)) < max(2, 0.6 * len(lines)):
        return None
    listed = [edge for line in found for edge in line]
    return StatedGraph(components=tuple(dict.fromkeys(name for edge in listed for name in (edge.src, edge.dst))), edges=tuple(listed))


def _line_edges(line: str) -> list[StatedEdge]:
    chained = re.sub(r",?\s+(?:and\s+)?(?:then|next)\s+(?:to\s+)?(?=[A-Z])", " -> ", re.sub(r"\\?[`*\"]", "", line))
    parts = re.split(rf"\s*({_ARROW})\s*", chained)
    if len(parts) < 3:
        return []
    names = [_end(part, first=index == 0) for index, part in enumerate(parts[::2])]
    label = re.search(r"(?:\(([^()]*)\)|:\s*([^:;,]+))\s*[.;,]?$", parts[-1])
    text = (label[1] or label[2]).strip() if label else None
    return [StatedEdge(src=a, dst=b, label=text if len(names) == 2 else None) for a, b in pairwise(names) if a and b]


def _end(part: str, *, first: bool) -> str:
    text = re.sub(r"^\s*(?:[-*•+]|\d{1,2}[.)])\s+", "", part)
    if first:
        text = re.split(r"[:;,]\s+|\.\s+", text)[-1]
        return re.sub(r"\([^()]*\)", "", text).strip(" .")
    return re.split(r"\s*[(:;,|]|\.(?:\s|$)", text)[0].strip(" .")


def _table_edge(line: str) -> list[StatedEdge]:
    cells = [cell.strip(" *`") for cell in line.strip().strip("|").split("|")]
    heading = cells[0].lower().strip(" :.") in (*_SRC, "a")
    if not line.strip().startswith("|") or len(cells) < 2 or set(cells[0]) <= set("-: ") or heading:
        return []
    return [StatedEdge(src=cells[0], dst=cells[1], label=cells[2] if len(cells) > 2 and cells[2] else None)]


def _json_boxes(value: Any, name: str = "") -> dict[str, tuple[float, float, float, float]]:
    if isinstance(value, list):
        if len(value) == 4 and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
            return {name: (float(value[0]), float(value[1]), float(value[2]), float(value[3]))}
        return {key: box for item in value for key, box in _json_boxes(item).items()}
    if isinstance(value, dict):
        own = next((value[key] for key in ("bbox_2d", "bbox", "box", "box_2d") if isinstance(value.get(key), list)), None)
        if own is not None:
            return _json_boxes(own, _name(value) or name)
        return {key: box for inner, item in value.items() for key, box in _json_boxes(item, str(inner)).items()}
    return {}


def _corners(match: re.Match[str]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(part) for part in match.groups())
    return x0, y0, x1, y1


def _name(item: dict[str, Any]) -> str:
    return next((item[key].strip() for key in ("name", "label", "component", "title", "id") if isinstance(item.get(key), str)), "")


def _item(bullet: str) -> str:
    bold = re.match(r"\*\*(.+?)\*\*|`(.+?)`", bullet)
    if bold:
        return (bold[1] or bold[2]).strip(" :")
    return re.split(r"\s+[-–—]\s+|:\s|\s\(|;|,\s|\.\s", bullet)[0].strip(" .*`")
