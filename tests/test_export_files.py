"""A GGUF file is whole after a kill, of one plan only, and written in bounded memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sysdesign.export import kernels
from sysdesign.export.adapter import NO_ADAPTER
from sysdesign.export.gguf_file import Planned, write_gguf
from sysdesign.export.merge import Merge
from sysdesign.export.weights import open_weights

ROOT = Path(__file__).parents[1]


def big(rows: int) -> list[Planned]:
    return [Planned(f"t{i}", (rows, 2048), "Q8_0", i) for i in range(3)]


def fill(tensor: Planned, start: int, stop: int) -> np.ndarray:
    return np.random.default_rng([tensor.source, start]).standard_normal((stop - start, 2048), dtype=np.float32)


def test_a_stopped_pass_goes_on_where_it_was(tmp_path: Path) -> None:
    def write_to(path: Path, rows: Callable[[Planned, int, int], np.ndarray]) -> int:
        return write_gguf(path, "qwen2vl", lambda writer: writer.add_name("x"), big(4096), rows, kernels.quantise, workers=2)

    asked: list[tuple[int, int]] = []

    def stops(tensor: Planned, start: int, stop: int) -> np.ndarray:
        asked.append((tensor.source, start))
        if len(asked) == 7:
            raise KeyboardInterrupt
        return fill(tensor, start, stop)

    with pytest.raises(KeyboardInterrupt):
        write_to(tmp_path / "a.gguf", stops)
    first = len(asked)
    assert not (tmp_path / "a.gguf").exists()
    asked.clear()
    write_to(tmp_path / "a.gguf", lambda t, a, b: asked.append((t.source, a)) or fill(t, a, b))  # type: ignore[func-returns-value]
    assert len(asked) <= 12 - (first - 2) < 12
    write_to(tmp_path / "b.gguf", fill)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_a_killed_process_leaves_a_file_that_the_next_one_finishes(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.test_export_files import *\n"
        "def slow(t, a, b):\n    time.sleep(0.1); return fill(t, a, b)\n"
        "write_gguf(Path(sys.argv[1]), 'qwen2vl', lambda w: w.add_name('x'), big(4096), slow, kernels.quantise, workers=1)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.gguf")], cwd=ROOT)
    journal = tmp_path / "a.gguf.journal"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    asked = []

    def counted(tensor: Planned, start: int, stop: int) -> np.ndarray:
        asked.append(start)
        return fill(tensor, start, stop)

    write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("x"), big(4096), counted, kernels.quantise, workers=1)
    write_gguf(tmp_path / "b.gguf", "qwen2vl", lambda w: w.add_name("x"), big(4096), fill, kernels.quantise, workers=1)
    assert len(asked) < 10 and (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_another_plan_does_not_go_on_with_old_blocks(tmp_path: Path) -> None:
    def boom(tensor: Planned, start: int, stop: int) -> np.ndarray:
        if tensor.source == 1:
            raise KeyboardInterrupt
        return fill(tensor, start, stop)

    for name in ("old", "new"):
        rows, error = (boom, KeyboardInterrupt) if name == "old" else (fill, None)
        if error:
            with pytest.raises(error):
                write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("old"), big(1024), rows, kernels.quantise, workers=1)
        else:
            write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("new"), big(1024), rows, kernels.quantise, workers=1)
    write_gguf(tmp_path / "b.gguf", "qwen2vl", lambda w: w.add_name("new"), big(1024), fill, kernels.quantise, workers=1)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """A head of 131,072 rows is 128 MB in float32; the merge and the writer hold the buffers of one block a thread."""
    from safetensors.numpy import save_file

    from sysdesign.export.families import Piece
    from sysdesign.export.merge import plan

    save_file({"lm_head.weight": np.zeros((131072, 256), np.float16)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    tensors = plan([Piece("output.weight", "lm_head.weight", (131072, 256))], {"output.weight": "Q4_K"})
    kernels.quantise("Q4_K", np.zeros((1, 256), np.float32), np.empty(144, np.uint8))
    with Merge(weights, NO_ADAPTER) as merge:
        tracemalloc.start()
        write_gguf(tmp_path / "a.gguf", "qwen2vl", lambda w: w.add_name("x"), tensors, merge, kernels.quantise, workers=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 90e6  # two threads, four buffers of at most 8 MiB each, and what the header takes
