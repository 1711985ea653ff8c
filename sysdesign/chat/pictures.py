"""A file from a user -> a PNG that the picture policy leaves alone, or one line saying why it is not a picture."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sysdesign.errors import InputError, LimitError
from sysdesign.models.picture import PicturePolicy

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_MEGAPIXELS = 64  # decoded as RGB that is 192 MB; a 4 x 4 m whiteboard at 2 px/mm
MAX_BYTES = 64 << 20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def prepare(path: Path, policy: PicturePolicy, folder: Path) -> Path:
    """The picture at `path`, upright and resized by `policy`, as a PNG below `folder`.

    Raises InputError when it is no readable picture, LimitError when it is too large to decode.
    """
    try:
        if path.is_dir():
            raise InputError(str(path), "must be a picture, not a folder", "give one file, or ask about all of them with --chat.folder")
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as err:
        raise InputError(str(path), f"a picture must be readable ({err.strerror})", "check the path") from None
    if size > MAX_BYTES:
        raise _too_large(str(path), f"{size / 2**20:.0f} MiB")
    return prepare_bytes(data, str(path), policy, folder)


def prepare_bytes(data: bytes, where: str, policy: PicturePolicy, folder: Path) -> Path:
    """Like `prepare`, for bytes; the same bytes and policy give the same file."""
    name = hashlib.sha256(data + policy.model_dump_json().encode()).hexdigest()[:16] + ".png"
    out = folder / name
    if not out.exists():
        picture = policy.fit(open_upright(data, where))
        folder.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(f".{os.getpid()}.tmp")
        picture.save(partial, format="PNG")
        partial.replace(out)
    return out


def open_upright(data: bytes, where: str) -> Image:
    """Decoded, turned as the camera was held. Only the header is read of a picture that is too large."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if len(data) > MAX_BYTES:
        raise _too_large(where, f"{len(data) / 2**20:.0f} MiB")
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # the limit below is lower
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        megapixels = picture.width * picture.height / 1e6
        if megapixels > MAX_MEGAPIXELS:
            raise _too_large(where, f"{picture.width} x {picture.height}, {megapixels:.0f} megapixels")
        picture.load()
        return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        law = f"must be a picture ({', '.join(FORMATS)})"
        raise InputError(where, law, "save it as PNG", data[:12].decode("latin-1") or "an empty file") from None
    except Image.DecompressionBombError:
        raise _too_large(where, "more than 178 megapixels") from None
    except (OSError, ValueError, SyntaxError) as err:  # what PIL's decoders raise on damaged data
        raise InputError(where, f"must be a whole picture ({err})", "save it again") from None


def _too_large(where: str, got: str) -> LimitError:
    return LimitError(where, f"a picture has at most {MAX_MEGAPIXELS} megapixels and {MAX_BYTES >> 20} MiB", "scale it down", got)
