"""Places for arrow labels where the layout gave none, or one that misleads: on their arrow, clear of boxes, of other arrows if they can."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from sysdesign.diagrams.layout import Placed, Point, Sizes
from sysdesign.records import Box

MESH, RUN = 6, 30  # design pixels: closer than half of one is one line (up to one may be), for longer than the other is no crossing
LOOSE = 8.0  # design pixels between a label and its arrow


def merged(placed: Placed, ends: Sequence[tuple[str, str]]) -> int:
    """Pairs of arrows that share neither source nor target and run in one line for a while, so that nobody can say which goes where.

    Arrows that fork from one source or meet at one target are read as that. Two grids, half a cell apart: two lines less than
    half a cell apart that one grid parts lie in the same cells of the other.
    """
    import numpy as np

    parts = [(*a, *b, index) for index, route in enumerate(placed.routes) for a, b in pairwise(route.path)]
    if len(placed.routes) < 2 or not parts:
        return 0
    ax, ay, bx, by, owner = np.array(parts).T
    count = np.ceil(np.sqrt((bx - ax) ** 2 + (by - ay) ** 2) / MESH).astype(np.int64)
    part: Any = np.repeat(np.arange(len(parts)), count)
    share = (np.arange(len(part)) - np.repeat(np.cumsum(count) - count, count)) / count[part]
    x, y = ax[part] + (bx - ax)[part] * share, ay[part] + (by - ay)[part] * share
    cells = []
    for grid in (0, 1):
        column, row = ((np.floor(v / MESH + grid / 2).astype(np.int64) + 64) for v in (x, y))
        cells.append((((grid << 20 | column) << 20 | row) << 12) | owner[part].astype(np.int64))
    marked = np.unique(np.concatenate(cells))
    places, owners = marked >> 12, marked & 0xFFF
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    sizes: Any = np.diff(np.append(starts, len(places)))
    shared: Counter[tuple[int, int]] = Counter()
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        shared.update(combinations(owners[start : start + size].tolist(), 2))
    foreign = [times for (a, b), times in shared.items() if ends[a][0] != ends[b][0] and ends[a][1] != ends[b][1]]
    return sum(times >= 2 * RUN / MESH for times in foreign)


@dataclass(frozen=True)
class Labelled:
    """How many labels found only a place where they cover a box, title or label, and how many one where another arrow runs through."""

    covering: int = 0
    crossed: int = 0


def place_labels(placed: Placed, sizes: Sizes) -> Labelled:
    """Give every label a place at its own arrow.

    A place that Graphviz gave is kept unless it lies on a zone's title, of which Graphviz knows nothing, or nearer to another arrow.
    """
    titles = [(x, y, x + sizes.zones[zone][0], y + sizes.zones[zone][1]) for zone, (x, y) in placed.titles.items()]
    taken = [*placed.nodes.values(), *titles]
    ways = [_Way(route.path) for route in placed.routes]
    for index, (route, size) in enumerate(zip(placed.routes, sizes.labels, strict=True)):
        if size and route.label:
            box = around(route.label, size)
            if any(overlap(box, title) for title in titles) or _misleads(box, index, ways):
                route.label = None
            else:
                taken.append(box)
    covering = crossed = 0
    for index, (route, size) in enumerate(zip(placed.routes, sizes.labels, strict=True)):
        if not size or route.label:
            continue
        best, cost = route.path[len(route.path) // 2], float("inf")
        for at in _along(ways[index]):
            box = around(at, size)
            if box[0] < 0 or box[1] < 0 or box[2] > placed.width or box[3] > placed.height:
                continue
            price = 100 * sum(overlap(box, other) for other in taken)
            if price < cost:
                price += sum(way.crosses(box) for i, way in enumerate(ways) if i != index)
            if price < cost - 1e-9:
                best, cost = at, price
            if cost == 0:
                break
        route.label = best
        covering += cost >= 100
        crossed += 0 < cost < 100
        taken.append(around(best, size))
    return Labelled(covering, crossed)


class _Way:
    """A path with its bounds, so that most questions need no look at its segments."""

    def __init__(self, path: Sequence[Point]) -> None:
        self.points = _dense(path)
        self.path = path
        xs, ys = [x for x, _ in path], [y for _, y in path]
        self.bounds = (min(xs), min(ys), max(xs), max(ys))

    def crosses(self, box: Box) -> bool:
        """Whether the path passes through the box."""
        x0, y0, x1, y1 = self.bounds
        if x1 <= box[0] or x0 >= box[2] or y1 <= box[1] or y0 >= box[3]:
            return False
        return any(_crosses(box, a, b) for a, b in pairwise(self.path))


def _misleads(box: Box, index: int, ways: Sequence[_Way]) -> bool:
    """Whether the label floats away from its arrow, or another arrow runs through it or nearer to it than its own does."""
    reach = min(_gap(box, point) for point in ways[index].points) - 1
    if reach > LOOSE:
        return True
    near = (box[0] - reach, box[1] - reach, box[2] + reach, box[3] + reach) if reach > 0 else box
    return any(way.crosses(near) for i, way in enumerate(ways) if i != index)


def _gap(box: Box, point: Point) -> float:
    return math.hypot(max(box[0] - point[0], 0, point[0] - box[2]), max(box[1] - point[1], 0, point[1] - box[3]))


def around(middle: Point, size: tuple[float, float]) -> Box:
    """The box of `size` with that middle."""
    return (middle[0] - size[0] / 2, middle[1] - size[1] / 2, middle[0] + size[0] / 2, middle[1] + size[1] / 2)


def overlap(a: Box, b: Box) -> float:
    """Shared area; at least 1 where boxes touch inside."""
    if a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]:
        return 0.0
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(1.0, wide * high) if wide > 0 and high > 0 else 0.0


def _along(way: _Way) -> list[Point]:
    """Points of the path: middles of long stretches first, then every so often from the middle outwards."""
    stretches = sorted(pairwise(way.path), key=lambda ends: -math.dist(*ends))
    points = way.points
    inner = points[len(points) // 10 : len(points) - len(points) // 10] or points
    middle = (len(inner) - 1) / 2
    outwards = [inner[at] for at in sorted(range(len(inner)), key=lambda at: abs(at - middle))]
    return [*(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in stretches[:3]), *outwards]


def _dense(path: Sequence[Point], step: float = 12.0) -> list[Point]:
    """Points of the path, one every `step` or less."""
    out = [path[0]]
    for a, b in pairwise(path):
        parts = max(1, math.ceil(math.dist(a, b) / step))
        out += [(a[0] + (b[0] - a[0]) * k / parts, a[1] + (b[1] - a[1]) * k / parts) for k in range(1, parts + 1)]
    return out


def _crosses(box: Box, a: Point, b: Point) -> bool:
    """Whether the segment passes through the box (clipped at its four sides, as Liang and Barsky do)."""
    if max(a[0], b[0]) <= box[0] or min(a[0], b[0]) >= box[2] or max(a[1], b[1]) <= box[1] or min(a[1], b[1]) >= box[3]:
        return False
    first, last = 0.0, 1.0
    for start, end, low, high in ((a[0], b[0], box[0], box[2]), (a[1], b[1], box[1], box[3])):
        if start != end:
            ends = sorted(((low - start) / (end - start), (high - start) / (end - start)))
            first, last = max(first, ends[0]), min(last, ends[1])
    return first < last
