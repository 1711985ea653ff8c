"""From a text and a family to pixels: packaged fonts only, so that a picture has the same bytes on every machine.

Roboto, Arimo and Comic Neue lie beside this file (SIL Open Font License 1.1); DejaVu, which covers Greek, Cyrillic and symbols,
comes inside matplotlib. A text that none of them can draw correctly is refused: never a box in place of a letter.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sysdesign.errors import InputError, ToolError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_HERE = Path(__file__).parent / "fonts"
_FILES = {
    "roboto": ("roboto-latin.woff", "roboto-latin-bold.woff"),
    "arimo": ("arimo-latin.woff", "arimo-latin-bold.woff"),
    "hand": ("comic-neue-latin.woff", "comic-neue-latin-bold.woff"),
    "dejavu": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
}
_FALLBACK = "dejavu"


@lru_cache(maxsize=512)
def font(family: str, size_px: float, bold: bool = False) -> FreeTypeFont:
    """The font at a size. Raises ToolError when its file is missing or unreadable."""
    from PIL import ImageFont

    path = _folder(family) / _FILES[family][bold]
    try:
        # the basic layout engine: with raqm, bytes would depend on whether the system has FriBiDi
        return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)
    except OSError as err:
        how = "`git checkout sysdesign/diagrams/fonts`" if path.parent == _HERE else "install matplotlib, which carries it"
        raise ToolError(f"font {path.name}", f"must be a readable font file ({err})", how) from None


@lru_cache(maxsize=65536)
def width(family: str, size_px: float, text: str, bold: bool = False) -> float:
    """Advance width in pixels, without kerning, which only brings letters closer: asking the font for each text takes ten times as long."""
    return sum(_advance(family, size_px, letter, bold) for letter in text)


@lru_cache(maxsize=65536)
def _advance(family: str, size_px: float, letter: str, bold: bool) -> float:
    return float(font(family, size_px, bold).getlength(letter))


@lru_cache(maxsize=16)
def as_large_as(family: str, size_px: float) -> float:
    """The size, to half a pixel, at which `family`'s lowercase letters are as tall as those of DejaVu at `size_px`.

    What can be read depends on these letters, not on the nominal size: at 10.5 px in DejaVu and 11.5 px in Comic Neue
    and more, tesseract reads 98 % and 96 % of the words (experiments/LOG.md).
    """
    return round(2 * size_px * _x_height(_FALLBACK) / _x_height(family)) / 2


def _x_height(family: str) -> float:
    return -float(font(family, 200.0).getbbox("x", anchor="ls")[1])


@lru_cache(maxsize=16384)
def family_for(family: str, text: str) -> str:
    """`family` if it has every letter, else DejaVu. Raises InputError naming the letters that neither can draw."""
    for candidate in (family, _FALLBACK):
        if not _missing(candidate, text):
            return candidate
    bad = sorted(_missing(_FALLBACK, text))
    named = ", ".join(f"{c} (U+{ord(c):04X})" for c in bad[:5])
    raise InputError(
        f"label {text[:60]!r}",
        f"every letter must be in a packaged font, and written left to right; not so: {named}",
        "write the label in Latin, Greek or Cyrillic letters",
    )


def clean(text: str) -> str:
    """Composed letters, and single spaces for every kind of white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def wrap(family: str, size_px: float, text: str, limit_px: float, bold: bool = False) -> list[str]:
    """Lines no wider than `limit_px`; a word that is wider by itself is broken between letters."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if width(family, size_px, longer, bold) <= limit_px:
            line = longer
            continue
        if line:
            lines.append(line)
        while width(family, size_px, word, bold) > limit_px:
            cut = next(n for n in range(len(word), 0, -1) if n == 1 or width(family, size_px, word[:n], bold) <= limit_px)
            if cut == len(word):
                break
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line or not lines else lines


@lru_cache(maxsize=16)
def _folder(family: str) -> Path:
    if (_HERE / _FILES[family][0]).name.endswith(".woff"):
        return _HERE
    spec = importlib.util.find_spec("matplotlib")  # located, not imported: importing it takes half a second
    if spec is None or not spec.submodule_search_locations:
        raise ToolError(f"font {_FILES[family][0]}", "comes inside matplotlib, which is not installed", "`pip install matplotlib`")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=16384)
def _lacks(family: str, letter: str) -> bool:
    if letter.isspace() or (letter.isascii() and letter.isprintable()):
        return False
    # right-to-left scripts and combining marks need shaping, which the basic layout engine does not do
    if unicodedata.bidirectional(letter) in ("R", "AL", "AN") or unicodedata.category(letter) in (
        "Mn",
        "Mc",
        "Me",
        "Cc",
        "Cf",
        "Co",
        "Cn",
        "Cs",
    ):
        return True
    face = font(family, 24.0)
    return bytes(face.getmask(letter)) == bytes(face.getmask("\uffff"))


def _missing(family: str, text: str) -> set[str]:
    return {letter for letter in set(text) if _lacks(family, letter)}
