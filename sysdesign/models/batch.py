"""Many conversations in, replies in the same order, whatever the model: batched where it can batch, one by one where it cannot.

A model that answers faster in groups has a method `replies`; the order and the seed are the caller's, so that the same list
gives the same answers however they were scheduled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from sysdesign.models.chat import ChatModel, Message, Reply


@runtime_checkable
class Batched(Protocol):
    """A ChatModel that takes `group` conversations at once."""

    group: int

    def replies(self, conversations: Sequence[Sequence[Message]], *, max_tokens: int, seed: int) -> list[Reply]:
        """One reply for each conversation, in order. Raises ServiceError or ToolError."""
        ...


def reply_all(model: ChatModel, conversations: Sequence[Sequence[Message]], *, max_tokens: int, seed: int) -> Iterator[tuple[int, Reply]]:
    """(index, reply) in order, yielded group by group so that a caller can keep each answer as soon as it exists."""
    if isinstance(model, Batched):
        for start in range(0, len(conversations), model.group):
            group = conversations[start : start + model.group]
            yield from enumerate(model.replies(group, max_tokens=max_tokens, seed=seed), start=start)
    else:
        for index, conversation in enumerate(conversations):
            yield index, model.reply(conversation, max_tokens=max_tokens, seed=seed)
