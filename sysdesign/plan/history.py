"""This project's finished runs -> how far a plan was off on this machine, as one factor a stage.

Runs are read where MLflow keeps them (the manifest each run logged, found through the local SQLite store) and in the artefact store.
A run counts when the whole configuration behind it is known and its base is of the same kind, because a rehearsal says nothing about 7B.
MLflow itself is not imported: it takes seconds, and a plan must not.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlparse

from pydantic import ValidationError

from sysdesign.artifacts import MANIFEST, Manifest
from sysdesign.config.root import Config
from sysdesign.graph import Record

LATEST = 5  # runs of a stage that count
BOUNDS = (0.2, 5.0)  # a factor beyond this is a machine in trouble, not a speed
MOST = 400  # manifests read; the newest
SHORTEST_S = 5.0  # shorter runs measure their own start
QUERY = """
select r.artifact_uri from runs r
join tags c on c.run_uuid = r.run_uuid and c.key = 'sysdesign.cached' and c.value = 'false'
where r.status = 'FINISHED' and r.lifecycle_stage = 'active' order by r.start_time desc limit ?
"""


class Factor(Record):
    """Measured over planned minutes: the median of `runs` runs."""

    value: float
    runs: int


def finished(store: Path, tracking_uri: str) -> list[Manifest]:
    """Manifests of what this machine's store and its local tracking store hold, newest first, each once."""
    found: dict[str, Manifest] = {}
    for path in [*_in_store(store), *_in_tracking(tracking_uri)][:MOST]:
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue  # a run of an older layout corrects nothing
        found.setdefault(manifest.digest, manifest)
    return sorted(found.values(), key=lambda manifest: manifest.created, reverse=True)


def factors(runs: list[Manifest], config: Config, planned_minutes: Callable[[str, Config], float | None]) -> dict[str, Factor]:
    """Stage -> factor, from runs that `planned_minutes` can plan (None: it cannot, or not on the same machine)."""
    by_digest = {manifest.digest: manifest for manifest in runs}
    ratios: dict[str, list[float]] = {}
    for manifest in runs:
        seen = ratios.setdefault(manifest.stage, [])
        if len(seen) >= LATEST or manifest.seconds < SHORTEST_S:
            continue
        behind = config_behind(manifest, by_digest, config)
        if behind is None or behind.base.kind != config.base.kind:
            continue
        planned = planned_minutes(manifest.stage, behind)
        if planned:
            seen.append(min(max(manifest.seconds / 60 / planned, BOUNDS[0]), BOUNDS[1]))
    return {stage: Factor(value=statistics.median(seen), runs=len(seen)) for stage, seen in ratios.items() if seen}


def config_behind(manifest: Manifest, by_digest: Mapping[str, Manifest], like: Config) -> Config | None:
    """The configuration that a result and everything it was made from had; None when a part of the chain is not known."""
    sections: dict[str, object] = {"runtime": like.runtime.model_dump(), "seed": manifest.seed, "base": like.base.model_dump()}
    waiting = [manifest]
    while waiting:
        current = waiting.pop()
        sections[current.stage] = current.config
        for digest in current.inputs.values():
            if digest not in by_digest:
                return None
            waiting.append(by_digest[digest])
    try:
        return Config.model_validate(sections)
    except ValidationError:
        return None  # the field has changed since


def tracking_uri(root: Path) -> str:
    """Where runs are recorded: as `tracking.runs.connect` decides it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def card_of(train: Path) -> str:
    """The device's name in a train artefact's summary; empty when there is none."""
    try:
        return str(json.loads((train / "train.json").read_text(encoding="utf-8"))["machine"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _in_store(store: Path) -> list[Path]:
    paths = [path for path in store.glob(f"*-*/{MANIFEST}") if not path.parent.name.startswith(".")]
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def _in_tracking(uri: str) -> Iterator[Path]:
    database = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not database.is_file():
        return
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=1) as connection:
            folders = [str(row[0]) for row in connection.execute(QUERY, (MOST,))]
    except sqlite3.Error:
        return  # `doctor` says what is wrong with it
    for folder in folders:
        local = unquote(urlparse(folder).path) if folder.startswith("file:") else folder
        path = Path(local) if Path(local).is_absolute() else database.parent / local
        if (path / MANIFEST).is_file():
            yield path / MANIFEST
