"""Questions of place: where a component is drawn, and what is drawn at a place. Boxes are normalised to 0-1000."""

from __future__ import annotations

import json

from sysdesign.conversations.asked import Asked, Facts
from sysdesign.conversations.families.words import PICTURE
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.view import View
from sysdesign.records import Box, Check


def normalised(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels to thousandths of width and height, as Qwen2-VL was pre-trained to answer."""
    width, height = size
    return round(box[0] / width * 1000), round(box[1] / height * 1000), round(box[2] / width * 1000), round(box[3] / height * 1000)


def locate(view: View, pen: Pen) -> Asked | None:
    """The box of one to three components. Rule: the drawing's own geometry."""
    if view.boxes is None or not view.boxes.components:
        return None
    ids = sorted(view.boxes.components)
    chosen = pen.rng.sample(ids, k=min(len(ids), pen.rng.choice((1, 1, 2, 3))))
    boxes = {view.names[i]: list(normalised(view.boxes.components[i], view.size)) for i in chosen}
    facts = Facts("drawn geometry")
    for name, box in boxes.items():
        facts.add(f"box of {name}", ", ".join(map(str, box)))
    listed = pen.names(boxes)
    if pen.rng.random() < 0.5:
        block = json.dumps(boxes, ensure_ascii=False)
    else:
        block = "\n".join(f"{name}: ({x0},{y0}),({x1},{y1})" for name, (x0, y0, x1, y1) in boxes.items())
    return Asked(
        family="locate",
        ask=(
            f"[Where is|Locate|Find|Point out] {listed}[ in the {PICTURE}|]? [Give|Answer with] [the box|bounding boxes] x0, y0, "
            "x1, y1 in 0-1000.",
            f"[Give|Return] the [bounding box|box] of {listed}, [normalised|scaled] to 0-1000.",
            f"[Mark|Box] {listed}: corners as thousandths of [width and height|the picture].",
        ),
        facts=facts.all(),
        check=Check(kind="boxes", expected=boxes),
        lead=("",),
        block=block,
        block_kind="boxes",
    )


def what_is_at(view: View, pen: Pen) -> Asked | None:
    """Which component lies at a point. Rule: the only box that holds it."""
    if view.boxes is None or not view.boxes.components:
        return None
    node = pen.rng.choice(sorted(view.boxes.components))
    x0, y0, x1, y1 = normalised(view.boxes.components[node], view.size)
    x, y = pen.rng.randint(x0 + (x1 - x0) // 4, x1 - (x1 - x0) // 4), pen.rng.randint(y0 + (y1 - y0) // 4, y1 - (y1 - y0) // 4)
    holders = [i for i, b in view.boxes.components.items() if (n := normalised(b, view.size))[0] <= x <= n[2] and n[1] <= y <= n[3]]
    if holders != [node]:
        return None
    name, facts = view.names[node], Facts("only box at the point")
    facts.add("component at the point", name)
    facts.add("point", f"({x}, {y})")
    safe = pen.name(name)
    return Asked(
        family="what_is_at",
        ask=(
            f"[What|Which component] [is drawn|lies|stands] at ({x}, {y}), [in thousandths of width and height|on a 0-1000 scale]?",
            f"[Name|Identify] the [component|box] at x={x}, y={y} [(0-1000)|of 1000].",
            f"[The point|Look at the point] ({x}, {y}) on a 0-1000 grid[ of this {PICTURE}|]: [which component is it|what is there]?",
        ),
        facts=facts.all(),
        check=Check(kind="choice", expected=name),
        lead=(f"[At that point|There] [the {PICTURE} shows|lies|you find] {safe}.", f"[It is|That is|The box there is] {safe}."),
        short=(safe,),
        trap=("[x runs to the right, y runs down|The origin is the top left corner].",),
    )
