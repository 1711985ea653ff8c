"""Lines from a person at a terminal -> a conversation: streamed answers, pictures by path or dropped file, retry, save.

Everything is read from `keyboard` and written to `screen`, so a test or a pipe can sit where a person does.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit

from sysdesign.chat.pictures import SUFFIXES, prepare
from sysdesign.chat.speakers import Speaker
from sysdesign.errors import InputError, SysdesignError
from sysdesign.models.chat import Message, Reply

RETRY_TEMPERATURE = 0.7
HELP = """\
/image PATH   attach a picture to the next question (or just drop the file on the window)
/retry        ask the last question again
/save FILE    write the conversation as Markdown
/new          forget the conversation
/help, /quit
A line that opens with \"\"\" goes on until the next \"\"\". Ctrl-C stops an answer, Ctrl-D leaves."""


class Conversation:
    """What was said so far, and the pictures waiting for the next question."""

    def __init__(self, speaker: Speaker, folder: Path, *, max_tokens: int, seed: int) -> None:
        self.speaker, self._folder, self._max_tokens, self._seed = speaker, folder, max_tokens, seed
        self.turns: list[Message] = []
        self.waiting: list[Path] = []
        self._originals: dict[Path, Path] = {}  # prepared -> as given, for the saved text

    def attach(self, path: Path) -> str:
        """Prepare a picture for the next question. Raises InputError or LimitError."""
        prepared = prepare(path.expanduser(), self.speaker.policy, self._folder)
        self.waiting.append(prepared)
        self._originals[prepared] = path
        return path.name

    def ask(self, text: str, write: Callable[[str], object]) -> Reply:
        """One question, the answer written as it comes. On an error or Ctrl-C the question is taken back."""
        self.turns.append(Message(role="user", text=text, images=tuple(self.waiting)))
        waiting, self.waiting = self.waiting, []
        try:
            reply = self._answer(write)
        except BaseException:
            self.turns.pop()
            self.waiting = waiting
            raise
        self.turns.append(Message(role="assistant", text=reply.text))
        return reply

    def retry(self, write: Callable[[str], object]) -> Reply:
        """The last question once more, drawn at random this time: greedily it would get the same answer.

        Raises InputError when nothing was asked yet.
        """
        if len(self.turns) < 2:
            raise InputError("/retry", "needs a question that was answered", "ask something first")
        self._seed += 1
        kept = self.turns.pop()
        try:
            reply = self._answer(write, temperature=RETRY_TEMPERATURE)
        except BaseException:
            self.turns.append(kept)
            raise
        self.turns.append(Message(role="assistant", text=reply.text))
        return reply

    def clear(self) -> None:
        """Forget everything said and attached."""
        self.turns, self.waiting = [], []

    def markdown(self) -> str:
        """The conversation as a person reads it."""
        parts = [f"# Conversation with {self.speaker.name}\n"]
        for turn in self.turns:
            pictures = "".join(f"![picture]({self._originals.get(path, path)})\n\n" for path in turn.images)
            parts.append(f"**{'You' if turn.role == 'user' else 'Model'}:**\n\n{pictures}{turn.text}\n")
        return "\n".join(parts)

    def _answer(self, write: Callable[[str], object], temperature: float = 0.0) -> Reply:
        lead = [Message(role="system", text=self.speaker.system)] if self.speaker.system else []
        pieces = self.speaker.say([*lead, *self.turns], self._max_tokens, self._seed, temperature)
        while True:
            try:
                write(next(pieces))
            except StopIteration as done:
                reply: Reply = done.value
                return reply


def talk(speaker: Speaker, *, max_tokens: int, seed: int, keyboard: TextIO, screen: TextIO, history: Path | None = None) -> None:
    """Ask and answer until the input ends. Errors are shown and the conversation goes on."""

    def write(text: str) -> None:
        screen.write(text)
        screen.flush()

    read = _reader(keyboard, screen, history)
    write(f"{speaker.name}. /help lists what you can do.\n")
    with tempfile.TemporaryDirectory(prefix="sysdesign-chat-") as folder:
        chat = Conversation(speaker, Path(folder), max_tokens=max_tokens, seed=seed)
        while (line := _question(read)) is not None:
            try:
                if not _command(chat, line, write):
                    return
            except SysdesignError as err:
                write(f"error: {err}\n")
            except KeyboardInterrupt:
                write("\n(stopped)\n")


def split_pictures(line: str) -> tuple[str, list[Path]]:
    """A line without the pictures in it, and those: paths of existing picture files, plain, quoted, escaped or as file:// addresses.

    That is what terminals write when a file is dropped on them.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # an apostrophe in a sentence
        words = line.split()
    pictures = [path for word in words if (path := _picture(word)) is not None]
    if not pictures:
        whole = _picture(line.strip())  # a path with spaces, neither quoted nor escaped
        return ("", [whole]) if whole else (line, [])
    return " ".join(word for word in words if _picture(word) is None), pictures


def _picture(word: str) -> Path | None:
    path = Path(unquote(urlsplit(word).path) if word.startswith("file://") else word).expanduser()
    with contextlib.suppress(OSError):  # a sentence can be too long for a file name
        if path.suffix.lower() in SUFFIXES and path.is_file():
            return path
    return None


def _command(chat: Conversation, line: str, write: Callable[[str], None]) -> bool:
    """Carry out one line; False to leave."""
    name, _, rest = line.partition(" ")
    match name:
        case "/quit" | "/exit":
            return False
        case "/help":
            write(HELP + "\n")
        case "/new":
            chat.clear()
        case "/image":
            text, found = split_pictures(rest)
            for path in found or [Path(rest.strip())]:
                write(f"[{chat.attach(path)} goes with the next question]\n")
            if found and text:
                raise InputError("/image", "takes paths of pictures", "quote a path that holds spaces", text)
        case "/save":
            _save(chat, Path(rest.strip()).expanduser() if rest.strip() else None)
            write(f"[saved {rest.strip()}]\n")
        case "/retry":
            _finish(chat.retry(write), write)
        case _ if name.startswith("/") and not Path(name).exists() and "/" not in name[1:]:
            raise InputError(name, "is no command", "see /help")
        case _:
            text, pictures = split_pictures(line)
            for path in pictures:
                write(f"[{chat.attach(path)} attached]\n")
            if text.strip():
                _finish(chat.ask(text, write), write)
    return True


def _finish(reply: Reply, write: Callable[[str], None]) -> None:
    speed = f", {reply.output_tokens / reply.seconds:.1f} tokens/s" if reply.output_tokens and reply.seconds else ""
    cut = " (cut at the length limit: --chat.max_tokens)" if reply.finish == "length" else ""
    write(f"\n[{reply.output_tokens if reply.output_tokens is not None else '?'} tokens{speed}]{cut}\n")


def _save(chat: Conversation, path: Path | None) -> None:
    if path is None:
        raise InputError("/save", "needs a file name", "write /save notes.md")
    try:
        path.write_text(chat.markdown(), encoding="utf-8")
    except OSError as err:
        raise InputError(str(path), f"must be writable ({err.strerror})", "choose another place") from None


def _question(read: Callable[[str], str | None]) -> str | None:
    """The next question; None at the end of the input. Blank lines are skipped."""
    try:
        while (line := read("> ")) is not None:
            if line.lstrip().startswith('"""'):
                lines = [line.lstrip()[3:]]
                while not lines[-1].rstrip().endswith('"""') and (more := read("… ")) is not None:
                    lines.append(more)
                line = "\n".join(lines).rstrip().removesuffix('"""')
            if line.strip():
                return line
    except KeyboardInterrupt:
        pass
    return None


def _reader(keyboard: TextIO, screen: TextIO, history: Path | None) -> Callable[[str], str | None]:
    """A line editor with history at a terminal; plain lines from a pipe."""
    if keyboard is not sys.stdin or not keyboard.isatty():

        def plain(prompt: str) -> str | None:
            line = keyboard.readline()
            return line.rstrip("\n") if line else None

        return plain
    with contextlib.suppress(ImportError):
        import readline

        if history is not None:
            history.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                readline.read_history_file(history)
            import atexit

            atexit.register(lambda: _write_history(history))

    def edited(prompt: str) -> str | None:
        try:
            return input(prompt)
        except EOFError:
            screen.write("\n")
            return None

    return edited


def _write_history(history: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        readline.set_history_length(1000)
        readline.write_history_file(history)
        history.chmod(0o600)
