"""Probes of the dataset and the thirty headline prompts -> items: one question each, ready to be asked and scored.

A probe belongs to the cluster of its graph. Slices say what a result depends on: kind of question, size of the system, nesting of its
zones, style of the picture, and whether that style was held out of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sysdesign.artifacts import Artifact
from sysdesign.errors import ArtifactError
from sysdesign.graph import Architecture, Record
from sysdesign.models.chat import Message
from sysdesign.models.picture import PicturePolicy
from sysdesign.prompts import Rubric, headline_prompts, read_prompt
from sysdesign.records import Check, DiagramRecord, Fact, Row, read_jsonl

SYSTEM = "student/system.v1.md"
Control = Literal["no_picture", "graph_as_text", "names_permuted", "absent_component"]


class Item(Record):
    """One question. `of`: for a control, the probe it was made from."""

    id: str
    set: Literal["probe", "headline", "control"]
    control: Control | None = None
    of: str | None = None
    cluster: str
    slices: dict[str, str]
    messages: tuple[Message, ...]
    check: Check | None = None
    facts: tuple[Fact, ...] = ()
    rubric: Rubric | None = None
    graph: Architecture | None = None
    reference: str = ""

    @property
    def question(self) -> str:
        return self.messages[-1].text

    @property
    def images(self) -> tuple[Path, ...]:
        return tuple(path for message in self.messages for path in message.images)


def probe_items(dataset: Artifact, diagrams: Artifact, limit: int) -> list[Item]:
    """Items of `probes.jsonl`, at most `limit` of them (0: all), taken in turn from every graph.

    Raises ArtifactError when there are none, or one has no question.
    """
    path = dataset.path / "probes.jsonl"
    rows = list(read_jsonl(path, Row))
    if not rows:
        raise ArtifactError(str(path), "must hold at least one probe", "make more diagrams or conversations, then run dataset again")
    held_out = {record.id for record in read_jsonl(diagrams.path / "diagrams.jsonl", DiagramRecord) if record.held_out_style}
    return [_probe(row, dataset.path, held_out) for row in _in_turn(rows, limit)]


def headline_items(diagrams: Artifact, policy: PicturePolicy, scratch: Path) -> list[Item]:
    """The headline prompts with their pictures, resized by the policy into `scratch`. Raises ArtifactError for a missing picture."""
    system = Message(role="system", text=read_prompt(SYSTEM).strip())
    drawn = {record.id: record for record in read_jsonl(diagrams.path / "headline.jsonl", DiagramRecord)}
    items = []
    for prompt in headline_prompts():
        pictures: tuple[Path, ...] = ()
        check = prompt.check
        if prompt.graph is not None:
            if prompt.id not in drawn:
                raise ArtifactError(
                    str(diagrams.path / "headline.jsonl"), "must hold every headline picture", "run diagrams again", prompt.id
                )
            record = drawn[prompt.id]
            pictures = (_fitted(diagrams.path / record.image, policy, scratch),)
            if check and check.kind == "boxes":
                check = check.model_copy(update={"expected": _drawn_boxes(check, record)})
        slices = {"family": prompt.category, "style": prompt.style or "no picture", "domain": prompt.domain}
        items.append(
            Item(
                id=prompt.id,
                set="headline",
                cluster=prompt.id,
                slices=slices,
                check=check,
                facts=prompt.facts,
                rubric=prompt.rubric,
                graph=prompt.graph,
                messages=(system, Message(role="user", text=prompt.prompt.strip(), images=pictures)),
            )
        )
    return items


def fingerprint(items: Sequence[Item]) -> str:
    """64 hex digits over what is asked and expected: two evaluations with the same fingerprint asked the same questions."""
    text = json.dumps([[item.id, [(m.role, m.text) for m in item.messages], _jsonable(item)] for item in items], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def slices_of(graph: Architecture | None, family: str, style: str | None, held_out: bool) -> dict[str, str]:
    """What a result may depend on."""
    slices = {"family": family, "style": style or "no picture"}
    if style:
        slices["style seen"] = "held out" if held_out else "in training"
    if graph is not None:
        count = len(graph.components)
        slices["size"] = "1 to 7" if count <= 7 else "8 to 14" if count <= 14 else "more than 14"
        depth = _depth(graph)
        slices["nesting"] = "no zones" if depth == 0 else "1 level" if depth == 1 else f"{depth} levels"
    return slices


def _probe(row: Row, folder: Path, held_out: set[str]) -> Item:
    messages, images, reference = [], list(row.images), ""
    for turn in row.messages:
        parts = turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"]}]
        text = "".join(part.get("text", "") for part in parts if part.get("type") == "text")
        taken = [images.pop(0) for part in parts if part.get("type") == "image" and images]
        messages.append(Message(role=turn["role"], text=text, images=tuple(folder / name for name in taken)))
    if messages and messages[-1].role == "assistant":
        reference = messages.pop().text
    if not messages or messages[-1].role != "user":
        raise ArtifactError(f"{folder.name}/probes.jsonl", "a probe ends with a question", "run dataset again", row.id)
    return Item(
        id=row.id,
        set="probe",
        cluster=row.graph_sha256 or row.conversation_id,
        check=row.check,
        facts=row.facts,
        graph=row.graph,
        reference=reference,
        slices=slices_of(row.graph, row.family, row.style, row.diagram_id in held_out),
        messages=tuple(messages),
    )


def _in_turn(rows: Sequence[Row], limit: int) -> list[Row]:
    if not limit or limit >= len(rows):
        return list(rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.graph_sha256 or row.conversation_id, []).append(row)
    queues = [groups[key] for key in sorted(groups)]
    # start every graph at another question, or a small limit would take the same kind from each
    turned = [group[index % len(group) :] + group[: index % len(group)] for index, group in enumerate(queues)]
    picked = [group[depth] for depth in range(max(map(len, turned))) for group in turned if depth < len(group)]
    return picked[:limit]


def _fitted(path: Path, policy: PicturePolicy, scratch: Path) -> Path:
    from PIL import Image

    target = scratch / path.name
    if not target.exists():
        try:
            with Image.open(path) as picture:
                fitted = policy.fit(picture)
        except OSError as error:
            raise ArtifactError(str(path), f"must be a readable picture ({error})", "run diagrams again") from error
        scratch.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".tmp.png")
        fitted.save(partial)
        partial.replace(target)
    return target


def _drawn_boxes(check: Check, record: DiagramRecord) -> dict[str, list[float]]:
    """Boxes in 0-1000 of the names that the check asks for, as they were drawn."""
    ids = {component.name: component.id for component in record.graph.components} | {zone.name: zone.id for zone in record.graph.zones}
    boxes = record.boxes.components | record.boxes.zones
    scale = (1000 / record.width, 1000 / record.height) * 2
    return {name: [round(v * s) for v, s in zip(boxes[ids[name]], scale, strict=True)] for name in check.expected if ids.get(name) in boxes}


def _depth(graph: Architecture) -> int:
    parents = {zone.id: zone.parent for zone in graph.zones}

    def level(zone: str | None, seen: int = 0) -> int:
        return 0 if zone is None or seen > len(parents) else 1 + level(parents.get(zone), seen + 1)

    return max((level(component.zone) for component in graph.components), default=0)


def _jsonable(item: Item) -> object:
    return [
        item.check.model_dump(mode="json") if item.check else None,
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in item.images],
    ]
