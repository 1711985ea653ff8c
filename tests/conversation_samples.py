"""Drawn-looking diagram records without drawing: generated graphs with a random choice of visible facts and boxes on a grid."""

from __future__ import annotations

import random
from pathlib import Path

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.diagrams.facts import choose, visible
from sysdesign.diagrams.generate import generate
from sysdesign.errors import InputError
from sysdesign.graph import Architecture
from sysdesign.prompts import seed_prompts
from sysdesign.records import Boxes, DiagramRecord, write_jsonl


def record(graph: Architecture, number: int, shown: tuple[str, ...]) -> DiagramRecord:
    """The record of a graph as if drawn on a 10-column grid."""
    boxes = {
        c.id: (10.0 + 90 * (i % 10), 10.0 + 70 * (i // 10), 90.0 + 90 * (i % 10), 60.0 + 70 * (i // 10))
        for i, c in enumerate(graph.components)
    }
    return DiagramRecord(
        id=f"d{number:05}", graph=graph, graph_sha256=graph.sha256(), topology=graph.topology(), seed_id=graph.seed_id, domain=graph.domain,
        style="drawio", image=f"images/d{number:05}.png", image_sha256="0" * 64, width=920, height=300, boxes=Boxes(components=boxes),
        visible=shown, min_font_px=12,
    )  # fmt: skip


def diagrams(count: int, seed: int = 0) -> list[DiagramRecord]:
    """`count` records over all seed prompts."""
    prompts, cfg, found = seed_prompts(), DiagramsConfig(), []
    for index in range(count):
        graph = None
        for attempt in range(10):
            try:
                graph = generate(cfg, prompts, seed, index, attempt)
                break
            except InputError:
                continue
        assert graph is not None
        kinds = {kind for bundle in choose(graph, 0.6, random.Random(f"{seed}/{index}")) for kind in bundle}
        found.append(record(graph, index, visible(graph, kinds)))
    return found


class Folder:
    """What the stage needs of an artefact."""

    def __init__(self, path: Path) -> None:
        self.path = path


def artifact(path: Path, records: list[DiagramRecord], pictures: bool = False) -> Folder:
    """A diagrams artefact of these records; blank pictures if asked for."""
    write_jsonl(path / "diagrams.jsonl", records)
    if pictures:
        from PIL import Image

        (path / "images").mkdir(exist_ok=True)
        for r in records:
            Image.new("RGB", (r.width, r.height), "white").save(path / r.image)
    return Folder(path)
