"""What a driver and the process of one trial say to each other: a request file, a journal of events, a result.

The trial writes, the driver reads and is the only one that talks to the study and to the tracking server; so a trial needs
neither password nor network, and what it wrote outlives both of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sysdesign.graph import Record

REQUEST, EVENTS, RESULT, OUTPUT, SCRATCH = "request.json", "events.jsonl", "result.json", "output.txt", "scratch.txt"
End = Literal["complete", "pruned", "failed"]


class Request(Record):
    """One trial as it is to be run. `number` is the study's own: a trial that runs again keeps it."""

    study: str
    number: int
    profile: str
    flags: dict[str, str]
    values: dict[str, Any]  # of the axes, a person's spelling
    stages: tuple[str, ...]  # run or reused, in this order
    probes: int = 0  # validation questions to ask afterwards; 0: none
    interim: int = 0  # of these to ask whenever training validates; 0: none
    part: str = "score"  # what must be scored in each of them
    probe_tokens: int = 0
    group: int = 1
    module: str = "pipelines.trial"  # what runs it: `python -m <module> <folder>`


class Event(Record):
    """Something to log: metrics of a step, or a text."""

    step: int | None = None
    metrics: dict[str, float] = {}
    name: str = ""
    text: str = ""


class Result(Record):
    """How a trial ended. `work_s`: seconds in stages and probes; the rest of `seconds` is overhead."""

    end: End
    reason: str = ""
    metrics: dict[str, float] = {}
    artefacts: dict[str, str] = {}  # stage -> folder name
    cached: tuple[str, ...] = ()  # stages that were found, not made
    work_s: float = 0.0
    seconds: float = 0.0  # filled in by the driver
    cost_usd: float = 0.0  # filled in by the driver


def write(path: Path, record: Record) -> None:
    """Replace the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(record.model_dump_json() + "\n", encoding="utf-8")
    partial.replace(path)


def read_result(folder: Path) -> Result | None:
    """The result in a trial's folder, or None if there is no whole one."""
    try:
        return Result.model_validate_json((folder / RESULT).read_bytes())
    except (OSError, ValidationError):
        return None


class Tail:
    """Reads a growing journal from where it stopped; a line without its end is left for the next time."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def news(self) -> list[Event]:
        try:
            with self.path.open("rb") as journal:
                journal.seek(self.at)
                data = journal.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.at += len(whole)
        return [Event.model_validate(json.loads(line)) for line in whole.splitlines() if line.strip()]
