"""Places for arrow labels where the layout gave none: on the arrow itself, clear of boxes, titles and other labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sysdesign.diagrams.layout import Placed, Point, Sizes
from sysdesign.records import Box


def place_labels(placed: Placed, sizes: Sizes) -> int:
    """Give every label without a place one; returns how many had to be put where they cover a box, title or label."""
    taken = list(placed.nodes.values())
    for zone, (x, y) in placed.titles.items():
        taken.append((x, y, x + sizes.zones[zone][0], y + sizes.zones[zone][1]))
    for route, size in zip(placed.routes, sizes.labels, strict=True):
        if size and route.label:
            taken.append(around(route.label, size))
    covered = 0
    for index, (route, size) in enumerate(zip(placed.routes, sizes.labels, strict=True)):
        if not size or route.label:
            continue
        others = [r.path for i, r in enumerate(placed.routes) if i != index]
        best, cost = route.path[len(route.path) // 2], float("inf")
        for at in _along(route.path):
            box = around(at, size)
            if box[0] < 0 or box[1] < 0 or box[2] > placed.width or box[3] > placed.height:
                continue
            price = 100 * sum(overlap(box, other) for other in taken) + sum(_touches(box, path) for path in others)
            if price < cost - 1e-9:
                best, cost = at, price
            if cost == 0:
                break
        route.label = best
        covered += cost >= 100
        taken.append(around(best, size))
    return covered


def around(middle: Point, size: tuple[float, float]) -> Box:
    """The box of `size` with that middle."""
    return (middle[0] - size[0] / 2, middle[1] - size[1] / 2, middle[0] + size[0] / 2, middle[1] + size[1] / 2)


def overlap(a: Box, b: Box) -> float:
    """Shared area; at least 1 where boxes touch inside."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(1.0, wide * high) if wide > 0 and high > 0 else 0.0


def _along(path: Sequence[Point]) -> list[Point]:
    """Points of the path: middles of long stretches first, then every so often from the middle outwards."""
    stretches = sorted(zip(path, path[1:], strict=False), key=lambda ends: -math.dist(*ends))
    out = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in stretches[:3]]
    total = sum(math.dist(a, b) for a, b in zip(path, path[1:], strict=False))
    for share in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.12, 0.88):
        left = total * share
        for a, b in zip(path, path[1:], strict=False):
            step = math.dist(a, b)
            if left <= step and step > 0:
                out.append((a[0] + (b[0] - a[0]) * left / step, a[1] + (b[1] - a[1]) * left / step))
                break
            left -= step
    return out


def _touches(box: Box, path: Sequence[Point]) -> int:
    """Segments of the path that run through the box's bounds."""
    return sum(
        min(a[0], b[0]) < box[2] and max(a[0], b[0]) > box[0] and min(a[1], b[1]) < box[3] and max(a[1], b[1]) > box[1]
        for a, b in zip(path, path[1:], strict=False)
    )
