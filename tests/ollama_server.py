"""A strict stand-in for Ollama on loopback: requests, answers and errors as its server/routes.go and server/create.go do them.

What the real one does and this one keeps: HEAD 200/404 and POST 201/200/400 for blobs, nothing kept of a blob that did not arrive
whole, create as newline-delimited JSON whose errors may come after status 200, GGUF headers read at create, projector told apart by
`general.type`, the GGUF's own chat template shown where that is the one used, names alike whatever their case, `latest` as the default
tag, manifests that survive a restart, layers of a name that is created again or deleted pruned when no other name uses them, streaming
chat with counts in the last line, `truncate: false` refusing a long prompt. What it adds: an unknown request field is an error, so
that a misspelt one cannot pass; every request is recorded; any request can be cut before or after its work.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.ollama_store import Refused, Store

CREATE = {"model", "files", "template", "system", "parameters", "requires", "stream", "license", "messages", "from"}
CHAT = {"model", "messages", "stream", "options", "truncate", "shift", "format", "keep_alive", "think"}


class OllamaServer(Store):
    """Start with `with OllamaServer(folder) as server:`; `server.url` is where it listens. Its state lives in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        version: str = "0.31.2",
        answer: Callable[[str, list[dict[str, Any]]], str] = lambda name, messages: "Gateway\nOrders\nLedger",
        drop_uploads_after: list[int] | None = None,
        fail_after_headers: bool = False,
        sees: bool = True,
        jinja: str = "",
        tokens_per_picture: Callable[[int, int], int] = lambda width, height: max(1024, width * height // 784),
    ) -> None:
        """`drop_uploads_after`: for each upload in turn, cut the connection after so many bytes (0 lets it through). `jinja`: the chat
        template in the GGUF, used instead of the given one because it can do more, tool calls for one."""
        super().__init__(folder)
        self.version, self.answer, self.sees = version, answer, sees
        self.jinja = jinja
        self.tokens_per_picture = tokens_per_picture
        self.drops, self.fail_after_headers = list(drop_uploads_after or []), fail_after_headers
        self.requests: list[list[Any]] = []  # method, path, body bytes received; listed before the answer, so that a client finds them
        self.said: Callable[[int], object] = lambda words: None  # called after each word of an answer was sent, with how many were
        self.fault: Callable[[str, str], str] = lambda method, path: ""  # "before" or "after" the work: the connection is cut there
        self.lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"ollama": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> OllamaServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    ollama: OllamaServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for the client's acknowledgement of its headers

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._serve()

    do_GET = do_POST = do_DELETE = do_HEAD

    def _serve(self) -> None:
        routes: dict[tuple[str, str], Callable[[], None]] = {
            ("GET", "/api/version"): lambda: self._json(200, {"version": self.ollama.version}),
            ("GET", "/api/tags"): self._tags,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/create"): self._create,
            ("POST", "/api/copy"): self._copy,
            ("DELETE", "/api/delete"): self._delete,
            ("POST", "/api/chat"): self._chat,
        }
        self.received = 0
        listed = [self.command, self.path, 0]
        self.ollama.requests.append(listed)
        fault, wire = self.ollama.fault(self.command, self.path), self.wfile
        try:
            if fault == "before":
                self.close_connection = True
                return
            if fault == "after":
                self.wfile, self.close_connection = io.BytesIO(), True
            if self.path.startswith("/api/blobs/") and self.command in ("HEAD", "POST"):
                (self._head_blob if self.command == "HEAD" else self._post_blob)(self.path.rpartition("/")[2])
            elif (self.command, self.path) in routes:
                if self.path == "/api/chat":
                    self._chat()  # slow: other requests go on
                else:
                    with self.ollama.lock:
                        routes[self.command, self.path]()
            else:
                self._json(404, {"error": "404 page not found"})
        except Refused as refused:
            self._json(refused.status, {"error": refused.message})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.wfile = wire
            listed[2] = self.received

    def _body(self, known: set[str]) -> dict[str, Any]:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.received = len(raw)
        if not raw:
            raise Refused(400, "missing request body")
        try:
            body = json.loads(raw)
        except ValueError as err:
            raise Refused(400, str(err)) from None
        if unknown := set(body) - known:
            raise Refused(400, f"strict: unknown fields {sorted(unknown)}")
        return dict(body)

    def _json(self, status: int, payload: dict[str, Any] | None) -> None:
        data = b"" if payload is None else json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _lines(self) -> Callable[[dict[str, Any] | None], None]:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def send(event: dict[str, Any] | None) -> None:
            data = b"" if event is None else json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        return send

    # blobs

    def _head_blob(self, digest: str) -> None:
        self._json(200 if self.ollama.blob(digest).exists() else 404, None)

    def _post_blob(self, digest: str) -> None:
        path = self.ollama.blob(digest)
        if path.exists():
            self._json(200, None)
            self.close_connection = True  # the body was not read
            return
        drop = self.ollama.drops.pop(0) if self.ollama.drops else 0
        size, hashed = int(self.headers["Content-Length"]), hashlib.sha256()
        partial = path.with_name(f"{path.name}.{threading.get_ident()}")
        try:
            with partial.open("wb") as out:
                while self.received < size:
                    block = self.rfile.read(min(1 << 20, size - self.received))
                    if not block or (drop and self.received + len(block) > drop):
                        self.connection.close()
                        self.close_connection = True
                        raise ConnectionResetError
                    out.write(block)
                    hashed.update(block)
                    self.received += len(block)
            got = f"sha256:{hashed.hexdigest()}"
            if got != digest:
                raise Refused(400, f'digest mismatch, expected "{digest}", got "{got}"')
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._json(201, None)

    # models

    def _create(self) -> None:
        body = self._body(CREATE)
        name = self.ollama.canonical(body["model"])
        files = body.get("files") or {}
        for file, digest in files.items():
            if file.startswith("/") or ".." in file or "\\" in file or ":" in file:
                raise Refused(400, f"file path must be relative: {file}")
            self.ollama.blob(digest)
        if "typical_p" in body.get("parameters", {}):
            raise Refused(400, "typical_p is deprecated and cannot be set as a model parameter; pass it as a request option instead")
        if not files:
            raise Refused(400, "no files provided to convert" if "files" in body else "neither 'from' or 'files' was specified")
        if body.get("requires") and not re.fullmatch(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", body["requires"]):
            raise Refused(400, f'invalid requires version: "{body["requires"]}" is not valid semantic version')
        send = self._lines()
        layers = []
        for _, digest in sorted(files.items()):
            send({"status": "parsing GGUF"})
            blob = self.ollama.blob(digest)
            if not blob.exists():
                send({"error": f"open {blob}: no such file or directory"})
                send(None)
                return
            try:
                kind = _gguf_kind(blob)
            except Exception as err:
                send({"error": f"{err}"})
                send(None)
                return
            layers.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": blob.stat().st_size})
        if self.ollama.fail_after_headers:
            send({"error": "write manifest: no space left on device"})
            send(None)
            return
        send({"status": "writing manifest"})
        kept = {key: body.get(key) for key in ("template", "system", "parameters", "requires")}
        self.ollama.write(name, {"layers": layers, **kept})
        send({"status": "success"})
        send(None)

    def _show(self) -> None:
        body = self._body({"model", "verbose", "system", "options"})
        manifest = self.ollama.manifest(body["model"])
        projector = any(layer["mediaType"].endswith("projector") for layer in manifest["layers"])
        shown = {
            "template": self.ollama.jinja or manifest["template"] or "", "modelfile": _modelfile(manifest),
            "system": manifest["system"] or "", "requires": manifest["requires"] or "",
            "parameters": _go_parameters(manifest["parameters"] or {}), "capabilities": ["completion", *(["vision"] if projector else [])],
            "details": {"format": "gguf", "family": "qwen2vl"}, "model_info": {"general.architecture": "qwen2vl"},
        } | ({"projector_info": {"general.architecture": "clip"}} if projector else {})  # fmt: skip
        self._json(200, {key: value for key, value in shown.items() if value != ""})  # empty strings are left out

    def _tags(self) -> None:
        listed = []
        for name in self.ollama.names():
            size = sum(layer["size"] for layer in self.ollama.manifest(name)["layers"])
            listed.append({"name": name, "model": name, "digest": self.ollama.digest(name), "size": size})
        self._json(200, {"models": listed})

    def _copy(self) -> None:
        body = self._body({"source", "destination"})
        try:
            self.ollama.manifest(body["source"])
        except Refused as refused:
            raise Refused(refused.status, f'model "{body["source"]}" not found') from None
        self.ollama.copy(body["source"], self.ollama.canonical(body["destination"]))
        self._json(200, None)

    def _delete(self) -> None:
        body = self._body({"model", "name"})
        self.ollama.remove(body.get("model") or body["name"])
        self._json(200, None)

    def _chat(self) -> None:
        body = self._body(CHAT)
        name = body["model"]
        manifest = self.ollama.manifest(name)
        context = int((manifest["parameters"] or {}).get("num_ctx", 4096))
        tokens = 0
        for message in body["messages"]:
            if unknown := set(message) - {"role", "content", "images"}:
                raise Refused(400, f"strict: unknown fields {sorted(unknown)}")
            tokens += len(message["content"].encode()) // 4 + 4
            for picture in message.get("images", []):
                tokens += self.ollama.tokens_per_picture(*_picture_size(picture)) + 2 if self.ollama.sees else 0
        if tokens > context and body.get("truncate", True) is False:
            raise Refused(400, f"the input length exceeds the context length (n_ctx = {context}, n_prompt_tokens = {tokens})")
        text = self.ollama.answer(self.ollama.canonical(name), body["messages"])
        words = re.findall(r"\S+\s*", text)
        limit = int(body.get("options", {}).get("num_predict", len(words)))
        base = {"model": name, "created_at": "2026-01-01T00:00:00Z"}
        last = {
            "done": True, "done_reason": "length" if len(words) > limit else "stop", "prompt_eval_count": tokens,
            "eval_count": min(len(words), limit), "total_duration": 2_000_000, "eval_duration": 1_000_000,
        }  # fmt: skip
        if body.get("stream", True) is False:
            self._json(200, {**base, "message": {"role": "assistant", "content": "".join(words[:limit])}, **last})
            return
        send = self._lines()
        for count, word in enumerate(words[:limit], 1):
            send({**base, "message": {"role": "assistant", "content": word}, "done": False})
            self.ollama.said(count)
        send({**base, "message": {"role": "assistant", "content": ""}, **last})
        send(None)


def _go_parameters(parameters: dict[str, Any]) -> str:
    each = [(key, v) for key, value in parameters.items() for v in (value if isinstance(value, list) else [value])]
    return "\n".join(f"{key:<30} {json.dumps(value)}" for key, value in each)


def _modelfile(manifest: dict[str, Any]) -> str:
    quoted = {word: f'"""{manifest[word.lower()]}"""' for word in ("TEMPLATE", "SYSTEM") if manifest[word.lower()]}
    froms = "".join(f"FROM /blobs/{layer['digest']}\n" for layer in manifest["layers"])
    return '# Modelfile generated by "ollama show"\n' + froms + "".join(f"{word} {text}\n" for word, text in quoted.items())


def _gguf_kind(blob: Path) -> str:
    from gguf import GGUFReader

    reader = GGUFReader(blob)
    field = reader.get_field("general.type")
    return "projector" if field is not None and field.contents() in ("mmproj", "projector") else "model"


def _picture_size(data: str) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            return picture.size
    except Exception:
        raise Refused(400, "Failed to load image or audio file") from None
