"""From a fitted layout to ink: zones, arrows, boxes, labels, title and legend, in that order."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from sysdesign.diagrams.fit import GAP, MARGIN, TITLE_PX, Frame
from sysdesign.diagrams.fonts import family_for, wrap
from sysdesign.diagrams.icons import icon, icon_name
from sysdesign.diagrams.ink import Ink
from sysdesign.diagrams.labels import around
from sysdesign.diagrams.scene import ICON, Line, Scene, block_height, line_height, shape_of, text_width
from sysdesign.diagrams.shapes import arrowhead, dash, outline, rounded, text_shift, wobble
from sysdesign.diagrams.styles import GROUPS, Colour, Style
from sysdesign.graph import Architecture, Component
from sysdesign.records import Box

Point = tuple[float, float]


def paint(graph: Architecture, style: Style, scene: Scene, frame: Frame, rng: random.Random) -> Ink:
    """Draw everything; fills `frame.labels` with the boxes of the arrow labels."""
    ink = Ink((frame.width, frame.height), style.page)
    if style.grid:
        _grid(ink, style, frame)
    _zones(ink, graph, style, frame, rng)
    _arrows(ink, graph, style, frame, rng)
    depth = _depths(graph)
    for zone in graph.zones:
        fill = style.zone_fills[depth[zone.id] % len(style.zone_fills)]
        _zone_title(ink, scene.zones[zone.id], frame.placed.titles.get(zone.id), fill, style, frame)
    for c in graph.components:
        _component(ink, c, style, frame, rng)
        ink.flush()  # at once: many small masks are cheaper than a page-sized one for each colour
    for c in graph.components:
        _component_text(ink, c, scene.nodes[c.id], style, frame)
    for index, lines in enumerate(scene.labels):
        if lines:
            frame.labels[index] = _label(ink, lines, frame.placed.routes[index].label, scene.sizes.labels[index], style, frame)
    _captions(ink, scene, style, frame)
    return ink


def _grid(ink: Ink, style: Style, frame: Frame) -> None:
    assert style.grid is not None
    step = 24 * frame.scale
    for at in range(1, int(max(frame.width, frame.height) / step) + 1):
        line = round(at * step)
        ink.fill([(line, 0), (line, frame.height)], style.grid)
        ink.fill([(0, line), (frame.width, line)], style.grid)


def _zones(ink: Ink, graph: Architecture, style: Style, frame: Frame, rng: random.Random) -> None:
    depth = _depths(graph)
    for zone in sorted(frame.placed.zones, key=lambda z: (depth[z], z)):
        box = frame.box(frame.placed.zones[zone])
        path = rounded(box, style.zone_corner * frame.scale)
        ink.fill(path, style.zone_fills[depth[zone] % len(style.zone_fills)])
        _line(ink, path, style.zone_line, 1.2, style, frame, rng, dashed=style.zone_dash)
    ink.flush()


def _depths(graph: Architecture) -> dict[str, int]:
    """How many zones each zone lies in."""
    parents = {z.id: z.parent for z in graph.zones}

    def depth(zone: str) -> int:
        above = parents[zone]
        return 0 if above is None else 1 + depth(above)

    return {zone: depth(zone) for zone in parents}


def _arrows(ink: Ink, graph: Architecture, style: Style, frame: Frame, rng: random.Random) -> None:
    head = 11.5 * frame.scale
    for e, route in zip(graph.edges, frame.placed.routes, strict=True):
        path = [frame.point(p) for p in route.path]
        colour = style.dashed if e.mode == "async" else style.line
        tip, back = path[-1], _before(path, head)
        shaft = _shorten(path, head * 0.7) if not style.hand else path
        _line(ink, shaft, colour, style.stroke_px, style, frame, rng, dashed=e.mode == "async")
        triangle = arrowhead(tip, back, head)
        if style.hand:
            ink.stroke([triangle[1], triangle[0], triangle[2]], colour, style.stroke_px * frame.scale)
        else:
            ink.solid(triangle, colour)
    ink.flush()


def _component(ink: Ink, c: Component, style: Style, frame: Frame, rng: random.Random) -> None:
    box = frame.box(frame.placed.nodes[c.id])
    if style.icons:
        size = round(ICON * frame.scale)
        ink.paste(icon(icon_name(c.type, c.technology), size), (round((box[0] + box[2] - size) / 2), round(box[1])))
        return
    group = GROUPS[c.type]
    body, strokes = outline(shape_of(c, style), box, style.corner, frame.scale)
    if style.hand:
        body = wobble(body, 1.1 * frame.scale, rng)
        ink.fill(body, style.fills[group])
        ink.stroke(body, style.strokes[group], style.stroke_px * frame.scale)
        for path in strokes:  # a second, slightly different pass, as a marker leaves
            ink.stroke(wobble(path, 1.3 * frame.scale, rng), style.strokes[group], 0.8 * style.stroke_px * frame.scale)
        return
    ink.fill(body, style.fills[group])
    for path in strokes:
        ink.stroke(path, style.strokes[group], style.stroke_px * frame.scale)


def _component_text(ink: Ink, c: Component, lines: list[Line], style: Style, frame: Frame) -> None:
    x0, y0, x1, y1 = frame.box(frame.placed.nodes[c.id])
    high = block_height(lines) * frame.scale
    if style.icons:
        at = y0 + (ICON + 5) * frame.scale
    else:
        at = (y0 + y1 - high) / 2 + text_shift(shape_of(c, style)) * frame.scale
    for line in lines:
        step = line_height(line) * frame.scale
        colour = style.soft if line.role == "soft" else style.ink
        ink.text(((x0 + x1) / 2, at + step / 2), line.text, style.family, frame.px(line.px), colour, bold=line.bold)
        at += step


def _zone_title(ink: Ink, line: Line, at: Point | None, fill: Colour, style: Style, frame: Frame) -> None:
    if at is None:
        return
    x, y = frame.point(at)
    # arrows that run over a title are interrupted, not the title
    ink.fill(rounded((x - 2, y, x + text_width(line, style) * frame.scale, y + line_height(line) * frame.scale), 0), fill)
    ink.text(
        (x, y + line_height(line) * frame.scale / 2),
        line.text,
        style.family,
        frame.px(line.px),
        style.zone_ink,
        bold=line.bold,
        centred=False,
    )


def _label(ink: Ink, lines: list[Line], middle: Point | None, size: tuple[float, float] | None, style: Style, frame: Frame) -> Box:
    assert middle is not None and size is not None
    box = frame.box(around(middle, size))
    if style.label_page is not None:
        ink.fill(rounded(box, 2), style.label_page)
    at = (box[1] + box[3]) / 2 - block_height(lines) * frame.scale / 2
    for line in lines:
        step = line_height(line) * frame.scale
        ink.text(((box[0] + box[2]) / 2, at + step / 2), line.text, style.family, frame.px(line.px), style.ink)
        at += step
    return box


def _captions(ink: Ink, scene: Scene, style: Style, frame: Frame) -> None:
    s = frame.scale
    at = MARGIN * s
    for text in wrap(family_for(style.family, scene.title), TITLE_PX, scene.title, (frame.width / s - 2 * MARGIN) / 1.04, True):
        ink.text((MARGIN * s, at + TITLE_PX * 0.65 * s), text, style.family, frame.px(TITLE_PX), style.ink, bold=True, centred=False)
        at += TITLE_PX * 1.3 * s
    at = frame.height - MARGIN * s - len(frame.legend) * style.text_px * 1.3 * s
    if frame.legend:
        ink.stroke([(MARGIN * s, at - GAP * s * 0.6), (frame.width - MARGIN * s, at - GAP * s * 0.6)], style.zone_line, 1.0)
        ink.flush()
    for text in frame.legend:
        ink.text((MARGIN * s, at + style.text_px * 0.65 * s), text, style.family, frame.px(style.text_px), style.soft, centred=False)
        at += style.text_px * 1.3 * s


def _line(
    ink: Ink, path: Sequence[Point], colour: Colour, width: float, style: Style, frame: Frame, rng: random.Random, *, dashed: bool
) -> None:
    shaken = wobble(path, 1.2 * frame.scale, rng) if style.hand else list(path)
    for piece in dash(shaken, 7.5 * frame.scale, 5 * frame.scale) if dashed else [shaken]:
        ink.stroke(piece, colour, max(1.0, width * frame.scale))


def _before(path: Sequence[Point], distance: float) -> Point:
    """The point of the path that lies `distance` before its end."""
    return _shorten(path, distance)[-1]


def _shorten(path: Sequence[Point], distance: float) -> list[Point]:
    kept, left = list(path), distance
    while len(kept) > 1:
        step = math.dist(kept[-1], kept[-2])
        if step > left:
            (ax, ay), (bx, by) = kept[-2], kept[-1]
            kept[-1] = (bx + (ax - bx) * left / step, by + (ay - by) * left / step)
            return kept
        left -= step
        kept.pop()
    return [path[0], path[-1]] if len(path) > 1 else kept
