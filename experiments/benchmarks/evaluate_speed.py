"""A store that holds an export -> how long an evaluation of its probes takes, all answers asked anew.

    python -m experiments.benchmarks.evaluate_speed STORE [evaluate.field=value ...]

STORE is a folder with one artefact of each stage up to export. Prints seconds of wall clock, and of processor time of this process and its
servers, which is what remains comparable on a busy machine.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sysdesign.artifacts import Artifact, Store
from sysdesign.config.evaluate import EvaluateConfig
from sysdesign.config.root import Config
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.evaluate.stage import evaluate
from sysdesign.profiles import resolve
from sysdesign.records import NullLog


def main(store: Path, flags: dict[str, str]) -> None:
    cfg: EvaluateConfig = resolve(Config, "rehearsal", flags).evaluate
    newest: dict[str, Artifact] = {}
    for folder in sorted(store.glob("*-*/manifest.json"), key=lambda path: path.stat().st_mtime):
        artifact = Store(store).load(folder.parent)
        newest[artifact.stage] = artifact
    shutil.rmtree(store / ".answers", ignore_errors=True)
    inputs = {name: newest[name] for name in ("dataset", "diagrams", "export", "train", "base")}
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        report = evaluate(cfg, seed=0, out=Path(out), log=NullLog(), runtime=RuntimeConfig(device="cpu"), **inputs)
        wall = time.perf_counter() - start
    answers = sum(1 for _ in (store / ".answers").rglob("*.json"))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, servers = (usage.ru_utime + usage.ru_stime for usage in used)
    asked = f"{report.probes} probes of {report.graphs} graphs, {answers} answers"
    print(f"{asked}: {wall:.1f} s wall; CPU: {own:.1f} s here, {servers:.1f} s in servers")
    print(report.note())


if __name__ == "__main__":
    main(Path(sys.argv[1]), dict(flag.split("=", 1) for flag in sys.argv[2:]))
