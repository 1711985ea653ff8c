"""A model -> a page in the browser: give it a picture, see what it reads there, ask, get the design reviewed.

Starlette and uvicorn, which MLflow brings along; the page is static and needs no build. Answers are newline-delimited JSON, sent while
the model writes them. The page is for one person on this machine: requests that come from another site's page are refused.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from pydantic import Field, ValidationError

from sysdesign.chat.extract import extract
from sysdesign.chat.pictures import MAX_BYTES, open_upright, prepare_bytes
from sysdesign.chat.speakers import Speaker
from sysdesign.errors import InputError, LimitError, ServiceError, SysdesignError
from sysdesign.graph import Record
from sysdesign.models.chat import Message

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
EXTRACT_TOKENS = 1536


class Said(Record):
    """One turn as the page sends it."""

    role: Literal["user", "assistant"]
    text: Annotated[str, Field(min_length=1)]
    picture: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None


class Question(Record):
    """The conversation so far, the new question last."""

    turns: Annotated[tuple[Said, ...], Field(min_length=1, max_length=200)]


class Picture(Record):
    """Which uploaded picture is meant."""

    picture: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


def build_page(speaker: Speaker, folder: Path, *, max_tokens: int, seed: int, port: int | None = None) -> Starlette:
    """The application; uploaded pictures live in `folder`. `port`: the only one whose pages may ask, None for tests."""
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, StreamingResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    one_at_a_time = threading.Lock()  # a second question waits: the servers behind answer one at a time anyway

    async def model(request: Request) -> Response:
        policy = speaker.policy
        return JSONResponse({"name": speaker.name, "context": speaker.context, "min": policy.min_tokens, "max": policy.max_tokens})

    async def pictures(request: Request) -> Response:
        data = bytearray()
        async for block in request.stream():
            data += block
            if len(data) > MAX_BYTES:
                raise LimitError("picture", f"has at most {MAX_BYTES >> 20} MiB", "scale it down")
        from starlette.concurrency import run_in_threadpool

        return JSONResponse(await run_in_threadpool(_store, bytes(data), speaker, folder))

    async def ask(request: Request) -> Response:
        question = _parsed(Question, await request.body())
        messages = [Message(role="system", text=speaker.system)] if speaker.system else []
        messages += [Message(role=s.role, text=s.text, images=(_find(folder, s.picture),) if s.picture else ()) for s in question.turns]

        def lines() -> Iterator[dict[str, Any]]:
            pieces = speaker.say(messages, max_tokens, seed, 0.0)
            while True:
                try:
                    yield {"text": next(pieces)}
                except StopIteration as done:
                    yield {"done": done.value.model_dump(exclude={"text"})}
                    return

        return StreamingResponse(_closing(_ndjson(lines(), one_at_a_time)), media_type="application/x-ndjson")

    async def read(request: Request) -> Response:
        picture = _find(folder, _parsed(Picture, await request.body()).picture)
        tokens = min(EXTRACT_TOKENS, speaker.context)
        found = (step.model_dump(mode="json") for step in extract(speaker, picture, max_tokens=tokens, seed=seed))
        return StreamingResponse(_closing(_ndjson(found, one_at_a_time)), media_type="application/x-ndjson")

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "page.html", headers={"Cache-Control": "no-store"})

    async def broken(request: Request, err: Exception) -> Response:
        status = 400 if isinstance(err, InputError) else 413 if isinstance(err, LimitError) else 502
        return JSONResponse({"error": str(err)}, status_code=status)

    routes = [
        Route("/", page),
        Route("/model", model),
        Route("/pictures", pictures, methods=["POST"]),
        Route("/ask", ask, methods=["POST"]),
        Route("/read", read, methods=["POST"]),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]
    app = Starlette(routes=routes, exception_handlers={SysdesignError: broken})
    app.add_middleware(_SameSite, port=port)
    return app


def serve_page(speaker: Speaker, host: str, port: int, *, max_tokens: int, seed: int, screen: TextIO) -> None:
    """Serve until Ctrl-C. Raises ServiceError when the port is taken."""
    import socket

    import uvicorn

    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as err:
        listener.close()
        raise ServiceError(f"{host}:{port}", f"must be free ({err.strerror})", "choose another: --chat.port 0 takes a free one") from None
    port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sysdesign-page-") as folder:
        own = port if host in ("127.0.0.1", "::1", "localhost") else None
        app = build_page(speaker, Path(folder), max_tokens=max_tokens, seed=seed, port=own)
        screen.write(f"{speaker.name}: open http://{'[' + host + ']' if ':' in host else host}:{port}/   (Ctrl-C stops)\n")
        screen.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


class _SameSite:
    """Refuses what another site's page, or a name that was pointed at this machine, asks for."""

    def __init__(self, app: Any, port: int | None) -> None:
        self._app = app
        self._allowed = None if port is None else {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self._allowed is not None:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            origin = headers.get(b"origin", "").partition("//")[2]
            if headers.get(b"host", "") not in self._allowed or (origin and origin not in self._allowed):
                from starlette.responses import JSONResponse

                refusal = JSONResponse({"error": "page: only this machine's own page may ask"}, status_code=403)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _store(data: bytes, speaker: Speaker, folder: Path) -> dict[str, Any]:
    original = open_upright(data, "picture")
    prepared = prepare_bytes(data, "picture", speaker.policy, folder)
    width, height = speaker.policy.size(*original.size)
    tokens = width * height // speaker.policy.side**2
    return {"picture": prepared.stem, "width": original.width, "height": original.height, "tokens": tokens}


def _find(folder: Path, picture: str) -> Path:
    path = folder / f"{picture}.png"
    if not path.is_file():
        raise InputError("picture", "must have been given to this page", "give it again: the server was restarted", picture)
    return path


def _parsed(kind: Any, body: bytes) -> Any:
    try:
        return kind.model_validate_json(body)
    except ValidationError as err:
        first = err.errors()[0]
        raise InputError(
            "request", f"must be a {kind.__name__}: {first['msg']}", "reload the page", ".".join(map(str, first["loc"]))
        ) from None


async def _closing(pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    """`pieces`, ended at once when the reader leaves: left to the garbage collector, a closed tab would hold the model."""
    from starlette.concurrency import iterate_in_threadpool

    try:
        async for piece in iterate_in_threadpool(pieces):
            yield piece
    finally:
        pieces.close()


def _ndjson(events: Iterator[dict[str, Any]], lock: threading.Lock) -> Generator[bytes, None, None]:
    """One JSON object a line. An error after the first byte is a line too: the status was already sent."""
    with lock:
        try:
            for event in events:
                yield json.dumps(event, ensure_ascii=False).encode() + b"\n"
        except SysdesignError as err:
            yield json.dumps({"error": str(err)}).encode() + b"\n"
