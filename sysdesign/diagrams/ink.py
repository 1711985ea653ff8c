"""A canvas whose strokes are smooth: paths of one colour share a mask at twice the size, so a picture costs a few passes, not one a line.

Text is drawn at native size, where the font rasteriser is already smooth; supersampling it would only blur what a model must read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from sysdesign.diagrams.fonts import family_for, font, width
from sysdesign.records import Box

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]
_FINE = 2
_AROUND = 4  # pixels around a word: letters may reach beyond their advance
_TILE = 128  # pixels
_SMALL = 4 * _TILE * _TILE  # pixels: not worth dividing


class Ink:
    """Draws onto one RGB image; strokes wait until `flush`, so that what is painted later lies above."""

    def __init__(self, size: tuple[int, int], page: Colour) -> None:
        from PIL import Image, ImageDraw

        self.image: Image = Image.new("RGB", size, page)
        self._draw = ImageDraw.Draw(self.image)
        self._waiting: dict[Colour, list[tuple[Sequence[Point], float]]] = {}
        self._solid: dict[Colour, list[Sequence[Point]]] = {}
        self.texts: list[tuple[str, Box]] = []  # every line written and its ink box
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
            for path, width_px in paths:
                points = [((x - x0) * _FINE, (y - y0) * _FINE) for x, y in path]
                pen.line(points, fill=255, width=max(1, round(width_px * _FINE)), joint="curve" if len(points) > 2 else None)
            for polygon in polygons:
                pen.polygon([((x - x0) * _FINE, (y - y0) * _FINE) for x, y in polygon], fill=255)
            if (x1 - x0) * (y1 - y0) <= _SMALL:
                self.image.paste(colour, (x0, y0, x1, y1), mask.reduce(_FINE))
                continue
            # a filled polygon's inside counts too: its corners as one path that is never halved
            solid = [self._corners(polygon) for polygon in polygons]
            for left, top in sorted(_tiles([*(path for path, _ in paths), *solid], x0, y0)):
                right, bottom = min(left + _TILE, x1 - x0), min(top + _TILE, y1 - y0)
                if right > left and bottom > top:
                    part = mask.reduce(_FINE, box=(left * _FINE, top * _FINE, right * _FINE, bottom * _FINE))
                    self.image.paste(colour, (x0 + left, y0 + top, x0 + right, y0 + bottom), part)
        self._waiting.clear()
        self._solid.clear()

    def paste(self, picture: Image, at: tuple[int, int]) -> None:
        """Paste an RGBA picture."""
        self.image.paste(picture, at, picture)

    def text(self, at: Point, text: str, family: str, size_px: float, colour: Colour, *, bold: bool = False, centred: bool = True) -> None:
        """Write one line whose middle (or left end) is at `at`."""
        family = family_for(family, text)
        ascent, descent = font(family, size_px, bold).getmetrics()
        words = text.split(" ")
        space = width(family, size_px, " ", bold)
        advances = [width(family, size_px, word, bold) for word in words]
        left = round(at[0]) - (sum(advances) + space * (len(words) - 1)) / 2 if centred else float(round(at[0]))
        base = round(at[1]) + round((ascent - descent) / 2)
        boxes = []
        for word, advance in zip(words, advances, strict=True):
            mask, (dx, dy) = _word(family, size_px, bold, word)
            x, y = round(left) + dx, base + dy
            self.image.paste(colour, (x, y), mask)
            boxes.append((x, y, x + mask.width, y + mask.height))
            left += advance + space
        self.texts.append((text, (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))))
        self.smallest_px = min(self.smallest_px, size_px)

    @staticmethod
    def _corners(polygon: Sequence[Point]) -> tuple[Point, Point]:
        xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
        return (min(xs), min(ys)), (max(xs), max(ys))

    def _bounds(self, paths: Sequence[Sequence[Point]]) -> tuple[int, int, int, int]:
        xs = [x for path in paths for x, _ in path]
        ys = [y for path in paths for _, y in path]
        w, h = self.image.size
        return max(0, int(min(xs)) - 4), max(0, int(min(ys)) - 4), min(w, int(max(xs)) + 5), min(h, int(max(ys)) + 5)


def _tiles(paths: Sequence[Sequence[Point]], x0: int, y0: int) -> set[tuple[int, int]]:
    """Corners, counted from (x0, y0), of the tiles that the paths may reach: most of a page is empty between its arrows."""
    found: set[tuple[int, int]] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        xs, ys = [x - x0 for x, _ in path], [y - y0 for _, y in path]
        left, right = max(0, int(min(xs)) - 4) // _TILE, max(0, int(max(xs)) + 4) // _TILE
        top, bottom = max(0, int(min(ys)) - 4) // _TILE, max(0, int(max(ys)) + 4) // _TILE
        if (right - left) * (bottom - top) and len(path) > 2:  # a long way: the bounds of its halves are tighter
            waiting += [path[: len(path) // 2 + 1], path[len(path) // 2 :]]
        else:
            found.update((column * _TILE, row * _TILE) for column in range(left, right + 1) for row in range(top, bottom + 1))
    return found


@lru_cache(maxsize=16384)
def _word(family: str, size_px: float, bold: bool, word: str) -> tuple[Image, tuple[int, int]]:
    """The mask of a word, and where its corner lies from its start on the baseline. Words recur from picture to picture; rendering them
    anew took a third of the time of a picture."""
    from PIL import Image, ImageDraw

    face = font(family, size_px, bold)
    ascent, descent = face.getmetrics()
    wide = math.ceil(width(family, size_px, word, bold)) + 2 * _AROUND
    mask = Image.new("L", (wide, ascent + descent + 2 * _AROUND), 0)
    ImageDraw.Draw(mask).text((_AROUND, ascent + _AROUND), word, font=face, fill=255, anchor="ls")
    x0, y0, x1, y1 = mask.getbbox() or (_AROUND, ascent + _AROUND, _AROUND + 1, ascent + _AROUND + 1)
    return mask.crop((x0, y0, x1, y1)), (x0 - _AROUND, y0 - ascent - _AROUND)
