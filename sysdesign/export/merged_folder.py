"""The merge -> a model folder in the hub's layout, sharded safetensors with processor and chat template, for other serving stacks."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sysdesign.export.gguf_file import BLOCK, no_room, require_free
from sysdesign.export.kernels import quantise
from sysdesign.export.merge import Merge
from sysdesign.export.weights import BYTES, Stored

_PROCESSOR = ("*token*", "vocab.json", "merges.txt", "*processor_config.json", "chat_template*", "special_tokens_map.json")


def write_merged(
    out: Path, base: Path, processor: Path, merge: Merge, shard_bytes: int, progress: Callable[[int], None] = lambda weights: None
) -> int:
    """Write `out`; every tensor keeps the base's name and precision. Returns bytes of weights. A shard that is there is kept.

    Raises LimitError when the disk is too small, and what the merge raises.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards = _shards(list(merge.weights.items()), shard_bytes)
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    sizes = [sum(_size(stored) for _, stored in shard) for shard in shards]
    require_free(out, sum(size for size, name in zip(sizes, files, strict=True) if not (out / name).exists()))
    for name, shard in zip(files, shards, strict=True):
        if not (out / name).exists():
            try:
                _write_shard(out / name, shard, merge, progress)
            except OSError as err:
                raise no_room(out, err) from err
    index = {
        "metadata": {"total_size": sum(sizes)},
        "weight_map": {stored.name: name for name, shard in zip(files, shards, strict=True) for _, stored in shard},
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for name in ("config.json", "generation_config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    for pattern in _PROCESSOR:
        for file in processor.glob(pattern):
            shutil.copyfile(file, out / file.name)
    return sum(sizes)


def _size(stored: Stored) -> int:
    return int(np.prod(stored.shape, dtype=np.int64)) * BYTES[stored.dtype]


def _shards(tensors: Sequence[tuple[str, Stored]], limit: int) -> list[list[tuple[str, Stored]]]:
    shards: list[list[tuple[str, Stored]]] = [[]]
    room = limit
    for name, stored in tensors:
        if shards[-1] and _size(stored) > room:
            shards.append([])
            room = limit
        shards[-1].append((name, stored))
        room -= _size(stored)
    return shards


def _write_shard(path: Path, shard: Sequence[tuple[str, Stored]], merge: Merge, progress: Callable[[int], None]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for _, stored in shard:
        header[stored.name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [offset, offset + _size(stored)]}
        offset += _size(stored)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    partial = path.with_name(path.name + ".partial")
    packed: np.ndarray = np.empty(0, np.uint8)
    with partial.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for name, stored in shard:
            step = max(1, BLOCK // stored.row)
            for start in range(0, stored.shape[0], step):
                rows = merge.checked_rows(name, start, min(start + step, stored.shape[0]))
                if packed.size < rows.nbytes:
                    packed = np.empty(rows.nbytes, np.uint8)
                out.write(packed[: quantise(stored.dtype, rows, packed)].data)
                progress(rows.size)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
