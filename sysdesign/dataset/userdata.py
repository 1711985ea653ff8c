"""Rows of your own (this project's messages, OpenAI's, ShareGPT's) -> drafts, with every file name and byte treated as hostile.

A picture is a file in the folder of the JSONL, or a base64 data URL. Nothing else is opened, and nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sysdesign.config.dataset import UserData
from sysdesign.dataset.draft import Draft, checked
from sysdesign.dataset.pictures import PictureStore
from sysdesign.dataset.splits import Split, split_user_row
from sysdesign.models.rows import Unfit
from sysdesign.records import Row

MAX_MESSAGES = 200
MAX_PICTURES = 16
MARK = "<image>"  # where ShareGPT's texts place a picture
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip


def draft_user_row(
    record: dict[str, Any],
    row_id: str,
    kind: Literal["extra", "replay"],
    folder: Path,
    cfg: UserData,
    store: PictureStore,
    system: str,
    val_share: float,
    seed: int,
) -> Draft:
    """One draft. `kind` extra gets the student's `system` prompt where it has none; replay stays as it is and only trains.

    Raises Unfit with the first reason why the row cannot be used.
    """
    messages, sources = _messages(record)
    _check_order(messages)
    if len(sources) > MAX_PICTURES:
        raise Unfit("too_many_pictures", f"{len(sources)}, at most {MAX_PICTURES}")
    pictures = tuple(store.add(read_picture(source, folder, cfg.max_image_bytes), cfg.max_image_pixels) for source in sources)
    if kind == "extra" and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    split: Split | None = "train"
    if kind == "extra":
        text = "\n".join(part["text"] for message in messages for part in message["content"] if part["type"] == "text")
        split = split_user_row([picture.name for picture in pictures], text, val_share, seed)
    if split is None:
        raise Unfit("split_conflict", "its pictures fall into different splits; use one picture a row, or the same ones together")
    row = Row(
        id=row_id, split=split, conversation_id=row_id, seed_id=kind, provider="user", family=kind,
        messages=tuple(messages), images=tuple(f"images/{picture.name}" for picture in pictures),
    )  # fmt: skip
    return Draft(row, pictures)


def read_picture(source: Any, folder: Path, max_bytes: int) -> bytes:
    """Bytes of a picture named by a row. Raises Unfit for anything but a plain file inside `folder` or a data URL."""
    if isinstance(source, dict):
        source = source.get("url") or source.get("path")
    if not isinstance(source, str) or not source.strip():
        raise Unfit("picture_missing", "a picture must be a file name or a data URL")
    if source.startswith("data:"):
        return _data_url(source, max_bytes)
    if "://" in source[:32]:
        raise Unfit("remote_picture", f"{source[:80]} is not fetched: download it into the folder of the JSONL")
    try:
        if "\0" in source or len(source) > 1024:
            raise ValueError
        root, path = folder.resolve(strict=True), (folder / source).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise Unfit("picture_missing", f"no file {source[:120]!r}") from None
    if not path.is_relative_to(root):
        raise Unfit("path_outside", f"{source[:120]!r} leaves the folder of the JSONL")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a named pipe must not block
        with os.fdopen(handle, "rb") as data:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise Unfit("picture_missing", f"{source[:120]!r} is no plain file")
            if about.st_size > max_bytes:
                raise Unfit("picture_too_large", f"{about.st_size:,} bytes, at most {max_bytes:,}")
            return data.read(max_bytes + 1)
    except OSError as error:
        raise Unfit("picture_missing", f"{source[:120]!r}: {error.strerror}") from None


def _data_url(source: str, max_bytes: int) -> bytes:
    head, _, body = source.partition(",")
    if not head.endswith(";base64") or not head.startswith("data:image/"):
        raise Unfit("picture_unreadable", "a data URL must be data:image/...;base64,...")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise Unfit("picture_too_large", f"{len(body):,} base64 digits")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unfit("picture_unreadable", f"base64: {error}") from None


def _messages(record: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Messages in this project's form, and their pictures in the order of their places."""
    turns = record.get("messages", record.get("conversations"))
    if not isinstance(turns, list) or not turns:
        raise Unfit("no_messages", "needs a list `messages` (or ShareGPT's `conversations`)")
    if len(turns) > MAX_MESSAGES:
        raise Unfit("too_many_messages", f"{len(turns)}, at most {MAX_MESSAGES}")
    listed = record.get("images", record.get("image"))
    waiting = [] if listed is None else list(listed) if isinstance(listed, list) else [listed]
    messages: list[dict[str, Any]] = []
    sources: list[Any] = []
    if isinstance(record.get("system"), str) and record["system"].strip():
        messages.append({"role": "system", "content": [{"type": "text", "text": checked(record["system"])}]})
    marked = any(MARK in text for turn in turns for text in _plain_texts(turn))
    places = sum(part is None for turn in turns for part in _parts(turn, marked))
    for turn in turns:
        role = _role(turn)
        content: list[dict[str, Any]] = []
        parts = list(_parts(turn, marked))
        if waiting and not places and role == "user":  # pictures are listed, no place is given: they open the first question
            content += [{"type": "image"} for _ in waiting]
            sources, waiting = sources + waiting, []
        for part in parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            if part is None:
                if not waiting:
                    raise Unfit("image_count", "more picture places than pictures")
                part = [waiting.pop(0)]
            content.append({"type": "image"})
            sources.append(part[0])
        if role == "assistant" and any(part["type"] == "image" for part in content):
            raise Unfit("image_in_answer", "an answer cannot hold a picture")
        checked("".join(part.get("text", "") for part in content))
        messages.append({"role": role, "content": content})
    if waiting:
        raise Unfit("image_count", f"{len(waiting)} more pictures than places")
    return messages, sources


def _role(turn: Any) -> str:
    if not isinstance(turn, dict):
        raise Unfit("bad_message", f"a message must be an object, not {type(turn).__name__}")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        raise Unfit("unknown_role", f"{str(role)[:40]!r} is none of {', '.join(_ROLES)}")
    return _ROLES[role]


def _plain_texts(turn: Any) -> Iterator[str]:
    content = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
    if isinstance(content, str):
        yield content


def _parts(turn: Any, marked: bool) -> Iterator[str | list[Any] | None]:
    """Texts, [source] for a picture with its own source, None for a place whose picture is in the row's list."""
    content = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
    if isinstance(content, str):
        pieces = content.split(MARK) if marked and _ROLES.get(str(turn.get("role", turn.get("from")))) == "user" else [content]
        for number, piece in enumerate(pieces):
            if number:
                yield None
            piece = piece.lstrip("\n") if number else piece
            if piece.strip():
                yield piece
        return
    if not isinstance(content, list):
        raise Unfit("bad_message", f"content must be a text or a list of parts, not {type(content).__name__}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if part["text"]:
                yield part["text"]
        elif kind == "image":
            source = part.get("image") or part.get("url") or part.get("path")
            yield None if source is None else [source]
        elif kind == "image_url":
            yield [part.get("image_url")]
        else:
            raise Unfit("unknown_part", f"a part must be of type text, image or image_url, not {str(kind)[:40]!r}")


def _check_order(messages: list[dict[str, Any]]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise Unfit("no_trained_token", "no message of the assistant")
    talk = roles[1:] if roles[0] == "system" else roles
    if "system" in talk:
        raise Unfit("role_order", "a system message must come first, and once")
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(talk)):
        raise Unfit("role_order", "user and assistant must take turns, the user first")
    if talk[-1] != "assistant":
        raise Unfit("ends_with_question", "the last message must be an answer")
