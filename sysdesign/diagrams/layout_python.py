"""Where Graphviz is missing: layers inside nested blocks, and right-angled arrows found on a grid around the boxes.

Each zone is laid out by itself and then is one block of its parent, so zones never overlap. Arrows take the cheapest way that goes
through no box, prefers few turns, and avoids what is already drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from sysdesign.diagrams.layout import Placed, Point, Route, Size, Sizes
from sysdesign.graph import Architecture
from sysdesign.records import Box

STEP = 16.0  # grid of the arrows, design pixels
EDGE_ROOM, SIDE_GAP, PAD = 64.0, 40.0, 22.0
TURN, USED, INSIDE = 2.5, 3.0, 8.0


def place_python(graph: Architecture, sizes: Sizes, *, direction: str, spread: float = 1.0) -> Placed:
    """A layout of `graph` in `direction` (LR or TB); `spread` widens the gaps. Labels get their place later."""
    boxes, zones, (width, height) = _blocks(graph, sizes, direction, spread)
    margin = 2 * STEP  # arrows may run around the outside
    nodes = {key: _shift(box, margin) for key, box in boxes.items()}
    areas = {key: _shift(box, margin) for key, box in zones.items()}
    titles = {key: (box[0] + 10, box[1] + 7) for key, box in areas.items()}
    width, height = width + 2 * margin, height + 2 * margin
    blocked = [(x - 2, y - 2, x + sizes.zones[key][0], y + sizes.zones[key][1]) for key, (x, y) in titles.items()]
    paths = _route_all([(e.src, e.dst) for e in graph.edges], nodes, blocked, width, height)
    return Placed(width, height, nodes, areas, [Route(path) for path in paths], titles)


def _shift(box: Box, by: float) -> Box:
    return box[0] + by, box[1] + by, box[2] + by, box[3] + by


def _blocks(graph: Architecture, sizes: Sizes, direction: str, spread: float) -> tuple[dict[str, Box], dict[str, Box], Size]:
    """Boxes of components and zones, and the whole size: zones from the inside out."""
    parents = {z.id: z.parent for z in graph.zones} | {c.id: c.zone for c in graph.components}

    def chain(item: str) -> list[str | None]:
        up: list[str | None] = [item]
        while up[-1] is not None:
            up.append(parents[up[-1]])
        return up

    chains = {c.id: chain(c.id) for c in graph.components}
    nodes: dict[str, Box] = {}
    zones: dict[str, Box] = {}

    def block(zone: str | None) -> Size:
        """Size of a zone's content; leaves boxes relative to its own corner."""
        inside = [item for item, parent in parents.items() if parent == zone]
        measured = {item: (sizes.nodes[item] if item in sizes.nodes else block(item)) for item in inside}
        lanes, room = [], 0.0
        for e, label in zip(graph.edges, sizes.labels, strict=True):
            a, b = _below(chains[e.src], zone), _below(chains[e.dst], zone)
            if a is not None and b is not None and a != b:
                lanes.append((a, b))
                room = max(room, (label[0] if direction == "LR" else label[1]) if label else 0.0)
        places, size = _layers(measured, lanes, direction, (EDGE_ROOM + room) * spread, SIDE_GAP * spread)
        top = 0.0 if zone is None else sizes.zones[zone][1] + 12
        side = 0.0 if zone is None else PAD
        for item, (x, y) in places.items():
            box = (x + side, y + side * 0.6 + top, x + side + measured[item][0], y + side * 0.6 + top + measured[item][1])
            (nodes if item in sizes.nodes else zones)[item] = box
        if zone is None:
            return size
        return max(size[0], sizes.zones[zone][0]) + 2 * side, size[1] + top + 1.6 * side

    whole = block(None)

    def absolute(item: str, table: Mapping[str, Box]) -> Box:
        x0, y0, x1, y1 = table[item]
        at = parents[item]
        while at is not None:
            x0, y0, x1, y1 = x0 + zones[at][0], y0 + zones[at][1], x1 + zones[at][0], y1 + zones[at][1]
            at = parents[at]
        return x0, y0, x1, y1

    return {key: absolute(key, nodes) for key in nodes}, {key: absolute(key, zones) for key in zones}, whole


def _below(chain: Sequence[str | None], zone: str | None) -> str | None:
    """The member of a chain of enclosing zones that lies directly in `zone`; None when the chain does not pass there."""
    at = chain.index(zone) if zone in chain else 0
    return chain[at - 1] if at > 0 else None


def _layers(
    measured: Mapping[str, Size], lanes: Sequence[tuple[str, str]], direction: str, along_gap: float, side_gap: float
) -> tuple[dict[str, Point], Size]:
    """Top left corners of items in layers along `direction`, ordered so that few arrows cross, and the size they take."""
    if not measured:
        return {}, (40.0, 20.0)
    main, cross = (0, 1) if direction == "LR" else (1, 0)
    rank = _ranks(list(measured), lanes)
    layers: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for item in measured:
        layers[rank[item]].append(item)
    near: dict[str, list[str]] = {item: [] for item in measured}
    for a, b in lanes:
        near[a].append(b)
        near[b].append(a)
    for sweep in range(6):
        order = {item: at for layer in layers for at, item in enumerate(layer)}
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            middle = {item: sum(order[n] for n in near[item]) / len(near[item]) if near[item] else order[item] for item in layer}
            layer.sort(key=middle.__getitem__)
            order.update({item: at for at, item in enumerate(layer)})
    centre: dict[str, float] = {}
    for layer in layers:
        _spaced(layer, measured, cross, side_gap, dict.fromkeys(layer, 0.0), centre)
    for sweep in range(8):  # pull everything towards its neighbours, layer by layer
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wish = {item: sum(centre[n] for n in near[item]) / len(near[item]) if near[item] else centre[item] for item in layer}
            _spaced(layer, measured, cross, side_gap, wish, centre)
    low = min(centre[item] - measured[item][cross] / 2 for item in measured)
    places: dict[str, Point] = {}
    at = 0.0
    for layer in layers:
        thick = max(measured[item][main] for item in layer)
        for item in layer:
            along, side = at + (thick - measured[item][main]) / 2, centre[item] - measured[item][cross] / 2 - low
            places[item] = (along, side) if direction == "LR" else (side, along)
        at += thick + along_gap
    high = max(centre[item] + measured[item][cross] / 2 for item in measured)
    size = (at - along_gap, high - low)
    return places, size if direction == "LR" else (size[1], size[0])


def _ranks(items: Sequence[str], lanes: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from the front; an arrow that would close a circle (in drawing order) does not count."""
    order = {item: at for at, item in enumerate(items)}
    ahead: dict[str, set[str]] = {item: set() for item in items}
    for a, b in lanes:
        if not _reaches(ahead, b, a):
            ahead[a].add(b)
    rank = dict.fromkeys(items, 0)
    for _ in items:  # at most one round for each item, usually a handful
        moved = False
        for a in items:
            for b in sorted(ahead[a], key=order.__getitem__):
                if rank[b] <= rank[a]:
                    rank[b], moved = rank[a] + 1, True
        if not moved:
            break
    return rank


def _reaches(ahead: Mapping[str, set[str]], start: str, goal: str) -> bool:
    seen, stack = set(), [start]
    while stack:
        at = stack.pop()
        if at == goal:
            return True
        if at not in seen:
            seen.add(at)
            stack.extend(ahead[at])
    return False


def _spaced(
    layer: Sequence[str], measured: Mapping[str, Size], cross: int, gap: float, wish: Mapping[str, float], centre: dict[str, float]
) -> None:
    """Set centres near their wishes, in the given order, without overlap; the row as a whole keeps the mean of its wishes."""
    at = None
    for item in layer:
        half = measured[item][cross] / 2
        centre[item] = wish[item] if at is None else max(wish[item], at + gap + half)
        at = centre[item] + half
    drift = sum(wish[item] - centre[item] for item in layer) / len(layer)
    for item in layer:
        centre[item] += drift


def _route_all(
    lanes: Sequence[tuple[str, str]], nodes: Mapping[str, Box], blocked: Sequence[Box], width: float, height: float
) -> list[list[Point]]:
    """A right-angled path for each arrow, short ones first, from border to border."""
    across, down = int(width / STEP) + 1, int(height / STEP) + 1
    owner: dict[int, str] = {}
    walls: set[int] = set()
    cells = {key: list(_cells(box, across, down)) for key, box in nodes.items()}
    for key, held in cells.items():
        owner.update(dict.fromkeys(held, key))
    # arrows start and end away from the corners, where the side of the box that they touch is unmistakable
    ports = {key: list(_cells((b[0] + 14, b[1] + 14, b[2] - 14, b[3] - 14), across, down)) or cells[key] for key, b in nodes.items()}
    for box in blocked:
        walls.update(_cells(box, across, down))
    walls -= set(owner)
    used: dict[tuple[int, bool], int] = {}
    paths: list[list[Point]] = [[] for _ in lanes]

    def span(at: int) -> float:
        a, b = nodes[lanes[at][0]], nodes[lanes[at][1]]
        return abs(a[0] + a[2] - b[0] - b[2]) + abs(a[1] + a[3] - b[1] - b[3])

    for at in sorted(range(len(lanes)), key=lambda i: (span(i), i)):
        src, dst = lanes[at]
        found = _search(ports[src], set(ports[dst]), nodes[dst], owner, walls, used, across, down, {src, dst})
        points = _corners([((c % across) * STEP, (c // across) * STEP) for c in found])
        for a, b in pairwise(found):
            flat = abs(a - b) == 1
            for cell in (a, b):
                if cell not in owner:
                    used[cell, flat] = used.get((cell, flat), 0) + 1
        for cell in (found[0], found[-1], *(c for c in found if owner.get(c) in (src, dst))):
            used[cell, True] = used.get((cell, True), 0) + 2
            used[cell, False] = used.get((cell, False), 0) + 2
        paths[at] = _clip(points, nodes[src], nodes[dst])
    return paths


def _cells(box: Box, across: int, down: int) -> Iterable[int]:
    """Grid points inside a box; at least the one nearest its middle."""
    x0, x1 = int(-(-box[0] // STEP)), int(box[2] // STEP)
    y0, y1 = int(-(-box[1] // STEP)), int(box[3] // STEP)
    for y in range(max(0, y0), min(down - 1, y1) + 1):
        for x in range(max(0, x0), min(across - 1, x1) + 1):
            yield y * across + x


def _search(
    starts: Sequence[int], goals: set[int], goal: Box, owner: Mapping[int, str], walls: set[int], used: Mapping[tuple[int, bool], int],
    across: int, down: int, own: set[str],
) -> list[int]:  # fmt: skip
    """Cheapest way (A*) from any start cell to any goal cell; states carry the direction, so that turns cost."""
    gx0, gy0, gx1, gy1 = (value / STEP for value in goal)

    def left(cell: int) -> float:
        x, y = cell % across, cell // across
        return max(gx0 - x, 0.0, x - gx1) + max(gy0 - y, 0.0, y - gy1)

    queue: list[tuple[float, float, int, int]] = []
    came: dict[tuple[int, int], tuple[int, int]] = {}
    best: dict[tuple[int, int], float] = {}
    for cell in starts:
        for way in (1, -1, across, -across):
            cost = 4.0 * used.get((cell, abs(way) == 1), 0)
            best[cell, way] = cost
            heapq.heappush(queue, (cost + left(cell), cost, cell, way))
    while queue:
        _, cost, cell, way = heapq.heappop(queue)
        if cost > best.get((cell, way), float("inf")):
            continue
        if cell in goals:
            path = [cell]
            state = (cell, way)
            while state in came:
                state = came[state]
                path.append(state[0])
            return path[::-1]
        x = cell % across
        for turn in (1, -1, across, -across):
            after = cell + turn
            if turn == -way or after < 0 or after >= across * down or (turn == 1 and x == across - 1) or (turn == -1 and x == 0):
                continue
            held = owner.get(after)
            if held is not None and held not in own:
                continue
            step = 1.0 + (TURN if turn != way else 0.0) + USED * used.get((after, abs(turn) == 1), 0) + (INSIDE if after in walls else 0.0)
            total = cost + step
            if total < best.get((after, turn), float("inf")):
                best[after, turn] = total
                came[after, turn] = (cell, way)
                heapq.heappush(queue, (total + left(after), total, after, turn))
    return [starts[len(starts) // 2], min(goals)]  # walled in on every side: straight through, which the caller sees as crowded


def _corners(points: Sequence[Point]) -> list[Point]:
    """Only the ends and the points where the path turns."""
    kept = [points[0]]
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        if (before[0] == at[0]) != (at[0] == after[0]) or (before[1] == at[1]) != (at[1] == after[1]):
            kept.append(at)
    return [*kept, points[-1]] if len(points) > 1 else [points[0], points[0]]


def _clip(points: list[Point], src: Box, dst: Box) -> list[Point]:
    """The path from the border of `src` to the border of `dst`."""
    return _leave(_leave(points, src)[::-1], dst)[::-1]


def _leave(points: list[Point], box: Box) -> list[Point]:
    """Cut the part at the start that lies inside the box."""
    x0, y0, x1, y1 = box
    inside = [x0 <= x <= x1 and y0 <= y <= y1 for x, y in points]
    last = max((at for at, is_in in enumerate(inside) if is_in), default=-1)
    if last < 0 or last + 1 >= len(points):
        return points
    (ax, ay), (bx, by) = points[last], points[last + 1]
    shares = [
        (edge - a) / (b - a)
        for edge, a, b in ((x0, ax, bx), (x1, ax, bx), (y0, ay, by), (y1, ay, by))
        if b != a and 0 <= (edge - a) / (b - a) <= 1
    ]
    share = max(shares, default=0.0)
    return [(ax + (bx - ax) * share, ay + (by - ay) * share), *points[last + 1 :]]
