"""Runs trials on this machine, each in a process of its own: its memory is freed when it ends, and a crash is contained."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sysdesign.config.sweep import OptunaRunner
from sysdesign.errors import ToolError
from sysdesign.sweep.conductor import Conductor
from sysdesign.sweep.trial import EVENTS, OUTPUT, RESULT, Request, Result, Tail, read_result

POLL_S = 0.1
LEAVE_S = 10.0  # that killed processes are given to be gone
KILLS = 2  # a process that is killed is tried once more; twice is no accident


@dataclass
class Process:
    """A trial's process. It reads nothing from its standard input, but ends when that closes: a driver that is killed takes
    its trials along, or they would write beside the ones that the next driver starts."""

    request: Request
    folder: Path
    popen: subprocess.Popen[bytes]
    output: IO[bytes]
    tail: Tail = field(init=False)
    killed: int = 0

    def __post_init__(self) -> None:
        self.tail = Tail(self.folder / EVENTS)

    def kill(self) -> None:
        """End it and everything it started, and wait until all of it is gone: the other processes of a training on several GPUs
        would still write and hold memory when the next trial starts."""
        deadline = time.monotonic() + LEAVE_S
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter is how macOS says that only dead ones are left
            while time.monotonic() < deadline:
                os.killpg(self.popen.pid, signal.SIGKILL)
                if self.popen.poll() is not None:
                    time.sleep(0.01)
        self.popen.wait()
        self.output.close()


def start(request: Request, folder: Path, root: Path, env: Mapping[str, str]) -> Process:
    """Start a trial's process in `root`, writing into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    output = (folder / OUTPUT).open("ab")
    command = [sys.executable, "-m", request.module, str(folder)]
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    popen = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env={**inherited, **env}
    )
    return Process(request, folder, popen, output)


def ended(process: Process) -> Result | None:
    """The result of a process that has ended; None when it was killed for the first time and deserves another try."""
    code = process.popen.wait()
    process.kill()  # what it started must not outlive it
    if (result := read_result(process.folder)) is not None:
        return result
    last = (process.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2][-300:]
    if code < 0:
        if process.killed + 1 < KILLS:
            return None
        if code == -9:
            return Result(end="pruned", reason="out of memory: killed twice by signal 9, as the kernel does when memory is short")
        return Result(end="failed", reason=f"killed {KILLS} times by signal {-code}: {last}")
    return Result(end="failed", reason=f"its process ended with code {code} and no result: {last}")


def require_gpus(runner: OptunaRunner) -> None:
    """Raises ToolError unless this machine has the GPUs that its trials are to have: without one, a trial would train on the CPU."""
    if not runner.gpus:
        return
    import torch

    if (found := torch.cuda.device_count()) < runner.workers * runner.gpus:
        law = f"{runner.workers} x {runner.gpus} GPUs are needed at a time (runner.workers x runner.gpus), and this machine shows {found}"
        do = "lower them" if found >= runner.gpus else "lower it, 0 takes what there is"
        raise ToolError("runner.gpus", law, do, runner.gpus)


def environment(slot: int, runner: OptunaRunner) -> dict[str, str]:
    """What a process in that slot sees: its share of the cores, and its GPUs."""
    # threads that wait by spinning take the cores from each other: a fifth of the speed as soon as anything else runs (experiments/LOG.md)
    wanted = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // runner.workers)), "OMP_WAIT_POLICY": "PASSIVE"}
    env = {name: value for name, value in wanted.items() if name not in os.environ}
    if runner.gpus:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = seen.split(",") if seen else [str(n) for n in range(runner.workers * runner.gpus)]
        env["CUDA_VISIBLE_DEVICES"] = ",".join(cards[slot * runner.gpus : (slot + 1) * runner.gpus])
    return env


def run(conductor: Conductor, runner: OptunaRunner, root: Path) -> None:
    """Run trials until the conductor has none left. An interrupt leaves running trials to the next driver.

    Raises what the conductor raises.
    """
    slots: dict[int, Process | None] = dict.fromkeys(range(runner.workers))
    try:
        while True:
            for slot in (slot for slot, process in slots.items() if process is None):
                if request := conductor.take():
                    slots[slot] = start(request, conductor.place(request.number), root, environment(slot, runner))
            if not any(slots.values()):
                return
            time.sleep(POLL_S)
            for slot, process in slots.items():
                if process is not None:
                    slots[slot] = _look(process, conductor, root, environment(slot, runner))
    finally:
        for process in filter(None, slots.values()):
            process.kill()


def _look(process: Process, conductor: Conductor, root: Path, env: Mapping[str, str]) -> Process | None:
    """One round: events, pruning, the end. Returns the process that holds the slot from now on."""
    gone: Any = process.popen.poll()  # before the news, so that none is missed
    behind = [conductor.hear(process.request.number, event) for event in process.tail.news()]
    if gone is None and any(behind):
        process.kill()
        conductor.finish(process.request.number, conductor.fell_behind(process.request.number))
        return None
    if gone is None:
        return process
    result = ended(process)
    if result is None:
        again = start(process.request, process.folder, root, env)
        again.killed = process.killed + 1
        return again
    conductor.finish(process.request.number, result)
    return None
