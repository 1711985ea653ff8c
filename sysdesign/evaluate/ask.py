"""Items and a model -> answers, each kept on disk the moment it exists.

An answer is addressed by the digest of the weights, the conversation (text and picture bytes) and the settings, so a killed
evaluation goes on where it stopped and the base is measured once for all the models tuned from it.

A served model is asked about one picture after the other, and reads each picture once (`BY_PICTURE`). What is kept from one question may
change the last bits of the next, so there the address also covers the questions about the same picture that came before, a picture's
first question is read from its start, and a picture with any answer missing is asked all its questions again: a resumed evaluation gives
the answers of an uninterrupted one. That holds for the same build, processor and number of threads, which no address covers.
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

BY_PICTURE = "by picture"  # value of the setting `prompt`


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


def addresses(digest: str, items: Sequence[Item], settings: dict[str, object], limits: dict[str, int]) -> list[str]:
    """64 hex digits an item: over what is asked, of whom and how, and what was asked before it with effect on the answer."""
    found = [""] * len(items)
    for group in groups(items, settings, limits):
        before = ""
        for index in group:
            item = items[index]
            said = [(m.role, m.text, [hashlib.sha256(path.read_bytes()).hexdigest() for path in m.images]) for m in item.messages]
            about = [digest, said, settings | {"max_tokens": _limit(item, limits)}, *([before] if before else [])]
            found[index] = before = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return found


def groups(items: Sequence[Item], settings: dict[str, object], limits: dict[str, int]) -> list[list[int]]:
    """Indices that are asked one after the other from a fresh start; questions without a picture share too little to be grouped."""
    if settings.get("prompt") != BY_PICTURE:
        return [[index] for index in range(len(items))]
    found: dict[object, list[int]] = {}
    for index in sorted(range(len(items)), key=lambda i: (*((m.role, m.images, m.text) for m in items[i].messages), (str(i),))):
        item = items[index]
        found.setdefault((_limit(item, limits), item.images) if item.images else index, []).append(index)
    return list(found.values())


def recall(cache: Path, digest: str, items: Sequence[Item], settings: dict[str, object], limits: dict[str, int]) -> list[Answer | None]:
    """What is already known, in the order of the items."""
    return [_load(_file(cache, key)) for key in addresses(digest, items, settings, limits)]


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
    keys = addresses(digest, items, settings, limits)
    known = [_load(_file(cache, key)) for key in keys]
    asked = [group for group in groups(items, settings, limits) if any(known[index] is None for index in group)]
    missing = [index for group in asked for index in group]
    bar = tqdm(total=len(missing), desc=label, unit="answer", disable=None if missing else True, mininterval=1.0)
    with bar:
        for limit, batch in _batches(asked, items, limits, getattr(model, "group", 1)):
            if hasattr(model, "begin"):
                model.begin()
            for position, answer in _answers(model, [items[i].messages for i in batch], limit, seed):
                index = batch[position]
                known[index] = answer
                _store(_file(cache, keys[index]), answer)
                bar.update()
    return Asked(answers=tuple(answer for answer in known if answer is not None), fresh=len(missing), seconds=bar.format_dict["elapsed"])


def _batches(asked: Sequence[list[int]], items: Sequence[Item], limits: dict[str, int], together: int) -> Iterator[tuple[int, list[int]]]:
    """(limit, indices): as grouped; for a model that takes many at once, equal lengths together: the longest sets a batch's time."""
    if together == 1:
        yield from ((_limit(items[group[0]], limits), group) for group in asked)
        return
    flat = [index for group in asked for index in group]
    for limit in sorted({_limit(items[index], limits) for index in flat}):
        chosen = [index for index in flat if _limit(items[index], limits) == limit]
        yield limit, sorted(chosen, key=lambda i: (len(items[i].images), len(items[i].question), i))


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
