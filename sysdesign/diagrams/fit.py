"""From a measured scene to the layout its picture gets: of several, the one whose text is large and whose arrows can be told apart.

A layout that would break a limit - pixels, aspect, smallest text, a label on top of something, two arrows in one line - is made the
other way round, closer together, with other arrows, and at last refused with the reason.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from sysdesign.diagrams.fonts import family_for, wrap
from sysdesign.diagrams.labels import Labelled, merged, place_labels
from sysdesign.diagrams.layout import Engine, Placed, Point, place
from sysdesign.diagrams.scene import Scene
from sysdesign.diagrams.styles import Style
from sysdesign.errors import LimitError
from sysdesign.graph import Architecture
from sysdesign.records import Box

MARGIN, TITLE_PX, GAP = 18.0, 24.0, 10.0
COMFORT = 1.1  # text so much larger than the smallest ends the search at the first direction
TIGHT, TIGHT_GAIN = 0.5, 1.12  # gaps of a system that is too large for its picture otherwise, and how much larger text gets at most
NARROWEST = 440.0  # a legend needs this width
CLEAR = Labelled()


@dataclass(frozen=True)
class Limits:
    """What a picture must keep; `min_font_px` in the style's own font."""

    max_pixels: int
    max_aspect: float
    min_font_px: float


@dataclass
class Frame:
    """A layout on its page: `scale` pixels for each design pixel, the layout's origin at (`left`, `top`) design pixels."""

    placed: Placed
    scale: float
    width: int
    height: int
    left: float
    top: float
    legend: list[str]
    labelled: Labelled = CLEAR
    merged: int = 0
    labels: dict[int, Box] = field(default_factory=dict)  # filled while painting, pixels

    def point(self, p: Point) -> Point:
        """Layout point to pixels."""
        return (p[0] + self.left) * self.scale, (p[1] + self.top) * self.scale

    def box(self, b: Box) -> Box:
        """Layout box to pixels."""
        x0, y0 = self.point((b[0], b[1]))
        x1, y1 = self.point((b[2], b[3]))
        return round(x0, 1), round(y0, 1), round(x1, 1), round(y1, 1)

    def px(self, design_px: float) -> float:
        """Font size in pixels, in half-pixel steps so that few fonts are loaded."""
        return math.floor(design_px * self.scale * 2) / 2

    @property
    def clear(self) -> bool:
        """Whether every label and arrow can be told from the others."""
        return self.labelled == CLEAR and not self.merged

    def merit(self, look: Style, limits: Limits) -> tuple[bool, bool, bool, int, float]:
        """The greater the better: first what must hold, then labels that no other arrow runs through, then size."""
        fits = self.px(look.text_px) >= limits.min_font_px
        return fits, not self.labelled.covering, not self.merged, -self.labelled.crossed, self.scale


def fit(graph: Architecture, look: Style, scene: Scene, rng: random.Random, using: Engine, limits: Limits) -> Frame:
    """The best layout of up to six; the first that has no fault and comfortable text is taken at once.

    Both directions come first; then, where the text would be too small, the same ones closer together (a wide picture reads better than
    a tight one); then, where arrows or labels are unclear, arrows of another kind. Raises LimitError when the best breaks a limit.
    """
    first = rng.choice(("LR", "TB"))
    cap = rng.choice((0.85, 0.92, 1.0))
    best: Frame | None = None

    def attempt(ways: Sequence[str], splines: str, spread: float, enough_px: float) -> dict[str, float]:
        """Lay out each way until one is good enough; returns the size of the smallest text by way."""
        nonlocal best
        text_px: dict[str, float] = {}
        for way in ways:
            if best is not None and best.clear and best.px(look.text_px) >= enough_px:
                break
            placed = place(graph, scene.sizes, direction=way, splines=splines, using=using, spread=spread)
            frame = _frame(scene, placed, look, cap, limits)
            text_px[way] = frame.scale * look.text_px
            if frame.px(look.text_px) >= limits.min_font_px:  # otherwise nothing else about it matters
                frame.labelled = place_labels(placed, scene.sizes)
                frame.merged = merged(placed, [(e.src, e.dst) for e in graph.edges])
            if best is None or frame.merit(look, limits) > best.merit(look, limits):
                best = frame
        return text_px

    found = attempt((first, "TB" if first == "LR" else "LR"), look.splines, 1.0, limits.min_font_px * COMFORT)
    assert best is not None
    if using == "python":
        attempt(tuple(found), look.splines, 1.5, limits.min_font_px)
    else:
        fits = best.px(look.text_px) >= limits.min_font_px
        spread = 1.0 if fits else TIGHT
        if not fits:
            found = attempt(
                [way for way, px in found.items() if px * TIGHT_GAIN >= limits.min_font_px], look.splines, spread, limits.min_font_px
            )
        if best.px(look.text_px) >= limits.min_font_px:
            able = [way for way, px in found.items() if px >= limits.min_font_px]
            attempt(able, "polyline" if look.splines == "ortho" else "ortho", spread, limits.min_font_px)

    smallest = best.px(look.text_px)
    if smallest < limits.min_font_px:
        law = f"the smallest text must be at least {limits.min_font_px:.3g} px in {limits.max_pixels:,} px"
        raise _refused(graph, law, f"{smallest:g} px")
    if best.labelled.covering:
        raise _refused(graph, "every arrow label must have a place of its own", f"{best.labelled.covering} covered")
    if best.merged:
        raise _refused(graph, "arrows between different components must not run in one line", f"{best.merged} pairs do")
    return best


def _refused(graph: Architecture, law: str, got: str) -> LimitError:
    return LimitError(f"picture of {graph.title[:40]!r}", law, "show fewer facts, or split the system", got)


def _frame(scene: Scene, placed: Placed, look: Style, cap: float, limits: Limits) -> Frame:
    """The page around a layout: title above, legend below, margins, and the scale that meets the limits."""
    inner = max(placed.width, NARROWEST, placed.height / limits.max_aspect)
    legend = [part for text in scene.legend for part in wrap(family_for(look.family, text), look.text_px, text, (inner - 20) / 1.04)]
    top = MARGIN + TITLE_PX * 1.3 * len(wrap(family_for(look.family, scene.title), TITLE_PX, scene.title, inner / 1.04, True)) + GAP
    bottom = (len(legend) * look.text_px * 1.3 + 2 * GAP if legend else 0) + MARGIN
    wide, high = inner + 2 * MARGIN, placed.height + top + bottom
    high = max(high, wide / limits.max_aspect)  # a strip gets air rather than a refusal
    wide = max(wide, high / limits.max_aspect)
    scale = min(cap, math.sqrt(limits.max_pixels / (wide * high)) * 0.999)
    left = (wide - placed.width) / 2
    return Frame(placed, scale, math.floor(wide * scale), math.floor(high * scale), left, top, legend)
