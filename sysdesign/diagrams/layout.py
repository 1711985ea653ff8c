"""From sizes to places: Graphviz where it is installed, our own layered layout where it is not.

Text is measured before anything is placed and boxes keep the size they were given, so no label can be clipped. All lengths are design
pixels (one Graphviz point each), origin top left.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from sysdesign.diagrams import light
from sysdesign.errors import ToolError
from sysdesign.graph import Architecture
from sysdesign.records import Box

Point = tuple[float, float]
Size = tuple[float, float]
Engine = Literal["dot", "python"]
_BEZIER = [((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3) for t in (i / 8 for i in range(1, 8))]
OLDEST_DOT = (2, 40)  # the first with JSON output


@dataclass(frozen=True)
class Sizes:
    """What must be placed: one size for each component and zone title, one or none for each arrow label."""

    nodes: Mapping[str, Size]
    zones: Mapping[str, Size]
    labels: Sequence[Size | None]
    rounds: frozenset[str] = frozenset()  # components whose outline is an ellipse: arrows end on it


@dataclass
class Route:
    """An arrow: points from source to tip, and the middle of its label once it has a place."""

    path: list[Point]
    label: Point | None = None


@dataclass
class Placed:
    """A layout: boxes and routes inside `width` x `height`."""

    width: float
    height: float
    nodes: dict[str, Box]
    zones: dict[str, Box]
    routes: list[Route]
    titles: dict[str, Point] = field(default_factory=dict)  # top left of each zone's title


def engine(wanted: str) -> Engine:
    """Which engine a setting means on this machine. Raises ToolError when `dot` is asked for and missing or too old."""
    if wanted == "python":
        return "python"
    problem = dot_problem()
    if problem is None:
        return "dot"
    if wanted == "auto":
        return "python"
    raise ToolError("graphviz", problem, "`apt-get install graphviz` (or `brew install graphviz`), or set diagrams.layout=python")


@lru_cache(maxsize=1)
def dot_problem() -> str | None:
    """What is wrong with the installed `dot`; None when it can be used."""
    program = shutil.which("dot")
    if program is None:
        return "the program `dot` must be on the PATH"
    try:
        said = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as err:
        return f"`dot -V` must work ({err})"
    found = re.search(r"version (\d+)\.(\d+)", said.stdout + said.stderr)
    if found is None:
        return "`dot -V` must name a version"
    version = (int(found[1]), int(found[2]))
    if version < OLDEST_DOT:
        return f"Graphviz must be at least {OLDEST_DOT[0]}.{OLDEST_DOT[1]}, not {version[0]}.{version[1]}"
    return None


def place(graph: Architecture, sizes: Sizes, *, direction: str, splines: str, using: Engine, spread: float = 1.0) -> Placed:
    """Lay out `graph` in `direction` (LR or TB) with `splines` (spline, ortho or polyline); `spread` widens the gaps.

    Raises ToolError when dot fails.
    """
    if using == "python":
        from sysdesign.diagrams.layout_python import place_python

        return place_python(graph, sizes, direction=direction, spread=spread)
    source = dot_source(graph, sizes, direction=direction, splines=splines, spread=spread)
    try:
        done = _dot(source, light.environment())
        if "not recognized" in done.stderr:  # its list of parts is gone, as when temporary files are tidied away
            light.discard()
            done = _dot(source, None)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ToolError("dot -Tjson0", f"must run ({err})", "install Graphviz again, or set diagrams.layout=python") from None
    if done.returncode != 0 or not done.stdout.strip():
        if splines == "ortho":  # Graphviz before 3.0 dies on some graphs with right-angled arrows in clusters
            return place(graph, sizes, direction=direction, splines="polyline", using=using, spread=spread)
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ToolError("dot -Tjson0", f"must lay out {graph.title[:40]!r}: {said}", "update Graphviz, or set diagrams.layout=python")
    return _read(json.loads(done.stdout), graph, sizes, splines)


def _dot(source: str, env: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    """One process a graph: in Graphviz 2.43 a graph damages the memory of those laid out after it."""
    return subprocess.run(["dot", "-Tjson0"], input=source, capture_output=True, text=True, timeout=120, check=False, env=env)


def dot_source(graph: Architecture, sizes: Sizes, *, direction: str, splines: str, spread: float = 1.0) -> str:
    """The Graphviz program. Boxes and labels are empty tables of the measured size: Graphviz never sees a letter."""
    beside, between = 0.42 * spread, (0.6 if splines == "ortho" else 0.55) * spread  # inches
    lines = [
        "digraph g {",
        f"graph [rankdir={direction} splines={splines} nodesep={beside:.3f} ranksep={between:.3f}];",
        "graph [pad=0 margin=0 fontsize=1];",
        'node [shape=box fixedsize=true label="" margin=0]; edge [arrowsize=0.9 fontsize=1];',
    ]
    children: dict[str | None, list[str]] = {}
    for zone in graph.zones:
        children.setdefault(zone.parent, []).append(zone.id)
    members: dict[str | None, list[str]] = {}
    for c in graph.components:
        members.setdefault(c.zone, []).append(c.id)

    def block(zone: str | None) -> None:
        for name in members.get(zone, []):
            w, h = sizes.nodes[name]
            oval = " shape=ellipse" if name in sizes.rounds else ""
            lines.append(f'"{name}" [width={w / 72:.4f} height={h / 72:.4f}{oval}];')
        for child in children.get(zone, []):
            lines.append(f'subgraph "cluster_{child}" {{ margin=14 labeljust=l label={_table(sizes.zones[child])};')
            block(child)
            if not members.get(child) and not children.get(child):
                lines.append(f'"empty_{child}" [width=0.6 height=0.3 style=invis];')
            lines.append("}")

    block(None)
    for index, (e, label) in enumerate(zip(graph.edges, sizes.labels, strict=True)):
        shown = f" label={_table(label)}" if label else ""
        lines.append(f'"{e.src}" -> "{e.dst}" [id="e{index}"{shown}];')
    return "\n".join([*lines, "}"])


def _table(size: Size) -> str:
    w, h = (max(1, round(x)) for x in size)
    bare = 'BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0" FIXEDSIZE="TRUE"'
    return f'<<TABLE {bare} WIDTH="{w}" HEIGHT="{h}"><TR><TD></TD></TR></TABLE>>'


def _read(found: dict[str, Any], graph: Architecture, sizes: Sizes, splines: str) -> Placed:
    x0, y0, x1, y1 = (float(v) for v in found["bb"].split(","))

    def point(text: str) -> Point:
        x, y = text.split(",")
        return float(x) - x0, y1 - float(y)

    nodes: dict[str, Box] = {}
    zones: dict[str, Box] = {}
    titles: dict[str, Point] = {}
    for item in found.get("objects", []):
        name = item["name"]
        if name.startswith("cluster_") and "bb" in item:
            a, b, c, d = (float(v) for v in item["bb"].split(","))
            zones[name[8:]] = (a - x0, y1 - d, c - x0, y1 - b)
            titles[name[8:]] = (a - x0 + 10, y1 - d + 7)
        elif "pos" in item and not name.startswith("empty_"):
            (x, y), (w, h) = point(item["pos"]), sizes.nodes[name]
            nodes[name] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    routes: list[Route] = [Route([]) for _ in graph.edges]
    for item in found.get("edges", []):
        label = point(item["lp"]) if "lp" in item and splines != "ortho" else None
        routes[int(item["id"][1:])] = Route(_path(item["pos"], point, splines), label)
    return Placed(x1 - x0, y1 - y0, nodes, zones, routes, titles)


def _path(pos: str, point: Callable[[str], Point], splines: str) -> list[Point]:
    tip, controls = None, []
    for word in pos.split():
        if word.startswith("e,"):
            tip = point(word[2:])
        elif not word.startswith("s,"):
            controls.append(point(word))
    path = controls[:1]
    for at in range(0, len(controls) - 3, 3):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = controls[at : at + 4]
        if splines == "spline":
            path += [(k * ax + m * bx + n * cx + p * dx, k * ay + m * by + n * cy + p * dy) for k, m, n, p in _BEZIER]
        path.append((dx, dy))
    if tip is not None:
        path.append(tip)
    return path
