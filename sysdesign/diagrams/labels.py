"""Places for arrow labels where the layout gave none, or one on a zone's title: on the arrow, clear of boxes, titles and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sysdesign.diagrams.layout import Placed, Point, Sizes
from sysdesign.records import Box


def place_labels(placed: Placed, sizes: Sizes) -> int:
    """Give every label without a place one; returns how many had to be put where they cover a box, title or label."""
    titles = [(x, y, x + sizes.zones[zone][0], y + sizes.zones[zone][1]) for zone, (x, y) in placed.titles.items()]
    taken = [*placed.nodes.values(), *titles]
    for route, size in zip(placed.routes, sizes.labels, strict=True):
        if size and route.label:
            box = around(route.label, size)
            if any(overlap(box, title) for title in titles):
                route.label = None  # Graphviz knows nothing of titles: look for a better place below
            else:
                taken.append(box)
    covered = 0
    for index, (route, size) in enumerate(zip(placed.routes, sizes.labels, strict=True)):
        if not size or route.label:
            continue
        others = [pair for i, r in enumerate(placed.routes) if i != index for pair in pairwise(r.path)]
        best, cost = route.path[len(route.path) // 2], float("inf")
        for at in _along(route.path):
            box = around(at, size)
            if box[0] < 0 or box[1] < 0 or box[2] > placed.width or box[3] > placed.height:
                continue
            price = 100 * sum(overlap(box, other) for other in taken)
            if price < cost:
                price += _touches(box, others)
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
    if a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]:
        return 0.0
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(1.0, wide * high) if wide > 0 and high > 0 else 0.0


def _along(path: Sequence[Point]) -> list[Point]:
    """Points of the path: middles of long stretches first, then every so often from the middle outwards."""
    stretches = sorted(pairwise(path), key=lambda ends: -math.dist(*ends))
    out = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in stretches[:3]]
    total = sum(math.dist(a, b) for a, b in pairwise(path))
    for share in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.12, 0.88):
        left = total * share
        for a, b in pairwise(path):
            step = math.dist(a, b)
            if left <= step and step > 0:
                out.append((a[0] + (b[0] - a[0]) * left / step, a[1] + (b[1] - a[1]) * left / step))
                break
            left -= step
    return out


def _touches(box: Box, segments: Sequence[tuple[Point, Point]]) -> int:
    """Segments whose bounds meet the box."""
    x0, y0, x1, y1 = box
    found = 0
    for (ax, ay), (bx, by) in segments:
        if (ax < x1 or bx < x1) and (ax > x0 or bx > x0) and (ay < y1 or by < y1) and (ay > y0 or by > y0):
            found += 1
    return found
