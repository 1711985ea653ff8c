"""The diagrams artefact -> an index of what splits and rows need of each diagram; graphs are read from the file when asked for.

Ten thousand graphs with their boxes are hundreds of megabytes; what is kept here is a few hundred bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sysdesign.errors import ArtifactError
from sysdesign.graph import Architecture


@dataclass(frozen=True, slots=True)
class DiagramInfo:
    """One diagram without its graph; `offset`: byte of its line."""

    id: str
    topology: str
    graph_sha256: str
    seed_id: str
    domain: str
    style: str
    held_out_style: bool
    image: str
    image_sha256: str
    components: int
    offset: int


class DiagramIndex:
    """Diagrams by id, in file order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._infos = {info.id: info for info in _scan(path)}
        self._read = lru_cache(maxsize=64)(self._graph_at)

    def __iter__(self) -> Iterator[DiagramInfo]:
        return iter(self._infos.values())

    def __len__(self) -> int:
        return len(self._infos)

    def get(self, diagram_id: str) -> DiagramInfo | None:
        return self._infos.get(diagram_id)

    def graph(self, info: DiagramInfo) -> Architecture:
        """The typed graph, read again from its line."""
        return self._read(info.offset)

    def _graph_at(self, offset: int) -> Architecture:
        with self._path.open("rb") as lines:
            lines.seek(offset)
            return Architecture.model_validate(json.loads(lines.readline())["graph"])


def _scan(path: Path) -> Iterator[DiagramInfo]:
    try:
        with path.open("rb") as lines:
            offset = 0
            for number, line in enumerate(lines, start=1):
                yield _info(path, number, line, offset)
                offset += len(line)
    except OSError as error:
        raise ArtifactError(str(path), f"must be readable ({error.strerror})", "run the diagrams stage again") from None


def _info(path: Path, number: int, line: bytes, offset: int) -> DiagramInfo:
    try:
        record: dict[str, Any] = json.loads(line)
        names = ("id", "topology", "graph_sha256", "seed_id", "domain", "style", "image", "image_sha256")
        held_out = bool(record.get("held_out_style", False))
        fields = {name: str(record[name]) for name in names}
        return DiagramInfo(**fields, held_out_style=held_out, components=len(record["graph"]["components"]), offset=offset)
    except (ValueError, KeyError, TypeError) as error:
        law = f"every line is a diagram ({type(error).__name__}: {error})"
        raise ArtifactError(f"{path.name}:{number}", law, "remove the artefact folder and run diagrams again") from None
