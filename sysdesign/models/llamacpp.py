"""A GGUF text model and its vision projector -> llama.cpp's own server on a loopback port, gone when the block is left.

The server is the one inside the `xllamacpp` wheel. It runs in a child process, because a file that llama.cpp does not like
aborts the whole process, and because its memory must go back when serving ends. The child ends when its standard input
closes, so it cannot outlive its parent, however that dies.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sysdesign.errors import ServiceError, ToolError

_READY = "listening "


@contextmanager
def serve(
    text_gguf: Path,
    mmproj: Path | None = None,
    *,
    context: int = 8192,
    threads: int = 0,
    min_image_tokens: int | None = None,
    max_image_tokens: int | None = None,
    exact: bool = False,
    alias: str = "sysdesign",
    gpu: bool = True,
    reuse: bool = False,
    log: Path | None = None,
    timeout_s: float = 600.0,
) -> Iterator[str]:
    """Yield the OpenAI-compatible address, `http://127.0.0.1:<port>/v1`; the server's own API lies one level above.

    One request is answered at a time, from its beginning: the same question gives the same answer whatever was asked before, to the bit.
    `reuse`: what a request shares with the one before it, such as a picture already read, is not computed again; the last bits of an
    answer's probabilities may then depend on what was asked before. A request's own `cache_prompt` wins over it.
    `context`: tokens of prompt, picture and answer. `threads`: 0 takes all cores. `min_image_tokens` and `max_image_tokens`:
    bounds of the picture policy (None leaves llama.cpp's own; pictures within the bounds are never resized). `exact`: 32-bit
    cache and no flash attention, for comparisons. `gpu`: offload what the wheel's build can. `log`: where llama.cpp's own
    messages go. `timeout_s`: how long loading may take.

    Raises ToolError when xllamacpp is missing, ServiceError (with the last messages) when the files do not load.
    """
    for file in (text_gguf, *([mmproj] if mmproj else [])):
        if not file.is_file():
            raise ServiceError(str(file), "the GGUF file to serve must exist", "run the export stage")
    settings = {
        "text": str(text_gguf), "mmproj": str(mmproj) if mmproj else "", "context": context, "threads": threads or os.cpu_count() or 1,
        "min_image_tokens": min_image_tokens or -1, "max_image_tokens": max_image_tokens or -1, "exact": exact, "alias": alias,
        "gpu": gpu, "reuse": reuse,
    }  # fmt: skip
    with tempfile.TemporaryFile() if log is None else log.open("w+b") as messages:
        command = [sys.executable, "-m", "sysdesign.models.llamacpp", json.dumps(settings)]
        root = str(Path(__file__).parents[2])  # the caller's working folder may be anywhere
        env = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True, env=env)
        try:
            port = _port(child, timeout_s)
            if port is None:
                raise _failure(child, messages, text_gguf)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(child)


def _port(child: subprocess.Popen[str], timeout_s: float) -> int | None:
    """The port that the child announces, or None when it ended or fell silent first."""
    said: list[str] = []

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(_READY):
                said.append(line)
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    listener.join(timeout_s)
    return int(said[0].removeprefix(_READY)) if said else None


def _failure(child: subprocess.Popen[str], messages: Any, file: Path) -> Exception:
    with suppress(subprocess.TimeoutExpired):
        child.wait(1)  # it has closed its output, and may not have ended yet
    code = child.poll()
    messages.seek(0)
    lines = [line.strip() for line in messages.read().decode(errors="replace").splitlines() if line.strip()]
    if any("No module named 'xllamacpp'" in line for line in lines):
        return ToolError("xllamacpp", "must be installed to serve GGUF files", "pip install 'xllamacpp>=2026.10,<2027'")
    if code is None:
        return ServiceError(str(file), "llama.cpp must load it in time", "give a longer timeout, or a smaller file")
    told = [re.sub(r"^[\d.]+ [A-Z] +", "", line) for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return ServiceError(str(file), "llama.cpp must be able to load it", "export again", (told or lines or [f"exit code {code}"])[0])


def _stop(child: subprocess.Popen[str]) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _main(settings: dict[str, Any]) -> None:
    """The child: load, announce the port, wait for standard input to close. Ends without unloading: the system is faster."""
    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path = settings["text"]
    params.mmproj.path = settings["mmproj"]
    params.model_alias = {settings["alias"]}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = settings["context"], 1, 2048, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.image_min_tokens, params.image_max_tokens = settings["min_image_tokens"], settings["max_image_tokens"]
    params.cache_prompt, params.cache_ram_mib, params.use_jinja, params.ui = settings["reuse"], 0, True, False
    params.fit_params = False  # it would shrink the context in silence
    params.mmproj_use_gpu = settings["gpu"]
    if not settings["gpu"]:
        params.n_gpu_layers = 0
    if settings["exact"]:
        params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = llama.Server(params)
    sys.stdout.write(f"{_READY}{server.listening_address.rsplit(':', 1)[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
