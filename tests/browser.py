"""A headless Chromium driven through ChromeDriver's own HTTP API (W3C WebDriver): what a test of a page needs, and no more."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that WebDriver gives elements


def missing() -> str:
    """Which program is not installed; empty when a browser test can run."""
    return ", ".join(name for name in ("chromium", "chromedriver") if not shutil.which(name))


class Browser:
    """One window. Use it in a `with`."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        options = {"args": [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}}
        for _ in range(100):
            try:
                self._session = f"/session/{self._http.post('/session', json=wanted).json()['value']['sessionId']}"
                return
            except httpx.ConnectError:
                time.sleep(0.1)
        raise RuntimeError("chromedriver does not answer")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.delete(self._session)
        self._driver.terminate()
        self._driver.wait()

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.post(self._session + path, json=body or {}).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['message'][:300]}")
        return answer

    def open(self, url: str) -> None:
        self._call("/url", {"url": url})

    def size(self, width: int, height: int) -> None:
        """Of the page itself, also narrower than a window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def js(self, script: str, *arguments: Any) -> Any:
        """`return ...` of a script."""
        return self._call("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, seconds: float = 20) -> Any:
        """Until `return ...` is true."""
        end = time.monotonic() + seconds
        while not (found := self.js(script)):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {script}\nconsole: {self.console()}")
            time.sleep(0.05)
        return found

    def find(self, selector: str) -> str:
        return str(self._call("/element", {"using": "css selector", "value": selector})[ELEMENT])

    def click(self, selector: str) -> None:
        self._call(f"/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Keys to an element; for a file field, the path."""
        self._call(f"/element/{self.find(selector)}/value", {"text": text})

    def drag(self, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press, move, release; both in shares of the element's width and height."""
        box = self.js(
            "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", selector
        )
        points: list[dict[str, Any]] = []
        for x, y in (start, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), end):
            points.append({"type": "pointerMove", "duration": 30, "x": round(box[0] + x * box[2]), "y": round(box[1] + y * box[3])})
        moves = [points[0], {"type": "pointerDown", "button": 0}, *points[1:], {"type": "pointerUp", "button": 0}]
        self._call("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def each_change(self, script: str, until: Callable[[str], bool], seconds: float = 20) -> list[str]:
        """Every different value that a script returns, until one satisfies `until`: shows that something arrives piece by piece."""
        seen: list[str] = []
        end = time.monotonic() + seconds
        while not seen or not until(seen[-1]):
            value = str(self.js(script))
            if not seen or value != seen[-1]:
                seen.append(value)
            if time.monotonic() > end:
                raise AssertionError(f"never arrived: {seen[-3:]}")
        return seen

    def console(self) -> list[str]:
        """What the page complained about since the last call."""
        entries = self._call("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path, whole: bool = False) -> None:
        shot = self._call("/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": whole}})
        path.write_bytes(base64.b64decode(shot["data"]))
