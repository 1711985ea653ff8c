"""What a dataset says, whatever its files are packed with -> one digest that is equal wherever rows and pixels are equal.

An artefact's digest hashes files, and a PNG or Parquet file depends on the build of zlib and Arrow that packed it. Two
machines that made the same data must be able to say so: this digest covers the written rows and the decoded pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROWS = ("rows/train.jsonl", "rows/val.jsonl", "rows/test.jsonl", "probes.jsonl")


def pixels_sha256(image: Any) -> str:
    """Of an RGB picture: its size and every pixel."""
    return hashlib.sha256(f"{image.width}x{image.height}".encode() + image.tobytes()).hexdigest()


def content_sha256(folder: Path, pixels: Iterable[str]) -> str:
    """Of the dataset in `folder`; `pixels`: hashes of its pictures, in any order."""
    digest = hashlib.sha256()
    for name in ROWS:
        with (folder / name).open("rb") as lines:
            digest.update(hashlib.file_digest(lines, "sha256").digest())
    digest.update("".join(sorted(set(pixels))).encode())
    return digest.hexdigest()


def decoded_sha256(folder: Path) -> str:
    """The same from the files alone: every picture in `images/` is decoded again."""
    from PIL import Image

    def pixels() -> Iterable[str]:
        for path in (folder / "images").iterdir():
            with Image.open(path) as image:
                yield pixels_sha256(image.convert("RGB"))

    return content_sha256(folder, pixels())
