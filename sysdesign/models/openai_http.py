"""Any server that speaks OpenAI's chat-completions: llama.cpp's server, Ollama, vLLM, OpenAI itself.

Messages with pictures become one POST with data URLs. Local servers are asked greedily. `LLAMACPP` also forbids reuse of an earlier
prompt's cache, for answers that must not depend in any bit on what was asked before; `LLAMACPP_REUSE` leaves that to the server.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from sysdesign.errors import ServiceError
from sysdesign.models.chat import Message, Reply, TooLong

FINISH: dict[str | None, Literal["stop", "length", "refusal"]] = {"length": "length", "content_filter": "refusal"}
LLAMACPP: dict[str, Any] = {"cache_prompt": False, "top_k": 1}  # fields of llama.cpp's server that OpenAI's schema does not have
LLAMACPP_REUSE: dict[str, Any] = {"top_k": 1}
_TOO_LONG = ("exceed_context_size_error", "context_length_exceeded")  # llama.cpp's type; the code of OpenAI and vLLM


class OpenAiHttp:
    """`base_url` ends in `/v1`. The key is read from the environment variable *named* `key_env`; local servers need none."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        name: str = "",
        key_env: str = "",
        extra: Mapping[str, Any] | None = None,
        temperature: float | None = 0.0,
        timeout_s: float = 600.0,
        retries: int = 0,
        group: int = 1,
    ) -> None:
        """`retries` stays 0 where calls cost money: a retry after a lost reply is a second charge. `extra`: more body fields
        (`LLAMACPP`). `temperature` None leaves the field out, for models that refuse it. `group`: calls in flight at once.
        """
        import openai

        key = os.environ.get(key_env, "") if key_env else "none"
        if not key:
            raise ServiceError(f"environment variable {key_env}", "must hold the server's API key", f"export {key_env}=...")
        self.base_url, self.model, self.name, self.group = base_url, model, name or f"{model}@{base_url}", group
        self._extra, self._temperature = dict(extra or {}), temperature
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_s, max_retries=retries)

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """One completion. Raises ServiceError: unreachable, timed out, refused by the server (`TooLong`: it does not fit), or an answer
        without a choice.
        """
        import openai

        settings: dict[str, Any] = {} if self._temperature is None else {"temperature": self._temperature}
        payload: Any = [_as_openai(message) for message in messages]
        start = time.perf_counter()
        try:
            done = self._client.chat.completions.create(
                model=self.model, messages=payload, max_tokens=max_tokens, seed=seed, extra_body=self._extra or None, **settings
            )
        except openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            if body.get("type") in _TOO_LONG or body.get("code") in _TOO_LONG:
                law, do = "the question must fit the context", "give the server a larger context"
                raise TooLong(self.base_url, law, do, str(body.get("message", error))) from error
            law = f"the server must accept the request (HTTP {error.status_code})"
            raise ServiceError(self.base_url, law, "read the server's log", " ".join(str(error).split())) from error
        except openai.APIConnectionError as error:  # covers timeouts
            law = "a chat-completions server must answer here"
            raise ServiceError(self.base_url, law, "start it, or mend the address", str(error.__cause__ or error)) from error
        except ValueError as error:  # a body that calls itself JSON
            raise self._foreign(str(error)) from error
        found: Any = getattr(done, "choices", None)  # the client hands on whatever came, a page of HTML as its text
        choice: Any = found[0] if isinstance(found, list) and found else None
        if getattr(choice, "message", None) is None:
            raise self._foreign(str(done))
        usage = done.usage
        return Reply(
            text=choice.message.content or choice.message.refusal or "",
            finish="refusal" if choice.message.refusal else FINISH.get(choice.finish_reason, "stop"),
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
            seconds=time.perf_counter() - start,
        )

    def _foreign(self, got: str) -> ServiceError:
        law = "a reply must be a chat completion with at least one message"
        return ServiceError(self.base_url, law, "check that this is a chat-completions server", " ".join(got.split())[:120])

    def replies(self, conversations: Sequence[Sequence[Message]], *, max_tokens: int, seed: int) -> list[Reply]:
        """`group` requests in flight; replies in the order of the questions."""
        with ThreadPoolExecutor(max(1, self.group)) as pool:
            return list(pool.map(lambda messages: self.reply(messages, max_tokens=max_tokens, seed=seed), conversations))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _as_openai(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    pictures = [{"type": "image_url", "image_url": {"url": data_url(path)}} for path in message.images]
    return {"role": message.role, "content": [*pictures, {"type": "text", "text": message.text}]}


def data_url(path: Path) -> str:
    """The bytes of a picture as `data:image/...;base64,...`, unchanged: the picture policy was applied before."""
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}.get(path.suffix.lower(), "png")
    try:
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise ServiceError(str(path), f"a picture must be readable ({error.strerror})", "run the stage that draws it again") from error
