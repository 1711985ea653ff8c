"""A written GGUF file, the base and the adapter -> how much of the adapter is in the file: 1 when it was merged, 0 when it was not.

Quantising moves every weight by more than most adapters do, so no distance between answers tells a merge that changed nothing from
one that was quantised. But quantisation noise does not point anywhere: the file's difference from the base, projected onto the
adapter's update, <file - base, update> / <update, update>, is 1 plus noise that shrinks with the number of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sysdesign.export.families import Piece
from sysdesign.export.gguf_file import BLOCK
from sysdesign.export.merge import Merge
from sysdesign.graph import Record

_SURE = 0.1  # a tensor is judged alone only where the noise of its share is below this


class Presence(Record):
    """`share`: of the whole update. `noise`: its standard error from quantisation. `absent`: tensors that lack theirs."""

    share: float | None  # None when the adapter changes nothing
    noise: float
    absent: tuple[str, ...]

    def passes(self, tolerance: float) -> bool:
        """Whether the share is 1 within the tolerance and three standard errors, and no tensor lacks its part.

        Where three standard errors reach half of the update, present and absent cannot be told apart: that does not pass.
        """
        if self.share is None:
            return True
        return 3 * self.noise < 0.5 and abs(self.share - 1) <= tolerance + 3 * self.noise and not self.absent


def presence(path: Path, pieces: Mapping[str, Piece], merge: Merge) -> Presence:
    """Reads one block of up to `BLOCK` weights of every tensor that the adapter changes."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    along = squares = noise = 0.0
    absent = []
    for tensor in GGUFReader(path).tensors:
        piece = pieces[tensor.name]
        if piece.source not in merge.adapter.pairs:
            continue
        rows = min(piece.shape[0], max(1, BLOCK // piece.shape[1]))
        file = dequantize(np.array(tensor.data[:rows]), tensor.tensor_type).reshape(rows, -1).astype(np.float64)
        base: np.ndarray = merge.base_rows(piece.source, piece.start, piece.start + rows).astype(np.float64)
        update = merge.rows(piece.source, piece.start, piece.start + rows).astype(np.float64) - base
        own, size = float(np.vdot(file - base, update)), float(np.vdot(update, update))
        error = float(np.mean((file - base - update) ** 2)) * size  # variance of `own` if quantisation noise is independent
        if size > 0 and own / size < 0.5 and error**0.5 / size < _SURE:
            absent.append(tensor.name)
        along, squares, noise = along + own, squares + size, noise + error
    if squares == 0:
        return Presence(share=None, noise=0.0, absent=())
    return Presence(share=along / squares, noise=noise**0.5 / squares, absent=tuple(absent))
