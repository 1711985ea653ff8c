"""A model whose answers are written down: a function or a list instead of weights, behind the same seam.

Tests, simulations and dry runs go through every line that a real model goes through, and know the right outcome beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sysdesign.errors import ServiceError
from sysdesign.models.chat import Message, Reply


class Scripted:
    """Answers with `script(messages)`, or with the next line of a list. A list that runs out is a ServiceError."""

    def __init__(self, script: Callable[[Sequence[Message]], str] | Iterable[str], name: str = "scripted") -> None:
        """`name` identifies the script in caches: two scripts that answer differently need two names."""
        self.name = name
        self._script = script if callable(script) else None
        self._lines = iter(()) if callable(script) else iter(script)
        self.asked: list[tuple[Message, ...]] = []

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """Cut at `max_tokens` words (a word stands for a token), with finish "length" when it was cut."""
        self.asked.append(tuple(messages))
        text = self._script(messages) if self._script else next(self._lines, None)
        if text is None:
            raise ServiceError(self.name, "a scripted model answers once for each line of its script", "add lines", len(self.asked))
        words = text.split()
        asked = sum(len(message.text.split()) for message in messages)
        if len(words) > max_tokens:
            return Reply(text=" ".join(words[:max_tokens]), finish="length", input_tokens=asked, output_tokens=max_tokens)
        return Reply(text=text, input_tokens=asked, output_tokens=len(words))

    def close(self) -> None:
        """Nothing is held."""
