"""From a graph, a style and the facts to show, to measured text blocks: everything a layout and a pen need, in design pixels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sysdesign.diagrams import facts
from sysdesign.diagrams.fonts import clean, family_for, width, wrap
from sysdesign.diagrams.layout import Sizes
from sysdesign.diagrams.shapes import inflate
from sysdesign.diagrams.styles import Style
from sysdesign.graph import Architecture, Component, ZoneKind

ICON = 54.0
PAD_X, PAD_Y = 11.0, 8.0
NAME_LIMIT, FACT_LIMIT, LABEL_LIMIT = 230.0, 190.0, 150.0
ZONE_WORDS: dict[ZoneKind, str] = {
    "region": "region", "az": "AZ", "vpc": "network", "subnet": "subnet", "trust": "trust zone", "cluster": "cluster", "edge": "edge",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of text. `role`: name, text or soft (subtitles)."""

    text: str
    role: str
    px: float
    bold: bool = False


@dataclass(frozen=True)
class Scene:
    """Texts of every part, and the sizes they need."""

    nodes: dict[str, list[Line]]
    zones: dict[str, Line]
    labels: list[list[Line]]
    legend: list[str]
    title: str
    sizes: Sizes


def compose(graph: Architecture, style: Style, show: Collection[str]) -> Scene:
    """Measure the graph in a style. Raises InputError where a label cannot be drawn."""
    names = {c.id: clean(c.name) for c in graph.components}
    nodes = {c.id: _node(c, style, show) for c in graph.components}
    zones = {}
    for z in graph.zones:
        name, word = clean(z.name), ZONE_WORDS[z.kind]
        spoken = name if word.casefold() in name.casefold() else f"{name} ({word})"
        zones[z.id] = Line(spoken if len(spoken) <= 60 else f"{spoken[:57]}...", "zone", style.text_px, True)
        family_for(style.family, zones[z.id].text)
    labels = []
    for e in graph.edges:
        phrases = facts.edge_texts(e, show, names)
        labels.append([Line(t, "label", style.text_px) for t in _pack(phrases, style, LABEL_LIMIT)])
    legend = [clean(text) for text in facts.legend(graph, show)]
    for text in (*legend, clean(graph.title)):
        family_for(style.family, text)
    sizes = Sizes(
        nodes={c.id: _node_size(nodes[c.id], c, style) for c in graph.components},
        zones={key: (text_width(line, style) + 8, line.px * 1.35) for key, line in zones.items()},
        labels=[(max(text_width(line, style) for line in lines) + 10, block_height(lines) + 4) if lines else None for lines in labels],
        rounds=frozenset(c.id for c in graph.components if shape_of(c, style) in ("ellipse", "cloud")),
    )
    return Scene(nodes, zones, labels, legend, clean(graph.title), sizes)


def text_width(line: Line, style: Style) -> float:
    """Width of a line in design pixels, with room for hinting at smaller sizes."""
    return width(family_for(style.family, line.text), line.px, line.text, line.bold) * 1.03 + 1


def line_height(line: Line) -> float:
    """Distance to the next line."""
    return line.px * 1.24


def block_height(lines: list[Line]) -> float:
    """Height of stacked lines."""
    return sum(line_height(line) for line in lines)


def shape_of(c: Component, style: Style) -> str:
    """Name of the component's shape in a style."""
    return "icon" if style.icons else style.shapes.get(c.type, "box")


def _node(c: Component, style: Style, show: Collection[str]) -> list[Line]:
    name = clean(c.name)
    lines = [
        Line(t, "name", style.name_px, style.bold)
        for t in wrap(family_for(style.family, name), style.name_px, name, NAME_LIMIT, style.bold)
    ]
    under = clean(facts.subtitle(c, show))
    under = f"[{under}]" if style.bracket else under
    lines += [Line(t, "soft", style.text_px) for t in wrap(family_for(style.family, under), style.text_px, under, NAME_LIMIT)]
    return lines + [Line(t, "text", style.text_px) for t in _pack(facts.component_texts(c, show), style, FACT_LIMIT)]


def _pack(phrases: list[str], style: Style, limit_px: float) -> list[str]:
    """Phrases joined by commas into lines; a phrase is broken only if it is wider than a line by itself."""
    lines: list[str] = []
    for phrase in map(clean, phrases):
        family = family_for(style.family, phrase)
        longer = f"{lines[-1]}, {phrase}" if lines else phrase
        if lines and width(family, style.text_px, longer) <= limit_px:
            lines[-1] = longer
        else:
            if lines:
                lines[-1] += ","
            lines += wrap(family, style.text_px, phrase, limit_px)
    return lines


def _node_size(lines: list[Line], c: Component, style: Style) -> tuple[float, float]:
    wide, high = max(text_width(line, style) for line in lines), block_height(lines)
    if style.icons:
        return max(wide, ICON) + 8, ICON + 6 + high
    wide, high = inflate(shape_of(c, style), max(wide, 70.0), high)
    return wide + 2 * PAD_X, high + 2 * PAD_Y
