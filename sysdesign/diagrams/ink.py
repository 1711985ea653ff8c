"""A canvas whose strokes are smooth: paths of one colour share a mask at twice the size, so a picture costs a few passes, not one a line.

Text is drawn at native size, where the font rasteriser is already smooth; supersampling it would only blur what a model must read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sysdesign.diagrams.fonts import family_for, font
from sysdesign.records import Box

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
_FINE = 2


class Ink:
    """Draws onto one RGB image; strokes wait until `flush`, so that what is painted later lies above."""

    def __init__(self, size: tuple[int, int], page: Colour) -> None:
        from PIL import Image, ImageDraw

        self.image: Image = Image.new("RGB", size, page)
        self._draw = ImageDraw.Draw(self.image)
        self._waiting: dict[Colour, list[tuple[Sequence[Point], float]]] = {}
        self._solid: dict[Colour, list[Sequence[Point]]] = {}
        self._written: list[tuple[str, tuple[int, int], FreeTypeFont, str]] = []
        self.smallest_px = float("inf")

    def fill(self, polygon: Sequence[Point], colour: Colour) -> None:
        """Paint a polygon at once, jagged; a stroke along its edge hides that."""
        self._draw.polygon(polygon, fill=colour)

    def stroke(self, path: Sequence[Point], colour: Colour, width_px: float) -> None:
        """Draw a smooth line at the next flush."""
        self._waiting.setdefault(colour, []).append((path, width_px))

    def solid(self, polygon: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon smoothly at the next flush."""
        self._solid.setdefault(colour, []).append(polygon)

    def flush(self) -> None:
        """Paint all waiting strokes."""
        from PIL import Image, ImageDraw

        for colour in sorted({*self._waiting, *self._solid}):
            paths, polygons = self._waiting.get(colour, []), self._solid.get(colour, [])
            x0, y0, x1, y1 = self._bounds([*(p for p, _ in paths), *polygons])
            if x1 <= x0 or y1 <= y0:
                continue
            mask = Image.new("L", ((x1 - x0) * _FINE, (y1 - y0) * _FINE), 0)
            pen = ImageDraw.Draw(mask)
            for path, width in paths:
                points = [((x - x0) * _FINE, (y - y0) * _FINE) for x, y in path]
                pen.line(points, fill=255, width=max(1, round(width * _FINE)), joint="curve" if len(points) > 2 else None)
            for polygon in polygons:
                pen.polygon([((x - x0) * _FINE, (y - y0) * _FINE) for x, y in polygon], fill=255)
            self.image.paste(colour, (x0, y0, x1, y1), mask.reduce(_FINE))
        self._waiting.clear()
        self._solid.clear()

    def paste(self, picture: Image, at: tuple[int, int]) -> None:
        """Paste an RGBA picture."""
        self.image.paste(picture, at, picture)

    def text(self, at: Point, text: str, family: str, size_px: float, colour: Colour, *, bold: bool = False, centred: bool = True) -> None:
        """Write one line whose middle (or left end) is at `at`."""
        face = font(family_for(family, text), size_px, bold)
        anchor = "mm" if centred else "lm"
        place = (round(at[0]), round(at[1]))
        self._draw.text(place, text, font=face, fill=colour, anchor=anchor)
        self._written.append((text, place, face, anchor))
        self.smallest_px = min(self.smallest_px, size_px)

    def texts(self) -> list[tuple[str, Box]]:
        """Every line written and its ink box; measured only when asked, since it costs as much as a third of the drawing."""
        boxes = [(text, self._draw.textbbox(at, text, font=face, anchor=anchor)) for text, at, face, anchor in self._written]
        return [(text, (float(x0), float(y0), float(x1), float(y1))) for text, (x0, y0, x1, y1) in boxes]

    def _bounds(self, paths: Sequence[Sequence[Point]]) -> tuple[int, int, int, int]:
        xs = [x for path in paths for x, _ in path]
        ys = [y for path in paths for _, y in path]
        w, h = self.image.size
        return max(0, int(min(xs)) - 4), max(0, int(min(ys)) - 4), min(w, int(max(xs)) + 5), min(h, int(max(ys)) + 5)
