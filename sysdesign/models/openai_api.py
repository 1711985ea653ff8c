"""OpenAI's Responses, Files and Batch, or any chat-completions server, through the openai SDK -> the three outcomes of `paid`.

Facts of the SDK 3.54 (read from its source, 2026-11): two retries are the default (off here), no idempotency key is sent, `detail` of a
picture defaults to its original size, batches take a file of at most 200 MB and 50,000 lines and carry metadata.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sysdesign.errors import ServiceError
from sysdesign.models.claude import outcome
from sysdesign.models.paid import Answer, BatchState, Item, MaybeBilled, NotTaken, Request, Result
from sysdesign.models.prices import Price, Usage


class OpenAIApi:
    """One model. `chat`: speak chat completions, for open-weight models behind `base_url`; there are no batches then."""

    def __init__(
        self,
        model: str,
        price: Price,
        key: str,
        *,
        base_url: str | None = None,
        effort: str = "low",
        chat: bool = False,
        timeout_s: float = 600.0,
    ) -> None:
        import openai

        self.name = "local" if chat else "openai"
        self.model, self.price, self.effort, self.chat = model, price, effort, chat
        self._sdk = openai
        self._client = openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=timeout_s)
        self.base_url = str(self._client.base_url)
        self._room: float | None = None

    def count(self, request: Request) -> int:
        """Input tokens, counted by the provider; a local server is taken at four bytes a token. Raises ServiceError."""
        if self.chat:
            return (len(request.prefix.encode()) + len(request.text.encode())) // 4
        body = self._body(request)
        try:
            kept: Any = {k: body[k] for k in ("model", "input", "instructions", "text", "reasoning") if k in body}
            return int(self._client.responses.input_tokens.count(**kept).input_tokens)
        except self._sdk.APIError as error:
            raise self._failed("counting tokens", error) from error

    def send(self, request: Request) -> Answer | NotTaken | MaybeBilled:
        """One reply."""
        try:
            if self.chat:
                raw: Any = self._client.chat.completions.with_raw_response.create(**self._chat_body(request))
            else:
                raw = self._client.responses.with_raw_response.create(**self._body(request))
            left = raw.headers.get("x-ratelimit-remaining-requests")
            self._room = float(left) if left and left.isdigit() else None
            found = raw.parse().model_dump()
            return _chat_answer(found) if self.chat else _answer(found)
        except self._sdk.APIStatusError as error:
            return outcome(error)
        except (self._sdk.APIError, ValueError, KeyError, TypeError, AttributeError) as error:  # as in `claude`
            return MaybeBilled(why=" ".join(str(error.__cause__ or error).split()) or type(error).__name__)

    def room(self) -> float | None:
        """Requests that the last reply's rate-limit headers left."""
        return self._room

    def post_batch(self, items: Sequence[Item], intent: str) -> str | NotTaken | MaybeBilled:
        """Upload the requests, then create the batch under the intent's id. Only the second step can be billed."""
        lines = "\n".join(
            json.dumps({"custom_id": name, "method": "POST", "url": "/v1/responses", "body": self._body(request)})
            for name, request in items
        )
        try:
            file = self._client.files.create(file=(f"{intent}.jsonl", lines.encode()), purpose="batch")
        except self._sdk.APIStatusError as error:
            return outcome(error)
        except self._sdk.APIError as error:
            return NotTaken(why=f"upload: {error}")
        try:
            done = self._client.batches.create(
                input_file_id=file.id, endpoint="/v1/responses", completion_window="24h", metadata={"intent": intent}
            )
            return str(done.id)
        except self._sdk.APIStatusError as error:
            return outcome(error)
        except self._sdk.APIError as error:
            return MaybeBilled(why=" ".join(str(error.__cause__ or error).split()))

    def find_batch(self, intent: str, ids: Sequence[str], known: frozenset[str]) -> str | None:
        """The batch that carries this intent. Raises ServiceError."""
        try:
            return next((b.id for b in self._client.batches.list(limit=100) if (b.metadata or {}).get("intent") == intent), None)
        except self._sdk.APIError as error:
            raise self._failed("listing batches", error) from error

    def poll(self, batch: str) -> BatchState:
        """How far the batch is. Raises ServiceError."""
        try:
            found = self._client.batches.retrieve(batch)
        except self._sdk.APIError as error:
            raise self._failed(f"batch {batch}", error) from error
        counts = found.request_counts
        done, total = (counts.completed + counts.failed, counts.total) if counts else (0, 0)
        problem = None
        if found.status == "failed":
            problem = "; ".join(e.message or e.code or "?" for e in (found.errors.data or [])) if found.errors else "failed"
        return BatchState(ended=found.status in ("completed", "failed", "expired", "cancelled"), done=done, total=total, problem=problem)

    def results(self, batch: str) -> Iterator[Result]:
        """Replies in any order, from the output and the error file. Raises ServiceError: unreadable or malformed."""
        where = f"results of batch {batch}"
        try:
            found = self._client.batches.retrieve(batch)
            for file_id in (found.output_file_id, found.error_file_id):
                if file_id is None:
                    continue
                for number, line in enumerate(self._client.files.content(file_id).text.splitlines(), 1):
                    if not line.strip():
                        continue
                    try:
                        entry = json.loads(line)
                        name, response = str(entry["custom_id"]), entry.get("response")
                        if response and response.get("status_code") == 200:
                            yield name, _answer(response["body"])
                        else:
                            yield name, NotTaken(why=str(entry.get("error") or (response or {}).get("body"))[:300])
                    except (ValueError, KeyError, TypeError) as error:
                        raise ServiceError(f"{where}, line {number}", f"must be a result ({error!r})", "run it again later") from error
        except self._sdk.APIError as error:
            raise self._failed(where, error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for path in request.images:
            data = base64.b64encode(path.read_bytes()).decode()
            content.append({"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "high"})
        content.append({"type": "input_text", "text": request.text})
        body: dict[str, Any] = {
            "model": self.model,
            "input": [{"role": "user", "content": content}],
            "max_output_tokens": request.max_tokens,
            "reasoning": {"effort": self.effort},
            "store": False,
            "prompt_cache_key": "sysdesign-teacher",
        }
        if request.prefix:
            body["instructions"] = request.prefix
        if request.reply_schema is not None:
            body["text"] = {"format": {"type": "json_schema", "name": "reply", "schema": request.reply_schema, "strict": True}}
        return body

    def _chat_body(self, request: Request) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for path in request.images:
            data = base64.b64encode(path.read_bytes()).decode()
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        content.append({"type": "text", "text": request.text})
        system = [{"role": "system", "content": request.prefix}] if request.prefix else []
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": content}],
            "max_tokens": request.max_tokens,
        }
        if request.reply_schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": request.reply_schema, "strict": True},
            }
        return body

    def _failed(self, what: str, error: Exception) -> ServiceError:
        return ServiceError(
            f"{self.name}: {what}", f"must succeed ({' '.join(str(error).split())[:300]})", "run it again: paid replies are kept"
        )


def _answer(response: dict[str, Any]) -> Answer:
    """A response's text and billed tokens; cached and cache-written tokens are part of `input_tokens` here."""
    used = response["usage"]
    details = used.get("input_tokens_details") or {}
    read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    parts = [c for item in response["output"] if item.get("type") == "message" for c in item.get("content") or []]
    refused = any(c.get("type") == "refusal" for c in parts)
    cut = response.get("status") == "incomplete"
    return Answer(
        text="".join(c.get("text") or "" for c in parts if c.get("type") == "output_text"),
        finish="refusal" if refused else "length" if cut else "stop",
        usage=Usage(
            input=used["input_tokens"] - read - written, cache_read=read, cache_write=written, output=used["output_tokens"],
            thinking=(used.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
        ),
        request_id=response.get("id"),
    )  # fmt: skip


def _chat_answer(found: dict[str, Any]) -> Answer:
    choice, used = found["choices"][0], found.get("usage") or {}
    cut = choice.get("finish_reason") == "length"
    return Answer(
        text=choice["message"].get("content") or "", finish="length" if cut else "stop",
        usage=Usage(input=used.get("prompt_tokens") or 0, output=used.get("completion_tokens") or 0), request_id=found.get("id"),
    )  # fmt: skip
