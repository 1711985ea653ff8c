"""Base shards and adapter -> rows of the merged weights in float32, block by block, from several threads.

The sum is taken in float32 and rounded once, to what the file holds. Adding into 16-bit weights first would round away most of an
update that is a thousandth of the weight it changes. `dequantised` adds the update to what training saw: the NF4 form of the base.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sysdesign.errors import InputError
from sysdesign.export.adapter import Adapter, Update
from sysdesign.export.families import Piece
from sysdesign.export.gguf_file import BLOCK, Planned
from sysdesign.export.kernels import F16_MAX
from sysdesign.export.weights import Reader, Stored


@dataclass
class Merge:
    """Calling it gives rows of a planned tensor whose `source` is a Piece. Use as a context manager: it holds file descriptors."""

    weights: Mapping[str, Stored]
    adapter: Adapter
    dequantised: bool = False
    _reader: Reader = field(default_factory=Reader)
    _local: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: dict[str, Update | None] = field(default_factory=dict)
    _base4: dict[str, np.ndarray] = field(default_factory=dict)

    def __enter__(self) -> Merge:
        self._reader.open({stored.path for stored in self.weights.values()})
        self._reader.open({part.path for pair in self.adapter.pairs.values() for part in pair})
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def __call__(self, tensor: Planned, start: int, stop: int) -> np.ndarray:
        """Rows of the merged tensor as (stop - start, row) float32, valid until this thread's next call.

        Raises InputError for a value that is not finite, or that 16-bit floats cannot hold.
        """
        piece: Piece = tensor.source
        if piece.plane is not None:
            values = self._plane(piece)[start:stop]
        else:
            values = self.rows(piece.source, piece.start + start, piece.start + stop) if len(piece.shape) > 1 else self._vector(piece)
        _check(values, tensor.type, self.weights[piece.source])
        return values

    def checked_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Like `rows`, refusing what the stored precision cannot hold."""
        values = self.rows(name, start, stop)
        _check(values, self.weights[name].dtype, self.weights[name])
        return values

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Merged rows of the stored tensor `name`."""
        block = self.base_rows(name, start, stop)
        update = self._update(name)
        if update is not None:
            block += update.rows(start, stop, self._buffers(block.size)[2])
        return block

    def base_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows to which the update is added: as published, or through four bits where training saw four bits."""
        stored = self.weights[name]
        size = (stop - start) * stored.row
        raw, values, _ = self._buffers(size)
        if not self.dequantised or name not in self.adapter.pairs:
            return self._reader.rows(stored, start, stop, raw, values)
        block = values[:size].reshape(stop - start, stored.row)
        block[:] = self._four_bit(name)[start:stop]
        return block

    def _vector(self, piece: Piece) -> np.ndarray:
        count = piece.shape[0]
        stored = self.weights[piece.source]
        raw, values, _ = self._buffers(count)
        return self._reader.rows(stored, piece.start, piece.start + count, raw, values).reshape(1, count)

    def _plane(self, piece: Piece) -> np.ndarray:
        """One time step of the patch filter, whole: it is a few megabytes in the largest tower."""
        stored = self.weights[piece.source]
        raw, values, _ = self._buffers(stored.shape[0] * stored.row)
        block = self._reader.rows(stored, 0, stored.shape[0], raw, values).reshape(stored.shape)
        return np.ascontiguousarray(block[:, :, piece.plane]).reshape(-1, piece.shape[-1])

    def _buffers(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        held: tuple[np.ndarray, ...] | None = getattr(self._local, "buffers", None)
        if held is None or held[1].size < count:
            size = max(count, BLOCK)
            self._local.buffers = held = (np.empty(size * 4, np.uint8), np.empty(size, np.float32), np.empty(size, np.float32))
        return held[0], held[1], held[2]

    def _update(self, name: str) -> Update | None:
        """The update of `name`, kept while its tensor is in work: blocks come in order, so a few at a time are enough."""
        with self._lock:
            if name not in self._held:
                while len(self._held) >= 4:
                    del self._held[next(iter(self._held))]
                self._held[name] = self.adapter.update(name, self._reader)
            return self._held[name]

    def _four_bit(self, name: str) -> np.ndarray:
        with self._lock:
            if name not in self._base4:
                self._base4.clear()  # one tensor at a time: a 7B model's largest is 271 MB in float32
                self._base4[name] = _through_nf4(self._reader, self.weights[name])
            return self._base4[name]


def _through_nf4(reader: Reader, stored: Stored) -> np.ndarray:
    """The weight as QLoRA's forward pass sees it: NF4 with doubly quantised scales, back to 16 bit (Dettmers, arXiv 2305.14314)."""
    import torch
    from bitsandbytes import functional

    from sysdesign.export.weights import whole

    weight = torch.from_numpy(whole(reader, stored)).to(torch.bfloat16)
    packed, state = functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    return functional.dequantize_4bit(packed, state).to(torch.float32).numpy()


def _check(values: np.ndarray, type_name: str, stored: Stored) -> None:
    # one pass without a temporary: a sum is finite only if every term is (a block cannot overflow from weights of sane size)
    if not math.isfinite(float(values.sum(dtype=np.float64))):
        do = "the training diverged, or the file is damaged: train or fetch again"
        raise InputError(f"{stored.path.name}: {stored.name}", "weights must be finite after the merge", do, "NaN or infinity")
    if type_name == "F16" and (largest := float(max(values.max(), -values.min()))) > F16_MAX:
        raise InputError(
            stored.name,
            f"f16 holds values up to {F16_MAX:.0f}",
            "choose bf16 or q8_0 in export.quantisations, and set export.parity.f16 to false",
            largest,
        )


def plan(pieces: Iterable[Piece], types: Mapping[str, str]) -> list[Planned]:
    """What the writer is to write, in the order of `pieces`."""
    return [Planned(piece.name, piece.shape, types[piece.name], piece) for piece in pieces]
