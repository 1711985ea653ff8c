"""From a shape's name and a box to its outline: the polygon that is filled and the strokes that are drawn.

`inflate` says how large a box must be for its text; `outline` stays inside the box, so the box is the component's exact extent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

from sysdesign.records import Box

Point = tuple[float, float]
Path = list[Point]
CAP = 9.0  # depth of a cylinder's lid, design pixels


def inflate(shape: str, width: float, height: float) -> tuple[float, float]:
    """Size of the box around text of `width` x `height`, without padding."""
    match shape:
        case "cylinder" | "drum":
            return width, height + 2.2 * CAP
        case "pipe":
            return width + 3 * CAP, height
        case "hexagon":
            return width + 3 * CAP, height
        case "ellipse":
            return width * 1.25, height * 1.3
        case "cloud":
            return width * 1.2 + 12, height * 1.25 + 14
        case "stadium":
            return width + height * 0.5, height
        case "person":
            return width, height + 26
        case "bucket":
            return width + 20, height
        case _:
            return width, height


def text_shift(shape: str) -> float:
    """How far below the middle the text sits, design pixels."""
    return {"cylinder": CAP * 0.8, "drum": CAP * 0.8, "person": 13.0}.get(shape, 0.0)


def outline(shape: str, box: Box, corner: float, scale: float) -> tuple[Path, list[Path]]:
    """(filled polygon, strokes) of a shape in pixels; `scale` is pixels per design pixel."""
    x0, y0, x1, y1 = box
    cap, mid = CAP * scale, (y0 + y1) / 2
    match shape:
        case "cylinder" | "drum":
            top = _arc((x0 + x1) / 2, y0 + cap, (x1 - x0) / 2, cap, 180, 360)
            bottom = _arc((x0 + x1) / 2, y1 - cap, (x1 - x0) / 2, cap, 0, 180)
            body = [*top, *bottom, top[0]]
            lid = _arc((x0 + x1) / 2, y0 + cap, (x1 - x0) / 2, cap, 0, 180)
            second = [(x, y + cap * 0.8) for x, y in lid]
            return body, [body, lid, second] if shape == "drum" else [body, lid]
        case "pipe":
            left = _arc(x0 + cap, mid, cap, (y1 - y0) / 2, 90, 270)
            right = _arc(x1 - cap, mid, cap, (y1 - y0) / 2, -90, 90)
            body = [*left, *right, left[0]]
            return body, [body, _arc(x1 - cap, mid, cap, (y1 - y0) / 2, 90, 270)]
        case "hexagon":
            step = 1.3 * cap
            body = [(x0, mid), (x0 + step, y0), (x1 - step, y0), (x1, mid), (x1 - step, y1), (x0 + step, y1), (x0, mid)]
            return body, [body]
        case "ellipse":
            body = _arc((x0 + x1) / 2, mid, (x1 - x0) / 2, (y1 - y0) / 2, 0, 360)
            return body, [body]
        case "cloud":
            body = _cloud(box)
            return body, [body]
        case "stadium":
            return _same(rounded(box, (y1 - y0) / 2))
        case "bucket":
            lean = 8 * scale
            body = [(x0, y0), (x1, y0), (x1 - lean, y1), (x0 + lean, y1), (x0, y0)]
            return body, [body]
        case "person":
            radius = 11 * scale
            head = _arc((x0 + x1) / 2, y0 + radius, radius, radius, 0, 360)
            return _same(rounded((x0, y0 + 2.1 * radius, x1, y1), 10 * scale), head)
        case "corners":
            arm = min(18 * scale, (x1 - x0) / 3, (y1 - y0) / 3)
            marks = [
                [(x, y + dy * arm), (x, y), (x + dx * arm, y)]
                for x, y, dx, dy in ((x0, y0, 1, 1), (x1, y0, -1, 1), (x1, y1, -1, -1), (x0, y1, 1, -1))
            ]
            return rounded(box, 0), marks
        case "round":
            return _same(rounded(box, 12 * scale))
        case _:
            return _same(rounded(box, corner * scale))


def rounded(box: Box, radius: float) -> Path:
    """Closed path of a rectangle with round corners."""
    x0, y0, x1, y1 = box
    r = max(0.0, min(radius, (x1 - x0) / 2, (y1 - y0) / 2))
    if r < 0.5:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    path = [
        *_arc(x1 - r, y0 + r, r, r, -90, 0, 5), *_arc(x1 - r, y1 - r, r, r, 0, 90, 5),
        *_arc(x0 + r, y1 - r, r, r, 90, 180, 5), *_arc(x0 + r, y0 + r, r, r, 180, 270, 5),
    ]  # fmt: skip
    return [*path, path[0]]


def dash(path: Sequence[Point], on: float, off: float) -> list[Path]:
    """The path cut into dashes of `on` pixels with gaps of `off`."""
    pieces: list[Path] = []
    piece: Path = [path[0]] if path else []
    left, drawing = on, True
    for (ax, ay), (bx, by) in pairwise(path):
        length = math.hypot(bx - ax, by - ay)
        done = 0.0
        while length - done > left:
            done += left
            at = (ax + (bx - ax) * done / length, ay + (by - ay) * done / length)
            if drawing:
                pieces.append([*piece, at])
            piece, drawing = [at], not drawing
            left = on if drawing else off
        left -= length - done
        if drawing:
            piece.append((bx, by))
    if drawing and len(piece) > 1:
        pieces.append(piece)
    return pieces


def wobble(path: Sequence[Point], amount: float, rng: random.Random) -> Path:
    """The path as a hand draws it: resampled, and pushed aside by slow waves of about `amount` pixels."""
    if len(path) < 2:
        return list(path)
    px, py, qx, qy = (rng.uniform(0, 2 * math.pi) for _ in range(4))
    short, long = 2 * math.pi / rng.uniform(38, 60), 2 * math.pi / rng.uniform(70, 120)
    out: Path = []
    walked = 0.0
    for (ax, ay), (bx, by) in pairwise(path):
        length = math.hypot(bx - ax, by - ay)
        steps = max(1, int(length / 13))
        for step in range(steps):
            t = step / steps
            s = walked + length * t
            dx = amount * (0.6 * math.sin(s * short + px) + 0.4 * math.sin(s * long + qx))
            dy = amount * (0.6 * math.sin(s * short + py) + 0.4 * math.sin(s * long + qy))
            out.append((ax + (bx - ax) * t + dx, ay + (by - ay) * t + dy))
        walked += length
    return [*out, path[-1]]


def arrowhead(tip: Point, before: Point, size: float) -> Path:
    """Closed triangle that ends at `tip`, coming from `before`."""
    angle = math.atan2(tip[1] - before[1], tip[0] - before[0])
    sides = [(tip[0] - size * math.cos(angle + turn), tip[1] - size * math.sin(angle + turn)) for turn in (-0.42, 0.42)]
    return [tip, *sides, tip]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, steps: int = 0) -> Path:
    count = steps or max(8, int(abs(end - start) / 12))
    return [
        (
            cx + rx * math.cos(math.radians(start + (end - start) * i / count)),
            cy + ry * math.sin(math.radians(start + (end - start) * i / count)),
        )
        for i in range(count + 1)
    ]


def _cloud(box: Box) -> Path:
    """Bumps along an ellipse, scaled so that the outermost bump touches the box."""
    x0, y0, x1, y1 = box
    raw = []
    for i in range(121):
        angle = 2 * math.pi * i / 120
        r = 0.86 + 0.14 * abs(math.sin(4.5 * angle + 0.4))
        raw.append((r * math.cos(angle), r * math.sin(angle)))
    left, right = min(x for x, _ in raw), max(x for x, _ in raw)
    top, bottom = min(y for _, y in raw), max(y for _, y in raw)
    return [(x0 + (x - left) / (right - left) * (x1 - x0), y0 + (y - top) / (bottom - top) * (y1 - y0)) for x, y in raw]


def _same(path: Path, *more: Path) -> tuple[Path, list[Path]]:
    return path, [path, *more]
