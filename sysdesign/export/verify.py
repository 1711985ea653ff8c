"""A written GGUF file against its plan: what another reader finds in it, tensor by tensor.

llama.cpp falls back to another type in silence where a row does not fit, and keeps the name of the file type; so the types that are
in the file are compared, not the name. The head is read here, not by the gguf package, which takes five seconds for a vocabulary of
152,064 tokens.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from sysdesign.errors import ArtifactError
from sysdesign.export.gguf_file import Planned
from sysdesign.export.kernels import TYPES

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # GGUF's plain value types -> bytes
_STRING, _ARRAY = 8, 9
_NAMES = {number: name for name, (number, _, _) in TYPES.items()}


def verify_gguf(path: Path, tensors: Sequence[Planned]) -> None:
    """Raises ArtifactError unless `path` holds exactly `tensors`, each with its type and shape, whole."""
    mend = "remove it and export again"
    try:
        found, data = read_tensors(path)
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as err:
        raise ArtifactError(str(path), f"must be a whole GGUF file ({err})", mend) from None
    planned = {tensor.name: tensor for tensor in tensors}
    if found.keys() != planned.keys():
        raise ArtifactError(str(path), "must hold the planned tensors and no others", mend, sorted(found.keys() ^ planned.keys())[:3])
    size = path.stat().st_size
    for name, tensor in planned.items():
        kind, shape, offset = found[name]
        if (kind, shape) != (tensor.type, tensor.shape):
            raise ArtifactError(f"{path}: {name}", f"must be {tensor.type} of shape {tensor.shape}", mend, (kind, shape))
        if data + offset + tensor.nbytes > size:
            raise ArtifactError(f"{path}: {name}", "must lie inside the file", mend, f"{size} bytes")


def read_tensors(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int]:
    """Type, row-major shape and offset of every tensor by name, and where the data begins. (Format: ggml docs/gguf.md, version 3.)"""
    with path.open("rb") as file:
        magic, version, tensors, fields = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version != 3:
            raise ValueError(f"starts with {magic!r}, version {version}")
        for _ in range(fields):
            _text(file)
            _skip(file, *struct.unpack("<I", file.read(4)))
        found = {}
        for _ in range(tensors):
            name = _text(file).decode()
            (dimensions,) = struct.unpack("<I", file.read(4))
            shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
            kind, offset = struct.unpack("<IQ", file.read(12))
            found[name] = (_NAMES.get(kind, f"type {kind}"), tuple(reversed(shape)), offset)
        return found, -(-file.tell() // 32) * 32


def _text(file: BinaryIO) -> bytes:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length)


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _text(file)
    elif kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _SIZES:
            file.seek(_SIZES[inner] * count, 1)
            return
        for _ in range(count):
            _skip(file, inner)
    else:
        file.seek(_SIZES[kind], 1)
