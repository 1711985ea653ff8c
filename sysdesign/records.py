"""The records that stages hand to each other, one JSON object a line, and the log a stage writes its numbers to.

Files between stages are JSONL: a person can read them, a killed writer loses at most its last line, and a reader
needs no index. `write_jsonl` replaces a file in one step; `append_jsonl` is for journals that survive a kill.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import ValidationError

from sysdesign.errors import ArtifactError
from sysdesign.graph import Architecture, Record

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, origin top left
R = TypeVar("R", bound=Record)


class EdgeBox(Record):
    """Where edge `index` of the graph was drawn: its path as points, and the box of its label if it has one."""

    index: int
    path: tuple[tuple[float, float], ...]
    label: Box | None = None


class Boxes(Record):
    """Pixel-exact places of everything drawn, keyed by component and zone id."""

    components: dict[str, Box]
    zones: dict[str, Box] = {}
    edges: tuple[EdgeBox, ...] = ()


class DiagramRecord(Record):
    """One picture and the graph it shows. `visible` lists the fact keys that are drawn, e.g. `gateway.replicas`,
    `edge:3.protocol`, `flow:f1.peak_qps`; a question may use only those, or must state the fact itself."""

    id: str
    graph: Architecture
    graph_sha256: str
    topology: str
    seed_id: str
    domain: str
    style: str
    degraded: str | None = None
    held_out_style: bool = False
    image: str  # relative to the artefact
    image_sha256: str
    width: int
    height: int
    boxes: Boxes
    visible: tuple[str, ...]
    min_font_px: float


class Fact(Record):
    """One computed value an answer stands on, and the name of the rule that computed it."""

    name: str
    value: str | int | float | bool | tuple[str, ...]
    unit: str | None = None
    rule: str


class Check(Record):
    """How an answer is scored without a judge; `expected` has the shape that `kind` says.

    number: float; set: list of names; choice: one word; edges: list of [source, destination];
    graph: {"components": [{"name", "type"}], "edges": [{"src", "dst", "label"?}]}; boxes: {name: [x0, y0, x1, y1] in 0-1000};
    reject: the name that is not in the picture; text: None, not scored automatically.
    """

    kind: Literal["number", "set", "choice", "edges", "graph", "boxes", "reject", "text"]
    expected: Any = None
    unit: str | None = None
    tolerance: float | None = None  # relative


class Turn(Record):
    """One question and its answer."""

    question: str
    answer: str
    family: str
    structure: str
    facts: tuple[Fact, ...] = ()
    check: Check = Check(kind="text")


class Conversation(Record):
    """One or more turns about one diagram, or about none (a text-only design task)."""

    id: str
    diagram_id: str | None = None
    seed_id: str
    provider: str  # "offline", "anthropic", "openai": whose terms the text falls under
    teacher: str  # name and version
    turns: tuple[Turn, ...]


class Rejected(Record):
    """Data that did not pass, kept with its reason."""

    id: str
    reason: str  # a short code, counted in the funnel
    detail: str = ""
    record: Any = None


class Row(Record):
    """One training, validation or test example in chat format, as compiled against the base's processor."""

    id: str
    split: Literal["train", "val", "test"]
    conversation_id: str
    diagram_id: str | None = None
    graph_sha256: str | None = None
    topology: str | None = None
    style: str | None = None
    seed_id: str
    provider: str
    family: str
    messages: tuple[dict[str, Any], ...]  # {"role", "content": [{"type": "image"} | {"type": "text", "text"}]}
    images: tuple[str, ...] = ()  # relative to the artefact, in the order of the image parts
    check: Check | None = None  # of the last answer
    facts: tuple[Fact, ...] = ()
    graph: Architecture | None = None
    n_tokens: int = 0
    n_image_tokens: int = 0
    n_trained_tokens: int = 0


class MetricLog(Protocol):
    """Where a stage sends what a person watches. Implementations never raise: a dead server must not kill a training."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...
    def image(self, path: Path, key: str, step: int = 0) -> None: ...
    def file(self, path: Path, folder: str = "") -> None: ...
    def text(self, text: str, name: str) -> None: ...


class NullLog:
    """Drops everything; for library use and tests."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...
    def image(self, path: Path, key: str, step: int = 0) -> None: ...
    def file(self, path: Path, folder: str = "") -> None: ...
    def text(self, text: str, name: str) -> None: ...


class Report(Record):
    """What a stage returns: small, typed, shown to a person and logged as metrics."""

    def metrics(self) -> dict[str, float]:
        """Metric name (`stage/what`) to value; only numbers that exist, never a 0 for 'not measured'."""
        return {}

    def note(self) -> str:
        """One sentence of what the run showed, in markdown."""
        return ""


def read_jsonl(path: Path, record: type[R]) -> Iterator[R]:
    """Every line of `path` as a `record`, streamed.

    Raises ArtifactError naming file and line when the file is missing or a line does not parse.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield record.model_validate_json(line)
                except ValidationError as err:
                    first = err.errors()[0]
                    where = f"{path.name}:{number}"
                    law = f"every line is a {record.__name__}; {'.'.join(map(str, first['loc']))}: {first['msg']}"
                    raise ArtifactError(where, law, "remove the artefact folder and run its stage again") from None
    except (OSError, UnicodeDecodeError) as err:
        raise ArtifactError(str(path), f"must be readable UTF-8 ({err})", "run the stage that makes it again") from None


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write all records in one step (nothing is left half-written); returns their number."""
    count = 0
    partial = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(record.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    partial.replace(path)
    return count


def append_jsonl(path: Path, record: Record) -> None:
    """Add one line and flush it: for journals from which a killed run resumes."""
    with path.open("a", encoding="utf-8") as out:
        out.write(record.model_dump_json(exclude_defaults=True) + "\n")
        out.flush()


def recover_jsonl(path: Path, record: type[R]) -> list[R]:
    """The whole lines of a journal whose writer may have been killed; a torn last line is cut off the file."""
    if not path.exists():
        return []
    whole, good = [], 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                if not line.endswith(b"\n"):
                    break
                whole.append(record.model_validate_json(line))
            except ValidationError:
                break
            good += len(line)
    if good != path.stat().st_size:
        os.truncate(path, good)
    return whole
