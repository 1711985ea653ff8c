"""A tuned adapter, or one under training -> its score on validation questions, by the same rules that judge the test questions.

A sweep picks its winner by this score, so it must not look at the test split: that would spend the gate's evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sysdesign.config.sweep import INTERIM
from sysdesign.errors import ArtifactError
from sysdesign.records import Row

if TYPE_CHECKING:
    from sysdesign.artifacts import Artifact
    from sysdesign.config.runtime import RuntimeConfig
    from sysdesign.models.chat import ChatModel, Message


def score(
    rows: Sequence[Row], *, train: Artifact, dataset: Artifact, base: Artifact, runtime: RuntimeConfig, max_tokens: int, group: int
) -> dict[str, float]:
    """Mean score over `rows`, its standard error, their number, and each part that was scored."""
    from sysdesign.models.base import base_folder
    from sysdesign.models.local import Local

    model = Local(base_folder(base), adapter=train.path / "adapter", device=runtime.device, precision=precision(runtime), group=group)
    try:
        values = answers(model, rows, dataset.path, max_tokens)
    finally:
        model.close()
    scores = values["score"]
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in scores) / max(len(scores) - 1, 1) / len(scores))
    means = {f"probe/{name}": sum(found) / len(found) for name, found in values.items()}
    return means | {"probe/score_se": deviation, "probe/n": float(len(scores))}


def interim(
    model: Any, *, rows: Sequence[Row], dataset: Artifact, base: Artifact, part: str, max_tokens: int, group: int
) -> dict[str, float]:
    """What a model under training answers to `rows`: its mean score, and the mean of `part`."""
    from sysdesign.models.base import base_folder
    from sysdesign.models.local import Local

    values = answers(Local(base_folder(base), loaded=model, group=group), rows, dataset.path, max_tokens)
    return {f"{INTERIM}{name}": sum(found) / len(found) for name, found in values.items() if name in ("score", part)}


def questions(dataset: Artifact, part: str, count: int) -> list[Row]:
    """At most `count` validation rows whose own answer has that part scored, at even distances: every family and picture is among them.

    Raises ArtifactError when there is none.
    """
    from sysdesign.evaluate import scoring
    from sysdesign.models.rows import load_split

    rows, seen = [], set[str]()
    for row in load_split(dataset, "val"):
        found = scoring.score(row.check, text_of(row.messages[-1]), graph=row.graph, question=text_of(row.messages[-2]))
        if found.value is not None:
            seen |= {"score", *found.parts}
            if part in ("score", *found.parts):
                rows.append(row)
    if not rows:
        law = f"must hold validation rows with a check for probe/{part}" + (f"; these have {', '.join(sorted(seen))}" if seen else "")
        do = "name one of them as the objective" if seen else "make more diagrams, or raise dataset.val_share"
        raise ArtifactError(str(dataset.path), law, do)
    return [rows[index * len(rows) // count] for index in range(count)] if len(rows) > count else rows


def answers(model: ChatModel, rows: Sequence[Row], folder: Path, max_tokens: int) -> dict[str, list[float]]:
    """`score` and each part -> its values over the model's answers."""
    from sysdesign.evaluate import scoring
    from sysdesign.models.batch import reply_all

    values: dict[str, list[float]] = {}
    for index, reply in reply_all(model, [messages(row, folder) for row in rows], max_tokens=max_tokens, seed=0):
        row = rows[index]
        found = scoring.score(row.check, reply.text, graph=row.graph, question=text_of(row.messages[-2]), cut=reply.finish == "length")
        for name, value in {"score": found.value, **found.parts}.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return values


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
