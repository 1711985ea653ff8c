"""What the stand-in for Ollama keeps on disk: blobs by digest, manifests by name, as manifest/ and server/images.go of the real one do."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

NAME = re.compile(r"^([a-zA-Z0-9_][a-zA-Z0-9_.-]*/)?[a-zA-Z0-9_][a-zA-Z0-9_.-]*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?$")


class Refused(Exception):
    """A request that the server answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Store:
    """A folder with `blobs` and `manifests`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "manifests").mkdir(exist_ok=True)

    def canonical(self, name: str) -> str:
        if not NAME.match(name):
            raise Refused(400, "invalid model name")
        name = name if ":" in name else f"{name}:latest"
        return next((known for known in self.names() if known.lower() == name.lower()), name)

    def names(self) -> list[str]:
        files = sorted((self.folder / "manifests").iterdir(), key=lambda f: f.stat().st_mtime_ns, reverse=True)
        return [f.name.replace("%", ":").replace("^", "/") for f in files]

    def _file(self, name: str) -> Path:
        return self.folder / "manifests" / name.replace(":", "%").replace("/", "^")

    def manifest(self, name: str) -> dict[str, Any]:
        file = self._file(self.canonical(name))
        if not file.exists():
            raise Refused(404, f"model '{name}' not found")
        return dict(json.loads(file.read_text()))

    def digest(self, name: str) -> str:
        return hashlib.sha256(self._file(self.canonical(name)).read_bytes()).hexdigest()

    def copy(self, source: str, destination: str) -> None:
        """The same bytes under another name. What that name held before is not pruned: the real one does that when it starts."""
        self._file(destination).write_bytes(self._file(self.canonical(source)).read_bytes())

    def write(self, name: str, manifest: dict[str, Any]) -> None:
        file = self._file(name)
        old = json.loads(file.read_text()) if file.exists() else None
        file.write_text(json.dumps(manifest, sort_keys=True))
        if old:
            self._prune(old)

    def remove(self, name: str) -> None:
        old = self.manifest(name)
        self._file(self.canonical(name)).unlink()
        self._prune(old)

    def _prune(self, old: dict[str, Any]) -> None:
        used = {layer["digest"] for name in self.names() for layer in self.manifest(name)["layers"]}
        for layer in old["layers"]:
            if layer["digest"] not in used:
                self.blob(layer["digest"]).unlink(missing_ok=True)

    def blob(self, digest: str) -> Path:
        if not re.fullmatch(r"sha256[-:][0-9a-f]{64}", digest):
            raise Refused(400, "invalid digest format")
        return self.folder / "blobs" / digest.replace(":", "-")
