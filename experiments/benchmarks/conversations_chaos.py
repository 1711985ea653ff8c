"""Does the spend cap hold? Two processes of eight threads, one killed, 5 % 429, 5 % billed-but-dropped, many repetitions.

    python -m experiments.benchmarks.conversations_chaos [repetitions] [requests]

Half of the repetitions have an ample cap (then nothing may be lost), half a tight one (then it must bind and not be passed).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from test_ledger import chaos, check_chaos


def main(repetitions: int = 20, requests: int = 60) -> None:
    """Print one line a repetition; raises AssertionError at the first that breaks a law."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(repetitions):
            ample = seed % 2 == 0
            found = chaos(Path(folder), seed, requests, 1_000_000 if ample else requests * 34)
            check_chaos(found, ample)
            print(f"{seed:2d} {'ample' if ample else 'tight'} " + " ".join(f"{k}={v:.0f}" for k, v in found.items()), flush=True)
    print(f"{repetitions} of {repetitions}: billed <= committed <= cap, no reply bought twice, nothing lost")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
