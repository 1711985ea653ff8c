"""Calls to Ollama's own HTTP API -> typed answers, and every way it says no -> one line.

Only what a deployment needs: version, blobs, create, copy, show, tags, delete. Endpoints and status codes as in Ollama's
server/routes.go and server/create.go (read 2026-08).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from sysdesign.config.deploy import OllamaConfig
from sysdesign.errors import InputError, ServiceError, ToolError
from sysdesign.graph import Record
from sysdesign.models.bundle import Bundle, template_with_policy
from sysdesign.models.stream import server_message

OLDEST = (0, 30, 0)  # earlier versions run Qwen2-VL on an engine that garbles pictures (ollama issue 14388)
CHUNK = 1 << 20  # bytes


class Tag(Record):
    """One name on the server and the digest of what it points to."""

    name: str
    digest: str
    size: int = 0  # bytes


class Ollama:
    """A connection to one server. Close it, or use it in a `with`."""

    def __init__(self, cfg: OllamaConfig) -> None:
        self.url, self._tries = cfg.url.rstrip("/"), cfg.upload_tries
        self._client = httpx.Client(base_url=self.url, timeout=httpx.Timeout(cfg.timeout_s, connect=5.0), trust_env=False)

    def __enter__(self) -> Ollama:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def version(self) -> str:
        """Raises ServiceError when nothing, or something else, answers there; ToolError when it is too old."""
        answer = self._call("GET", "/api/version")
        try:
            version = str(answer.json()["version"])
        except (ValueError, KeyError, TypeError):
            raise ServiceError(self.url, "an Ollama server must answer here", "check deploy.ollama.url", answer.text[:80]) from None
        numbers = tuple(int(part) for part in version.split("-")[0].split("+")[0].split(".") if part.isdigit())
        if numbers < OLDEST and numbers != (0, 0, 0):  # 0.0.0 is a build from source
            law = f"Ollama must be at least {'.'.join(map(str, OLDEST))}: older ones garble pictures for this model"
            raise ToolError(self.url, law, "update Ollama from https://ollama.com/download", version)
        return version

    def tags(self) -> dict[str, Tag]:
        """Every model on the server by its full name, `name:tag`."""
        models = self._call("GET", "/api/tags").json().get("models") or []
        return {m["name"]: Tag(name=m["name"], digest=m["digest"], size=m.get("size", 0)) for m in models}

    def push(self, file: Path, sha256: str, progress: Any = None) -> bool:
        """Make the server hold the file; False when it did already. Raises ServiceError after the last try.

        Ollama takes a blob whole or not at all, so a dropped connection costs that file's upload, never the files before it.
        `progress`: something with `update(bytes)`, such as a tqdm bar; what a failed try counted is taken back.
        """
        path = f"/api/blobs/sha256:{sha256}"
        for attempt in range(1, self._tries + 1):
            if self._call("HEAD", path, allowed=(404,)).status_code == 200:
                if progress is not None:
                    progress.update(file.stat().st_size)
                return attempt > 1
            sent = [0]
            try:
                size = str(file.stat().st_size)
                answer = self._client.post(path, content=_chunks(file, sent, progress), headers={"Content-Length": size})
            except httpx.HTTPError as err:
                failure = str(err) or type(err).__name__
            else:
                if answer.status_code in (200, 201):
                    return True
                failure = f"HTTP {answer.status_code}: {server_message(answer.content)}"
                if answer.status_code == 400:  # the bytes are not what their name says: trying again cannot help
                    raise ServiceError(str(file), "the bytes sent must have the digest they are sent under", "export again", failure)
            if progress is not None:
                progress.update(-sent[0])
            if attempt < self._tries:
                time.sleep(min(0.2 * 2**attempt, 10.0))
        law = f"{file.name} must arrive whole (tried {self._tries} times)"
        raise ServiceError(self.url, law, "run the deploy again: files that arrived are not sent twice", failure)

    def create(self, name: str, bundle: Bundle, digests: dict[str, str]) -> None:
        """Make `name` from uploaded blobs. `digests`: file name -> sha256."""
        body = {
            "model": name, "files": {file: f"sha256:{digest}" for file, digest in digests.items()},
            "template": template_with_policy(bundle), "system": bundle.system, "parameters": bundle.parameters, "stream": True,
        } | ({"requires": bundle.requires} if bundle.requires else {})  # fmt: skip
        try:
            with self._client.stream("POST", "/api/create", json=body) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise self._said_no("create", answer.status_code, answer.content)
                status = ""
                for line in filter(None, answer.iter_lines()):
                    event = json.loads(line)
                    if "error" in event:
                        raise self._said_no("create", answer.status_code, line.encode())
                    status = event.get("status", status)
        except httpx.HTTPError as err:
            raise self._silent(err) from None
        if status != "success":
            raise ServiceError(self.url, f"creating {name} must end with `success`", "read Ollama's log, then deploy again", status)

    def show(self, name: str) -> dict[str, Any] | None:
        """What the server knows of a model (template, system, parameters, capabilities, details); None when it has none of that name."""
        answer = self._call("POST", "/api/show", {"model": name}, allowed=(404,))
        return None if answer.status_code == 404 else dict(answer.json())

    def copy(self, source: str, destination: str) -> None:
        """Point `destination` to what `source` points to; takes no space."""
        self._call("POST", "/api/copy", {"source": source, "destination": destination})

    def delete(self, name: str) -> bool:
        """Forget a name; False when there was none. Blobs that no other name uses go with it."""
        return self._call("DELETE", "/api/delete", {"model": name}, allowed=(404,)).status_code != 404

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, allowed: tuple[int, ...] = ()) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as err:
            raise self._silent(err) from None
        if answer.status_code >= 400 and answer.status_code not in allowed:
            raise self._said_no(f"{method} {path}", answer.status_code, answer.content)
        return answer

    def _silent(self, err: Exception) -> ServiceError:
        do = "start it with `ollama serve`, mend deploy.ollama.url, or use llama.cpp: --deploy.to llamacpp"
        return ServiceError(self.url, "an Ollama server must answer here", do, str(err) or type(err).__name__)

    def _said_no(self, what: str, status: int, body: bytes) -> ServiceError | InputError:
        said = server_message(body)
        if "invalid model name" in said:
            return InputError("deploy.ollama.model", "must be a name that Ollama accepts", "choose letters, digits, `-`, `_` and `.`", said)
        return ServiceError(
            self.url, f"Ollama must accept the request ({what}, HTTP {status})", "read Ollama's log: journalctl -u ollama", said
        )


def _chunks(file: Path, sent: list[int], progress: Any) -> Iterator[bytes]:
    with file.open("rb") as data:
        while block := data.read(CHUNK):
            yield block
            sent[0] += len(block)
            if progress is not None:
                progress.update(len(block))
