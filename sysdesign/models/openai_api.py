"""OpenAI's Responses, Files and Batch, or any chat-completions server, through the openai SDK -> the three outcomes of `paid`.

Facts of the SDK 3.54 (read from its source, 2026-11): two retries are the default (off here), no idempotency key is sent, `detail` of a
picture defaults to its original size, batches take a file of at most 200 MB and 50,000 lines and carry metadata.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sysdesign.ledger import Intent
from sysdesign.models.paid import Answer, BatchState, Gone, Item, MaybeBilled, NotTaken, Request, Result, own_host
from sysdesign.models.prices import Price, Usage
from sysdesign.models.wire import PARSE, failed, header_number, lines_of, outcome, said, status_of

STREAM_ABOVE = 8192  # tokens, as in `claude`


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
        cache: bool = True,
        chat: bool = False,
        timeout_s: float = 600.0,
    ) -> None:
        import httpx2
        import openai

        self.name = "openai"
        if chat:  # a public server's terms are its own: the row names it
            self.name = "local" if own_host(base_url or "") else str(urlsplit(base_url or "").hostname)
        self.model, self.price, self.effort, self.cache, self.chat = model, price, effort, cache, chat
        self.long_cache = False  # a cached prefix lives 30 minutes unless more is asked for
        self._errors = (openai.OpenAIError, httpx2.HTTPError)  # inside a reply the SDK lets the transport's own errors through
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
        except (*self._errors, *PARSE) as error:
            raise failed(f"{self.name}: counting tokens", error) from error

    def send(self, request: Request, *, long: bool = False) -> Answer | NotTaken | MaybeBilled:
        """One reply; `long` changes nothing here."""
        try:
            if self.chat:
                raw: Any = self._client.chat.completions.with_raw_response.create(**self._chat_body(request))
            elif request.max_tokens > STREAM_ABOVE:
                return self._streamed(request)
            else:
                raw = self._client.responses.with_raw_response.create(**self._body(request))
            self._room = header_number(raw.headers, "x-ratelimit-remaining-requests")
            found = raw.parse().model_dump()
            return _chat_answer(found) if self.chat else _answer(found)
        except (*self._errors, *PARSE) as error:
            return outcome(error)

    def _streamed(self, request: Request) -> Answer | MaybeBilled:
        """A long reply, streamed; a stream that ends without its last event was cut after work was done."""
        with self._client.responses.create(**self._body(request), stream=True) as events:
            for event in events:
                if event.type in ("response.completed", "response.incomplete", "response.failed"):
                    return _answer(event.response.model_dump())
        return MaybeBilled(why="the stream has no end")

    def room(self) -> float | None:
        """Requests that the last reply's rate-limit headers left."""
        return self._room

    def newest_batch(self) -> str | None:
        """Not needed: batches carry their intent."""
        return None

    def post_batch(self, items: Sequence[Item], intent: str) -> str | NotTaken | MaybeBilled:
        """Upload the requests, then create the batch under the intent's id. Only the second step can be billed."""
        lines = "\n".join(
            json.dumps({"custom_id": name, "method": "POST", "url": "/v1/responses", "body": self._body(request)})
            for name, request in items
        )
        try:
            file = self._client.files.create(file=(f"{intent}.jsonl", lines.encode()), purpose="batch")
        except (*self._errors, *PARSE) as error:
            found = outcome(error)
            return found if isinstance(found, NotTaken) else NotTaken(why=f"upload: {found.why}")
        try:
            done = self._client.batches.create(
                input_file_id=file.id, endpoint="/v1/responses", completion_window="24h", metadata={"intent": intent}
            )
            return str(done.id)
        except (*self._errors, *PARSE) as error:
            return outcome(error)

    def find_batch(self, intent: Intent, known: frozenset[str]) -> str | None:
        """The batch that carries this intent. Raises ServiceError."""
        try:
            return next((b.id for b in self._client.batches.list(limit=100) if (b.metadata or {}).get("intent") == intent.id), None)
        except (*self._errors, *PARSE) as error:
            raise failed(f"{self.name}: listing batches", error) from error

    def poll(self, batch: str) -> BatchState | Gone:
        """How far the batch is. Raises ServiceError."""
        try:
            found = self._client.batches.retrieve(batch)
            counts = found.request_counts
            done, total = (counts.completed + counts.failed, counts.total) if counts else (0, 0)
            problem = None
            if found.status == "failed":
                problem = "; ".join(e.message or e.code or "?" for e in (found.errors.data or [])) if found.errors else "failed"
            ended = found.status in ("completed", "failed", "expired", "cancelled")
            return BatchState(ended=ended, done=done, total=total, problem=problem)
        except (*self._errors, *PARSE) as error:
            if status_of(error) == 404:
                return Gone(why=said(error))
            raise failed(f"{self.name}: batch {batch}", error) from error

    def results(self, batch: str) -> list[Result] | Gone:
        """Replies in any order, from the output and the error file. Raises ServiceError: they cannot be read now."""
        found: list[Result] = []
        where = f"{self.name}: results of batch {batch}"
        try:
            ended = self._client.batches.retrieve(batch)
        except (*self._errors, *PARSE) as error:
            raise failed(where, error) from error
        for file_id in (ended.output_file_id, ended.error_file_id):
            try:
                data = b"" if file_id is None else self._client.files.content(file_id).content
            except (*self._errors, *PARSE) as error:
                if status_of(error) not in (404, 410):
                    raise failed(where, error) from error
                if not found:
                    return Gone(why=f"file {file_id}: {said(error)}")
            else:
                found += [_result(number, line) for number, line in lines_of(data)]
        return found

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
        if not self.cache:
            body["prompt_cache_options"] = {"mode": "explicit"}  # and no breakpoint: nothing is written to the cache
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


def _answer(response: dict[str, Any]) -> Answer:
    """A response's text and billed tokens; cached and cache-written tokens are part of `input_tokens` here."""
    used = response["usage"]
    details = used.get("input_tokens_details") or {}
    read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    parts = [c for item in response["output"] if item.get("type") == "message" for c in item.get("content") or []]
    refused = any(c.get("type") == "refusal" for c in parts)
    status = response.get("status")
    if status not in ("completed", "incomplete", "failed"):
        raise ValueError(f"the response is {status}")
    return Answer(
        text="".join(c.get("text") or "" for c in parts if c.get("type") == "output_text"),
        finish="refusal" if refused or status == "failed" else "length" if status == "incomplete" else "stop",
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


def _result(number: int, line: bytes) -> Result:
    name = f"line {number}"
    try:
        entry = json.loads(line)
        name, response = str(entry["custom_id"]), entry.get("response") or {}
        status = response.get("status_code")
        if status == 200:
            return name, _answer(response["body"])
        lasting = status is not None and 400 <= status < 500 and status not in (408, 409, 429)
        return name, NotTaken(why=str(entry.get("error") or response.get("body"))[:300], fatal=lasting)
    except PARSE as error:
        return name, MaybeBilled(why=f"line {number} of the results cannot be read ({error!r})"[:300])
