"""A paid provider behind the chat seam: whoever talks to a `ChatModel` can talk to it, and spends from the ledger."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sysdesign.models.chat import Message, Reply
from sysdesign.models.paid import Request, Spender


class PaidChat:
    """A paid provider behind the chat seam, so that a judge spends from the same ledger. Raises as `Spender.buy`."""

    def __init__(self, spender: Spender) -> None:
        self._spender = spender
        self.name = f"{spender.provider.model}@{spender.provider.name}"

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """One reply; `seed` enters the text so that votes are separate purchases (these models take no sampling seed)."""
        prefix = "\n\n".join(m.text for m in messages if m.role == "system")
        said = [m for m in messages if m.role != "system"]
        text = said[0].text if len(said) == 1 else "\n\n".join(f"{m.role.upper()}: {m.text}" for m in said)
        if seed:
            text += f"\n\n(vote {seed})"
        request = Request(prefix=prefix, text=text, images=tuple(p for m in said for p in m.images), max_tokens=max_tokens)
        started = time.monotonic()
        answer = self._spender.buy(request)
        tokens = answer.usage.input + answer.usage.cache_read + answer.usage.cache_write
        return Reply(
            text=answer.text,
            finish=answer.finish,
            input_tokens=tokens,
            output_tokens=answer.usage.output,
            seconds=time.monotonic() - started,
        )

    def close(self) -> None:
        """Close the provider's connections and the ledger."""
        self._spender.provider.close()
        self._spender.ledger.close()
