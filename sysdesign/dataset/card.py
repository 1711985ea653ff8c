"""What was counted -> `card.md`: what the set holds, where it is from, what was left out and why, and a few rows to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sysdesign.config.dataset import DatasetConfig
from sysdesign.dataset.assemble import FUNNEL, Tally
from sysdesign.dataset.layout import Layout
from sysdesign.dataset.leaks import LeakProof
from sysdesign.models.base import Base
from sysdesign.models.picture import PicturePolicy
from sysdesign.records import Row

_TERMS = {
    "offline": "written by this project's own rules; as free as the project",
    "anthropic": "generated with Claude; Anthropic's commercial terms restrict training models that compete with theirs",
    "openai": "generated with GPT; OpenAI's terms restrict training models that compete with theirs",
}


def card(
    cfg: DatasetConfig,
    base: Base,
    policy: PicturePolicy,
    tally: Tally,
    layouts: Mapping[str, Layout],
    proof: LeakProof,
    pictures: int,
    content: str,
    upstream: Mapping[str, Any],
) -> str:
    """Markdown; pictures are linked relative to the artefact. `upstream`: the funnel of the conversations stage, if it wrote one."""
    name = Path(base.name).name if base.kind == "folder" else base.name
    before = {name.replace("_", " "): count for name, count in upstream.items() if isinstance(count, int)}
    whole = sum(layout.rows for layout in layouts.values())
    lines = [
        "# Systems-design conversations over architecture diagrams",
        "",
        f"{whole:,} rows over {pictures:,} distinct pictures, compiled against `{name}` at `{base.revision[:12]}`.",
        f"Pictures are resized once to multiples of {policy.side} px with {policy.min_tokens} to {policy.max_tokens} visual tokens;",
        f"rows have at most {cfg.max_tokens} tokens. Content `{content}`:",
        "rows and pixels, the same on every machine that makes the same data.",
        "",
        "| split | rows | tokens | of pictures | learned | longest | median | 95 % below | worst batch of 8 | packed |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_layout_line(split, layout) for split, layout in layouts.items()),
        "",
        f"Probes: {tally.probes} single questions, scored without a judge, on {tally.probe_graphs} graphs of the test split.",
        "",
        "## Splits share nothing",
        "",
        f"- By graph topology: {_counts(proof.topologies)}; shared with test: {proof.shared_topologies}.",
        f"- By picture: {_counts(proof.pictures)}; shared with test: {proof.shared_pictures}; nearest training picture to a test picture:"
        f" {proof.nearest_picture_bits} of 256 bits differ.",
        f"- Styles held out: {', '.join(proof.held_out_styles) or 'none'};"
        f" rows of them outside test: {proof.held_out_style_rows_outside_test}.",
        f"- {proof.headline_prompts} evaluation prompts (sha256 `{proof.headline_sha256[:12]}`); rows dropped for resembling one:"
        f" {proof.rows_dropped_for_headline}; rows and probes left that do: {proof.rows_like_a_prompt} ({proof.ngram_law}).",
        "",
        *_spread(tally),
        "## Funnel",
        "",
        *([f"Conversations before this stage: {_counts(before)}.", ""] if before else []),
        "| source | read | rejected | not drawn | kept | beyond max_rows |",
        "|---|---|---|---|---|---|",
        *(_funnel_line(cfg, source, steps) for source, steps in tally.funnel.items()),
        "",
        f"Not drawn: replay beyond {cfg.replay_share:.0%} of train. Beyond max_rows: lines of your files that were counted, not read.",
        "",
        *([f"- rejected, `{reason}`: {count:,}" for reason, count in sorted(tally.rejected.items())] or ["Nothing was rejected."]),
        "",
        "## Licence and providers",
        "",
        *_providers(cfg, tally),
        "",
        "## Samples",
        "",
    ]
    for row in _samples(tally.sample):
        lines += _sample(row)
    return "\n".join(lines).rstrip() + "\n"


def _layout_line(split: str, layout: Layout) -> str:
    share = layout.trained_tokens / layout.tokens if layout.tokens else 0
    pictures = layout.image_tokens / layout.tokens if layout.tokens else 0
    worst = f"{layout.worst_batch[8]:,}" if 8 in layout.worst_batch else "-"
    return (
        f"| {split} | {layout.rows:,} | {layout.tokens:,} | {pictures:.0%} | {share:.1%} | {layout.longest:,} | {layout.median:,} "
        f"| {layout.p95:,} | {worst} | {layout.bins} x {layout.bin_tokens:,}, {layout.bin_fill:.0%} full |"
    )


def _funnel_line(cfg: DatasetConfig, source: str, steps: Mapping[str, int]) -> str:
    kind = source.rstrip("0123456789")
    file = f" ({Path(getattr(cfg, kind).paths[int(source.removeprefix(kind))]).name})" if kind in ("extra", "replay") else ""
    return f"| {source}{file} | " + " | ".join(f"{steps.get(step, 0):,}" for step in FUNNEL) + " |"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _spread(tally: Tally) -> list[str]:
    lines = []
    for name in ("family", "style"):
        tables: dict[str, Mapping[str, int]] = {split: tally.spread.get(f"{name}/{split}", {}) for split in ("train", "val", "test")}
        names = sorted({key for table in tables.values() for key in table})
        lines += [f"## By {name}", "", f"| {name} | train | val | test |", "|---|---|---|---|"]
        lines += [f"| {key} | " + " | ".join(str(table.get(key, 0)) for table in tables.values()) + " |" for key in names]
        lines.append("")
    return lines


def _providers(cfg: DatasetConfig, tally: Tally) -> list[str]:
    counts: dict[str, int] = {}
    for split in ("train", "val", "test"):
        for provider, count in tally.spread.get(f"provider/{split}", {}).items():
            counts[provider] = counts.get(provider, 0) + count
    own = f"your own data; licence stated: {cfg.extra.licence} (extra), {cfg.replay.licence} (replay)"
    terms = _TERMS | {"user": own}
    return [f"- {name}: {count:,} rows, {terms.get(name, 'under the terms of its provider')}." for name, count in sorted(counts.items())]


def _samples(rows: Sequence[Row]) -> list[Row]:
    """Up to three, of different kinds of question."""
    picked: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (not row.images, row.id)):
        picked.setdefault(row.family, row)
    return list(picked.values())[:3]


def _sample(row: Row) -> list[str]:
    lines = [f"### {row.id} ({row.family}, {row.split})", "", *(f"![{row.id}]({image})" for image in row.images), ""]
    for message in row.messages:
        if message["role"] != "system":
            text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
            lines += [f"**{message['role']}**", "", *(f"> {line}".rstrip() for line in text.splitlines()), ""]
    return lines
