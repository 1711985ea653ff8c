"""From finished records to what a person looks at first: a contact sheet of every style, and a data card of counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from sysdesign.diagrams.png import write_png
from sysdesign.diagrams.styles import HELD_OUT, STYLES
from sysdesign.records import DiagramRecord, Rejected

CELL = (320, 240)
COLUMNS = 8


def contact_sheet(records: Sequence[DiagramRecord], out: Path) -> Path:
    """Up to eight pictures of each style, a row a style, then a row of degraded ones. Writes `out/contact_sheet.png`."""
    from PIL import Image, ImageDraw

    from sysdesign.diagrams.fonts import font

    rows = [(style, [r for r in records if r.style == style and not r.degraded][:COLUMNS]) for style in STYLES]
    rows.append(("degraded", [r for r in records if r.degraded][:COLUMNS]))
    rows = [(name, row) for name, row in rows if row]
    wide = max(len(row) for _, row in rows)
    sheet = Image.new("RGB", (wide * CELL[0], len(rows) * (CELL[1] + 22)), (236, 238, 240))
    pen = ImageDraw.Draw(sheet)
    for down, (name, row) in enumerate(rows):
        top = down * (CELL[1] + 22)
        shown = f"{name} (held out of training)" if name == HELD_OUT else name
        pen.text((8, top + 4), shown, font=font("roboto", 14.0, True), fill=(40, 40, 40))
        for across, record in enumerate(row):
            with Image.open(out / record.image) as opened:
                small = opened.convert("RGB")
            small.thumbnail((CELL[0] - 8, CELL[1] - 8), Image.Resampling.BICUBIC, reducing_gap=2.0)
            sheet.paste(small, (across * CELL[0] + (CELL[0] - small.width) // 2, top + 22 + (CELL[1] - small.height) // 2))
    path = out / "contact_sheet.png"
    write_png(sheet, path)
    return path


def card(records: Sequence[DiagramRecord], rejected: Sequence[Rejected], headline: int, engine: str, seed: int) -> str:
    """The data card, in markdown."""
    sizes = sorted(len(r.graph.components) for r in records)
    pixels = sorted(r.width * r.height for r in records)
    fonts = sorted(r.min_font_px for r in records)
    kinds = Counter(kind for r in records for kind in _kinds(r))
    where = "Graphviz `dot`" if engine == "dot" else "our own layered layout (Graphviz was not used)"
    parts = [
        "# Diagrams",
        f"{len(records)} typed architecture graphs and their pictures (seed {seed}), laid out by {where}. "
        f"{headline} pictures of the evaluation prompts lie apart in `headline/`. "
        "Every graph is synthetic: no real system, company or person is described.",
        "| what | value |\n|---|---|",
        f"| distinct topologies | {len({r.topology for r in records})} |\n"
        f"| components | {sizes[0]} to {sizes[-1]}, median {median(sizes):g} |\n"
        f"| pixels | {pixels[0]:,} to {pixels[-1]:,}, median {median(pixels):,.0f} |\n"
        f"| smallest text | {fonts[0]:g} px, median {median(fonts):g} px |\n"
        f"| illegible, drawn again with another graph | {len(rejected)} |",
        _table("style", Counter(r.style + (" (held out)" if r.held_out_style else "") for r in records)),
        _table("degraded", Counter(r.degraded or "clean" for r in records)),
        _table("domain", Counter(r.domain for r in records)),
        _table("components", Counter(f"{5 * (n // 5)} to {5 * (n // 5) + 4}" for n in sizes)),
        _table("zones nested", Counter(_nesting(r) for r in records)),
        _table("component type", Counter(c.type for r in records for c in r.graph.components)),
        _table("facts drawn in", kinds, "pictures"),
        "Domain `nonsense` holds graphs with meaningless names and unusual wiring: only the picture can answer about them.",
        "Icons come from the `diagrams` package (MIT); the logos are trademarks of their owners and appear only to name the product. "
        "Fonts: Roboto, Arimo and Comic Neue (SIL Open Font License 1.1), DejaVu (Bitstream Vera licence).",
    ]
    text = "\n\n".join(parts) + "\n"
    return text.replace("|---|---|\n\n| distinct", "|---|---|\n| distinct")


def _table(title: str, counts: Counter[str], unit: str = "count") -> str:
    rows = "\n".join(f"| {key} | {number} |" for key, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return f"| {title} | {unit} |\n|---|---|\n{rows}"


def _nesting(record: DiagramRecord) -> str:
    parents = {z.id: z.parent for z in record.graph.zones}

    def depth(zone: str | None) -> int:
        return 0 if zone is None else 1 + depth(parents[zone])

    return str(max((depth(z) for z in parents), default=0))


def _kinds(record: DiagramRecord) -> set[str]:
    """Kinds that have at least one visible fact in the picture."""
    heads = (
        (key.split(":", 1)[0] if key.startswith(("edge:", "flow:", "zone:")) else "component", key.rsplit(".", 1)[1])
        for key in record.visible
    )
    return {f"{head}.{field}" for head, field in heads}
