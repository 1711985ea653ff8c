"""One training over several GPUs of one host: a process each, the same model in all, gradients summed once a step, one writer.

Only adapters have gradients, so one sum of a few million numbers a step is all that travels. The calling process trains nothing:
it starts the ranks, writes rank 0's log where the run's log goes, and ends all of them when one fails or it is itself ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from sysdesign.errors import LimitError, SysdesignError
from sysdesign.records import MetricLog, NullLog

T = TypeVar("T")
START = "spawn"  # a forked process could not use CUDA
WAIT = timedelta(hours=1)  # for the slowest rank: loading, or answers in the middle


@dataclass(frozen=True)
class Rank:
    """Which of `count` processes this is. With one process every method returns at once."""

    index: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process keeps checkpoints, history and artefacts, and logs."""
        return self.index == 0

    def sum(self, values: Any) -> Any:
        """The tensor with every process's values added, in place."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values

    def least(self, value: float | None) -> float | None:
        """The smallest value of all processes; None, in all of them, stays None."""
        if self.count == 1 or value is None:
            return value
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return min(found)

    def meet(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            import torch

            self.sum(torch.zeros(1))


def spread(work: Callable[[Rank, MetricLog], T], count: int, *, cuda: bool, log: MetricLog, meeting: Path) -> T:
    """Run `work`, which must be picklable, in `count` processes, the n-th with the n-th visible GPU alone, and return rank 0's result.

    `meeting`: a file of this run alone, by which the processes find each other; it is gone afterwards, and one that a killed run left
    behind is not looked into.
    Raises what the first rank raised that names its reason, and LimitError for a process that was killed.
    """
    context = get_context(START)
    processes, pipes = [], []
    meeting.unlink(missing_ok=True)
    try:
        for index in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_enter, args=(Rank(index, count), meeting.absolute(), cuda, work, theirs))  # type: ignore[attr-defined]
            process.start()
            theirs.close()  # so that the pipe ends with its process
            processes.append(process)
            pipes.append(ours)
        result: T = _serve(pipes, processes, log)
        for process in processes:
            process.join(20)
        return result
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(20)
            process.kill()
        meeting.unlink(missing_ok=True)


def _serve(pipes: list[Any], processes: list[Any], log: MetricLog) -> Any:
    """Answer the ranks until all are done. The echo of a failure (a connection that broke off) must not hide its reason."""
    talking, results = dict(enumerate(pipes)), {}
    failures: list[Exception] = []
    while talking:
        ready = connection.wait(list(talking.values()), timeout=5 if failures else None)
        if not ready:
            break
        for index in [i for i, pipe in talking.items() if pipe in ready]:
            try:
                kind, content = talking[index].recv()
            except EOFError:
                processes[index].join(20)
                kind, content = "error", _ended(index, processes[index].exitcode)
            if kind == "log":
                name, arguments = content
                getattr(log, name)(*arguments)
                talking[index].send(None)
                continue
            del talking[index]
            if kind == "done":
                results[index] = content
            else:
                failures.append(content)
    if failures:
        raise next((f for f in failures if isinstance(f, SysdesignError)), failures[0])
    return results[0]


def _ended(index: int, code: int | None) -> SysdesignError:
    do = "look into the system's log for a lack of memory; the same command goes on from the last checkpoint"
    return LimitError(f"train, process {index}", "every process must live until the training's end", do, f"exit code {code}")


class _Remote:
    """A log whose entries are written by the calling process, one at a time and before training goes on."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def _send(self, name: str, *arguments: Any) -> None:
        self._pipe.send(("log", (name, arguments)))
        self._pipe.recv()

    def metrics(self, values: Any, step: int | None = None) -> None:
        self._send("metrics", dict(values), step)

    def image(self, path: Path, key: str, step: int = 0) -> None:
        self._send("image", path, key, step)

    def file(self, path: Path, folder: str = "") -> None:
        self._send("file", path, folder)

    def text(self, text: str, name: str) -> None:
        self._send("text", text, name)


def _enter(rank: Rank, meeting: Path, cuda: bool, work: Callable[[Rank, MetricLog], Any], pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()
    if cuda:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[rank.index] if seen else str(rank.index)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    try:
        import torch
        import torch.distributed as dist

        if not cuda:
            torch.set_num_threads(max(torch.get_num_threads() // rank.count, 1))
        backend = "cuda:nccl,cpu:gloo" if cuda else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank.index, world_size=rank.count, timeout=WAIT)
        pipe.send(("done", work(rank, _Remote(pipe) if rank.writes else NullLog())))
        dist.destroy_process_group()
    except SysdesignError as error:
        pipe.send(("error", error))
    except Exception:
        pipe.send(("error", RuntimeError(f"in training process {rank.index}:\n{traceback.format_exc()}")))


def _follow() -> None:
    """End with the calling process, even when that was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
