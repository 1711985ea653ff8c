"""The page in the browser: its HTTP side always, and the page itself where a headless Chromium is installed."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont

from sysdesign.chat.speakers import Speaker
from sysdesign.chat.web import serve_page
from sysdesign.errors import ServiceError
from sysdesign.models.chat import Message, Reply
from sysdesign.models.picture import PicturePolicy
from tests import browser
from tests.browser import Browser

BOXES = {
    "Web app": (60, 380, 240, 620),
    "Order API": (330, 150, 540, 390),
    "Cart cache": (330, 610, 540, 850),
    "Orders DB": (700, 380, 930, 620),
}
EDGES = [("Web app", "Order API"), ("Web app", "Cart cache"), ("Order API", "Orders DB")]
REVIEW = """The **Orders DB** is a single point of failure: it has one replica.

```text
add a standby in a second zone
```
Then measure `p99` again."""
INK = """
const canvas = document.createElement("canvas"), image = document.querySelector("#shown");
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
const pen = canvas.getContext("2d");
pen.drawImage(image, 0, 0);
return pen.getImageData(0, 0, canvas.width, canvas.height).data.filter(value => value < 80).length
"""


def script(messages: Sequence[Message]) -> str:
    question = messages[-1].text
    if question.startswith("Transcribe"):
        components = [{"name": name, "type": "service"} for name in BOXES]
        return f"```json\n{json.dumps({'components': components, 'edges': [{'src': a, 'dst': b} for a, b in EDGES]})}\n```"
    if question.startswith("Give the bounding box"):
        return json.dumps({name: box for name, box in BOXES.items() if name in question})
    if question == "fail":
        raise ServiceError("model", "must not fall over", "start it again")
    return REVIEW


def speaker(delay_s: float = 0.0) -> Speaker:
    def say(messages: Sequence[Message], max_tokens: int, seed: int, temperature: float) -> Generator[str, None, Reply]:
        text = script(messages)
        for start in range(0, len(text), 6):
            time.sleep(delay_s)
            yield text[start : start + 6]
        return Reply(text=text, input_tokens=1100, output_tokens=len(text) // 6, seconds=1.0)

    return Speaker("model-q4_k_m in a test", "You read diagrams.", PicturePolicy(), 8192, say)


@contextmanager
def page(talker: Speaker) -> Iterator[str]:
    """The page served as the command serves it; yields its address. The server's thread ends with the process."""

    class Screen(io.StringIO):
        shown = threading.Event()

        def flush(self) -> None:
            self.shown.set()

    screen = Screen()
    options = {"max_tokens": 256, "seed": 0, "screen": screen}
    threading.Thread(target=serve_page, args=(talker, "127.0.0.1", 0), kwargs=options, daemon=True).start()
    assert screen.shown.wait(20)
    address = screen.getvalue().split("open ")[1].split()[0]
    for _ in range(100):
        try:
            httpx.get(address, trust_env=False)
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    yield address


def draw(path: Path) -> Path:
    width, height = 1120, 840
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=28)
    middle = {name: ((x0 + x1) / 2000 * width, (y0 + y1) / 2000 * height) for name, (x0, y0, x1, y1) in BOXES.items()}
    for src, dst in EDGES:
        pen.line((*middle[src], *middle[dst]), fill="black", width=3)
    for name, (x0, y0, x1, y1) in BOXES.items():
        pen.rectangle(
            (x0 / 1000 * width, y0 / 1000 * height, x1 / 1000 * width, y1 / 1000 * height), fill="white", outline="black", width=3
        )
        pen.text(middle[name], name, fill="black", font=font, anchor="mm")
    image.save(path)
    return path


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with page(speaker()) as address, httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        yield client


def lines(answer: httpx.Response) -> list[dict[str, object]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_picture_is_read_and_asked_about(client: httpx.Client, tmp_path: Path) -> None:
    stored = client.post("/pictures", content=draw(tmp_path / "a.png").read_bytes()).json()
    assert (stored["width"], stored["height"]) == (1120, 840) and 1024 <= stored["tokens"] <= 1280
    steps = lines(client.post("/read", json={"picture": stored["picture"]}))
    last = steps[-1]
    assert len(steps) == 4 and last["done"] and len(last["edges"]) == 3  # type: ignore[arg-type]
    assert {c["name"]: tuple(c["box"]) for c in last["components"]} == BOXES  # type: ignore[attr-defined]
    turns = [{"role": "user", "text": "Review it", "picture": stored["picture"]}]
    said = lines(client.post("/ask", json={"turns": turns}))
    assert "".join(str(line.get("text", "")) for line in said) == REVIEW and said[-1]["done"]["finish"] == "stop"  # type: ignore[index]


def test_what_the_page_refuses(client: httpx.Client) -> None:
    assert "must be a picture" in client.post("/pictures", content=b"no picture").json()["error"]
    assert client.post("/pictures", content=bytes(65 << 20)).status_code == 413
    assert "given to this page" in client.post("/read", json={"picture": "0" * 16}).json()["error"]
    assert client.post("/read", json={"picture": "../../etc/passwd"}).status_code == 400
    assert client.post("/ask", json={"turns": []}).status_code == 400
    assert client.post("/ask", content=b"{").status_code == 400
    assert "start it again" in str(lines(client.post("/ask", json={"turns": [{"role": "user", "text": "fail"}]}))[0]["error"])
    good = {"turns": [{"role": "user", "text": "x"}]}
    assert client.post("/ask", json=good, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/ask", json=good, headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/ask", json=good, headers={"Origin": str(client.base_url).rstrip("/")}).status_code == 200


def test_a_reader_who_leaves_does_not_hold_the_model(tmp_path: Path) -> None:
    with page(speaker(delay_s=0.05)) as address, httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        with client.stream("POST", "/ask", json={"turns": [{"role": "user", "text": "x"}]}) as answer:
            next(answer.iter_raw())
        begun = time.monotonic()
        assert len(lines(client.post("/ask", json={"turns": [{"role": "user", "text": "y"}]}))) > 10
        assert time.monotonic() - begun < 15


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with page(speaker()) as address, pytest.raises(ServiceError, match=r"must be free.*--chat\.port"):
        serve_page(speaker(), "127.0.0.1", int(address.rstrip("/").rpartition(":")[2]), max_tokens=1, seed=0, screen=io.StringIO())


@pytest.mark.skipif(bool(browser.missing()), reason=f"not installed: {browser.missing()} (apt-get install chromium chromium-driver)")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    shots = Path(os.environ.get("PAGE_SHOTS", tmp_path))
    with page(speaker(delay_s=0.02)) as address, Browser(tmp_path / "profile") as window:
        window.size(1280, 900)
        window.open(address)
        window.wait("return document.querySelector('#model').textContent.includes('model-q4_k_m')")
        window.screenshot(shots / "1-empty.png")

        window.type("#file", str(draw(tmp_path / "shop.png")))
        window.wait("return document.querySelector('#facts').textContent.includes('1120 × 840')")
        window.click("#read")
        window.wait("return document.querySelector('#found-state').textContent.includes('4 components (4 placed), 3 arrows')")
        placed = "return [...document.querySelectorAll('#overlay rect')].map(r => ['x','y','width','height'].map(k => +r.getAttribute(k)))"
        assert [tuple(box) for box in window.js(placed)] == [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in BOXES.values()]
        assert window.js("return document.querySelectorAll('#overlay line:not(.case)').length") == 3
        place = (
            "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.x, r.y, r.width, r.height].map(Math.round)"
        )
        assert window.js(place, "#shown") == window.js(place, "#overlay"), "the overlay lies exactly over the picture"
        assert window.js(place, "#shown")[2] > 400

        window.click("#presets button")
        texts = window.each_change("return document.querySelector('.turn.assistant')?.textContent ?? ''", lambda text: "tokens" in text)
        assert len(texts) > 5, "the answer arrives piece by piece"
        assert window.js("return document.querySelector('.turn.assistant b').textContent") == "Orders DB"
        assert "standby" in window.js("return document.querySelector('.turn.assistant pre').textContent")
        window.type("#question", "fail\ue007")  # Enter
        window.wait("return document.querySelector('.turn .error')?.textContent.includes('start it again')")
        assert window.js("return document.querySelector('#question').value") == "fail", "a failed question is kept"
        window.screenshot(shots / "2-wide.png")
        window.size(390, 844)
        window.screenshot(shots / "3-narrow.png", whole=True)
        assert window.js("return document.documentElement.scrollWidth <= 390"), "nothing sticks out at the side of a phone"

        window.size(1280, 900)
        window.click("#tab-draw")
        for name, start, end in (("Gateway", (0.08, 0.3), (0.35, 0.5)), ("Store", (0.6, 0.3), (0.9, 0.5))):
            window.drag("#canvas", start, end)
            window.type("#name", name + "\ue007")
        window.click("[data-tool=arrow]")
        window.drag("#canvas", (0.2, 0.4), (0.75, 0.4))
        window.screenshot(shots / "4-draw.png")
        window.click("#use")
        window.wait("return !document.querySelector('#stage').hidden && document.querySelector('#found').hidden")
        window.wait("return document.querySelector('#shown').naturalWidth === 1120")
        assert window.js(INK) > 5000, "the drawing has ink"
        assert [entry for entry in window.console() if "favicon" not in entry] == []
