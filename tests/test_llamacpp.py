"""llama.cpp's server from PyPI: it answers about a picture, says why it cannot load a file, and never outlives its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from sysdesign.errors import ServiceError
from sysdesign.models.chat import Message
from sysdesign.models.llamacpp import serve
from sysdesign.models.openai_http import LLAMACPP, OpenAiHttp
from tests.real_bundle import write_bundle

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield write_bundle(tmp_path_factory.mktemp("bundle")) / "gguf"


def test_it_answers_about_a_picture_the_same_way_twice(gguf: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((112, 112, 3), 200, np.uint8)).save(tmp_path / "a.png")
    question = [Message(role="user", text="List the names.", images=(tmp_path / "a.png",))]
    with serve(
        gguf / "model-q8_0.gguf", gguf / "mmproj-f16.gguf", context=512, threads=1, min_image_tokens=16, max_image_tokens=64, gpu=False
    ) as url:
        assert url.startswith("http://127.0.0.1:") and url.endswith("/v1")
        model = OpenAiHttp(url, "sysdesign", extra=LLAMACPP)
        first, second = (model.reply(question, max_tokens=6, seed=0) for _ in range(2))
        model.close()
    assert first.text == second.text and first.input_tokens == second.input_tokens
    assert first.input_tokens is not None and first.input_tokens > 16  # the picture alone takes 16
    with pytest.raises(ServiceError):
        OpenAiHttp(url, "sysdesign", timeout_s=2).reply(question, max_tokens=1, seed=0)  # the server is gone


def test_a_second_question_about_a_picture_does_not_read_it_again_when_asked_so(gguf: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((112, 112, 3), 200, np.uint8)).save(tmp_path / "a.png")
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode((tmp_path / 'a.png').read_bytes()).decode()}"}}
    kept = []
    for reuse in (False, True):
        with serve(
            gguf / "model-q8_0.gguf", gguf / "mmproj-f16.gguf", context=512, threads=1, min_image_tokens=16, gpu=False, reuse=reuse
        ) as url:
            for text in ("List the names.", "Count them."):
                asked = {"messages": [{"role": "user", "content": [picture, {"type": "text", "text": text}]}], "max_tokens": 2}
                answer = httpx.post(f"{url}/chat/completions", json=asked, timeout=60, trust_env=False).json()
            kept.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert kept[0] == 0 and kept[1] >= 16, "the picture alone takes 16"


def test_files_that_do_not_load_are_named(gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((gguf / "model-q8_0.gguf").read_bytes()[:200_000])
    for file, law in ((tmp_path / "none.gguf", "must exist"), (cut, "must be able to load it")):
        with pytest.raises(ServiceError, match=law), serve(file, context=512, threads=1, gpu=False):
            pass


def test_it_ends_with_its_caller_even_when_that_is_killed(gguf: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sysdesign.models.llamacpp import serve\n"
        "with serve(Path(sys.argv[1]), context=512, threads=1, gpu=False) as url:\n    print(url, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(gguf / "model-q8_0.gguf")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline().startswith("http://127.0.0.1:")
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.stdout.close()
