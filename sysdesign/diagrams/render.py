"""From a graph and a style to a picture and the exact boxes of everything in it.

Text is measured, Graphviz (or our own layout) places, Pillow draws at the final size. A picture that would break a limit - pixels, aspect,
smallest text - is laid out the other way round, and then refused with the reason.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sysdesign.diagrams import facts
from sysdesign.diagrams.labels import place_labels
from sysdesign.diagrams.layout import Placed, engine, place
from sysdesign.diagrams.paint import Frame, paint
from sysdesign.diagrams.png import write_png
from sysdesign.diagrams.scene import Scene, compose
from sysdesign.diagrams.styles import STYLES
from sysdesign.errors import InputError, LimitError
from sysdesign.graph import Architecture
from sysdesign.graph_rules import validate
from sysdesign.records import Box, Boxes

MAX_PIXELS, MAX_ASPECT, MIN_FONT_PX = 1_003_520, 3.0, 10.0
MARGIN, TITLE_PX, GAP = 18.0, 24.0, 10.0
NARROWEST = 440.0  # a legend needs this width


@dataclass(frozen=True)
class Rendered:
    """A written picture: its size, boxes, visible facts, and with `proof` every text with its ink box."""

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
    proof: bool = False,
) -> Rendered:  # fmt: skip
    """Draw `graph` in `style` to the PNG `out`; `show` holds the fact kinds to draw, such as `component.replicas`; `proof`
    measures every text; equal arguments give equal bytes.

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
    needed = min_font_px / 0.9 if degraded == "perspective" else min_font_px
    frame = _fit(graph, style, scene, rng, using, max_pixels, max_aspect, needed)
    ink = paint(graph, STYLES[style], scene, frame, rng)
    picture, boxes, smallest = ink.image, _boxes(frame), ink.smallest_px
    if degraded:
        from sysdesign.diagrams.degrade import degrade

        picture, boxes, shrink = degrade(picture, boxes, degraded, rng)
        smallest *= shrink
    out.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture, out)
    return Rendered(
        picture.width, picture.height, boxes, facts.visible(graph, show), smallest, using, degraded, tuple(ink.texts()) if proof else ()
    )


def _fit(graph, style, scene: Scene, rng, using, max_pixels, max_aspect, min_font_px) -> Frame:  # type: ignore[no-untyped-def]
    """The layout that keeps the largest text, of up to four; the first that is comfortable is taken at once."""
    look = STYLES[style]
    first = rng.choice(("LR", "TB"))
    cap = rng.choice((0.85, 0.92, 1.0))
    order = [(first, look.splines, 1.0), ("TB" if first == "LR" else "LR", look.splines, 1.0)]
    if using == "python":
        order += [(direction, splines, 1.5) for direction, splines, _ in order]
    elif look.splines == "ortho":
        order += [(direction, "polyline", 1.0) for direction, _, _ in order]
    best: Frame | None = None
    for direction, splines, spread in order:
        if best is not None and best.crowded == 0 and best.scale * look.text_px >= 1.12 * min_font_px:
            break
        placed = place(graph, scene.sizes, direction=direction, splines=splines, using=using, spread=spread)
        crowded = place_labels(placed, scene.sizes)
        frame = _frame(scene, placed, look, cap, crowded, max_pixels, max_aspect)
        if best is None or (frame.crowded == 0, frame.scale) > (best.crowded == 0, best.scale):
            best = frame
    assert best is not None
    smallest = math.floor(best.scale * look.text_px * 2) / 2
    if smallest < min_font_px:
        law = f"the smallest text must be at least {min_font_px:g} px in {max_pixels:,} px"
        raise LimitError(f"picture of {graph.title[:40]!r}", law, "show fewer facts, or split the system", f"{smallest:g} px")
    if best.crowded:
        law = "every arrow label must have a place of its own"
        raise LimitError(f"picture of {graph.title[:40]!r}", law, "show fewer facts, or split the system", f"{best.crowded} covered")
    return best


def _frame(scene: Scene, placed: Placed, look, cap: float, crowded: int, max_pixels: int, max_aspect: float) -> Frame:  # type: ignore[no-untyped-def]
    """The page around a layout: title above, legend below, margins, and the scale that meets the limits."""
    from sysdesign.diagrams.fonts import family_for, wrap

    inner = max(placed.width, NARROWEST, placed.height / max_aspect)
    legend = [part for text in scene.legend for part in wrap(family_for(look.family, text), look.text_px, text, (inner - 20) / 1.04)]
    top = MARGIN + TITLE_PX * 1.3 * len(wrap(family_for(look.family, scene.title), TITLE_PX, scene.title, inner / 1.04, True)) + GAP
    bottom = (len(legend) * look.text_px * 1.3 + 2 * GAP if legend else 0) + MARGIN
    wide, high = inner + 2 * MARGIN, placed.height + top + bottom
    high = max(high, wide / max_aspect)  # a strip gets air rather than a refusal
    wide = max(wide, high / max_aspect)
    scale = min(cap, math.sqrt(max_pixels / (wide * high)) * 0.999)
    return Frame(placed, scale, math.floor(wide * scale), math.floor(high * scale), (wide - placed.width) / 2, top, legend, crowded)


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
