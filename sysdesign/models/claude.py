"""Anthropic's Messages and Message Batches through its SDK -> the three outcomes of `paid`.

Facts of the SDK 2.12 (read from its source, 2026-11): sampling parameters do not exist, structured output is `output_config.format`,
thinking is adaptive and billed as output, two retries are the default (off here), batches carry no metadata.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from sysdesign.ledger import Intent
from sysdesign.models.paid import Answer, BatchState, Gone, Item, MaybeBilled, NotTaken, Request, Result, Undecided, custom_id
from sysdesign.models.prices import Price, Usage
from sysdesign.models.wire import PARSE, failed, header_number, lines_of, outcome, said, status_of

STREAM_ABOVE = 8192  # tokens: a long reply is streamed, so that an idle proxy does not cut a connection that was already billed
_FINISH: dict[str | None, Any] = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "refusal"}


class Claude:
    """One Claude model. The key is passed explicitly: the SDK would otherwise also look for profiles on disk."""

    name = "anthropic"
    long_cache = True  # a batch may wait an hour for its turn, so its prefix goes to the one-hour cache

    def __init__(
        self,
        model: str,
        price: Price,
        key: str,
        *,
        base_url: str | None = None,
        effort: str = "low",
        cache: bool = True,
        timeout_s: float = 600.0,
    ) -> None:
        import anthropic
        import httpx2

        self.model, self.price, self.effort, self.cache = model, price, effort, cache
        self._errors = (anthropic.AnthropicError, httpx2.HTTPError)  # inside a reply the SDK lets the transport's own errors through
        self._client = anthropic.Anthropic(api_key=key, base_url=base_url, max_retries=0, timeout=timeout_s)
        self.base_url = str(self._client.base_url)
        self._room: float | None = None

    def count(self, request: Request) -> int:
        """Input tokens, counted by the provider. Raises ServiceError."""
        body = self._body(request, long=False)
        body.pop("max_tokens")
        try:
            return int(self._client.messages.count_tokens(**body).input_tokens)
        except (*self._errors, *PARSE) as error:
            raise failed(f"{self.name}: counting tokens", error) from error

    def send(self, request: Request, *, long: bool = False) -> Answer | NotTaken | MaybeBilled:
        """One reply. `long`: write the prefix to the one-hour cache."""
        body = self._body(request, long)
        try:
            if request.max_tokens > STREAM_ABOVE:
                with self._client.messages.stream(**body) as stream:
                    return _answer(stream.get_final_message().model_dump())
            raw = self._client.messages.with_raw_response.create(**body)
            self._room = header_number(raw.headers, "anthropic-ratelimit-requests-remaining")
            return _answer(raw.parse().model_dump())
        except (*self._errors, *PARSE) as error:  # refused, timed out, cut, or a reply that does not parse
            return outcome(error)

    def room(self) -> float | None:
        """Requests that the last reply's rate-limit headers left."""
        return self._room

    def newest_batch(self) -> str | None:
        """The last batch that the provider took; ours will be listed before it. Raises ServiceError."""
        try:
            return next((batch.id for batch in self._client.messages.batches.list(limit=1)), None)
        except (*self._errors, *PARSE) as error:
            raise failed(f"{self.name}: listing batches", error) from error

    def post_batch(self, items: Sequence[Item], intent: str) -> str | NotTaken | MaybeBilled:
        """The new batch's id. Batches have no metadata, so `intent` is found again by its custom ids."""
        requests: Any = [{"custom_id": name, "params": self._body(request, long=True)} for name, request in items]
        try:
            return str(self._client.messages.batches.create(requests=requests).id)
        except (*self._errors, *PARSE) as error:
            return outcome(error)

    def find_batch(self, intent: Intent, known: frozenset[str]) -> str | Undecided | None:
        """The batch of that intent; waits for nothing. Raises ServiceError.

        Only results tell custom ids, which carry the intent, and only an ended batch has results: one that still runs with the same
        number of requests is `Undecided`. One whose results are gone for ever cannot be ruled out and counts as ours: it is then lost.
        """
        ours, running, gone = {custom_id(key, intent.id) for key in intent.keys}, None, None
        ours |= {key[:40] for key in intent.keys}  # as earlier versions called them
        try:
            for batch in self._client.messages.batches.list(limit=100):  # newest first
                if batch.id == intent.newest:
                    break
                counts = batch.request_counts
                total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                if batch.id in known or total != len(intent.keys):
                    continue
                if batch.processing_status != "ended":
                    running = running or batch.id
                elif isinstance(found := self.results(batch.id), Gone):
                    gone = gone or batch.id
                elif ours & {name for name, _ in found}:
                    return batch.id
        except (*self._errors, *PARSE) as error:
            raise failed(f"{self.name}: listing batches", error) from error
        return gone if running is None else Undecided(batch=running)

    def poll(self, batch: str) -> BatchState | Gone:
        """How far the batch is. Raises ServiceError."""
        try:
            found = self._client.messages.batches.retrieve(batch)
            counts = found.request_counts
            done = counts.succeeded + counts.errored + counts.canceled + counts.expired
            return BatchState(ended=found.processing_status == "ended", done=done, total=done + counts.processing)
        except (*self._errors, *PARSE) as error:
            if status_of(error) == 404:
                return Gone(why=said(error))
            raise failed(f"{self.name}: batch {batch}", error) from error

    def results(self, batch: str) -> list[Result] | Gone:
        """Replies of an ended batch in any order. Raises ServiceError: the results cannot be read now."""
        try:
            if self._client.messages.batches.retrieve(batch).results_url is None:
                return Gone(why="archived: results are kept for 29 days")
            data = self._client.messages.batches.results(batch).http_response.read()
        except (*self._errors, *PARSE) as error:
            raise failed(f"{self.name}: results of batch {batch}", error) from error
        return [_result(number, line) for number, line in lines_of(data)]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, request: Request, long: bool) -> dict[str, Any]:
        """`long`: the prefix goes to the one-hour cache."""
        content: list[dict[str, Any]] = []
        for path in request.images:
            data = base64.b64encode(path.read_bytes()).decode()
            content.append({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
        content.append({"type": "text", "text": request.text})
        body: dict[str, Any] = {"model": self.model, "max_tokens": request.max_tokens, "messages": [{"role": "user", "content": content}]}
        if request.prefix:
            system: dict[str, Any] = {"type": "text", "text": request.prefix}
            if self.cache:
                system["cache_control"] = {"type": "ephemeral", "ttl": "1h" if long else "5m"}
            body["system"] = [system]
        config: dict[str, Any] = {"effort": self.effort}
        if request.reply_schema is not None:
            config["format"] = {"type": "json_schema", "schema": request.reply_schema}
        return body | {"output_config": config}


def _answer(message: dict[str, Any]) -> Answer:
    """A message's text and billed tokens. Raises ValueError when it was cut: its usage does not count what came before the cut."""
    if message.get("stop_reason") is None:
        raise ValueError("the message has no end")
    used = message["usage"]
    thinking = (used.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return Answer(
        text="".join(part.get("text") or "" for part in message["content"] if part["type"] == "text"),
        finish=_FINISH.get(message.get("stop_reason"), "stop"),
        usage=Usage(
            input=used["input_tokens"],
            cache_read=used.get("cache_read_input_tokens") or 0,
            cache_write=used.get("cache_creation_input_tokens") or 0,
            output=used["output_tokens"],
            thinking=thinking,
        ),
        request_id=message.get("id"),
    )


def _result(number: int, line: bytes) -> Result:
    name = f"line {number}"
    try:
        entry = json.loads(line)
        name, kind = str(entry["custom_id"]), entry["result"]["type"]
        if kind == "succeeded":
            return name, _answer(entry["result"]["message"])
        error = (entry["result"].get("error") or {}).get("error") or {}
        why = f"{kind}: {error.get('message', '')}".strip(": ")
        return name, NotTaken(why=why[:300], fatal=error.get("type") == "invalid_request_error")
    except PARSE as error:
        return name, MaybeBilled(why=f"line {number} of the results cannot be read ({error!r})"[:300])
