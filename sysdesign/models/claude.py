"""Anthropic's Messages and Message Batches through its SDK -> the three outcomes of `paid`.

Facts of the SDK 2.12 (read from its source, 2026-11): sampling parameters do not exist, structured output is `output_config.format`,
thinking is adaptive and billed as output, two retries are the default (off here), batches carry no metadata.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

from sysdesign.errors import ServiceError
from sysdesign.models.paid import Answer, BatchState, Item, MaybeBilled, NotTaken, Request, Result
from sysdesign.models.prices import Price, Usage

STREAM_ABOVE = 8192  # tokens: a long reply is streamed, so that an idle proxy does not cut a connection that was already billed
_FINISH: dict[str | None, Any] = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "refusal"}


class Claude:
    """One Claude model. The key is passed explicitly: the SDK would otherwise also look for profiles on disk."""

    name = "anthropic"

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
        self._sdk = anthropic
        self._broken = httpx2.HTTPError
        self._client = anthropic.Anthropic(api_key=key, base_url=base_url, max_retries=0, timeout=timeout_s)
        self.base_url = str(self._client.base_url)
        self._room: float | None = None

    def count(self, request: Request) -> int:
        """Input tokens, counted by the provider. Raises ServiceError."""
        body = self._body(request, long=False)
        body.pop("max_tokens")
        try:
            return int(self._client.messages.count_tokens(**body).input_tokens)
        except self._sdk.APIError as error:
            raise self._failed("counting tokens", error) from error

    def send(self, request: Request) -> Answer | NotTaken | MaybeBilled:
        """One reply."""
        body = self._body(request, long=False)
        try:
            if request.max_tokens > STREAM_ABOVE:
                with self._client.messages.stream(**body) as stream:
                    return _answer(stream.get_final_message().model_dump())
            raw = self._client.messages.with_raw_response.create(**body)
            left = raw.headers.get("anthropic-ratelimit-requests-remaining")
            self._room = float(left) if left and left.isdigit() else None
            return _answer(raw.parse().model_dump())
        except self._sdk.APIStatusError as error:
            return outcome(error)
        except (
            self._sdk.APIError,
            self._broken,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # timeout, drop (inside a stream the SDK lets the transport's own error through), or a reply that does not parse
            return MaybeBilled(why=" ".join(str(error.__cause__ or error).split()) or type(error).__name__)

    def room(self) -> float | None:
        """Requests that the last reply's rate-limit headers left."""
        return self._room

    def post_batch(self, items: Sequence[Item], intent: str) -> str | NotTaken | MaybeBilled:
        """The new batch's id. Batches have no metadata, so `intent` is found again by its custom ids."""
        requests: Any = [{"custom_id": name, "params": self._body(request, long=True)} for name, request in items]
        try:
            return str(self._client.messages.batches.create(requests=requests).id)
        except self._sdk.APIStatusError as error:
            return outcome(error)
        except self._sdk.APIError as error:
            return MaybeBilled(why=" ".join(str(error.__cause__ or error).split()))

    def find_batch(self, intent: str, ids: Sequence[str], known: frozenset[str]) -> str | None:
        """A batch with exactly these requests that the ledger does not know; waits for nothing. Raises ServiceError.

        Only an ended batch tells its custom ids; one still running with the same number of requests counts as ours: adopting a
        stranger's costs nothing (its results carry other ids), posting again could pay twice.
        """
        try:
            for batch in self._client.messages.batches.list(limit=100):
                counts = batch.request_counts
                total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                if batch.id in known or total != len(ids):
                    continue
                if batch.processing_status != "ended" or {name for name, _ in self.results(batch.id)} == set(ids):
                    return batch.id
        except self._sdk.APIError as error:
            raise self._failed("listing batches", error) from error
        return None

    def poll(self, batch: str) -> BatchState:
        """How far the batch is. Raises ServiceError."""
        try:
            found = self._client.messages.batches.retrieve(batch)
        except self._sdk.APIError as error:
            raise self._failed(f"batch {batch}", error) from error
        counts = found.request_counts
        done = counts.succeeded + counts.errored + counts.canceled + counts.expired
        return BatchState(ended=found.processing_status == "ended", done=done, total=done + counts.processing)

    def results(self, batch: str) -> Iterator[Result]:
        """Replies in any order. Raises ServiceError: the results cannot be read, or a line is malformed."""
        try:
            for line in self._client.messages.batches.results(batch):
                kind = line.result.type
                if kind == "succeeded":
                    yield line.custom_id, _answer(line.result.message.model_dump())
                else:
                    yield line.custom_id, NotTaken(why=kind)
        except self._sdk.APIError as error:
            raise self._failed(f"results of batch {batch}", error) from error
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ServiceError(f"results of batch {batch}", f"every line must be a result ({error})", "run it again later") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, request: Request, long: bool) -> dict[str, Any]:
        """`long`: a batch may wait an hour for its turn, so its prefix goes to the one-hour cache."""
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

    def _failed(self, what: str, error: Exception) -> ServiceError:
        return ServiceError(
            f"{self.name}: {what}", f"must succeed ({' '.join(str(error).split())[:300]})", "run it again: paid replies are kept"
        )


def _answer(message: dict[str, Any]) -> Answer:
    """A message's text and billed tokens."""
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


def outcome(error: Any) -> NotTaken | MaybeBilled:
    """An HTTP error status of either SDK: a 4xx did nothing; from 500 on nobody knows, and an error inside a stream that began
    with 200 comes after work was done."""
    status, said = int(error.status_code), " ".join(str(error).split())[:300]
    if status < 400 or status >= 500 or status == 408:
        return MaybeBilled(why=f"HTTP {status}: {said}")
    after = error.response.headers.get("retry-after")
    seconds = float(after) if after and after.replace(".", "", 1).isdigit() else None
    lowered = said.lower()
    if "credit" in lowered or "insufficient_quota" in lowered or "billing" in lowered:
        return NotTaken(why=f"HTTP {status}: {said}", fatal=True, do="top up the account; what was paid is kept")
    if status == 429 or status == 409:
        return NotTaken(why=f"HTTP {status}: {said}", retry_after_s=seconds)
    do = {401: "check the key in the environment variable", 403: "check what the key may do", 404: "check the model's name"}.get(
        status, "read its reply"
    )
    return NotTaken(why=f"HTTP {status}: {said}", fatal=True, do=do)
