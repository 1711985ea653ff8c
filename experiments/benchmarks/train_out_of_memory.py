"""What a person reads when the GPU's memory runs out in the middle of training, and whether the advice helps. One CUDA card, two minutes.

The train stage plans with the card free; then another process (this file with --hog) takes all of it but a few GiB, or
torch is told to use no more, so that a real out-of-memory error is raised in a step. The advised setting is then tried in the very same
situation. Four layers of the 7B's width, random weights; the libraries' own forward as well, which has no plan.

    python experiments/benchmarks/train_out_of_memory.py --out FOLDER [--leave 6] [--only plain]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SETTINGS = {"batch": 96, "max_steps": 3, "warmup_steps": 1, "eval_steps": 0, "save_steps": 0, "answers": 1, "answer_tokens": 4}


def hog(leave_gib: float) -> None:
    """Take the card's memory but for `leave_gib`, say how much is left, and hold it until killed."""
    import torch

    torch.zeros(1, device="cuda")
    held = []
    while (free := torch.cuda.mem_get_info()[0]) > (leave_gib + 0.25) * 2**30:
        held.append(torch.empty(int(min(free - leave_gib * 2**30, 2**33)), dtype=torch.uint8, device="cuda"))
    print(round(torch.cuda.mem_get_info()[0] / 2**30, 2), flush=True)
    time.sleep(300)


def attempt(name: str, folder: Path, leave: float, how: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One run of the stage; the memory goes away when it logs the table of labels, which is after it looked at the card."""
    import torch

    from sysdesign.artifacts import Artifact, Manifest
    from sysdesign.config.runtime import RuntimeConfig
    from sysdesign.config.train import TrainConfig
    from sysdesign.errors import SysdesignError
    from sysdesign.records import NullLog
    from sysdesign.train.stage import train

    others: list[subprocess.Popen[str]] = []
    total = torch.cuda.mem_get_info()[1] / 2**30

    class Log(NullLog):
        def text(self, text: str, name: str) -> None:
            if name != "labels.md":
                return
            if how == "limit":
                torch.cuda.set_per_process_memory_fraction(leave / total)
                return
            others.append(subprocess.Popen([sys.executable, __file__, "--hog", str(leave)], stdout=subprocess.PIPE, text=True))
            assert others[0].stdout is not None
            result["left_gib"] = float(others[0].stdout.readline())
            print(f"{name}: hog started, {result['left_gib']} GiB left", flush=True)

        def metrics(self, values: Any, step: int | None = None) -> None:
            free = torch.cuda.mem_get_info()[0] / 2**30
            print(f"{name}, step {step}: {values}, {free:.2f} GiB free, {torch.cuda.max_memory_allocated() / 2**30:.2f} used", flush=True)

    def artifact(stage: str) -> Artifact:
        manifest = Manifest.model_validate(
            {"stage": stage, "version": 1, "key": stage, "digest": stage, "seed": 0, "config": {}, "inputs": {}, "prompts": {}}
            | {"report": {}, "files": (), "created": "", "seconds": 0}
        )
        return Artifact(stage, stage, stage, folder / stage, manifest)

    result: dict[str, Any] = {"name": name, "settings": settings, "free_gib": round(torch.cuda.mem_get_info()[0] / 2**30, 2)}
    work, start = folder / "runs" / name, time.perf_counter()
    work.mkdir(parents=True)
    runtime = RuntimeConfig(device="cuda", store=str(folder / "store"))
    try:
        report = train(
            TrainConfig.model_validate(SETTINGS | settings), seed=3, out=work, log=Log(), runtime=runtime, dataset=artifact("dataset"),
            base=artifact("base"),
        )  # fmt: skip
        result |= {"trained_steps": report.steps, "peak_gib": report.peak_gib, "loss_last": report.loss_last}
        result["plan"] = json.loads((work / "train.json").read_text())["plan"]
    except SysdesignError as error:
        result |= {"error": type(error).__name__, "exit_code": error.exit_code, "line": f"error: {error}"}
    finally:
        for process in others:
            process.kill()
    result["seconds"] = round(time.perf_counter() - start, 1)
    return result


def alone(out: Path, folder: Path, leave: float, name: str, how: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`attempt` in a process of its own, so that each begins with an empty card, and none can outstay its time."""
    found = out / f"{name}.json"
    command = [sys.executable, "-X", "faulthandler", __file__, "--out", str(out), "--leave", str(leave), "--folder", str(folder)]
    with (out / f"{name}.log").open("w") as file:
        process = subprocess.Popen(
            [*command, "--attempt", json.dumps([name, how, settings])], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # writes where it stands
            process.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it started
    result = json.loads(found.read_text()) if found.exists() else {"name": name, "failed": (out / f"{name}.log").read_text()[-1500:]}
    print(json.dumps(result), flush=True)
    return dict(result)


def advised(line: str) -> dict[str, Any]:
    """The setting that an advice names: {"micro_tokens": 512}."""
    found = re.search(r"set train\.(\w+) to ([\d.]+)", line)
    return {found[1]: float(found[2]) if "." in found[2] else int(found[2])} if found else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "memory-out")))
    parser.add_argument("--leave", type=float, default=6.0)
    parser.add_argument("--hog", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--attempt", default="")
    parser.add_argument("--only", default="", help="fast, plain or limit")
    args = parser.parse_args()
    if args.hog:
        hog(args.hog)
        return
    if args.attempt:
        name, how, settings = json.loads(args.attempt)
        (args.out / f"{name}.json").write_text(json.dumps(attempt(name, args.folder, args.leave, how, settings), indent=1) + "\n")
        os._exit(0)
    from train_curves import make_inputs

    args.out.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        make_inputs(Path(scratch), tiny=False)
        for kind, how, plain in (("fast", "hog", False), ("plain", "hog", True), ("limit", "limit", False)):
            if args.only not in kind:
                continue
            settings: dict[str, Any] = {"backend": {"kind": "peft", "plain": plain}} | ({"batch": 24} if plain else {})
            for count in range(3):
                runs.append(alone(args.out, Path(scratch), args.leave, f"{kind}-{count}", how, settings))
                (args.out / "train_out_of_memory.json").write_text(json.dumps(runs, indent=1) + "\n")
                change = advised(runs[-1].get("line", ""))
                settings = settings | change
                if not change:
                    break


if __name__ == "__main__":
    main()
