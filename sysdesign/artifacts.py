"""Immutable results on disk: a folder addressed by what made it, whose manifest is written last.

`artifacts/<stage>-<key12>/` appears in one rename, so a folder that exists is whole. Work in progress lives in
`artifacts/.work/<stage>-<key12>/` under a lock and survives a kill, so that the next run resumes there. `key` finds
an artefact (what went in); `digest` proves it (what came out).
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from sysdesign.errors import ArtifactError, LimitError
from sysdesign.graph import Record

MANIFEST = "manifest.json"


class FileEntry(Record):
    """One file below the artefact."""

    path: str  # posix, relative
    size: int  # bytes
    sha256: str


class Manifest(Record):
    """What made an artefact, and what it is made of."""

    stage: str
    version: int
    key: str  # 64 hex digits
    digest: str  # 64 hex digits over the sorted file entries
    seed: int
    config: dict[str, Any]
    inputs: dict[str, str]  # input name -> digest
    prompts: dict[str, str]  # prompt file -> sha256
    report: dict[str, Any]
    note: str = ""
    metrics: dict[str, float] = {}
    files: tuple[FileEntry, ...]
    created: str  # UTC, ISO 8601
    seconds: float  # of this run of the stage
    commit: str | None = None
    machine: str = ""


@dataclass(frozen=True)
class Artifact:
    """A finished result: where it lies and what it is."""

    stage: str
    key: str
    digest: str
    path: Path
    manifest: Manifest


def key_of(stage: str, version: int, config: dict[str, Any], seed: int, prompts: dict[str, str], inputs: dict[str, str]) -> str:
    """The address of a result before it exists: sha256 over everything that can change its bytes."""
    made_by = {"stage": stage, "version": version, "config": config, "seed": seed, "prompts": prompts, "inputs": inputs}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_files(folder: Path) -> tuple[FileEntry, ...]:
    """Entries of every file below `folder` but the manifest, sorted by path."""
    entries = []
    for path in (p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        with path.open("rb") as data:
            sha256 = hashlib.file_digest(data, "sha256").hexdigest()
        entries.append(FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def digest_of(files: tuple[FileEntry, ...]) -> str:
    """One sha256 over path, size and content hash of every file."""
    lines = "".join(f"{f.path}\0{f.size}\0{f.sha256}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


class Store:
    """A folder of artefacts. Several processes may use it at once; each result is made by one of them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        return self.root / f"{stage}-{key[:12]}"

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artefact of that key, or None.

        Sizes of all files are checked on every use and contents on demand (`verify`), because hashing gigabytes at each
        start would cost more than it protects. Raises ArtifactError for a corrupt manifest or a file that changed.
        """
        folder = self.folder(stage, key)
        if not folder.is_dir():
            return None
        artifact = self.load(folder)
        if artifact.key != key:
            raise ArtifactError(str(folder), f"holds another key ({artifact.key[:12]})", f"remove it: rm -r {folder}", key)
        return artifact

    def load(self, folder: Path) -> Artifact:
        """Open an artefact folder by path. Raises ArtifactError as `find` does."""
        path = folder / MANIFEST
        mend = f"remove it and run its stage again: rm -r {folder}"
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ArtifactError(str(path), "an artefact must have a manifest", mend) from None
        except (ValidationError, OSError) as err:
            reason = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
            raise ArtifactError(str(path), f"manifest must be whole ({reason})", mend) from None
        for entry in manifest.files:
            file = folder / entry.path
            size = file.stat().st_size if file.is_file() else None
            if size != entry.size:
                raise ArtifactError(str(file), f"must be the {entry.size} bytes its manifest records", mend, size)
        return Artifact(manifest.stage, manifest.key, manifest.digest, folder, manifest)

    def verify(self, artifact: Artifact) -> None:
        """Hash every byte again. Raises ArtifactError naming the first file that differs, or one that was added."""
        recorded = {entry.path: entry for entry in artifact.manifest.files}
        for entry in hash_files(artifact.path):
            if recorded.pop(entry.path, None) != entry:
                raise ArtifactError(
                    str(artifact.path / entry.path),
                    "must have the sha256 its manifest records",
                    f"it was changed after it was made; remove the artefact and run its stage again: rm -r {artifact.path}",
                    entry.sha256[:12],
                )

    @contextmanager
    def work(self, stage: str, key: str, timeout_s: float) -> Iterator[Path]:
        """The working folder of a result, locked for this process; what a killed run left in it is still there.

        Raises ArtifactError when another process holds it longer than `timeout_s`, LimitError when the disk is full.
        """
        work = self.root / ".work" / f"{stage}-{key[:12]}"
        try:
            work.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(work) + ".lock")
            try:
                lock.acquire(timeout=timeout_s)
            except Timeout:
                raise ArtifactError(
                    f"{work}.lock",
                    "one run at a time makes an artefact, and another one holds this",
                    "wait for it to finish, or allow more time with --runtime.lock_timeout_s",
                    f"waited {timeout_s:g} s",
                ) from None
            try:
                work.mkdir(parents=True, exist_ok=True)
                yield work
            finally:
                lock.release()
        except OSError as err:
            if err.errno in (28, 122):  # ENOSPC, EDQUOT
                free = shutil.disk_usage(self.root if self.root.exists() else Path.cwd()).free
                raise LimitError(
                    str(err.filename or work),
                    "the disk must have room for the artefact",
                    "free space or set --runtime.store to another disk; a rerun goes on where this stopped",
                    f"{free / 2**30:.1f} GiB free",
                ) from None
            if isinstance(err, NotADirectoryError | FileExistsError | PermissionError | FileNotFoundError) and not work.is_dir():
                do = "set --runtime.store to a folder that you may write to"
                raise ArtifactError(str(self.root), f"the store must be a writable folder ({err.strerror})", do) from None
            raise

    def discard(self, stage: str, key: str) -> None:
        """Remove the artefact of that key, manifest first, so that a kill in between leaves nothing that looks whole."""
        folder = self.folder(stage, key)
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def commit(self, work: Path, **about: Any) -> Artifact:
        """Hash every file, write the manifest (`about`: its fields but files, digest and machine), rename the folder into place."""
        files = hash_files(work)
        made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": f"{platform.system()} {platform.machine()}"}
        manifest = Manifest(files=files, digest=digest_of(files), **made, **about)
        partial = work / (MANIFEST + ".tmp")
        partial.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(work / MANIFEST)
        folder = self.folder(manifest.stage, manifest.key)
        work.replace(folder)
        return Artifact(manifest.stage, manifest.key, manifest.digest, folder, manifest)
