"""A loopback server that speaks both providers' protocols strictly, bills every accepted request, and misbehaves on demand.

It refuses what the real services refuse (missing headers, unknown fields, sampling parameters, unknown models, bad custom ids) and keeps
its own account, by its own arithmetic, so that a test can hold the ledger against what was really billed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "test-key"
MESSAGE_FIELDS = {"model", "max_tokens", "messages", "system", "output_config", "stream", "thinking", "metadata"}
RESPONSE_FIELDS = {"model", "input", "instructions", "max_output_tokens", "reasoning", "store", "prompt_cache_key", "text", "stream"}
RESPONSE_FIELDS |= {"prompt_cache_options"}
# dollars per million tokens (in, out, cache read, write, long write): written down again, not read from the code under test
PRICE = {
    "claude-haiku-5-5": (0.10, 0.50, 0.01, 0.125, 0.20),
    "claude-sonnet-5-5": (2, 10, 0.10, 2.5, 4),
    "gpt-6-luna": (0.10, 0.50, 0.01, 0.125, 0.125),
    "gpt-6.1-terra": (1, 5, 0.05, 1.25, 2.5),
}


def echo(text: str) -> str:
    """What a diligent teacher returns: every draft unchanged."""
    try:
        tasks = json.loads(text)["tasks"]
    except (ValueError, KeyError, TypeError):
        return "pong"
    return json.dumps({"turns": [{"task": t["id"], "question": t["question"], "answer": t["answer"]} for t in tasks]})


@dataclass
class Faults:
    """Shares of requests that go wrong, and one-time events. `polls`: looks before a batch has ended."""

    limited: float = 0.0  # 429 before any work
    dropped: float = 0.0  # billed, then the connection is cut
    broken: float = 0.0  # billed, then 500
    status: int | None = None  # every request answers this
    message: str = "refused"
    drop_batch_post: int = 0  # accept so many batches and cut the connection
    polls: int = 2
    errored: float = 0.0  # share of a batch's requests that error (not billed)
    malformed: bool = False  # a batch result that is not JSON
    looks_fail: int = 0  # so many looks at batches answer 503
    archived: bool = False  # results are kept no longer
    cut_stream: bool = False  # a stream that ends, cleanly, before its last event
    remaining: int | None = 40  # rate-limit header
    reply: Callable[[str], str] = echo
    stop: str = "end_turn"
    slow_s: float = 0.0


@dataclass
class Account:
    """What really happened. `billed`: micro-dollars; `served`: request digest -> times billed; `batches` by id."""

    billed: float = 0.0
    served: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    cache_reads: int = 0
    cache_writes: int = 0
    active: int = 0  # slow replies under way
    most_active: int = 0


class ProviderServer:
    """`with ProviderServer() as server:`; `server.url` has no path: `/v1` belongs to OpenAI's base_url only."""

    def __init__(self, faults: Faults | None = None, seed: int = 0) -> None:
        self.faults, self.account, self.lock = faults or Faults(), Account(), threading.Lock()
        self.rng = random.Random(seed)
        outer = self

        class Handler(_Handler):
            server_state = outer

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None: ...  # a killed client resets its connection

        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self._thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> ProviderServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def usage(self, model: str, prefix: str, text: str, reply: str, batch: bool, long: bool) -> dict[str, int]:
        """Counted and billed; the first request of a prefix writes the cache, later ones read it."""
        shared, own, out = len(prefix) // 4, len(text) // 4 + 10, len(reply) // 4 + 60
        read = write = 0
        if shared:
            if prefix in self.account.prefixes:
                read = shared
            else:
                self.account.prefixes.add(prefix)
                write = shared
        price = PRICE[model]
        cost = own * price[0] + out * price[1] + read * price[2] + write * price[4 if long else 3]
        self.account.billed += cost * (0.5 if batch else 1)
        self.account.cache_reads += read
        self.account.cache_writes += write
        return {"own": own, "out": out, "read": read, "write": write}


def digest(body: dict[str, Any]) -> str:
    """Identity of a request as the server sees it."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: ProviderServer

    def log_message(self, *args: object) -> None: ...

    # --- plumbing

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None, kind: str = "application/json") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"type": "error", "error": {"type": kind, "message": message, "code": kind}}, headers)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _allowed(self, anthropic: bool) -> bool:
        state, faults = self.server_state, self.server_state.faults
        if self.headers.get("authorization") != f"Bearer {KEY}" and self.headers.get("x-api-key") != KEY:
            self._error(401, "authentication_error", "invalid api key")
            return False
        if anthropic and self.headers.get("anthropic-version") != "2026-10-21":
            self._error(400, "invalid_request_error", f"anthropic-version: {self.headers.get('anthropic-version')}")
            return False
        if faults.status is not None:
            self._error(faults.status, "error", faults.message)
            return False
        del state
        return True

    def _problem(self, body: dict[str, Any], anthropic: bool) -> tuple[int, str] | None:
        extra = set(body) - (MESSAGE_FIELDS if anthropic else RESPONSE_FIELDS)
        if extra:
            return 400, f"unexpected fields: {sorted(extra)}"
        if body.get("model") not in PRICE or body["model"].startswith("claude") != anthropic:
            return 404, f"model: {body.get('model')}"
        if anthropic:
            if not isinstance(body.get("max_tokens"), int) or not body.get("messages"):
                return 400, "max_tokens and messages are required"
            if body.get("output_config", {}).get("effort") not in (None, "low", "medium", "high", "xhigh", "max"):
                return 400, "effort"
        elif body.get("reasoning", {}).get("effort") not in (None, "low", "medium", "high", "xhigh"):
            return 400, "effort"
        return None

    # --- one reply, in either dialect

    def _texts(self, body: dict[str, Any], anthropic: bool) -> tuple[str, str]:
        if anthropic:
            system = body.get("system") or []
            prefix = "".join(s["text"] for s in system if s.get("cache_control"))
            plain = "".join(s["text"] for s in system if not s.get("cache_control"))
            content = body["messages"][0]["content"]
            return prefix, plain + "".join(c.get("text", "") for c in content)
        content = body["input"][0]["content"]
        return body.get("instructions", ""), "".join(c.get("text", "") for c in content)

    def _message(self, body: dict[str, Any], batch: bool = False) -> dict[str, Any]:
        prefix, text = self._texts(body, True)
        reply = self.server_state.faults.reply("".join(c.get("text", "") for c in body["messages"][0]["content"]))
        long = any(s.get("cache_control", {}).get("ttl") == "1h" for s in body.get("system") or [])
        used = self.server_state.usage(body["model"], prefix, text, reply, batch, long)
        return {
            "id": f"msg_{digest(body)[:16]}", "type": "message", "role": "assistant", "model": body["model"],
            "content": [{"type": "text", "text": reply}], "stop_reason": self.server_state.faults.stop, "stop_sequence": None,
            "usage": {
                "input_tokens": used["own"], "output_tokens": used["out"], "cache_read_input_tokens": used["read"],
                "cache_creation_input_tokens": used["write"], "output_tokens_details": {"thinking_tokens": 50},
            },
        }  # fmt: skip

    def _response(self, body: dict[str, Any], batch: bool = False) -> dict[str, Any]:
        prefix, text = self._texts(body, False)
        reply = self.server_state.faults.reply(text)
        if body.get("prompt_cache_options") == {"mode": "explicit"}:
            prefix, text = "", prefix + text
        used = self.server_state.usage(body["model"], prefix, text, reply, batch, False)
        total = used["own"] + used["read"] + used["write"]
        return {
            "id": f"resp_{digest(body)[:16]}", "object": "response", "created_at": 1, "model": body["model"], "status": "completed",
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "output": [{
                "id": "m1", "type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": reply, "annotations": []}],
            }],
            "usage": {
                "input_tokens": total, "input_tokens_details": {"cached_tokens": used["read"], "cache_write_tokens": used["write"]},
                "output_tokens": used["out"], "output_tokens_details": {"reasoning_tokens": 50}, "total_tokens": total + used["out"],
            },
        }  # fmt: skip

    def _one(self, body: dict[str, Any], anthropic: bool) -> None:
        state, faults = self.server_state, self.server_state.faults
        problem = self._problem(body, anthropic)
        if problem is not None:
            return self._error(problem[0], "not_found_error" if problem[0] == 404 else "invalid_request_error", problem[1])
        with state.lock:
            lot = state.rng.random()
            if lot < faults.limited:
                return self._error(429, "rate_limit_error", "slow down", {"retry-after": "0.01"})
            name = digest(body)
            state.account.bodies.append(body)
            reply = self._message(body) if anthropic else self._response(body)
            state.account.served[name] += 1
            dropped = lot < faults.limited + faults.dropped
            broken = not dropped and lot < faults.limited + faults.dropped + faults.broken
            if dropped or broken:
                state.account.dropped[name] += 1
        if faults.slow_s:
            with state.lock:
                state.account.active += 1
                state.account.most_active = max(state.account.most_active, state.account.active)
            threading.Event().wait(faults.slow_s)
            with state.lock:
                state.account.active -= 1
        if dropped:
            return self._cut()
        if broken:
            return self._error(500, "api_error", "internal")
        headers = {}
        if faults.remaining is not None:
            headers = {"anthropic-ratelimit-requests-remaining" if anthropic else "x-ratelimit-remaining-requests": str(faults.remaining)}
        if body.get("stream"):
            return self._stream(reply) if anthropic else self._response_stream(reply)
        self._send(200, reply, headers)

    def _stream(self, reply: dict[str, Any]) -> None:
        text, start = reply["content"][0]["text"], {**reply, "content": [], "stop_reason": None}
        events: list[tuple[str, dict[str, Any]]] = [
            ("message_start", {"message": start}),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            *(
                ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text[i : i + 40]}})
                for i in range(0, len(text), 40)
            ),
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": {"stop_reason": reply["stop_reason"], "stop_sequence": None}, "usage": reply["usage"]}),
            ("message_stop", {}),
        ]
        self._events(events[:-2] if self.server_state.faults.cut_stream else events)

    def _response_stream(self, reply: dict[str, Any]) -> None:
        started = {**reply, "status": "in_progress", "output": [], "usage": None}
        part = {"output_index": 0, "content_index": 0, "item_id": "m1", "delta": "p", "logprobs": []}
        events = [
            ("response.created", {"response": started, "sequence_number": 0}),
            ("response.output_text.delta", {**part, "sequence_number": 1}),
            ("response.completed", {"response": reply, "sequence_number": 2}),
        ]
        self._events(events[:-1] if self.server_state.faults.cut_stream else events)

    def _events(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        lines = "".join(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events)
        self._send(200, lines, kind="text/event-stream")

    # --- batches

    def _accept(self, entries: list[tuple[str, dict[str, Any]]], anthropic: bool, metadata: dict[str, str]) -> str | None:
        """Bill what will succeed, in any order; None after an error was sent."""
        state = self.server_state
        names = [n for n, _ in entries]
        if not entries or len(set(names)) < len(names) or not all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", n) for n in names):
            self._error(400, "invalid_request_error", "custom_id")
            return None
        for _, body in entries:
            problem = self._problem(body, anthropic)
            if problem is not None:
                self._error(400, "invalid_request_error", problem[1])
                return None
        with state.lock:
            number = f"{'msgbatch' if anthropic else 'batch'}_{len(state.account.batches)}"
            results: list[tuple[str, Any]] = []
            for name, body in entries:
                if state.rng.random() < state.faults.errored:
                    results.append((name, None))
                    continue
                results.append((name, self._message(body, True) if anthropic else self._response(body, True)))
                state.account.served[digest(body)] += 1
            state.rng.shuffle(results)
            state.account.batches[number] = {"results": results, "polls": 0, "metadata": metadata, "anthropic": anthropic}
        return number

    def _claude_batch(self, number: str) -> dict[str, Any]:
        batch = self.server_state.account.batches[number]
        ended = batch["polls"] >= self.server_state.faults.polls
        good = sum(r is not None for _, r in batch["results"])
        bad = len(batch["results"]) - good
        counts = {"processing": 0, "succeeded": good, "errored": bad, "canceled": 0, "expired": 0}
        if not ended:
            counts = {"processing": good + bad, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        return {
            "id": number, "type": "message_batch", "processing_status": "ended" if ended else "in_progress", "request_counts": counts,
            "created_at": "2026-11-22T10:00:00Z", "expires_at": "2026-11-23T10:00:00Z", "ended_at": None, "archived_at": None,
            "cancel_initiated_at": None, "results_url": f"{self.server_state.url}/v1/messages/batches/{number}/results"
            if ended and not self.server_state.faults.archived
            else None,
        }  # fmt: skip

    def _openai_batch(self, number: str) -> dict[str, Any]:
        batch = self.server_state.account.batches[number]
        ended = batch["polls"] >= self.server_state.faults.polls
        good = sum(r is not None for _, r in batch["results"])
        return {
            "id": number, "object": "batch", "endpoint": "/v1/responses", "completion_window": "24h", "created_at": 1, "input_file_id": "f",
            "status": "completed" if ended else "in_progress", "metadata": batch["metadata"],
            "output_file_id": f"out-{number}" if ended else None,
            "error_file_id": f"err-{number}" if ended and good < len(batch["results"]) else None,
            "request_counts": {
                "total": len(batch["results"]), "completed": good if ended else 0, "failed": len(batch["results"]) - good if ended else 0,
            },
        }  # fmt: skip

    # --- routes

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        path, state = self.path.split("?")[0], self.server_state
        state.account.calls[f"POST {path}"] += 1
        anthropic = path.startswith("/v1/messages")
        if not self._allowed(anthropic):
            return
        if path == "/v1/files":
            return self._upload(raw)
        try:
            body = json.loads(raw)
        except ValueError:
            return self._error(400, "invalid_request_error", "not JSON")
        if path == "/v1/messages":
            return self._one(body, True)
        if path == "/v1/responses":
            return self._one(body, False)
        if path == "/v1/messages/count_tokens":
            prefix, text = self._texts(body, True)
            return self._send(200, {"input_tokens": (len(prefix) + len(text)) // 4 + 10})
        if path == "/v1/responses/input_tokens":
            prefix, text = self._texts(body, False)
            return self._send(200, {"object": "response.input_tokens", "input_tokens": (len(prefix) + len(text)) // 4 + 10})
        if path == "/v1/chat/completions":
            text = self.server_state.faults.reply(body["messages"][-1]["content"][-1]["text"])
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
            return self._send(
                200, {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": usage}
            )
        if path == "/v1/messages/batches":
            number = self._accept([(r["custom_id"], r["params"]) for r in body["requests"]], True, {})
            return None if number is None else self._reply_batch(number, self._claude_batch)
        if path == "/v1/batches":
            if body.get("endpoint") != "/v1/responses" or body.get("completion_window") != "24h":
                return self._error(400, "invalid_request_error", "endpoint or window")
            lines = [json.loads(line) for line in state.account.files[body["input_file_id"]].splitlines()]
            if any(line["method"] != "POST" or line["url"] != "/v1/responses" for line in lines):
                return self._error(400, "invalid_request_error", "method or url")
            number = self._accept([(line["custom_id"], line["body"]) for line in lines], False, body.get("metadata") or {})
            return None if number is None else self._reply_batch(number, self._openai_batch)
        return self._error(404, "not_found_error", path)

    def _reply_batch(self, number: str, show: Callable[[str], dict[str, Any]]) -> None:
        if self.server_state.faults.drop_batch_post > 0:
            self.server_state.faults.drop_batch_post -= 1
            return self._cut()
        self._send(200, show(number))

    def _upload(self, raw: bytes) -> None:
        kind = self.headers.get("content-type", "")
        boundary = kind.partition("boundary=")[2].encode()
        parts = raw.split(b"--" + boundary)
        content = next((p.partition(b"\r\n\r\n")[2].rstrip(b"\r\n") for p in parts if b'name="file"' in p), None)
        if content is None or not any(b'name="purpose"' in p and b"batch" in p for p in parts):
            return self._error(400, "invalid_request_error", "file and purpose")
        number = f"file-{len(self.server_state.account.files)}"
        self.server_state.account.files[number] = content.decode()
        self._send(
            200,
            {
                "id": number,
                "object": "file",
                "bytes": len(content),
                "created_at": 1,
                "filename": "b.jsonl",
                "purpose": "batch",
                "status": "processed",
            },
        )

    def do_GET(self) -> None:
        path, state = self.path.split("?")[0], self.server_state
        state.account.calls[f"GET {path}"] += 1
        anthropic = path.startswith("/v1/messages")
        if not self._allowed(anthropic):
            return
        if state.faults.looks_fail > 0:
            state.faults.looks_fail -= 1
            return self._error(503, "api_error", "try later")
        mine = {n: b for n, b in state.account.batches.items() if b["anthropic"] == anthropic}
        if path in ("/v1/messages/batches", "/v1/batches"):
            show = self._claude_batch if anthropic else self._openai_batch
            for batch in mine.values():
                batch["polls"] += 1  # time passes with every look
            found = [show(n) for n in reversed(mine)]
            return self._send(200, {"data": found, "has_more": False, "first_id": None, "last_id": None, "object": "list"})
        if (match := re.fullmatch(r"/v1/messages/batches/(\w+)/results", path)) is not None:
            lines = []
            for name, result in state.account.batches[match.group(1)]["results"]:
                error = {"type": "errored", "error": {"type": "error", "error": {"type": "api_error", "message": "x"}, "request_id": "r"}}
                lines.append(
                    json.dumps({"custom_id": name, "result": error if result is None else {"type": "succeeded", "message": result}})
                )
            if state.faults.malformed:
                lines[0] = lines[0][: len(lines[0]) // 2]
            return self._send(200, "\n".join(lines) + "\n", kind="application/x-jsonl")
        if (match := re.fullmatch(r"/v1/(?:messages/)?batches/(\w+)", path)) is not None and match.group(1) in mine:
            mine[match.group(1)]["polls"] += 1
            return self._send(200, (self._claude_batch if anthropic else self._openai_batch)(match.group(1)))
        if (match := re.fullmatch(r"/v1/files/(out|err)-(\w+)/content", path)) is not None:
            lines = []
            for name, result in state.account.batches[match.group(2)]["results"]:
                if (result is None) == (match.group(1) == "err"):
                    response = {"status_code": 500, "body": {"error": "x"}} if result is None else {"status_code": 200, "body": result}
                    lines.append(json.dumps({"id": "b", "custom_id": name, "response": response, "error": None}))
            if state.faults.malformed:
                lines[0] = lines[0][: len(lines[0]) // 2]
            return self._send(200, "\n".join(lines) + "\n", kind="application/jsonl")
        return self._error(404, "not_found_error", path)
