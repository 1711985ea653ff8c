"""A folder of safetensors files -> float32 rows of any tensor, read a block at a time.

Nothing is mapped into memory and nothing is kept: a model of 16 GB is read through buffers of a few megabytes. Names are
brought to one form, because the hub, PEFT and transformers spell the same tensor in three ways.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.errors import InputError

BYTES = {"F32": 4, "BF16": 2, "F16": 2}
_INDEX = "model.safetensors.index.json"
_MEND = "fetch the base again, or name another in base.name"


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies: `offset` bytes into `path`, row-major."""

    name: str  # as in the file
    path: Path
    dtype: str  # F32, BF16 or F16
    shape: tuple[int, ...]
    offset: int

    @property
    def row(self) -> int:
        """Values in one row of the leading dimension."""
        return prod(self.shape[1:])


def canonical(name: str) -> str:
    """`layers.0.mlp.up_proj.weight`, `embed_tokens.weight`, `lm_head.weight` or `visual....`, whoever saved the tensor."""
    name = re.sub(r"^(base_model\.model\.)?(model\.)?(language_model\.)?(model\.)?", "", name)
    return name


def open_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder by canonical name.

    Raises InputError: no weights, a shard that the index names is missing or cut short, a tensor is in no shard, or the weights
    are quantised already.
    """
    index = folder / _INDEX
    single = folder / "model.safetensors"
    if index.is_file():
        shards: Mapping[str, str] = _json(index)["weight_map"]
        files = sorted(set(shards.values()))
    elif single.is_file():
        shards, files = {}, [single.name]
    else:
        raise InputError(str(folder), "must hold model.safetensors or its index", _MEND)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(str(folder), f"every shard in {_INDEX} must be there", _MEND, missing)
    found = {canonical(s.name): s for name in files for s in read_header(folder / name).values()}
    lost = [name for name in shards if canonical(name) not in found]
    if lost:
        raise InputError(str(folder), f"every tensor in {_INDEX} must be in its shard", _MEND, lost[:3])
    return found


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by their names in it. (Format: huggingface/safetensors README, read 2026-11.)"""
    size = path.stat().st_size
    with path.open("rb") as data:
        head = data.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise InputError(str(path), "must be a whole safetensors file", _MEND, f"{size} bytes")
        try:
            entries = json.loads(data.read(length))
        except ValueError:
            raise InputError(str(path), "must be a safetensors file", _MEND) from None
    entries.pop("__metadata__", None)
    found = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        if 8 + length + end > size:
            raise InputError(str(path), f"must be whole; {name} ends at byte {8 + length + end}", _MEND, f"{size} bytes")
        if entry["dtype"] not in BYTES:
            law = f"weights must be 16 or 32 bit floats; {name} is not"
            raise InputError(str(path), law, "give the published 16-bit model, not a quantised copy", entry["dtype"])
        if end - start != prod(entry["shape"]) * BYTES[entry["dtype"]]:
            raise InputError(str(path), f"{name} must have the size that its shape says", _MEND, entry["shape"])
        found[name] = Stored(name, path, entry["dtype"], tuple(entry["shape"]), 8 + length + start)
    return found


class Reader:
    """Reads rows; holds one descriptor a file and no data. Safe to share between threads."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def open(self, paths: set[Path]) -> None:
        """Open before threads start, so that reading needs no lock."""
        for path in paths - self._files.keys():
            self._files[path] = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def rows(self, tensor: Stored, start: int, stop: int, raw: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Rows `start` to `stop` of the leading dimension as (stop - start, row) float32, written into `out`.

        `raw` (uint8) and `out` (float32) are the caller's flat buffers, at least as large as the block.
        """
        count = (stop - start) * tensor.row
        nbytes = count * BYTES[tensor.dtype]
        view: np.ndarray = raw[:nbytes]
        done = 0
        while done < nbytes:
            got = os.preadv(self._files[tensor.path], [view[done:].data], tensor.offset + start * tensor.row * BYTES[tensor.dtype] + done)
            if got == 0:
                raise InputError(str(tensor.path), f"must not shrink while {tensor.name} is read", _MEND)
            done += got
        widen(view, tensor.dtype, out[:count])
        return out[:count].reshape(stop - start, tensor.row)


def widen(raw: np.ndarray, dtype: str, out: np.ndarray) -> None:
    """Bytes of `dtype` -> float32 in `out`, exactly. bfloat16 is the upper half of a float32."""
    match dtype:
        case "BF16":
            np.left_shift(raw.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32)
        case "F16":
            out[:] = raw.view(np.float16)
        case _:
            out[:] = raw.view(np.float32)


def whole(reader: Reader, tensor: Stored) -> np.ndarray:
    """One tensor in its own shape, float32; for small ones."""
    reader.open({tensor.path})
    out: np.ndarray = np.empty(prod(tensor.shape), np.float32)
    raw: np.ndarray = np.empty(out.size * BYTES[tensor.dtype], np.uint8)
    reader.rows(tensor, 0, tensor.shape[0], raw, out)
    return out.reshape(tensor.shape)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(str(path), f"must be readable JSON ({err})", _MEND) from None
