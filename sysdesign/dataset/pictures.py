"""Picture bytes -> one resized PNG for each distinct picture, named by its pixels, with the size the model will see.

This is the only place where a training picture is decoded: everything after works with sizes and stored files.
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from sysdesign.dataset.content import pixels_sha256
from sysdesign.graph import Record
from sysdesign.models.picture import PicturePolicy
from sysdesign.models.rows import Unfit
from sysdesign.records import append_jsonl, recover_jsonl

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_ASPECT = 50  # the processors refuse 200; text in anything near that cannot be read anyway
MIN_SIDE_PX = 8
MAX_PIXELS = 50_000_000


class Picture(Record):
    """One stored picture. `outline`: 256 bits, whose Hamming distance says how alike two pictures look."""

    source_sha256: str
    pixels_sha256: str
    name: str  # below images/
    width: int
    height: int
    source_width: int
    source_height: int
    outline: str


class PictureStore:
    """`images/` of a dataset in the making; safe to use from several threads, and to reopen after a kill."""

    def __init__(self, out: Path, journal: Path, policy: PicturePolicy) -> None:
        self._folder, self._journal, self._policy = out / "images", journal, policy
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        found = recover_jsonl(journal, Picture)
        self._known = {picture.source_sha256: picture for picture in found if (self._folder / picture.name).is_file()}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
        """Store the picture once, however often it comes. Raises Unfit when it cannot or must not be decoded."""
        source = hashlib.sha256(data).hexdigest()
        known = self._known.get(source)
        if known is not None:
            _check_pixels(known.source_width, known.source_height, max_pixels)
            return known
        image, outline, size = self._decode(data, max_pixels)
        # Named by its pixels, not by its file: compressors differ between machines, and rows must not.
        pixels = pixels_sha256(image)
        name = pixels[:16] + ".png"
        path = self._folder / name
        if not path.exists():
            partial = path.with_suffix(f".{threading.get_ident()}.tmp")
            partial.write_bytes(_png(image))
            partial.replace(path)
        picture = Picture(
            source_sha256=source, pixels_sha256=pixels, name=name, width=image.width, height=image.height,
            source_width=size[0], source_height=size[1], outline=outline,
        )  # fmt: skip
        with self._lock:
            if source not in self._known:
                self._known[source] = picture
                append_jsonl(self._journal, picture)
        return picture

    def all(self) -> list[Picture]:
        """Every picture, in an order that does not depend on which thread was first."""
        return sorted(self._known.values(), key=lambda picture: (picture.name, picture.source_sha256))

    def _decode(self, data: bytes, max_pixels: int) -> tuple[Any, str, tuple[int, int]]:
        from PIL import Image, ImageOps

        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                width, height = opened.size
                _check_pixels(width, height, max_pixels)
                if min(width, height) < MIN_SIDE_PX:
                    raise Unfit("picture_small", f"{width} x {height} px")
                if max(width, height) > MAX_ASPECT * min(width, height):
                    raise Unfit("picture_shape", f"{width} x {height} px is longer than {MAX_ASPECT}:1")
                opened.load()
                upright = ImageOps.exif_transpose(opened)
                fitted = self._policy.fit(upright)
        except Unfit:
            raise
        except Image.DecompressionBombError as error:
            raise Unfit("picture_bomb", str(error)) from None
        except Exception as error:  # decoders of hostile bytes raise almost anything: SyntaxError, struct.error, zlib.error, ...
            raise Unfit("picture_unreadable", f"{type(error).__name__}: {error}"[:200]) from None
        small = fitted.convert("L").resize((17, 16), Image.Resampling.BOX).tobytes()
        rows = [small[17 * row : 17 * row + 17] for row in range(16)]
        bits = "".join("1" if left > right else "0" for row in rows for left, right in pairwise(row))
        return fitted, f"{int(bits, 2):064x}", (width, height)


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise Unfit("picture_bomb", f"{width} x {height} px is more than the {most:,} allowed")


def _png(image: Any) -> bytes:
    """RGB as PNG without row filters: 11 ms and 205 kB for a drawn picture of a megapixel, where Pillow's writer takes 27 ms and
    212 kB (means of 24 diagrams, Pillow 12.3, one core, 2026-11-22); filters help photographs, not flat areas."""
    import numpy as np

    rows = np.zeros((image.height, 1 + 3 * image.width), np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = np.asarray(image).reshape(image.height, -1)
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 3)), (b"IEND", b""))
    packed = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
