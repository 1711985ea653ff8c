"""Tensors planned by name, type and source -> one GGUF file, written by several threads in any order, resumed after a kill.

The size of every tensor is known before any weight is read, so the file gets its full length first (a full disk is found in
the first second, not in the last) and each block of rows is written to its own place. A journal beside the file lists the blocks
that are in; a run that finds the same plan goes on behind them. Memory does not grow with the model: each thread holds the
buffers of one block.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sysdesign.errors import LimitError
from sysdesign.export.kernels import row_bytes

BLOCK = 1 << 21  # weights in one block: 8 MiB of float32 a thread
_ALIGN = 32  # GGUF's default alignment


@dataclass(frozen=True)
class Planned:
    """One tensor to be written. `shape` is row-major; `type` a name of `kernels.TYPES`."""

    name: str
    shape: tuple[int, ...]
    type: str
    source: Any  # given back to `Rows`

    @property
    def row(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.rows * row_bytes(self.type, self.row)


class Rows(Protocol):
    """Fills rows `start` to `stop` of a planned tensor; returns them as (stop - start, row) float32. Called from several threads."""

    def __call__(self, tensor: Planned, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True)
class _Block:
    tensor: Planned
    start: int
    stop: int
    offset: int  # in the file


def planned_bytes(tensors: Sequence[Planned]) -> int:
    """Bytes of all tensor data with padding."""
    return sum(-(-t.nbytes // _ALIGN) * _ALIGN for t in tensors)


def require_free(folder: Path, nbytes: int, spare: str = "") -> None:
    """Raises LimitError when the disk below `folder` has less than `nbytes` and a tenth free. `spare`: what else the user could do."""
    free = shutil.disk_usage(folder).free
    if free < nbytes * 1.1:
        law = f"needs {nbytes * 1.1 / 1e9:.2f} GB of free disk"
        raise LimitError(str(folder), law, f"free some, {spare}or set runtime.store to another disk", f"{free / 1e9:.2f} GB free")


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Callable[[Any], None],
    tensors: Sequence[Planned],
    rows: Rows,
    quantise: Callable[[str, np.ndarray, np.ndarray], int],
    *,
    workers: int,
    progress: Callable[[int], None] = lambda weights: None,
) -> int:
    """Write `path` (nothing if it is already there whole) and return its size in bytes.

    `metadata` fills the key-value part of a gguf writer. `progress` is told the weights of each finished block.
    Raises LimitError when the disk is full, and whatever `rows` raises; what was written stays for the next run.
    """
    partial, journal = path.with_name(path.name + ".partial"), path.with_name(path.name + ".journal")
    header = _header(path.with_name(path.name + ".header"), architecture, metadata, tensors)
    plan = hashlib.sha256(header + json.dumps([str(t.source) for t in tensors]).encode()).hexdigest()
    if path.exists():
        return path.stat().st_size
    blocks = _blocks(tensors, len(header))
    total = len(header) + planned_bytes(tensors)
    done = _resume(partial, journal, plan, total)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT)
    try:
        _reserve(descriptor, path.parent, total)
        os.pwrite(descriptor, header, 0)
        _pass(descriptor, journal, [(i, b) for i, b in enumerate(blocks) if i not in done], rows, quantise, workers, progress)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    journal.unlink()
    return total


def _header(scratch: Path, architecture: str, metadata: Callable[[Any], None], tensors: Sequence[Planned]) -> bytes:
    """The file up to its first tensor, by the gguf package."""
    import gguf

    writer = gguf.GGUFWriter(scratch, architecture)
    metadata(writer)
    for t in tensors:
        writer.add_tensor_info(t.name, t.shape, np.dtype(np.float32), t.nbytes, raw_dtype=gguf.GGMLQuantizationType[t.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    head = scratch.read_bytes()
    scratch.unlink()
    return head + b"\0" * (-len(head) % _ALIGN)


def _blocks(tensors: Sequence[Planned], offset: int) -> list[_Block]:
    """Blocks of about `BLOCK` weights; the largest tensors come first in each file already (embeddings), so threads end together."""
    blocks = []
    for t in tensors:
        step = max(1, BLOCK // t.row)
        size = row_bytes(t.type, t.row)
        blocks += [_Block(t, i, min(i + step, t.rows), offset + i * size) for i in range(0, t.rows, step)]
        offset += -(-t.nbytes // _ALIGN) * _ALIGN
    return blocks


def _resume(partial: Path, journal: Path, plan: str, total: int) -> set[int]:
    """Numbers of the blocks that are in, if what lies there was made by the same plan; otherwise start anew."""
    with suppress(OSError, ValueError, IndexError):
        lines = journal.read_text(encoding="ascii").split("\n")
        if lines[0] == plan and partial.stat().st_size == total:
            return {int(line) for line in lines[1:-1]}  # the last line is empty, or torn
    partial.unlink(missing_ok=True)
    journal.write_text(plan + "\n", encoding="ascii")
    return set()


def _reserve(descriptor: int, folder: Path, total: int) -> None:
    """Take the disk space now; file systems that cannot (some network ones) get the length alone."""
    missing = total - os.fstat(descriptor).st_blocks * 512
    require_free(folder, max(0, missing))
    try:
        os.posix_fallocate(descriptor, 0, total)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise no_room(folder, err) from None
        os.ftruncate(descriptor, total)


def no_room(folder: Path, err: OSError) -> LimitError:
    """What the user reads when a disk takes no more: it is full, or its file system holds no files of this size."""
    do = "free some space, or set runtime.store to another disk; a rerun goes on where this stopped"
    return LimitError(str(folder), f"must take every byte of the file ({err.strerror})", do)


def _pass(
    descriptor: int, journal: Path, todo: Sequence[tuple[int, _Block]], rows: Rows, quantise: Callable[[str, np.ndarray, np.ndarray], int],
    workers: int, progress: Callable[[int], None],
) -> None:  # fmt: skip
    local = threading.local()
    stop = threading.Event()

    def work(item: tuple[int, _Block]) -> None:
        if stop.is_set():
            return
        number, block = item
        try:
            values = rows(block.tensor, block.start, block.stop)
            if not hasattr(local, "out"):
                local.out = np.empty(max(BLOCK * 4, 1), np.uint8)
            if local.out.size < values.nbytes:
                local.out = np.empty(values.nbytes, np.uint8)
            size = quantise(block.tensor.type, values, local.out)
            _write_at(descriptor, memoryview(local.out)[:size], block.offset)
            os.write(log, b"%d\n" % number)  # one write of a few bytes to an appending descriptor is atomic
        except BaseException:
            stop.set()
            raise
        progress(values.size)

    log = os.open(journal, os.O_WRONLY | os.O_APPEND)
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="gguf") as pool:
            for future in [pool.submit(work, item) for item in todo]:
                future.result()
    except OSError as err:
        raise no_room(journal.parent, err) from err
    finally:
        os.close(log)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done
