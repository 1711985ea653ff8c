"""From planned pictures to files and records: one worker call each, safe to repeat, with nothing shared between workers.

A job carries all that decides its bytes, so neither the number of workers nor their order can change a picture. Its record is written
last: where a record lies beside its picture after a kill, the picture is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from sysdesign.diagrams import light
from sysdesign.diagrams.render import render
from sysdesign.diagrams.styles import HELD_OUT
from sysdesign.errors import LimitError, SysdesignError
from sysdesign.graph import Architecture, Record
from sysdesign.records import DiagramRecord, Rejected

PARTS = ".parts"


class Job(Record):
    """One picture to draw. `bundles`: fact kinds by priority; the last are given up first when they do not fit."""

    id: str
    folder: Literal["images", "headline"]
    graph: Architecture
    topology: str
    style: str
    degraded: str | None = None
    bundles: tuple[tuple[str, ...], ...]
    must_show: bool = False  # give up nothing: the question needs every fact
    seed: str
    layout: str
    max_pixels: int
    max_aspect: float
    min_font_px: float


def draw(job: Job, out: Path) -> DiagramRecord | Rejected:
    """Draw one picture below `out`. Rejected, with the reason, when even bare names and arrows break the limits."""
    image = f"{job.folder}/{job.id}.png"
    reason = ""
    for kept in range(len(job.bundles), -1, -1):
        show = {kind for bundle in job.bundles[:kept] for kind in bundle}
        try:
            drawn = render(
                job.graph, job.style, out / image, show=show, seed=job.seed, degraded=job.degraded, layout=job.layout,
                max_pixels=job.max_pixels, max_aspect=job.max_aspect, min_font_px=job.min_font_px,
            )  # fmt: skip
        except LimitError as err:
            reason = str(err)
            if job.must_show:
                break
            continue
        record = DiagramRecord(
            id=job.id, graph=job.graph, graph_sha256=job.graph.sha256(), topology=job.topology, seed_id=job.graph.seed_id,
            domain=job.graph.domain, style=job.style, degraded=job.degraded, held_out_style=job.style == HELD_OUT, image=image,
            image_sha256=hashlib.sha256((out / image).read_bytes()).hexdigest(), width=drawn.width, height=drawn.height, boxes=drawn.boxes,
            visible=drawn.visible, min_font_px=round(drawn.min_font_px, 2),
        )  # fmt: skip
        part = _part(out, job)
        partial = part.with_suffix(".tmp")
        partial.write_text(record.model_dump_json(exclude_defaults=True), encoding="utf-8")
        partial.replace(part)
        return record
    return Rejected(id=job.id, reason="illegible", detail=reason, record=job.graph.model_dump(mode="json", exclude_defaults=True))


def draw_all(jobs: Sequence[Job], out: Path, workers: int, progress: str) -> dict[str, DiagramRecord | Rejected]:
    """Every job's result by id; pictures that lie whole from an earlier, killed run are kept. Bar with rate and time left on stderr."""
    from tqdm import tqdm

    for folder in (PARTS, *{job.folder for job in jobs}):
        (out / folder).mkdir(parents=True, exist_ok=True)
    found: dict[str, DiagramRecord | Rejected] = {}
    for job in jobs:
        kept = _kept(job, out)
        if kept is not None:
            found[job.id] = kept
    waiting = [job for job in jobs if job.id not in found]
    with tqdm(total=len(jobs), initial=len(found), desc=progress, unit="picture", smoothing=0.05) as bar:
        for result in _results(waiting, out, workers):
            found[result.id] = result
            bar.update()
    return found


def _results(waiting: Sequence[Job], out: Path, workers: int) -> Iterable[DiagramRecord | Rejected]:
    if workers == 1 or len(waiting) < 12:  # starting processes costs more than it saves
        yield from (draw(job, out) for job in waiting)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # spawned, not forked: the parent may hold threads (a tracking client) that a fork would copy mid-lock
    chunks = [waiting[at : at + 8] for at in range(0, len(waiting), 8)]
    count, context = min(workers, len(chunks)), get_context("spawn")
    with ProcessPoolExecutor(max_workers=count, mp_context=context, initializer=_die_with_parent) as pool:
        try:
            for done in as_completed([pool.submit(_draw_some, chunk, out) for chunk in chunks]):
                yield from done.result()
        except BrokenProcessPool:
            raise LimitError(
                "drawing", "a worker process was killed, as happens when memory runs out", "run again with fewer runtime.workers"
            ) from None
        except SysdesignError:
            pool.shutdown(cancel_futures=True)
            raise


def _die_with_parent() -> None:
    """In a worker: end when the parent does, however it ends; a killed parent closes no queue, and workers would wait for ever."""
    import multiprocessing
    import threading
    from multiprocessing import connection

    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel] if parent else [])
        light.discard()  # nothing else is left to do it
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw_some(
    jobs: Sequence[Job], out: Path, one: Callable[[Job, Path], DiagramRecord | Rejected] = draw
) -> list[DiagramRecord | Rejected]:
    return [one(job, out) for job in jobs]


def _part(out: Path, job: Job) -> Path:
    return out / PARTS / f"{job.folder}-{job.id}.json"


def _kept(job: Job, out: Path) -> DiagramRecord | None:
    """What an earlier run finished, if its picture and graph are still what its record says."""
    try:
        record = DiagramRecord.model_validate_json(_part(out, job).read_text(encoding="utf-8"))
        whole = hashlib.sha256((out / record.image).read_bytes()).hexdigest() == record.image_sha256
    except (OSError, ValueError):
        return None
    same = record.graph == job.graph and record.style == job.style and record.degraded == job.degraded
    return record if whole and same else None
