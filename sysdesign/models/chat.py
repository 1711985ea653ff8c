"""The seam to every model that talks: messages with pictures in, one reply out.

Implementations: `claude` and `openai_http` (OpenAI, Ollama, llama.cpp's server, vLLM), `local` (transformers), `scripted`
(tests). A caller never learns which one it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from sysdesign.errors import ServiceError
from sysdesign.graph import Record


class Message(Record):
    """One turn; pictures come before the text, already resized by the picture policy."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Path, ...] = ()


class Reply(Record):
    """What came back. Token counts are None where the model did not report them, never 0."""

    text: str
    finish: Literal["stop", "length", "refusal"] = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None


class TooLong(ServiceError):
    """A question that does not fit the model's context; other questions may."""


class ChatModel(Protocol):
    """Anything that answers. `name` identifies weights and settings, so that answers can be cached by it."""

    name: str

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """Greedy by default. Raises ServiceError when the model cannot be reached or refuses it, TooLong when it does not fit."""
        ...

    def close(self) -> None:
        """Give back memory and processes; safe to call twice."""
        ...
