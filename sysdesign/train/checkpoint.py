"""Checkpoints that a killed run can trust: sealed when whole, checked before use, refused when they belong to another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from sysdesign.errors import ArtifactError

SEAL = "seal.json"


def seal(folder: Path, origin: Mapping[str, str]) -> None:
    """Record the sha256 of every file; written last, so that a checkpoint without a seal was never finished.

    `origin`: everything that decides a run, by name (settings, seed, dataset, base).
    """
    files = {p.relative_to(folder).as_posix(): _digest(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != SEAL}
    partial = folder / (SEAL + ".tmp")
    partial.write_text(json.dumps({"origin": _short(origin), "files": files}), encoding="utf-8")
    partial.replace(folder / SEAL)


def newest(folder: Path, origin: Mapping[str, str]) -> Path | None:
    """The newest finished checkpoint below `folder`, or None.

    Raises ArtifactError when its bytes changed since it was sealed, or when it belongs to other settings, data or base.
    """
    sealed = [p for p in folder.glob("checkpoint-*") if (p / SEAL).is_file()]
    if not sealed:
        return None
    found = max(sealed, key=lambda p: int(p.name.rsplit("-", 1)[1]))
    mend = f"remove it to start from the one before, or from the beginning: rm -r {found}"
    try:
        recorded = json.loads((found / SEAL).read_text(encoding="utf-8"))
        files, made = dict(recorded["files"]), dict(recorded["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(str(found / SEAL), "a checkpoint's seal must be readable JSON", mend) from None
    other = [name for name, value in _short(origin).items() if made.get(name) != value]
    if other:
        law = "a run resumes only with the settings, the seed, the data and the base it was started with"
        raise ArtifactError(str(found), law, f"give this run its own folder, or start anew: rm -r {folder}", f"another {', '.join(other)}")
    for name, digest in files.items():
        if not (found / name).is_file() or _digest(found / name) != digest:
            raise ArtifactError(str(found / name), "a checkpoint must have the bytes it was sealed with", mend)
    return found


def _short(origin: Mapping[str, str]) -> dict[str, str]:
    """16 hex digits of each value."""
    return {name: hashlib.sha256(value.encode()).hexdigest()[:16] for name, value in origin.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
