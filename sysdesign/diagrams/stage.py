"""Stage `diagrams`: from seed prompts to typed architecture graphs, their pictures in several styles, and pixel-exact boxes."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from statistics import median

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.diagrams.draw import PARTS, draw, draw_all
from sysdesign.diagrams.layout import dot_problem, engine
from sysdesign.diagrams.plan import fresh, headline_jobs, job, plan
from sysdesign.diagrams.sheet import card, contact_sheet
from sysdesign.errors import InputError, LimitError
from sysdesign.prompts import headline_prompts, seed_prompts
from sysdesign.records import DiagramRecord, MetricLog, Rejected, Report, write_jsonl

REPLACEMENTS = 8  # graphs tried for one place before the settings are blamed


class DiagramsReport(Report):
    """What was drawn."""

    count: int
    headline: int
    topologies: int
    rejected: int
    components_median: float
    min_font_px: float
    pixels_max: int
    layout: str
    layout_note: str = ""
    styles: dict[str, int]

    def metrics(self) -> dict[str, float]:
        """Counts and limits kept."""
        named = {
            "count": self.count, "headline": self.headline, "topologies": self.topologies, "rejected": self.rejected,
            "components_median": self.components_median, "min_font_px": self.min_font_px, "pixels_max": self.pixels_max,
        }  # fmt: skip
        return {f"diagrams/{key}": float(value) for key, value in named.items()} | {
            f"diagrams/style_{k}": float(v) for k, v in self.styles.items()
        }

    def note(self) -> str:
        """One sentence, with the layout that was used and why."""
        why = f" ({self.layout_note})" if self.layout_note else ""
        return (
            f"{self.count} diagrams with {self.topologies} distinct topologies in {len(self.styles)} styles, "
            f"smallest text {self.min_font_px:g} px, "
            f"laid out by {'Graphviz' if self.layout == 'dot' else 'our own layout'}{why}; {self.headline} evaluation pictures."
        )


def diagrams(cfg: DiagramsConfig, *, seed: int, out: Path, log: MetricLog, runtime: RuntimeConfig) -> DiagramsReport:
    """Draw `cfg.count` architectures and the pictures of the evaluation prompts.

    Reads: the seed prompts and the evaluation prompts.
    Writes: `diagrams.jsonl` and `images/`, `headline.jsonl` and `headline/`, `rejected.jsonl`, `contact_sheet.png`, `card.md`.
    Raises: InputError (a prompt's graph cannot be drawn), LimitError (no legible picture under these settings), ToolError (Graphviz
    asked for and missing, a font or icon missing).
    """
    prompts, questions = seed_prompts(), headline_prompts()
    using = engine(cfg.layout)
    cfg = cfg.model_copy(update={"layout": using})  # decided once, not by each worker
    workers = runtime.workers or _cores()
    out.mkdir(parents=True, exist_ok=True)

    asked = headline_jobs(using, questions)
    jobs = plan(cfg, prompts, seed)
    drawn = draw_all([*asked, *jobs], out, workers, "diagrams")
    for wanted in asked:
        if isinstance(result := drawn[wanted.id], Rejected):
            raise InputError(
                f"evaluation prompt {wanted.id}", f"its picture must be legible ({result.detail})", "release a version with a smaller graph"
            )

    rejected = [r for j in jobs if isinstance(r := drawn[j.id], Rejected)]
    seen = {j.topology for j in jobs}
    for index, first in enumerate(jobs):
        attempt = 0
        while isinstance(drawn[first.id], Rejected):
            attempt += 1
            if attempt > REPLACEMENTS:
                law = f"one of {REPLACEMENTS} graphs must be legible; the last: {rejected[-1].detail}"
                raise LimitError(
                    f"diagram {first.id}", law, "lower diagrams.max_components or diagrams.min_font_px, or raise diagrams.max_pixels"
                )
            again = drawn[first.id] = draw(
                job(cfg, *fresh(cfg, prompts, seed, index, attempt * 100, seen), seed, index, first.style, first.degraded), out
            )
            if isinstance(again, Rejected):
                rejected.append(again)

    records = [r for j in jobs if isinstance(r := drawn[j.id], DiagramRecord)]
    pictures = [r for j in asked if isinstance(r := drawn[j.id], DiagramRecord)]
    write_jsonl(out / "diagrams.jsonl", records)
    write_jsonl(out / "headline.jsonl", pictures)
    write_jsonl(out / "rejected.jsonl", rejected)
    (out / "card.md").write_text(card(records, rejected, len(pictures), using, seed), encoding="utf-8")
    log.image(contact_sheet(records, out), "diagrams/contact_sheet")
    log.file(out / "card.md")
    shutil.rmtree(out / PARTS, ignore_errors=True)

    report = DiagramsReport(
        count=len(records), headline=len(pictures), topologies=len({r.topology for r in records}), rejected=len(rejected),
        components_median=float(median(len(r.graph.components) for r in records)), min_font_px=min(r.min_font_px for r in records),
        pixels_max=max(r.width * r.height for r in records), layout=using,
        layout_note=(dot_problem() or "as configured") if using == "python" else "",
        styles=dict(sorted(Counter(r.style for r in records).items())),
    )  # fmt: skip
    log.metrics(report.metrics())
    return report


def _cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
