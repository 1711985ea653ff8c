"""Training rows against evaluation items -> the items that training has seen, each with the reason.

An item that leaks measures memory. It is left out of every score, and the gate then promotes nothing: a split that let one
through may have let others through that no test here sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from sysdesign.artifacts import Artifact
from sysdesign.evaluate.items import Item
from sysdesign.graph import Record
from sysdesign.records import Row, read_jsonl

NGRAM = 13  # words in a row that two texts do not share by chance; GPT-3's decontamination used the same length (arXiv 2005.14165, 2020)


class Leak(Record):
    """One evaluation item and what of it training saw."""

    id: str
    reason: str
    row: str


def find_leaks(dataset: Artifact, items: Sequence[Item]) -> list[Leak]:
    """Same graph, same wiring, same picture bytes, or a shared run of words with a headline prompt, in train or validation rows."""
    graphs: dict[str, str] = {}
    wirings: dict[str, str] = {}
    pictures: dict[str, str] = {}
    phrases: dict[str, str] = {}
    headline = {gram for item in items if item.set == "headline" for gram in _grams(item.question)}
    for split in ("train", "val"):
        for row in read_jsonl(dataset.path / "rows" / f"{split}.jsonl", Row):
            if row.graph_sha256:
                graphs.setdefault(row.graph_sha256, row.id)
            if row.topology:
                wirings.setdefault(row.topology, row.id)
            for image in row.images:
                pictures.setdefault(image, row.id)
            for gram in headline.intersection(_grams(_text(row))) if headline else ():
                phrases.setdefault(gram, row.id)
    digests = {hashlib.sha256((dataset.path / image).read_bytes()).hexdigest(): row for image, row in pictures.items()}
    leaks = []
    for item in items:
        if item.set == "control":
            continue
        seen = _seen(item, graphs, wirings, digests, phrases)
        if seen:
            leaks.append(Leak(id=item.id, reason=seen[0], row=seen[1]))
    return leaks


def _seen(
    item: Item, graphs: dict[str, str], wirings: dict[str, str], pictures: dict[str, str], phrases: dict[str, str]
) -> tuple[str, str] | None:
    if item.graph is not None and item.graph.sha256() in graphs:
        return "same graph", graphs[item.graph.sha256()]
    if item.set == "probe" and item.graph is not None and item.graph.topology() in wirings:
        return "same wiring", wirings[item.graph.topology()]
    for path in item.images:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest in pictures:
            return "same picture", pictures[digest]
    if item.set == "headline":
        for gram in _grams(item.question):
            if gram in phrases:
                return f"{NGRAM} words in a row", phrases[gram]
    return None


def _text(row: Row) -> str:
    return "\n".join(part.get("text", "") for turn in row.messages if isinstance(turn["content"], list) for part in turn["content"])


def _grams(text: str) -> Iterable[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
