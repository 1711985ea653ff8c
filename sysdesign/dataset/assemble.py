"""Parts of compiled rows -> the three splits, the probes and the rejects on disk, each row once, and what was counted on the way."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sysdesign.dataset.gather import Outcome, reject
from sysdesign.dataset.leaks import ALIKE_BITS, nearest_bits, texts_of
from sysdesign.dataset.pictures import Picture
from sysdesign.dataset.splits import Split
from sysdesign.dataset.tables import Table
from sysdesign.models.rows import Unfit
from sysdesign.records import Rejected, Row, read_jsonl

SPLITS: tuple[Split, ...] = ("train", "val", "test")
FUNNEL = ("read", "rejected", "not_drawn", "kept", "beyond_max_rows")  # the second to fourth add up to the first
GROUP = 500  # rows in a Parquet group
SAMPLE = 24  # rows that go through the whole processor again


@dataclass
class Tally:
    """Counts by split, and a small sample; what is kept of each row is two numbers."""

    tokens: dict[str, array[int]] = field(default_factory=lambda: {split: array("I") for split in SPLITS})
    image_tokens: Counter[str] = field(default_factory=Counter)
    trained_tokens: Counter[str] = field(default_factory=Counter)
    spread: dict[str, Counter[str]] = field(default_factory=dict)  # "family/train" and the like
    rejected: Counter[str] = field(default_factory=Counter)
    funnel: dict[str, Counter[str]] = field(default_factory=dict)  # source -> FUNNEL, by lines
    sample: list[Row] = field(default_factory=list)
    replay: int = 0
    probes: int = 0
    probe_graphs: int = 0

    def step(self, part: Path, name: str) -> None:
        """One more line of the source of `part` that came to this step."""
        self.funnel.setdefault(part.name.rsplit("-", 1)[0], Counter())[name] += 1

    def count(self, row: Row) -> None:
        self.tokens[row.split].append(row.n_tokens)
        self.image_tokens[row.split] += row.n_image_tokens
        self.trained_tokens[row.split] += row.n_trained_tokens
        self.replay += row.family == "replay"
        for name in ("family", "style", "provider"):
            self.spread.setdefault(f"{name}/{row.split}", Counter())[str(getattr(row, name) or "no picture")] += 1


def assemble(
    parts: Sequence[Path],
    out: Path,
    pictures: Mapping[str, Picture],
    test_pictures: Collection[str],
    replay_share: float,
    probe_count: int,
    seed: int,
) -> Tally:
    """Write `rows/`, `hf/`, `probes.jsonl` and `rejected.jsonl` below `out`, each in one step.

    `pictures`: by stored name; `test_pictures`: names that user rows must not repeat.
    """
    tally = Tally()
    chosen = _choose_probes(parts, probe_count, seed)
    tally.probes, tally.probe_graphs = len(chosen), len(set(chosen.values()))
    judged = [pictures[name] for name in sorted(test_pictures)]
    seen: set[int] = set()
    ids: set[int] = set()
    alike: dict[str, bool] = {}
    sample: list[tuple[int, str, Row]] = []
    replay_total = sum(1 for part in parts if part.name.startswith("replay") for o in read_jsonl(part, Outcome) if o.row)
    (out / "rows").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {split: stack.enter_context(_Writer(out, split)) for split in SPLITS}
        probes, rejected = (stack.enter_context(_Lines(out / name)) for name in ("probes.jsonl", "rejected.jsonl"))

        def drop(entry: Rejected) -> None:
            rejected.add(entry)
            tally.rejected[entry.reason] += 1

        for part in parts:
            for outcome in read_jsonl(part, Outcome):
                row = outcome.row
                if row is None:
                    if outcome.rejected is not None:
                        drop(outcome.rejected)
                        tally.step(part, "rejected")
                    continue
                if outcome.probe:
                    if chosen.pop(row.id, None):
                        probes.add(row)
                    continue
                if row.family == "replay" and not _draws_replay(row, replay_total, tally, replay_share, seed):
                    tally.step(part, "not_drawn")
                    continue
                try:
                    _once(row, seen, ids)
                    if row.split != "test":
                        _unlike(row, pictures, judged, test_pictures, alike)
                except Unfit as unfit:
                    drop(reject(row.id, unfit))
                    tally.step(part, "rejected")
                    continue
                tally.step(part, "kept")
                tally.count(row)
                writers[row.split].add(row)
                draw = -_hash(f"{seed}/sample/{row.id}")
                if len(sample) < SAMPLE:
                    heapq.heappush(sample, (draw, row.id, row))
                elif draw > sample[0][0]:
                    heapq.heapreplace(sample, (draw, row.id, row))
    for steps in tally.funnel.values():
        steps["read"] = steps.total()
    tally.sample = [row for _, _, row in sorted(sample, key=lambda entry: entry[1])]
    return tally


class _Lines:
    """A JSONL file that appears when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(path.name + ".tmp")
        self._file = self._partial.open("w", encoding="utf-8")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)

    def add(self, record: Row | Rejected) -> None:
        self._file.write(record.model_dump_json(exclude_defaults=True) + "\n")


class _Writer:
    """One split, as JSONL and as Parquet."""

    def __init__(self, out: Path, split: str) -> None:
        self._lines = _Lines(out / "rows" / f"{split}.jsonl")
        self._table = Table(out / "hf" / split / "data.parquet")
        self._group: list[Row] = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._table.add(self._group)
        self._table.__exit__(kind, None, None)
        self._lines.__exit__(kind)

    def add(self, row: Row) -> None:
        self._lines.add(row)
        self._group.append(row)
        if len(self._group) >= GROUP:
            self._table.add(self._group)
            self._group = []


def _once(row: Row, seen: set[int], ids: set[int]) -> None:
    """Raises Unfit for an id or a whole row that was there before. Kept: 64 bits of each."""
    name, body = _hash(row.id), _body(row)
    if name in ids:
        raise Unfit("duplicate_id", f"another row is called {row.id}")
    if body in seen:
        raise Unfit("duplicate", "another row has the same picture, questions and answers")
    ids.add(name)
    seen.add(body)


def _unlike(
    row: Row, pictures: Mapping[str, Picture], judged: Sequence[Picture], test_pictures: Collection[str], alike: dict[str, bool]
) -> None:
    """Raises Unfit when a picture of the row is one that the model will be judged on, or, in a row of your own, looks like one.

    Generated pictures may look alike: two systems in one style often do, and their graphs are known to differ.
    """
    for image in row.images:
        name = image.removeprefix("images/")
        if name not in alike:
            bits = nearest_bits([pictures[name]], judged) if row.provider == "user" else None
            alike[name] = name in test_pictures or (bits is not None and bits <= ALIKE_BITS)
        if alike[name]:
            raise Unfit("leak_picture", f"{image} is, or looks like, a picture of the test split")


def _draws_replay(row: Row, total: int, tally: Tally, share: float, seed: int) -> bool:
    """Whether a replay row is among those that fill at most `share` of the training rows; all other rows came before."""
    own = len(tally.tokens["train"]) - tally.replay
    allowed = int(share * own / (1 - share))
    return tally.replay < allowed and _hash(f"{seed}/replay/{row.id}") / 2**64 < allowed / max(1, total)


def _choose_probes(parts: Sequence[Path], count: int, seed: int) -> dict[str, str]:
    """Probe id to graph: taken in turn from every graph, each time the kind of question that was taken least so far."""
    graphs: dict[str, list[tuple[str, str]]] = {}
    seen: set[int] = set()
    for row in _probe_rows(parts):
        body = _body(row)
        if body not in seen:
            seen.add(body)
            graphs.setdefault(str(row.graph_sha256), []).append((row.family, row.id))
    order = sorted(graphs, key=lambda graph: _hash(f"{seed}/probe/{graph}"))
    chosen: dict[str, str] = {}
    families: Counter[str] = Counter()
    while order and len(chosen) < count:
        for graph in order:
            if len(chosen) >= count:
                break
            best = min(graphs[graph], key=lambda one: (families[one[0]], _hash(f"{seed}/{one[1]}")))
            graphs[graph].remove(best)
            families[best[0]] += 1
            chosen[best[1]] = graph
        order = [graph for graph in order if graphs[graph]]
    return chosen


def _probe_rows(parts: Sequence[Path]) -> Iterator[Row]:
    for part in parts:
        with part.open("rb") as lines:
            for line in lines:
                if b'"probe":true' in line and (row := Outcome.model_validate_json(line).row) is not None:
                    yield row


def _body(row: Row) -> int:
    return _hash("\0".join((*row.images, *texts_of(row))))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
