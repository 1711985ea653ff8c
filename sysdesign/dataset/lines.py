"""A file from anywhere -> its lines, bounded, with a reason for every line that is not a JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sysdesign.errors import InputError
from sysdesign.models.rows import Unfit


def read_lines(path: Path, max_line_bytes: int) -> Iterator[bytes | Unfit]:
    """Every line that is not blank, without its line break; a line that is too long is skipped without being held in memory.

    Raises InputError when the file cannot be opened.
    """
    try:
        if not path.is_file():  # a named pipe would block for ever
            raise InputError(str(path), "must be a JSONL file", "check dataset.extra.paths and dataset.replay.paths")
        with path.open("rb") as lines:
            while line := lines.readline(max_line_bytes + 1):
                if len(line) > max_line_bytes and not line.endswith(b"\n"):
                    while (rest := lines.readline(1 << 20)) and not rest.endswith(b"\n"):
                        pass
                    yield Unfit("line_too_long", f"more than {max_line_bytes:,} bytes")
                elif line.strip():
                    yield line.rstrip(b"\r\n")
    except OSError as error:
        raise InputError(str(path), f"must be readable ({error.strerror})", "check the path and its permissions") from None


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises Unfit: `not_utf8`, `bad_json`, `not_an_object`."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unfit("not_utf8", f"byte {line[error.start]:#04x} at {error.start}") from None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise Unfit("bad_json", "nested too deeply") from None
    except ValueError as error:
        raise Unfit("bad_json", str(error)[:200]) from None
    if not isinstance(value, dict):
        raise Unfit("not_an_object", f"a line must be a JSON object, not {type(value).__name__}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
