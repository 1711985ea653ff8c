"""The five ways an architecture is drawn, as data: fonts, colours, shapes and manners of each style.

Four are seen in training; `blueprint` is the one that is held out, and shares neither font, colour, shape nor label form with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sysdesign.graph import ComponentType

Colour = tuple[int, int, int]
HELD_OUT = "blueprint"


@dataclass(frozen=True)
class Style:
    """One look. Sizes are in design pixels, before the picture is fitted to its budget."""

    family: str
    page: Colour
    ink: Colour
    soft: Colour  # subtitles, legend
    line: Colour  # solid arrows
    dashed: Colour  # asynchronous arrows
    fills: dict[str, Colour]  # by group of component types
    strokes: dict[str, Colour]
    zone_fills: tuple[Colour, ...]  # by nesting depth
    zone_line: Colour
    zone_ink: Colour
    splines: str = "spline"
    name_px: int = 19
    text_px: int = 16
    bold: bool = True
    corner: float = 4
    stroke_px: float = 1.6
    zone_dash: bool = False
    zone_corner: float = 8
    label_page: Colour | None = None  # behind arrow labels; None: whatever is behind
    shapes: dict[ComponentType, str] = field(default_factory=dict)
    icons: bool = False
    hand: bool = False
    grid: Colour | None = None
    bracket: bool = False  # [service: Go] under the name, as C4 writes it


GROUPS: dict[ComponentType, str] = {
    "client": "outside", "external": "outside", "dns": "edge", "cdn": "edge", "lb": "edge", "gateway": "edge", "auth": "edge",
    "service": "compute", "worker": "compute", "function": "compute", "scheduler": "compute", "model": "compute",
    "cache": "fast", "queue": "flow", "stream": "flow",
    "sql": "data", "nosql": "data", "object": "data", "search": "data", "warehouse": "data", "monitor": "outside",
}  # fmt: skip
_SHAPES: dict[ComponentType, str] = {
    "sql": "cylinder", "nosql": "cylinder", "warehouse": "cylinder", "cache": "cylinder", "queue": "pipe", "stream": "pipe",
    "cdn": "cloud", "dns": "ellipse",
    "client": "round", "external": "cloud", "gateway": "hexagon", "lb": "hexagon", "object": "bucket", "search": "cylinder",
    "function": "round", "scheduler": "ellipse",
}  # fmt: skip
_MERMAID: dict[ComponentType, str] = {
    "sql": "cylinder", "nosql": "cylinder", "warehouse": "cylinder", "client": "stadium", "external": "stadium", "gateway": "hexagon",
    "queue": "pipe",
    "stream": "pipe", "cache": "round", "scheduler": "stadium", "object": "cylinder",
}  # fmt: skip

STYLES: dict[str, Style] = {
    "icons": Style(
        family="roboto", page=(255, 255, 255), ink=(45, 52, 54), soft=(80, 90, 100), line=(110, 120, 130), dashed=(110, 120, 130),
        fills={}, strokes={},
        zone_fills=((229, 245, 253), (235, 243, 231), (236, 232, 246), (253, 247, 227)), zone_line=(174, 182, 190), zone_ink=(45, 52, 54),
        zone_corner=10, icons=True, label_page=(255, 255, 255), bold=False,
    ),
    "drawio": Style(
        family="arimo", page=(255, 255, 255), ink=(20, 20, 20), soft=(60, 60, 60), line=(40, 40, 40), dashed=(40, 40, 40), splines="ortho",
        fills={"outside": (245, 245, 245), "edge": (255, 242, 204), "compute": (218, 232, 252), "fast": (248, 206, 204),
        "flow": (225, 213, 231), "data": (213, 232, 212)},
        strokes={"outside": (102, 102, 102), "edge": (214, 182, 86), "compute": (108, 142, 191), "fast": (184, 84, 80),
        "flow": (150, 115, 166), "data": (130, 179, 102)},
        zone_fills=((255, 255, 255), (250, 250, 250), (244, 246, 248), (255, 255, 255)), zone_line=(120, 120, 120), zone_ink=(60, 60, 60),
        zone_dash=True,
        zone_corner=0, corner=5, label_page=(255, 255, 255), shapes=_SHAPES,
    ),
    "dark": Style(
        family="dejavu", page=(30, 31, 34), ink=(230, 230, 230), soft=(178, 184, 192), line=(200, 204, 210), dashed=(160, 170, 186),
        name_px=18, text_px=15, bold=False,
        fills={"outside": (44, 46, 51), "edge": (52, 46, 70), "compute": (36, 52, 74), "fast": (78, 44, 44), "flow": (68, 58, 30),
        "data": (34, 62, 52)},
        strokes={"outside": (150, 154, 160), "edge": (160, 138, 220), "compute": (129, 177, 219), "fast": (224, 122, 118),
        "flow": (222, 190, 92), "data": (110, 200, 160)},
        zone_fills=((40, 42, 47), (48, 50, 57), (56, 58, 66), (64, 66, 75)), zone_line=(96, 100, 110), zone_ink=(210, 214, 220),
        zone_corner=3, corner=5,
        label_page=(72, 74, 80), shapes=_MERMAID,
    ),
    "whiteboard": Style(
        family="hand", page=(253, 252, 248), ink=(30, 30, 34), soft=(50, 50, 60), line=(50, 50, 56), dashed=(40, 80, 160), name_px=21,
        text_px=18, bold=False,
        fills={"outside": (253, 252, 248), "edge": (255, 243, 191), "compute": (208, 235, 255), "fast": (255, 227, 227),
        "flow": (243, 217, 250), "data": (211, 249, 216)},
        strokes={"outside": (60, 60, 66), "edge": (180, 110, 0), "compute": (24, 100, 171), "fast": (201, 42, 42), "flow": (134, 46, 156),
        "data": (43, 122, 61)},
        zone_fills=((253, 252, 248),) * 4, zone_line=(120, 120, 130), zone_ink=(90, 60, 30), zone_dash=True, zone_corner=14, corner=8,
        stroke_px=1.9,
        label_page=(253, 252, 248), shapes=_SHAPES, hand=True,
    ),
    HELD_OUT: Style(
        family="mono", page=(22, 56, 104), ink=(245, 249, 255), soft=(190, 214, 245), line=(225, 236, 250), dashed=(255, 214, 120),
        splines="polyline", name_px=17, text_px=15,
        fills=dict.fromkeys(("outside", "edge", "compute", "fast", "flow", "data"), (22, 56, 104)),
        strokes=dict.fromkeys(("outside", "edge", "compute", "fast", "flow", "data"), (235, 243, 255)),
        zone_fills=((26, 63, 114), (30, 70, 124), (34, 77, 134), (38, 84, 144)), zone_line=(140, 180, 230), zone_ink=(160, 205, 255),
        zone_dash=True, zone_corner=0,
        corner=0, label_page=(22, 56, 104), grid=(32, 68, 118), bracket=True,
        shapes={"client": "person", "external": "corners", "sql": "drum", "nosql": "drum", "warehouse": "drum"},
    ),
}  # fmt: skip
TRAINED = tuple(name for name in STYLES if name != HELD_OUT)
