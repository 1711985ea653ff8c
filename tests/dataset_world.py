"""A small world to make datasets from: random graphs, drawn plainly, and conversations about them, as artefacts on disk."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from PIL import Image, ImageDraw

from sysdesign.artifacts import Artifact, Manifest, digest_of, hash_files
from sysdesign.config.base import TinyBase
from sysdesign.graph import Architecture, Component, ComponentType, Edge
from sysdesign.models.base import Base
from sysdesign.models.tiny import build_tiny
from sysdesign.records import Boxes, Check, Conversation, DiagramRecord, Fact, Turn, write_jsonl

TYPES = get_args(ComponentType)
TEXT = (
    "the gateway spreads requests over replicas in each zone while the cache absorbs most reads so the database sees only misses and "
    "writes a queue decouples slow work from the path of the user a lost region costs availability unless traffic fails over in time "
    "count calls for each request multiply by the peak rate divide by the capacity of one replica and round up to get what is needed"
)
WORDS = TEXT.split()


def artifact(stage: str, folder: Path) -> Artifact:
    """`folder` as if a stage had made it."""
    files = hash_files(folder)
    digest = digest_of(files)
    manifest = Manifest(
        stage=stage, version=1, key=digest, digest=digest, seed=0, config={}, inputs={}, prompts={}, report={}, files=files, created="",
        seconds=0,
    )  # fmt: skip
    return Artifact(stage, digest, digest, folder, manifest)


def tiny_base(folder: Path, **cfg: Any) -> Artifact:
    """A base artefact with a tokenizer that learned from WORDS."""
    made = TinyBase(**cfg)
    build_tiny(folder / "model", made, [TEXT, "one\n\ntwo"] * 8 + [t.title() for t in TYPES], 0)
    (folder / "base.json").write_text(Base(kind="tiny", name="tiny", revision="0" * 40, family=made.family).model_dump_json())
    return artifact("base", folder)


def graph(rng: random.Random, number: int) -> Architecture:
    """A random acyclic system; nearly every one has a topology of its own."""
    size = rng.randint(4, 9)
    parts = [
        Component(id=f"c{n}", name=f"{rng.choice(TYPES).title()} {n}", type=rng.choice(TYPES), replicas=rng.randint(1, 9))
        for n in range(size)
    ]
    edges = [Edge(src=f"c{rng.randrange(n)}", dst=f"c{n}", mode=rng.choice(("sync", "async"))) for n in range(1, size)]
    return Architecture(
        title=f"System {number}", domain="test", seed_id=f"seed-{number % 50:02d}", components=tuple(parts), edges=tuple(edges)
    )


def draw(system: Architecture, path: Path, size: tuple[int, int], dark: bool) -> None:
    """Boxes, names and arrows."""
    ink, paper = ("white", "#101418") if dark else ("black", "white")
    image = Image.new("RGB", size, paper)
    pen = ImageDraw.Draw(image)
    places = {c.id: (40 + (n % 3) * size[0] // 3, 30 + (n // 3) * size[1] // 3) for n, c in enumerate(system.components)}
    for edge in system.edges:
        pen.line([places[edge.src], places[edge.dst]], fill=ink, width=2)
    for part in system.components:
        x, y = places[part.id]
        pen.rounded_rectangle((x, y, x + size[0] // 5, y + size[1] // 8), 8, fill="#8ecae6", outline=ink)
        pen.text((x + 6, y + 6), f"{part.name}\n{part.replicas} replicas", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)


def diagrams(folder: Path, count: int, size: tuple[int, int] = (320, 240), seed: int = 0) -> Artifact:
    """`count` diagrams; every ninth in the held-out style."""
    rng = random.Random(seed)

    def records() -> Iterator[DiagramRecord]:
        for number in range(count):
            system, style = graph(rng, number), "chalk" if number % 9 == 8 else ("plain", "dark")[number % 2]
            name = f"d{number:05d}"
            image = f"images/{name}.png"
            around = (size[0] + rng.randrange(-40, 40), size[1] + rng.randrange(-40, 40))
            draw(system, folder / image, around, style == "dark")
            drawn = hashlib.sha256((folder / image).read_bytes()).hexdigest()
            yield DiagramRecord(
                id=name, graph=system, graph_sha256=system.sha256(), topology=system.topology(), seed_id=system.seed_id,
                domain=system.domain, style=style, held_out_style=style == "chalk", image=image, image_sha256=drawn,
                width=around[0], height=around[1], boxes=Boxes(components={}), visible=(), min_font_px=10,
            )  # fmt: skip

    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "diagrams.jsonl", records())
    return artifact("diagrams", folder)


def talks(count: int, diagram_count: int, words: int = 20, seed: int = 0) -> Iterator[Conversation]:
    """Questions with one answer or two; every eighth is about no picture."""
    rng = random.Random(seed)
    for number in range(count):
        about = None if number % 8 == 7 else f"d{number % diagram_count:05d}"
        turns = []
        for place in range(2 if number % 3 == 0 else 1):
            replicas = rng.randint(1, 99)
            prose = " ".join(rng.choices(WORDS, k=max(1, int(words * rng.uniform(0.5, 1.5)))))
            check = Check(kind="number", expected=replicas) if number % 3 else Check(kind="text")
            fact = Fact(name="replicas", value=replicas, rule="sum")
            family = ("count", "path", "latency")[number % 3]
            question = f"Question {number}.{place}: how many replicas are drawn?"
            turns.append(
                Turn(
                    question=question,
                    answer=f"{replicas} replicas: {prose}.",
                    family=family,
                    structure="direct",
                    facts=(fact,),
                    check=check,
                )
            )
        yield Conversation(
            id=f"k{number:06d}", diagram_id=about, seed_id=f"seed-{number % 50:02d}", provider="offline", teacher="t", turns=tuple(turns)
        )


def conversations(folder: Path, found: Iterator[Conversation] | Sequence[Conversation]) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "conversations.jsonl", found)
    return artifact("conversations", folder)
