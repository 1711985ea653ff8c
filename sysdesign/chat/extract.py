"""A picture and a model -> the components and arrows it reads there, with boxes to draw over the picture.

Asked in the words the model was trained on: first the whole graph as JSON, then where the components are, three at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sysdesign.chat.speakers import Speaker
from sysdesign.graph import Record
from sysdesign.models import structure
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
    """Components and edges of the graph in an answer, in whichever form it is written; empty when there is none."""
    stated = structure.graph(answer)
    edges = structure.edges(answer) or [] if stated is None else stated.edges
    names = dict.fromkeys(end for edge in edges for end in (edge.src, edge.dst)) if stated is None else stated.components
    types = {} if stated is None else stated.types
    return [Found(name=name, type=types.get(name)) for name in names], [Arrow(src=e.src, dst=e.dst, label=e.label) for e in edges]


def read_boxes(answer: str) -> dict[str, Corners]:
    """Lower-case name -> box, cut to the picture; boxes without an area are left out."""
    found = {}
    for name, corners in (structure.boxes(answer) or {}).items():
        x0, y0, x1, y1 = (min(max(edge, 0.0), 1000.0) for edge in corners)
        if x0 < x1 and y0 < y1:
            found[name.strip().lower()] = (x0, y0, x1, y1)
    return found
