"""The command in a real terminal, a pseudo-terminal with line editing: what a person types, drops on the window, interrupts and recalls."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.ollama_server import OllamaServer
from tests.test_deploy import make_export, run

UP, INTERRUPT, LEAVE = "\x1b[A", "\x03", "\x04"


def _take_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling terminal: Ctrl-C is a signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job starts with it ignored


class Terminal:
    """A command in a pseudo-terminal of its own."""

    def __init__(self, command: list[str], home: Path) -> None:
        self._end, theirs = pty.openpty()
        environment = os.environ | {"HOME": str(home), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.shown, self._read = "", 0

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def until(self, pattern: str, seconds: float = 60) -> str:
        """What was shown since the last call, up to and with the pattern."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown[self._read :])):
            assert time.monotonic() < end, f"never shown: {pattern!r} in {self.shown[self._read :]!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    self.shown += re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", os.read(self._end, 65536).decode(errors="replace"))
                except OSError:  # the other end is closed
                    assert re.search(pattern, self.shown[self._read :]), self.shown[self._read :]
        text = self.shown[self._read : self._read + found.end()]
        self._read += found.end()
        return text

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._end)


@contextmanager
def talking(server: OllamaServer, home: Path) -> Iterator[Terminal]:
    flags = ["--via", "ollama", "--chat.ollama.url", server.url, "--runtime.store", str(home / "artifacts")]
    terminal = Terminal([sys.executable, "-m", "pipelines.chat", *flags], home)
    try:
        terminal.until("/help lists what you can do")
        terminal.until("> ")
        yield terminal
    finally:
        terminal.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    picture = tmp_path / 'it\'s a "big" plan.png'
    Image.new("RGB", (640, 480), "white").save(picture)
    dropped = re.sub(r"([^\w./-])", r"\\\1", str(picture))  # as a terminal writes a file that is dropped on it
    heard: list[str] = []
    go_on = threading.Event()
    with OllamaServer(tmp_path / "ollama") as server:
        run(server, make_export(tmp_path / "export"), tmp_path / "out")

        def answer(name: str, messages: list[dict[str, str]]) -> str:
            heard.append(f"{messages[-1]['content']} with {len(messages[-1].get('images', []))}")
            return f"first words of answer {len(heard)} "

        server.answer = answer
        server.said = lambda words: words == 2 and go_on.wait(20)
        with talking(server, tmp_path) as terminal:
            terminal.type(f"{dropped} what is this?\r")
            terminal.until("big.*attached\\]")
            terminal.until("first words ")
            assert "answer 1" not in terminal.shown, "what was written so far is shown while the rest is not written yet"
            go_on.set()
            terminal.until(r"answer 1.*\n\[5 tokens")
            terminal.until("> ")
            terminal.type(f"/image '{tmp_path}/nothing here.png'\r")
            terminal.until("must be readable")
            terminal.until("> ")
            terminal.type("/retry\r")
            terminal.until(r"answer 2.*\n\[5 tokens")
            terminal.until("> ")
            go_on.clear()
            terminal.type("wait\r")
            terminal.until("first words ")
            terminal.type(INTERRUPT)
            terminal.until(r"\(stopped\)")
            go_on.set()
            terminal.until("> ")
            terminal.type(f"/save {tmp_path / 'notes.md'}\r")
            terminal.until("saved")
            terminal.until("> ")
            terminal.type(f"{UP}{UP}\r")  # the question before /save
            terminal.until(r"answer 4.*\n\[5 tokens")
            terminal.until("> ")
            terminal.type(LEAVE)
            assert terminal.process.wait(20) == 0
        assert (tmp_path / ".sysdesign_history").stat().st_mode & 0o777 == 0o600
        with talking(server, tmp_path) as terminal:
            terminal.type(f"{UP}\r")  # what was asked last, in the session before
            terminal.until(r"answer 5.*\n\[5 tokens")
    assert heard == ["what is this? with 1", "what is this? with 1", "wait with 0", "wait with 0", "wait with 0"]
    assert "answer 2" in (tmp_path / "notes.md").read_text() and "answer 3" not in (tmp_path / "notes.md").read_text()


def test_a_killed_run_over_a_folder_goes_on(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (300, 200 + index), "white").save(tmp_path / "pictures" / f"{index}.png")
    answers, third = tmp_path / "answers.jsonl", threading.Event()
    asked: list[int] = []
    with OllamaServer(tmp_path / "ollama") as server:
        run(server, make_export(tmp_path / "export"), tmp_path / "out")

        def answer(name: str, messages: list[dict[str, str]]) -> str:
            asked.append(len(asked))
            return f"answer {len(asked)}"

        server.answer = answer
        server.said = lambda words: len(asked) == 3 and (third.set(), time.sleep(0.5))  # the third answer is half there
        flags = ["--via", "ollama", "--chat.ollama.url", server.url, "--runtime.store", str(tmp_path / "artifacts")]
        flags += ["--folder", str(tmp_path / "pictures"), "--prompt", "What?", "--chat.answers", str(answers)]
        command = [sys.executable, "-m", "pipelines.chat", *flags]
        killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert third.wait(60)
        killed.kill()
        killed.communicate()
        first = answers.read_bytes()
        assert first.count(b"\n") == 2
        answers.write_bytes(first + b'{"image": "2.png", "sha')  # as when the disk, too, stopped in the middle of a line
        server.said = lambda words: None
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert json.loads(done.stdout) == {"pictures": 4, "answered": 2, "refused": 0, "kept": 2}, done.stderr
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["image"] for line in lines] == ["0.png", "1.png", "2.png", "3.png"] and len(asked) == 5
    assert answers.read_bytes().startswith(first)
