"""A tuned adapter -> its score on validation questions, by the same rules that judge the test questions.

A sweep picks its winner by this score, so it must not look at the test split: that would spend the gate's evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sysdesign.errors import ArtifactError
from sysdesign.records import Row

if TYPE_CHECKING:
    from sysdesign.artifacts import Artifact
    from sysdesign.config.runtime import RuntimeConfig
    from sysdesign.models.chat import Message


def probe(
    *, train: Artifact, dataset: Artifact, base: Artifact, runtime: RuntimeConfig, count: int, max_tokens: int, group: int
) -> dict[str, float]:
    """Mean score over at most `count` validation questions, its standard error, their number, and each part that was scored.

    Raises ArtifactError when no validation row can be scored.
    """
    from sysdesign.evaluate.scoring import score
    from sysdesign.models.base import base_folder
    from sysdesign.models.batch import reply_all
    from sysdesign.models.local import Local
    from sysdesign.models.rows import load_split

    rows = spread([row for row in load_split(dataset, "val") if row.check is not None and row.check.kind != "text"], count)
    if not rows:
        raise ArtifactError(str(dataset.path), "must hold validation rows with a check", "make more diagrams, or raise dataset.val_share")
    model = Local(base_folder(base), adapter=train.path / "adapter", device=runtime.device, precision=precision(runtime), group=group)
    values: list[float] = []
    parts: dict[str, list[float]] = {}
    for index, reply in reply_all(model, [messages(row, dataset.path) for row in rows], max_tokens=max_tokens, seed=0):
        row = rows[index]
        found = score(row.check, reply.text, graph=row.graph, question=text_of(row.messages[-2]), cut=reply.finish == "length")
        for name, value in found.parts.items():
            parts.setdefault(name, []).append(value)
        if found.value is not None:
            values.append(found.value)
    model.close()
    mean = sum(values) / len(values)
    spread_ = math.sqrt(sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1) / len(values))
    return {"probe/score": mean, "probe/score_se": spread_, "probe/n": float(len(values))} | {
        f"probe/{name}": sum(found) / len(found) for name, found in parts.items()
    }


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows at even distances, so that every family and picture is among them."""
    return [rows[index * len(rows) // count] for index in range(count)] if len(rows) > count else list(rows)


def messages(row: Row, folder: Path) -> list[Message]:
    """The conversation up to its last question, pictures as files."""
    from sysdesign.models.chat import Message

    said, images = [], list(row.images)
    for turn in row.messages[:-1]:
        content = turn["content"] if isinstance(turn["content"], list) else []
        taken = [folder / images.pop(0) for part in content if part.get("type") == "image" and images]
        said.append(Message(role=turn["role"], text=text_of(turn), images=tuple(taken)))
    return said


def text_of(turn: dict[str, Any]) -> str:
    """The words of a message."""
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content if part.get("type") == "text")


def precision(runtime: RuntimeConfig) -> Any:
    """bf16 where a GPU does it in hardware."""
    import torch

    return "bfloat16" if runtime.device != "cpu" and torch.cuda.is_available() else "float32"
