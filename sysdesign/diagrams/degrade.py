"""From a clean picture to a worn one: JPEG, blur, perspective or low contrast, with the boxes moved along."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from sysdesign.errors import InputError
from sysdesign.records import Box, Boxes

if TYPE_CHECKING:
    from PIL.Image import Image

Point = tuple[float, float]


def degrade(picture: Image, boxes: Boxes, kind: str, rng: random.Random) -> tuple[Image, Boxes, float]:
    """(picture, boxes, how much smaller text became) after damage of a kind. Raises InputError for an unknown kind."""
    from PIL import Image, ImageFilter

    match kind:
        case "jpeg":
            coded = io.BytesIO()
            picture.save(coded, format="JPEG", quality=rng.choice((18, 25, 32, 40)), subsampling=2)
            return Image.open(io.BytesIO(coded.getvalue())).convert("RGB"), boxes, 1.0
        case "blur":
            return picture.filter(ImageFilter.GaussianBlur(rng.choice((0.6, 0.8, 1.0)))), boxes, 1.0
        case "low_contrast":
            grey = Image.new("RGB", picture.size, rng.choice(((200, 200, 200), (120, 120, 125), (228, 220, 205))))
            return Image.blend(picture, grey, rng.choice((0.45, 0.55, 0.62))), boxes, 1.0
        case "perspective":
            return _perspective(picture, boxes, rng)
        case _:
            raise InputError("degraded", "must be jpeg, blur, perspective or low_contrast", "choose one of them", kind)


def _perspective(picture: Image, boxes: Boxes, rng: random.Random) -> tuple[Image, Boxes, float]:
    """As photographed from an angle: each corner moves in by up to 5 %; every box becomes the bounds of its moved corners."""
    from PIL import Image

    w, h = picture.size

    def inwards(side: int) -> float:
        return rng.uniform(0.005, 0.05) * side

    corners = [
        (inwards(w), inwards(h)), (w - inwards(w), inwards(h)), (w - inwards(w), h - inwards(h)), (inwards(w), h - inwards(h)),
    ]  # fmt: skip
    flat = [(0.0, 0.0), (float(w), 0.0), (float(w), float(h)), (0.0, float(h))]
    back = _homography(corners, flat)  # Pillow asks where each output pixel comes from
    table = rng.choice(((96, 84, 72), (60, 62, 66), (205, 200, 190)))
    moved = picture.transform((w, h), Image.Transform.PERSPECTIVE, back, Image.Resampling.BICUBIC, fillcolor=table)
    forth = _mapper(_homography(flat, corners))
    shrink = min(corners[1][0] - corners[0][0], corners[2][0] - corners[3][0]) / w
    return moved, _moved(boxes, forth), min(shrink, min(corners[3][1] - corners[0][1], corners[2][1] - corners[1][1]) / h)


def _homography(src: list[Point], dst: list[Point]) -> list[float]:
    """Eight coefficients that take each of four points to its partner."""
    rows = []
    for (x, y), (u, v) in zip(src, dst, strict=True):
        rows += [[x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, u], [0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, v]]
    for at in range(8):  # Gauss-Jordan, in plain floats: the same bytes whatever linear algebra is installed
        pivot = max(range(at, 8), key=lambda row: abs(rows[row][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        rows[at] = [value / rows[at][at] for value in rows[at]]
        for other in range(8):
            if other != at:
                rows[other] = [a - rows[other][at] * b for a, b in zip(rows[other], rows[at], strict=True)]
    return [row[8] for row in rows]


def _mapper(c: list[float]) -> Callable[[Point], Point]:
    def move(p: Point) -> Point:
        x, y = p
        depth = c[6] * x + c[7] * y + 1
        return round((c[0] * x + c[1] * y + c[2]) / depth, 1), round((c[3] * x + c[4] * y + c[5]) / depth, 1)

    return move


def _moved(boxes: Boxes, move: Callable[[Point], Point]) -> Boxes:
    def around(box: Box) -> Box:
        points = [move(p) for p in ((box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3]))]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return min(xs), min(ys), max(xs), max(ys)

    edges = tuple(
        e.model_copy(update={"path": tuple(move(p) for p in e.path), "label": around(e.label) if e.label else None}) for e in boxes.edges
    )
    return Boxes(
        components={k: around(b) for k, b in boxes.components.items()}, zones={k: around(b) for k, b in boxes.zones.items()}, edges=edges
    )
