"""Four questions about the pictures, answered each by one command.

python -m experiments.benchmarks.diagrams cost OUT [COUNT]   # CPU-seconds of a full run, and whether a rerun gives the same bytes
python -m experiments.benchmarks.diagrams peer OUT [COUNT]   # CPU-seconds of the same graphs, ours and as the `diagrams` library draws them
python -m experiments.benchmarks.diagrams ocr OUT [EACH]      # share of label words that tesseract reads, by style and damage
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
from typing import TYPE_CHECKING

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.diagrams.draw import Job
from sysdesign.diagrams.icons import icon_name
from sysdesign.diagrams.plan import DAMAGES, plan
from sysdesign.diagrams.render import Rendered, render
from sysdesign.diagrams.stage import diagrams
from sysdesign.diagrams.styles import STYLES
from sysdesign.errors import LimitError
from sysdesign.prompts import seed_prompts
from sysdesign.records import DiagramRecord, NullLog, read_jsonl

if TYPE_CHECKING:
    from PIL.Image import Image


def cost(out: Path, count: int) -> None:
    """Draw twice and compare: CPU-seconds of this process and its workers."""
    digests = []
    for folder, workers in ((out, 0), (out.with_name(f"{out.name}-again"), 1)):
        before, start = os.times(), time.time()
        report = diagrams(DiagramsConfig(count=count), seed=7, out=folder, log=NullLog(), runtime=RuntimeConfig(workers=workers))
        after = os.times()
        spent = sum(after[:4]) - sum(before[:4])
        wall, load = time.time() - start, os.getloadavg()[0]
        print(f"{report.note()}\n  workers={workers or 'all'}: {spent:.1f} CPU-s, {wall:.1f} s wall, load {load:.1f}")
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        digests.append(
            hashlib.sha256(
                "".join(f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files).encode()
            ).hexdigest()
        )
    print("  byte-identical on the second run:", digests[0] == digests[1])


def peer(out: Path, count: int) -> None:
    """The same graphs one after the other, alternately by us and by the library with its defaults, in this process: CPU-seconds, pixels."""
    from PIL import Image

    spent, pixels = {"ours": 0.0, "library": 0.0}, {"ours": 0, "library": 0}
    out.mkdir(parents=True, exist_ok=True)
    jobs = [j for j in plan(DiagramsConfig(layout="dot"), seed_prompts(), 7) if not j.degraded]
    jobs = [j for j in jobs if _proof(j, out / "try.png") is not None][:count]
    for job in jobs:
        for name, draw in (("ours", _proof), ("library", _by_library)):
            before = os.times()
            draw(job, out / f"{name}.png")
            spent[name] += sum(os.times()[:4]) - sum(before[:4])
            with Image.open(out / f"{name}.png") as opened:
                pixels[name] += opened.width * opened.height
    for name, seconds in spent.items():
        each = f"{1000 * seconds / len(jobs):.0f} ms and {pixels[name] / len(jobs):,.0f} pixels each"
        print(f"{name:8} {len(jobs)} pictures: {seconds:.1f} CPU-s, {each}")


def _by_library(job: Job, to: Path) -> None:
    """The graph as someone would write it with the `diagrams` library, with all its defaults."""
    from importlib import import_module

    from diagrams import Cluster, Diagram, Edge

    graph, made = job.graph, {}
    with Diagram(graph.title, filename=str(to.with_suffix("")), show=False):

        def fill(zone: str | None) -> None:
            for c in graph.components:
                if c.zone == zone:
                    module, kind = icon_name(c.type, c.technology).split(":")
                    made[c.id] = getattr(import_module(f"diagrams.{module}"), kind)(c.name)
            for inner in graph.zones:
                if inner.parent == zone:
                    with Cluster(inner.name):
                        fill(inner.id)

        fill(None)
        for e in graph.edges:
            made[e.src] >> Edge(label=e.protocol or "", style="dashed" if e.mode == "async" else "solid") >> made[e.dst]


def ocr(out: Path, each: int) -> None:
    """Word recall of tesseract (no dictionary of ours, words of three letters or digits and more), on two inputs.

    `labels`: every drawn line cut out at its own box, at native size, each read alone: can it be read where it stands?
    `page`: the picture as it is, sparse text: does a page reader also find it? (Finding text among arrows is the hard part there.)
    """
    from PIL import Image, ImageOps

    jobs = plan(DiagramsConfig(layout="dot"), seed_prompts(), 7)
    out.mkdir(parents=True, exist_ok=True)
    groups = {style: [j for j in jobs if j.style == style and not j.degraded][:each] for style in STYLES}
    groups |= {f"damage {kind}": [j for j in jobs if j.degraded == kind][:each] for kind in DAMAGES if kind != "perspective"}
    for name, chosen in groups.items():
        read: dict[str, list[int]] = {"labels": [0, 0], "page": [0, 0]}
        smallest = []
        for job in chosen:
            drawn = _proof(job, out / "ocr.png")
            if drawn is None:
                continue
            smallest.append(drawn.min_font_px)
            with Image.open(out / "ocr.png") as opened:
                grey = ImageOps.grayscale(opened)
            if job.style in ("dark", "blueprint"):
                grey = ImageOps.invert(grey)
            expected = _words(" ".join(text for text, _ in drawn.texts))
            for way, text in (("labels", _read_lines(grey, drawn)), ("page", _read_page(grey))):
                said = _words(text)
                read[way][0] += sum((expected & said).values())
                read[way][1] += sum(expected.values())
        shares = "  ".join(f"{way} {hit / max(1, total):.3f} of {total} words" for way, (hit, total) in read.items())
        print(f"{name:20} {len(smallest):3} pictures, smallest text {min(smallest):g} px: {shares}", flush=True)


def _proof(job: Job, to: Path) -> Rendered | None:
    """The picture of a job as the stage draws it, with every text measured; None where the stage would take another graph."""
    for kept in range(len(job.bundles), -1, -1):
        show = {kind for bundle in job.bundles[:kept] for kind in bundle}
        try:
            return render(job.graph, job.style, to, show=show, seed=job.seed, degraded=job.degraded, layout=job.layout)
        except LimitError:
            continue
    return None


def _read_lines(grey: Image, drawn: Rendered) -> str:
    """What tesseract reads of every text line of a picture, cut out at native size, each as a line of its own.

    The white border is narrow because tesseract scales a line image to 36 px: letters in a wide border would be shrunk by it.
    """
    from PIL import ImageOps

    with tempfile.TemporaryDirectory() as folder:
        names = []
        for number, (_, (x0, y0, x1, y1)) in enumerate(drawn.texts):
            cut = grey.crop((max(0, int(x0) - 3), max(0, int(y0) - 2), min(grey.width, int(x1) + 4), min(grey.height, int(y1) + 3)))
            names.append(f"{folder}/{number}.png")
            ImageOps.expand(ImageOps.autocontrast(cut), 4, 255).save(names[-1])
        (Path(folder) / "list.txt").write_text("\n".join(names))
        return _tesseract(f"{folder}/list.txt", 7)


def _read_page(grey: Image) -> str:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        grey.save(file.name)
        return _tesseract(file.name, 11)


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


def _words(text: str) -> Counter[str]:
    return Counter(w for w in re.findall(r"[a-z0-9]+", text.casefold().replace(",", "")) if len(w) >= 3)


def _tesseract(path: str, mode: int) -> str:
    """Without its dictionaries: SQL, TCP and gRPC are no English words."""
    command = ["tesseract", path, "-", "--psm", str(mode), "-c", "load_system_dawg=0", "-c", "load_freq_dawg=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"}).stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cost", out, *count]:
            cost(Path(out), int(count[0]) if count else 500)
        case ["peer", out, *count]:
            peer(Path(out), int(count[0]) if count else 60)
        case ["ocr", out, *each]:
            ocr(Path(out), int(each[0]) if each else 8)
        case ["overlay", out, to]:
            overlay(Path(out), Path(to))
        case _:
            sys.exit(__doc__)
