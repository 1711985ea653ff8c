"""Conversations, your data and replay -> numbered parts of compiled rows and rejects, one file a chunk.

Work goes chunk by chunk, so memory does not grow with the number of rows; a finished part is never made again, so a killed
run goes on at the chunk it was in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sysdesign.config.dataset import DatasetConfig, UserData
from sysdesign.dataset.compiling import Compiler
from sysdesign.dataset.diagrams import DiagramIndex
from sysdesign.dataset.draft import Draft, Splits, draft_rows
from sysdesign.dataset.leaks import Headline
from sysdesign.dataset.lines import parse_object, read_lines
from sysdesign.dataset.pictures import Picture, PictureStore
from sysdesign.dataset.userdata import draft_user_row
from sysdesign.graph import Record
from sysdesign.models.rows import Unfit
from sysdesign.records import Conversation, Rejected, Row, write_jsonl

CHUNK = 500  # rows; a few seconds of work and a few megabytes
CHUNK_BYTES = 8 << 20  # for rows of your own, which may be long


class Outcome(Record):
    """What became of one draft: exactly one of `row` and `rejected`."""

    row: Row | None = None
    probe: bool = False
    rejected: Rejected | None = None


Line = tuple[int, bytes | Unfit]
Drafter = Callable[[int, bytes], list[Draft]]


@dataclass(frozen=True)
class Source:
    """A file of rows and how one of its lines becomes drafts."""

    name: str
    lines: Callable[[], Iterable[bytes | Unfit]]
    draft: Drafter


def gather(sources: Iterable[Source], folder: Path, compiler: Compiler, headline: Headline, done: Callable[[int], None]) -> list[Path]:
    """Every part, made or found, in order. `done` hears the number of lines after each chunk. Raises what reading a file raises."""
    parts = []
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for number, chunk in enumerate(_chunks(source.lines())):
            part = folder / f"{source.name}-{number:06d}.jsonl"
            if not part.exists():
                write_jsonl(part, _outcomes(source, chunk, compiler, headline))
            parts.append(part)
            done(len(chunk))
    return parts


def _chunks(lines: Iterable[bytes | Unfit]) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    size = 0
    for number, line in enumerate(lines, start=1):
        chunk.append((number, line))
        size += len(line) if isinstance(line, bytes) else 0
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _outcomes(source: Source, chunk: list[Line], compiler: Compiler, headline: Headline) -> Iterator[Outcome]:
    drafts: list[Draft] = []
    for number, line in chunk:
        name = f"{source.name}-{number}"
        try:
            if isinstance(line, Unfit):
                raise line
            new = source.draft(number, line)
            for draft in new:
                compiler.check_size(draft)
                headline.check(draft.row)
            drafts += new
        except Unfit as unfit:
            preview = line[:500].decode("utf-8", "replace") if isinstance(line, bytes) else None
            yield Outcome(rejected=reject(name, unfit, preview))
    for draft, outcome in zip(drafts, compiler.compile(drafts), strict=True):
        if isinstance(outcome, Row):
            yield Outcome(row=outcome, probe=draft.probe)
        elif not draft.probe:  # the probe of a rejected row says nothing new
            yield Outcome(rejected=reject(draft.row.id, outcome))


def reject(row_id: str, unfit: Unfit, record: str | None = None) -> Rejected:
    """A reject that can be written whatever its text holds."""
    return Rejected(id=row_id, reason=unfit.reason, detail=unfit.detail.encode("utf-8", "replace").decode(), record=record)


def conversation_source(path: Path, diagrams: DiagramIndex, pictures: Mapping[str, Picture | Unfit], splits: Splits, system: str) -> Source:
    """`conversations.jsonl` of the artefact."""

    def draft(_: int, line: bytes) -> list[Draft]:
        try:
            conversation = Conversation.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise Unfit("schema", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return draft_rows(conversation, diagrams, pictures, splits, system)

    return Source("conversation", lambda: read_lines(path, 1 << 26), draft)


def user_sources(
    kind: Literal["extra", "replay"], cfg: DatasetConfig, store: PictureStore, system: str, seed: int, beyond: Counter[str]
) -> list[Source]:
    """The files of `dataset.extra` or `dataset.replay`; lines after `max_rows` in all are only counted, in `beyond` by source."""
    data: UserData = getattr(cfg, kind)
    left = data.max_rows

    def source(place: int, path: Path) -> Source:
        name = f"{kind}{place}"

        def lines() -> Iterator[bytes | Unfit]:
            nonlocal left
            for line in read_lines(path, data.max_line_bytes):
                if left > 0:
                    left -= 1
                    yield line
                else:
                    beyond[name] += 1

        def draft(number: int, line: bytes) -> list[Draft]:
            record = parse_object(line)
            return [draft_user_row(record, f"{name}-{number}", kind, path.parent, data, store, system, cfg.val_share, seed)]

        return Source(name, lines, draft)

    return [source(place, Path(path).expanduser()) for place, path in enumerate(data.paths)]


def store_pictures(
    diagrams: DiagramIndex, root: Path, store: PictureStore, workers: int, done: Callable[[int], None]
) -> dict[str, Picture | Unfit]:
    """Every diagram's picture, resized once, on `workers` threads (Pillow leaves Python's lock while it works)."""

    def one(info_image: tuple[str, str, str]) -> tuple[str, Picture | Unfit]:
        diagram_id, image, image_sha256 = info_image
        try:
            path = (root / image).resolve()
            if not path.is_relative_to(root.resolve()):
                raise Unfit("path_outside", f"{image!r} leaves the diagrams artefact")
            data = path.read_bytes()
        except OSError as error:
            return diagram_id, Unfit("picture_missing", f"{image}: {error.strerror}")
        except Unfit as unfit:
            return diagram_id, unfit
        try:
            picture = store.add(data)
        except Unfit as unfit:
            return diagram_id, unfit
        if picture.source_sha256 != image_sha256:
            return diagram_id, Unfit("picture_changed", f"{image} is not the picture its diagram recorded")
        done(1)
        return diagram_id, picture

    jobs = [(info.id, info.image, info.image_sha256) for info in diagrams]
    with ThreadPoolExecutor(workers) as pool:
        return dict(pool.map(one, jobs))
