"""Items and a model -> answers, each kept on disk the moment it exists.

An answer is addressed by the digest of the weights, the conversation (text and picture bytes) and the settings, so a killed
evaluation goes on where it stopped and the base is measured once for all the models tuned from it. The cache lies beside the
artefacts and changes no result: under the same address the same greedy answer would be given again.

A model that answers one question at a time is asked about one picture after the other, questions with the same first words next to each
other: a server that keeps what it read last reads the system prompt once and each picture once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from sysdesign.evaluate.items import Item
from sysdesign.graph import Record
from sysdesign.models.batch import reply_all
from sysdesign.models.chat import ChatModel, Message, Reply, TooLong


class Answer(Record):
    """What a model said. `cut`: it ran into the token limit. `unasked`: why it could not be asked this; it then said nothing."""

    text: str
    cut: bool = False
    tokens: int | None = None
    unasked: str = ""


class Asked(Record):
    """Answers in the order of the items, and how many were asked for anew."""

    answers: tuple[Answer, ...]
    fresh: int
    seconds: float  # of the fresh ones


def address(digest: str, item: Item, settings: dict[str, object]) -> str:
    """64 hex digits over everything that can change the answer."""
    said = [(m.role, m.text, [hashlib.sha256(path.read_bytes()).hexdigest() for path in m.images]) for m in item.messages]
    return hashlib.sha256(json.dumps([digest, said, settings], sort_keys=True).encode()).hexdigest()


def recall(cache: Path, digest: str, items: Sequence[Item], settings: dict[str, object], limits: dict[str, int]) -> list[Answer | None]:
    """What is already known, in the order of the items."""
    return [_load(_file(cache, address(digest, item, settings | {"max_tokens": _limit(item, limits)}))) for item in items]


def ask(
    model: ChatModel,
    digest: str,
    items: Sequence[Item],
    *,
    cache: Path,
    settings: dict[str, object],
    limits: dict[str, int],
    seed: int,
    label: str,
) -> Asked:
    """Ask what is not yet known. `limits`: most tokens by set ("probe", "headline"; controls count as probes).

    A question that does not fit the context gets an empty answer with the reason. Raises ServiceError when the model goes away; what was
    answered until then is kept.
    """
    known = recall(cache, digest, items, settings, limits)
    missing = [index for index, answer in enumerate(known) if answer is None]
    bar = tqdm(total=len(missing), desc=label, unit="answer", disable=None if missing else True, mininterval=1.0)
    with bar:
        for limit in sorted({_limit(items[index], limits) for index in missing}):
            group = _order([i for i in missing if _limit(items[i], limits) == limit], items, getattr(model, "group", 1))
            for position, answer in _answers(model, [items[i].messages for i in group], limit, seed):
                index = group[position]
                known[index] = answer
                _store(_file(cache, address(digest, items[index], settings | {"max_tokens": limit})), answer)
                bar.update()
    return Asked(answers=tuple(answer for answer in known if answer is not None), fresh=len(missing), seconds=bar.format_dict["elapsed"])


def _order(indices: Sequence[int], items: Sequence[Item], together: int) -> list[int]:
    """Equal lengths together for a batch, which takes as long as its longest member; else what begins alike."""
    if together > 1:
        return sorted(indices, key=lambda i: (len(items[i].images), len(items[i].question), i))
    return sorted(indices, key=lambda i: (*((m.role, m.images, m.text) for m in items[i].messages), (str(i),)))


def _answers(model: ChatModel, conversations: Sequence[Sequence[Message]], limit: int, seed: int) -> Iterator[tuple[int, Answer]]:
    if getattr(model, "group", 1) > 1:
        for position, reply in reply_all(model, conversations, max_tokens=limit, seed=seed):
            yield position, _answer(reply)
        return
    for position, conversation in enumerate(conversations):
        try:
            answer = _answer(model.reply(conversation, max_tokens=limit, seed=seed))
        except TooLong as error:
            answer = Answer(text="", unasked=f"does not fit the context: {error.got}")
        yield position, answer


def _answer(reply: Reply) -> Answer:
    return Answer(text=reply.text, cut=reply.finish == "length", tokens=reply.output_tokens)


def _limit(item: Item, limits: dict[str, int]) -> int:
    return limits["headline" if item.set == "headline" else "probe"]


def _file(cache: Path, key: str) -> Path:
    return cache / key[:2] / f"{key}.json"


def _load(path: Path) -> Answer | None:
    try:
        return Answer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # not there, or torn by a kill: it is asked again
        return None


def _store(path: Path, answer: Answer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")  # two threads may hold the same answer
    partial.write_text(answer.model_dump_json(), encoding="utf-8")
    partial.replace(path)
