"""A picture and a model -> the components and arrows it reads there, with boxes to draw over the picture.

Asked in the words the model was trained on: first the whole graph as JSON, then where the components are, three at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sysdesign.chat.speakers import Speaker
from sysdesign.graph import Record
from sysdesign.models.chat import Message
from sysdesign.models.stream import gather

GRAPH = "Transcribe this diagram as JSON with components and edges."
WHERE = "Give the bounding box of {names}, normalised to 0-1000."
AT_ONCE = 3
MOST = 30  # components asked for: more are not in the training pictures either

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in thousandths of width and height


class Found(Record):
    """One component: where it is drawn, or None when the model does not say."""

    name: str
    type: str | None = None
    box: Corners | None = None


class Arrow(Record):
    """One arrow, between names."""

    src: str
    dst: str
    label: str | None = None


class Extraction(Record):
    """What the model reads in a picture. `answer` is its own words, shown when nothing could be parsed."""

    components: tuple[Found, ...] = ()
    edges: tuple[Arrow, ...] = ()
    answer: str = ""
    done: bool = False


def extract(speaker: Speaker, picture: Path, *, max_tokens: int, seed: int) -> Iterator[Extraction]:
    """Yields what is known so far: the graph first, then boxes as they come, at last with `done`."""

    def ask(question: str) -> str:
        lead = [Message(role="system", text=speaker.system)] if speaker.system else []
        return gather(speaker.say([*lead, Message(role="user", text=question, images=(picture,))], max_tokens, seed, 0.0)).text

    answer = ask(GRAPH)
    components, edges = read_graph(answer)
    yield Extraction(components=tuple(components), edges=tuple(edges), answer=answer)
    for start in range(0, min(len(components), MOST), AT_ONCE):
        names = [found.name for found in components[start : start + AT_ONCE]]
        boxes = read_boxes(ask(WHERE.format(names=", ".join(names))))
        if len(names) == 1 and len(boxes) == 1:  # the answer about one component may leave its name out
            boxes = {names[0].lower(): next(iter(boxes.values()))}
        components = [found.model_copy(update={"box": boxes.get(found.name.lower(), found.box)}) for found in components]
        yield Extraction(components=tuple(components), edges=tuple(edges), answer=answer)
    yield Extraction(components=tuple(components), edges=tuple(edges), answer=answer, done=True)


def read_graph(answer: str) -> tuple[list[Found], list[Arrow]]:
    """Components and edges of the first JSON graph in an answer, else of lines like `A -> B`; empty when there is neither."""
    for value in json_values(answer):
        if isinstance(value, dict) and isinstance(value.get("components"), list):
            listed = [item if isinstance(item, dict) else {"name": item} for item in value["components"]]
            found = [Found(name=str(item["name"]), type=_text(item.get("type"))) for item in listed if item.get("name")]
            edges = [arrow for item in value.get("edges") or [] if (arrow := _arrow(item))]
            return list({one.name: one for one in found}.values()), edges
    edges = [Arrow(src=m[1], dst=m[2]) for m in re.finditer(r"^[-*\s]*(\S.{0,80}?) -> (.{0,80}\S)\s*$", answer, re.MULTILINE)]
    return [Found(name=name) for name in dict.fromkeys(end for arrow in edges for end in (arrow.src, arrow.dst))], edges


def read_boxes(answer: str) -> dict[str, Corners]:
    """Lower-case name -> box, from a JSON object or lines like `name: (x0,y0),(x1,y1)`; boxes that are none are left out."""
    pairs: list[tuple[str, Any]] = []
    for value in json_values(answer):
        pairs += value.items() if isinstance(value, dict) else [("", value)]
    if not pairs:
        pattern = r"^[-*\s]*([^:\n]*?):?\s*\(?\[?(\d+)\s*,\s*(\d+)\)?\s*,\s*\(?(\d+)\s*,\s*(\d+)"
        pairs = [(m[1], [float(m[i]) for i in (2, 3, 4, 5)]) for m in re.finditer(pattern, answer, re.MULTILINE)]
    return {name.strip().lower(): box for name, value in pairs if (box := _corners(value)) is not None}


def json_values(text: str) -> Iterator[Any]:
    """Every JSON object or array that stands in `text`, outermost only."""
    decoder, at = json.JSONDecoder(), 0
    while (start := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)) >= 0:
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
        else:
            yield value


def _corners(value: Any) -> Corners | None:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
        return None
    x0, y0, x1, y1 = (min(max(float(x), 0.0), 1000.0) for x in value)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _arrow(item: Any) -> Arrow | None:
    if isinstance(item, dict) and item.get("src") and item.get("dst"):
        return Arrow(src=str(item["src"]), dst=str(item["dst"]), label=_text(item.get("label")))
    if isinstance(item, list) and len(item) >= 2:
        return Arrow(src=str(item[0]), dst=str(item[1]))
    return None


def _text(value: Any) -> str | None:
    return str(value) if value else None
