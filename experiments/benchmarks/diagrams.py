"""Three questions about the pictures, answered on a finished folder of the `diagrams` stage or a fresh one.

python -m experiments.benchmarks.diagrams cost OUT [COUNT]   # CPU-seconds of a full run, and whether a rerun gives the same bytes
python -m experiments.benchmarks.diagrams ocr OUT [EACH]     # share of label words that tesseract reads, by style and damage
python -m experiments.benchmarks.diagrams overlay OUT TO     # boxes and arrows drawn over samples of every style, to look at
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.diagrams import facts
from sysdesign.diagrams.scene import ZONE_WORDS
from sysdesign.diagrams.stage import diagrams
from sysdesign.records import DiagramRecord, NullLog, read_jsonl


def cost(out: Path, count: int) -> None:
    """Draw twice and compare: CPU-seconds of this process and its workers."""
    digests = []
    for folder, workers in ((out, 0), (out.with_name(f"{out.name}-again"), 1)):
        before, start = os.times(), time.time()
        report = diagrams(DiagramsConfig(count=count), seed=7, out=folder, log=NullLog(), runtime=RuntimeConfig(workers=workers))
        after = os.times()
        spent = sum(after[:4]) - sum(before[:4])
        print(
            f"{report.note()}\n  workers={workers or 'all'}: {spent:.1f} CPU-s, {time.time() - start:.1f} s wall, load {os.getloadavg()[0]:.1f}"
        )
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        digests.append(
            hashlib.sha256(
                "".join(f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files).encode()
            ).hexdigest()
        )
    print("  byte-identical on the second run:", digests[0] == digests[1])


def ocr(out: Path, each: int) -> None:
    """Word recall: every word drawn, as many times as it is drawn, against what tesseract finds anywhere in the picture."""
    from PIL import Image, ImageOps

    records = list(read_jsonl(out / "diagrams.jsonl", DiagramRecord))
    groups = {
        f"{style}": [r for r in records if r.style == style and not r.degraded][:each] for style in sorted({r.style for r in records})
    }
    groups |= {
        f"damage {kind}": [r for r in records if r.degraded == kind][:each] for kind in sorted({r.degraded for r in records if r.degraded})
    }
    for zoom in (1, 3):
        for name, chosen in groups.items():
            recalls, names = [], []
            for r in chosen:
                with Image.open(out / r.image) as opened:
                    picture = ImageOps.grayscale(opened)
                if r.style in ("dark", "blueprint"):
                    picture = ImageOps.invert(picture)
                picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.LANCZOS)
                said = _words(_tesseract(picture))
                drawn = _words(" ".join(_texts(r)))
                recalls.append(sum((drawn & said).values()) / sum(drawn.values()))
                called = _words(" ".join(c.name for c in r.graph.components))
                names.append(sum((called & said).values()) / sum(called.values()))
            if recalls:
                print(
                    f"x{zoom} {name:22} n={len(recalls):3} all words {mean(recalls):.3f}  component names {mean(names):.3f}  worst {min(recalls):.3f}"
                )


def overlay(out: Path, to: Path) -> None:
    """Two samples of every style and damage with their boxes in red (components), orange (zones), green (labels), magenta (arrows)."""
    from PIL import Image, ImageDraw

    to.mkdir(parents=True, exist_ok=True)
    taken: Counter[str] = Counter()
    for r in read_jsonl(out / "diagrams.jsonl", DiagramRecord):
        key = r.degraded or r.style
        if taken[key] >= 2:
            continue
        taken[key] += 1
        with Image.open(out / r.image) as opened:
            picture = opened.convert("RGB")
        pen = ImageDraw.Draw(picture)
        for box in r.boxes.zones.values():
            pen.rectangle(box, outline=(255, 140, 0), width=2)
        for box in r.boxes.components.values():
            pen.rectangle(box, outline=(255, 0, 0), width=2)
        for edge in r.boxes.edges:
            pen.line(edge.path, fill=(255, 0, 255), width=1)
            if edge.label:
                pen.rectangle(edge.label, outline=(0, 160, 0), width=1)
        picture.save(to / f"{key}-{r.id}.png")


def _texts(r: DiagramRecord) -> list[str]:
    """The words of a picture, rebuilt from its record: the fact kinds shown are those that have a visible key."""
    heads = ((k.split(":", 1)[0] if k.startswith(("edge:", "flow:", "zone:")) else "component", k.rsplit(".", 1)[1]) for k in r.visible)
    show = {f"{head}.{field}" for head, field in heads}
    g, names = r.graph, {c.id: c.name for c in r.graph.components}
    texts = [g.title, *facts.legend(g, show)]
    for c in g.components:
        texts += [c.name, facts.subtitle(c, show), *facts.component_texts(c, show)]
    for e in g.edges:
        texts += facts.edge_texts(e, show, names)
    texts += [z.name if ZONE_WORDS[z.kind] in z.name.casefold() else f"{z.name} {ZONE_WORDS[z.kind]}" for z in g.zones]
    return texts


def _words(text: str) -> Counter[str]:
    return Counter(w for w in re.findall(r"[a-z0-9]+", text.casefold().replace(",", "")) if len(w) >= 3)


def _tesseract(picture) -> str:  # type: ignore[no-untyped-def]
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        picture.save(file.name)
        env = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        done = subprocess.run(
            ["tesseract", file.name, "-", "--psm", "11", "--dpi", "96"], capture_output=True, text=True, check=True, env=env
        )
    return done.stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cost", out, *count]:
            cost(Path(out), int(count[0]) if count else 500)
        case ["ocr", out, *each]:
            ocr(Path(out), int(each[0]) if each else 8)
        case ["overlay", out, to]:
            overlay(Path(out), Path(to))
        case _:
            sys.exit(__doc__)
