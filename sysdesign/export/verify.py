"""A written GGUF file against its plan: what another reader finds in it, tensor by tensor.

llama.cpp falls back to another type in silence where a row does not fit, and keeps the name of the file type; so the types that are
in the file are compared, not the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sysdesign.errors import ArtifactError
from sysdesign.export.gguf_file import Planned


def verify_gguf(path: Path, tensors: Sequence[Planned]) -> None:
    """Raises ArtifactError unless `path` holds exactly `tensors`, each with its type and shape, whole."""
    from gguf import GGUFReader

    mend = "remove it and export again"
    try:
        found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    except (ValueError, OSError, IndexError) as err:
        raise ArtifactError(str(path), f"must be a whole GGUF file ({err})", mend) from None
    planned = {tensor.name: tensor for tensor in tensors}
    if found.keys() != planned.keys():
        raise ArtifactError(str(path), "must hold the planned tensors and no others", mend, sorted(found.keys() ^ planned.keys())[:3])
    for name, tensor in planned.items():
        kind, shape = found[name].tensor_type.name, tuple(int(n) for n in reversed(found[name].shape))
        if (kind, shape) != (tensor.type, tensor.shape):
            raise ArtifactError(f"{path}: {name}", f"must be {tensor.type} of shape {tensor.shape}", mend, (kind, shape))
