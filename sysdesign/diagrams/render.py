"""From a graph and a style to a picture and the exact boxes of everything in it.

Text is measured, Graphviz (or our own layout) places, Pillow draws at the final size.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sysdesign.diagrams import facts
from sysdesign.diagrams.fit import Frame, Limits, fit
from sysdesign.diagrams.fonts import as_large_as
from sysdesign.diagrams.layout import engine
from sysdesign.diagrams.paint import paint
from sysdesign.diagrams.png import write_png
from sysdesign.diagrams.scene import compose
from sysdesign.diagrams.styles import STYLES
from sysdesign.errors import InputError
from sysdesign.graph import Architecture
from sysdesign.graph_rules import validate
from sysdesign.records import Box, Boxes

MAX_PIXELS, MAX_ASPECT, MIN_FONT_PX = 1_003_520, 3.0, 10.5


@dataclass(frozen=True)
class Rendered:
    """A written picture: its size, boxes, visible facts, and every line of text with its ink box."""

    width: int
    height: int
    boxes: Boxes
    visible: tuple[str, ...]
    min_font_px: float
    engine: str
    degraded: str | None
    texts: tuple[tuple[str, Box], ...]


def render(
    graph: Architecture, style: str, out: Path, *, show: Collection[str], seed: int | str, degraded: str | None = None,
    layout: str = "auto",
    max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT, min_font_px: float = MIN_FONT_PX,
) -> Rendered:  # fmt: skip
    """Draw `graph` in `style` to the PNG `out`; `show` holds the fact kinds to draw, such as `component.replicas`; equal
    arguments give equal bytes.

    Writes: `out`, in one step. Raises InputError (impossible graph, undrawable label, unknown style or kind), LimitError (no layout
    keeps the limits) and ToolError (Graphviz, font or icon missing).
    """
    if style not in STYLES:
        raise InputError("style", f"must be one of {', '.join(STYLES)}", "choose one of them", style)
    unknown = sorted(set(show) - facts.KINDS)
    if unknown:
        raise InputError("show", "must name fact kinds such as component.replicas or edge.protocol", "mend the spelling", unknown)
    validate(graph)
    rng = random.Random(f"{seed}/draw")
    scene = compose(graph, STYLES[style], show)
    using = engine(layout)
    # a picture seen from an angle is up to a tenth smaller than it was laid out
    needed = as_large_as(STYLES[style].family, min_font_px) / (0.9 if degraded == "perspective" else 1.0)
    frame = fit(graph, STYLES[style], scene, rng, using, Limits(max_pixels, max_aspect, needed))
    ink = paint(graph, STYLES[style], scene, frame, rng)
    picture, boxes, smallest = ink.image, _boxes(frame), ink.smallest_px
    if degraded:
        from sysdesign.diagrams.degrade import degrade

        picture, boxes, shrink = degrade(picture, boxes, degraded, rng)
        smallest *= shrink
    out.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture, out)
    return Rendered(picture.width, picture.height, boxes, facts.visible(graph, show), smallest, using, degraded, tuple(ink.texts))


def _boxes(frame: Frame) -> Boxes:
    from sysdesign.records import EdgeBox

    routes = []
    for index, route in enumerate(frame.placed.routes):
        path = tuple((round(x, 1), round(y, 1)) for x, y in (frame.point(p) for p in route.path))
        routes.append(EdgeBox(index=index, path=path, label=frame.labels.get(index)))
    return Boxes(
        components={key: frame.box(box) for key, box in frame.placed.nodes.items()},
        zones={key: frame.box(box) for key, box in frame.placed.zones.items()},
        edges=tuple(routes),
    )
