"""How long, and in how much memory, 10,000 rows over 500 pictures are prepared and compiled.

    python experiments/benchmarks/dataset_speed.py [--rows 10000] [--diagrams 500] [--words 150]

Prints one JSON line: seconds in all and by part, peak resident memory of this process in MiB, rows a second.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    """Make a world, then time the stage on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--diagrams", type=int, default=500)
    parser.add_argument("--words", type=int, default=150)
    args = parser.parse_args()
    import dataset_world as world

    from sysdesign.config.dataset import DatasetConfig
    from sysdesign.config.runtime import RuntimeConfig
    from sysdesign.dataset.stage import dataset
    from sysdesign.records import NullLog

    with tempfile.TemporaryDirectory(prefix="dataset-speed-") as scratch:
        folder = Path(scratch)
        base = world.tiny_base(folder / "base")
        drawn = world.diagrams(folder / "diagrams", args.diagrams, size=(1200, 800))
        talks = world.conversations(folder / "conversations", world.talks(args.rows, args.diagrams, args.words))
        out = folder / "out"
        out.mkdir()
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        report = dataset(
            DatasetConfig(), seed=0, out=out, log=NullLog(), runtime=RuntimeConfig(), conversations=talks, diagrams=drawn, base=base
        )
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        print(
            json.dumps(
                {
                    "rows": args.rows, "kept": report.rows_train + report.rows_val + report.rows_test, "tokens": report.tokens,
                    "pictures": report.pictures, "seconds": round(seconds, 1), "rows_per_s": round(args.rows / seconds),
                    "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
                    "peak_rss_mib": round(after.ru_maxrss / 1024), "peak_rss_before_mib": round(before.ru_maxrss / 1024),
                }
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
