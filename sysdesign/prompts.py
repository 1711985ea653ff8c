"""Hand-written prompt files, read only if they still are what was released.

`prompts/<topic>/<name>.v<k>.{md,yaml}` -> text or typed records. `prompts/lock.json` holds the sha256 of every released file; a
stage's key holds the same hashes, so a prompt that changed in silence would make two different artefacts share one address.
New wording is a new file with the next number: `python -m sysdesign.prompts lock` adds it and never touches an older line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from sysdesign.errors import InputError, SysdesignError
from sysdesign.graph import Architecture, ComponentType, Label, Record
from sysdesign.records import Check, Fact

PROMPTS = Path(__file__).parents[1] / "prompts"
SEEDS = "diagrams/seeds.v1.yaml"
HEADLINE = "evaluate/headline.v1.yaml"
_MEND = "released prompts are immutable: restore it with `git checkout`, or add the next version and `python -m sysdesign.prompts lock`"

_T = TypeVar("_T")
Kebab = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,39}$")]
Positive = Annotated[float, Field(gt=0)]
Pattern = Literal[
    "request-response", "feed-fanout", "stream-processing", "event-driven", "batch", "ml-serving",
    "multi-region", "search", "media", "ledger", "edge-iot", "realtime",
]  # fmt: skip
Skill = Literal[
    "bottleneck", "spof", "latency", "cache", "queue", "availability", "quorum", "sharding",
    "estimation", "cost", "security", "tradeoff", "failover", "retry", "path", "blast-radius",
]  # fmt: skip


class Scale(Record):
    """The load a seed prompt states; rates are requests a second at the peak hour."""

    daily_active_users: Annotated[int, Field(gt=0)]
    actor: str = "users"  # what is counted above: users, devices, jobs, ...
    read_qps_peak: Positive
    write_qps_peak: Positive
    peak_to_average: Annotated[float, Field(ge=1)]
    object_kb: Positive  # one stored object: a post, a reading, a transaction
    object: Label  # what one such object is
    retention_days: Positive
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 3

    @property
    def read_write_ratio(self) -> float:
        """Reads for each write."""
        return self.read_qps_peak / self.write_qps_peak


class Requirements(Record):
    """What is asked for; every non-functional line carries a number."""

    functional: Annotated[tuple[Label, ...], Field(min_length=3)]
    non_functional: Annotated[tuple[Label, ...], Field(min_length=2)]
    out_of_scope: Annotated[tuple[Label, ...], Field(min_length=1)]


class Entity(Record):
    """A stored thing; `key` says how it is found and spread."""

    name: Label
    key: Label
    fields: Annotated[tuple[str, ...], Field(min_length=2)]


class Api(Record):
    """An endpoint (`GET`, `POST`, ...) or a message channel (`EVENT`, `WS`, `RPC`)."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "EVENT", "WS", "RPC"]
    path: Label
    purpose: Label


class DeepDive(Record):
    """A hard part: what goes wrong naively, the mechanism that solves it, and where that mechanism stops working."""

    topic: Label
    problem: str
    mechanism: str
    limit: str


class Failure(Record):
    """What breaks, how it is noticed, what is done."""

    mode: Label
    detection: Label
    mitigation: Label


class Tradeoff(Record):
    """What was chosen over what, and when the alternative would win."""

    choice: Label
    alternative: Label
    when: str


class Part(Record):
    """A component of the reference design, in request-path order."""

    type: ComponentType
    technology: Label
    role: Label


class SeedPrompt(Record):
    """A system as an engineer would ask for it, with what a rule teacher needs to answer in prose."""

    id: Kebab
    title: Label
    domain: str
    difficulty: Annotated[int, Field(ge=1, le=5)]
    pattern: Pattern
    prompt: Annotated[str, Field(min_length=150)]
    scale: Scale
    requirements: Requirements
    skills: Annotated[tuple[Skill, ...], Field(min_length=3)]
    entities: Annotated[tuple[Entity, ...], Field(min_length=2)]
    apis: Annotated[tuple[Api, ...], Field(min_length=2)]
    deep_dives: Annotated[tuple[DeepDive, ...], Field(min_length=2, max_length=3)]
    failures: Annotated[tuple[Failure, ...], Field(min_length=2)]
    tradeoffs: Annotated[tuple[Tradeoff, ...], Field(min_length=2)]
    components: Annotated[tuple[Part, ...], Field(min_length=5)]


class RubricNumber(Record):
    """A figure a good answer arrives at, within a relative tolerance."""

    name: Label
    value: float
    unit: str
    tolerance: Positive = 0.1


class Rubric(Record):
    """What a judge, or a rule, looks for in a free answer."""

    required_components: tuple[ComponentType, ...] = ()
    required_numbers: tuple[RubricNumber, ...] = ()
    must_mention: tuple[tuple[str, ...], ...] = ()  # each entry lists spellings of one idea: any of them counts
    pitfalls: tuple[str, ...] = ()


class HeadlinePrompt(Record):
    """One of the thirty held-out questions: over a hand-made picture (`graph`, `style`, `show`) or text alone."""

    id: Kebab
    category: Literal["extraction", "numeric", "relation", "grounding", "false-premise", "critique", "design", "estimation", "tradeoff"]
    domain: str
    prompt: str
    graph: Architecture | None = None
    style: Literal["icons", "drawio", "dark", "whiteboard", "held_out"] | None = None
    show: tuple[str, ...] = ()  # fields that the picture must draw: "component.replicas", "edge.protocol", "flow.peak_qps", ...
    check: Check | None = None  # a `boxes` check maps names to null: the drawing supplies the boxes
    facts: tuple[Fact, ...] = ()
    rubric: Rubric | None = None


def read_prompt(name: str) -> str:
    """Text of `prompts/<name>`. Raises InputError: missing, unreadable, not UTF-8, not locked, or not what was locked."""
    data, where = _read(name), f"prompts/{name}"
    locked = _lock().get(name)
    if locked is None:
        raise InputError(where, "a prompt must be in prompts/lock.json before it is used", "run `python -m sysdesign.prompts lock`")
    found = hashlib.sha256(data).hexdigest()
    if found != locked:
        raise InputError(where, f"its sha256 must be the locked {locked[:12]}", _MEND, found[:12])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(where, "a prompt must be UTF-8 text", _MEND, f"byte {data[error.start]:#04x} at {error.start}") from error


def read_yaml(name: str) -> Any:
    """Parsed `prompts/<name>`. Raises InputError as `read_prompt`, and where the YAML does not parse."""
    import yaml

    try:
        return yaml.load(read_prompt(name), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(f"prompts/{name}", "must be valid YAML", "mend the line named", " ".join(str(error).split())) from error


def prompt_hashes(names: Iterable[str]) -> dict[str, str]:
    """sha256 of each named file, verified against the lock; what a stage's key is made of."""
    return {name: hashlib.sha256(read_prompt(name).encode()).hexdigest() for name in sorted(names)}


def seed_prompts(name: str = SEEDS) -> tuple[SeedPrompt, ...]:
    """The seed prompts in file order."""
    return _records(name, TypeAdapter(tuple[SeedPrompt, ...]))


def headline_prompts(name: str = HEADLINE) -> tuple[HeadlinePrompt, ...]:
    """The held-out evaluation prompts in file order."""
    return _records(name, TypeAdapter(tuple[HeadlinePrompt, ...]))


def lock_new() -> list[str]:
    """Write the hashes of new files to prompts/lock.json. Returns their names. Raises InputError if a locked file changed or is gone."""
    lock = _lock() if (PROMPTS / "lock.json").exists() else {}
    for name in lock:
        read_prompt(name)
    files = sorted(path.relative_to(PROMPTS).as_posix() for pattern in ("*.md", "*.yaml") for path in PROMPTS.rglob(pattern))
    added = [name for name in files if name not in lock]
    lock |= {name: hashlib.sha256(_read(name)).hexdigest() for name in added}
    (PROMPTS / "lock.json").write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return added


def _records(name: str, adapter: TypeAdapter[_T]) -> _T:
    try:
        return adapter.validate_python(read_yaml(name))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        law = f"{error.error_count()} field(s) break the schema, first: {first['msg']}"
        raise InputError(f"prompts/{name}: {place}", law, _MEND, first["input"]) from error


def _read(name: str) -> bytes:
    try:
        return (PROMPTS / name).read_bytes()
    except OSError as error:
        raise InputError(f"prompts/{name}", "must be a readable file", _MEND, error.strerror) from error


def _lock() -> dict[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_json(_read("lock.json"))
    except ValidationError as error:
        raise InputError(
            "prompts/lock.json", "must map file names to sha256", "restore it with `git checkout prompts/lock.json`"
        ) from error


def main(argv: list[str]) -> int:
    """`python -m sysdesign.prompts lock`."""
    if argv != ["lock"]:
        sys.stderr.write("usage: python -m sysdesign.prompts lock   (adds new files of prompts/ to lock.json)\n")
        return 2
    try:
        added = lock_new()
    except SysdesignError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"locked {len(added)} new file(s){': ' if added else ''}{', '.join(added)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
