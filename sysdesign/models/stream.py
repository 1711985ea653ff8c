"""A conversation sent to a local server -> its answer, piece by piece while it is written, then the whole `Reply`.

Two dialects: `ollama` (its own `/api/chat`, newline-delimited JSON) and `openai` (`/v1/chat/completions`, server-sent events:
llama.cpp, vLLM). Ollama is asked in its own words because only there can silent truncation be refused: with the defaults a prompt
longer than the context loses its oldest messages, the picture among them, and the model answers about something it never saw.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Literal

from sysdesign.errors import InputError, LimitError, ServiceError
from sysdesign.graph import Record
from sysdesign.models.chat import Message, Reply

Dialect = Literal["ollama", "openai"]
BYTES_PER_TOKEN = 8  # no ordinary text has more: English has about 4, code about 3


class Endpoint(Record):
    """Where a model answers. `context` bounds what is sent, in tokens."""

    dialect: Dialect
    url: str  # of the server; a trailing `/v1` is understood
    model: str
    context: int = 8192
    timeout_s: float = 600.0
    start: str = "start the server"  # what to do when nothing answers there


def stream(
    to: Endpoint, messages: Sequence[Message], *, max_tokens: int, seed: int, temperature: float = 0.0
) -> Generator[str, None, Reply]:
    """Yields text as it arrives and returns the `Reply` (greedy at temperature 0; token counts as the server reports them).

    Raises LimitError when the conversation cannot fit the context, ServiceError when the server is unreachable, refuses, fails
    midway or falls silent.
    """
    import httpx

    check_length(messages, to.context)
    make_body = _ollama_body if to.dialect == "ollama" else _openai_body
    path, body = make_body(to, messages, max_tokens, seed, temperature)
    begun = time.perf_counter()
    pieces: list[str] = []
    last: dict[str, Any] = {}
    try:
        limits = httpx.Timeout(to.timeout_s, connect=min(10.0, to.timeout_s))
        with (
            httpx.Client(timeout=limits, trust_env=False) as client,
            client.stream("POST", to.url.rstrip("/").removesuffix("/v1") + path, json=body) as answer,
        ):
            if answer.status_code >= 400:
                answer.read()
                raise _refused(to, answer.status_code, server_message(answer.content))
            events = _ollama_events(answer.iter_lines()) if to.dialect == "ollama" else _openai_events(answer.iter_lines())
            for text, event in events:
                if "error" in event:
                    raise _refused(to, answer.status_code, server_message(json.dumps(event).encode()))
                last |= event
                if text:
                    pieces.append(text)
                    yield text
    except httpx.TimeoutException as err:
        law = f"the model must answer within {to.timeout_s:g} s of silence"
        raise ServiceError(to.url, law, "raise the timeout, or ask for less", type(err).__name__) from None
    except httpx.HTTPError as err:
        raise ServiceError(to.url, "a server must answer here until the end", to.start, str(err) or type(err).__name__) from None
    if not last.get("finished"):
        raise ServiceError(
            to.url, "an answer must end with the server's last word", "ask again; read the server's log", "".join(pieces)[-60:]
        )
    return Reply(
        text="".join(pieces), finish="length" if last["finished"] == "length" else "stop", input_tokens=last.get("input"),
        output_tokens=last.get("output"), seconds=round(time.perf_counter() - begun, 3),
    )  # fmt: skip


def check_length(messages: Sequence[Message], context: int) -> None:
    """Raises LimitError when the text alone is certain not to fit; the exact count is left to the server's tokenizer."""
    size = sum(len(message.text.encode()) for message in messages)
    if size > context * BYTES_PER_TOKEN:
        law = f"a conversation must fit the model's context of {context} tokens, so at most {context * BYTES_PER_TOKEN // 1000} kB of text"
        raise LimitError("prompt", law, "shorten it, or serve with a larger context", f"{size // 1000} kB")


def gather(pieces: Generator[str, None, Reply]) -> Reply:
    """The `Reply` of a stream that nobody watches."""
    while True:
        try:
            next(pieces)
        except StopIteration as done:
            reply: Reply = done.value
            return reply


def server_message(body: bytes) -> str:
    """What a server's error body says, in one line: `{"error": "..."}`, `{"error": {"message": "..."}}` or plain text."""
    try:
        said = json.loads(body)
        said = said.get("error", said) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
    except ValueError:
        said = body.decode(errors="replace")
    return " ".join(str(said).split())[:300]


def _refused(to: Endpoint, status: int, said: str) -> ServiceError | LimitError:
    if "context" in said and ("exceed" in said or "length" in said):
        law = f"a conversation must fit the model's context of {to.context} tokens"
        return LimitError(to.url, law, "start a new conversation, or serve with a larger context", said)
    if status == 404:
        return ServiceError(to.url, f"the server must hold the model {to.model}", "deploy it: python -m pipelines.deploy", said)
    return ServiceError(to.url, f"the server must accept the request (HTTP {status})", "read the server's log", said)


def _pictures(message: Message) -> list[str]:
    try:
        return [base64.b64encode(path.read_bytes()).decode() for path in message.images]
    except OSError as err:
        raise InputError(str(err.filename), f"a picture must be readable ({err.strerror})", "check the path") from None


Body = tuple[str, dict[str, Any]]  # path and JSON


def _ollama_body(to: Endpoint, messages: Sequence[Message], max_tokens: int, seed: int, temperature: float) -> Body:
    said = [
        {"role": m.role, "content": m.text} | ({"images": _pictures(m)} if m.images else {}) for m in messages
    ]  # fmt: skip
    options = {"temperature": temperature, "seed": seed, "num_predict": max_tokens}
    return "/api/chat", {"model": to.model, "messages": said, "stream": True, "truncate": False, "shift": False, "options": options}


def _openai_body(to: Endpoint, messages: Sequence[Message], max_tokens: int, seed: int, temperature: float) -> Body:
    said: list[dict[str, Any]] = []
    for m in messages:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} for data in _pictures(m)
        ]
        said.append({"role": m.role, "content": [*parts, {"type": "text", "text": m.text}] if parts else m.text})
    body = {"model": to.model, "messages": said, "max_tokens": max_tokens, "seed": seed, "temperature": temperature, "stream": True}
    return "/v1/chat/completions", body | {"stream_options": {"include_usage": True}}


def _ollama_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in filter(None, lines):
        event = json.loads(line)
        if "error" in event:
            yield "", event
            continue
        kept: dict[str, Any] = {}
        if event.get("done"):
            kept = {
                "finished": event.get("done_reason", "stop"),
                "input": event.get("prompt_eval_count"),
                "output": event.get("eval_count"),
            }
        yield event.get("message", {}).get("content", ""), kept


def _openai_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in lines:
        if line.startswith("error:"):
            yield "", {"error": line.removeprefix("error:").strip()}
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        event = json.loads(line.removeprefix("data:"))
        if "error" in event:
            yield "", event
            continue
        kept: dict[str, Any] = {}
        text = ""
        for choice in event.get("choices", ()):
            text = choice.get("delta", {}).get("content") or ""
            if choice.get("finish_reason"):
                kept["finished"] = choice["finish_reason"]
        if usage := event.get("usage"):
            kept |= {"input": usage.get("prompt_tokens"), "output": usage.get("completion_tokens")}
        yield text, kept
