"""How long, and in how much memory, 10,000 rows over 500 pictures are prepared and compiled.

    python experiments/benchmarks/dataset_speed.py [--rows 10000] [--diagrams 500] [--words 150] [--hostile 400]

Prints one JSON line: seconds in all, CPU seconds, load, peak resident memory of this process in MiB, rows a second. `--hostile` adds
that many rows of a person's own with a megabyte of text each, of one token a byte.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from sysdesign.artifacts import Artifact  # noqa: E402
from sysdesign.config.dataset import DatasetConfig, UserData  # noqa: E402
from sysdesign.config.runtime import RuntimeConfig  # noqa: E402
from sysdesign.dataset.report import DatasetReport  # noqa: E402
from sysdesign.records import NullLog  # noqa: E402


def make(cfg: DatasetConfig, out: Path, talks: Artifact, drawn: Artifact, base: Artifact) -> DatasetReport:
    """The stage itself."""
    from sysdesign.dataset.stage import dataset

    return dataset(cfg, seed=0, out=out, log=NullLog(), runtime=RuntimeConfig(), conversations=talks, diagrams=drawn, base=base)


def main() -> None:
    """Make a world, then time the stage on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--diagrams", type=int, default=500)
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--hostile", type=int, default=0)
    args = parser.parse_args()
    import dataset_world as world

    with tempfile.TemporaryDirectory(prefix="dataset-speed-") as scratch:
        folder = Path(scratch)
        base = world.tiny_base(folder / "base")
        drawn = world.diagrams(folder / "diagrams", args.diagrams, size=(1200, 800))
        talks = world.conversations(folder / "conversations", world.talks(args.rows, args.diagrams, args.words))
        out = folder / "out"
        out.mkdir()
        extra = UserData()
        if args.hostile:
            own = folder / "own" / "rows.jsonl"
            own.parent.mkdir()
            with own.open("w") as lines:
                for number in range(args.hostile):
                    texts = (f"Row {number}?", "\u0378" * (500_000 if number % 2 else 30_000))  # two bytes that no tokenizer merges
                    talk = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
                    lines.write(json.dumps({"messages": talk}, ensure_ascii=False) + "\n")
            extra = UserData(paths=(str(own),))
        cfg = DatasetConfig(extra=extra)

        job = (cfg, out, talks, drawn, base)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        report = make(*job)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        print(
            json.dumps(
                {
                    "rows": args.rows, "kept": report.rows_train + report.rows_val + report.rows_test, "tokens": report.tokens,
                    "pictures": report.pictures, "seconds": round(seconds, 1), "rows_per_s": round(args.rows / seconds),
                    "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
                    "peak_rss_mib": round(after.ru_maxrss / 1024), "peak_rss_before_mib": round(before.ru_maxrss / 1024),
                    "rejected": report.rejected, "load": round(os.getloadavg()[0], 1), "content": report.content_sha256[:12],
                }
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
