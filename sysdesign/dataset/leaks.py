"""Rows against what they will be judged by -> the reason a row must go, and a proof that the written splits share nothing.

Word n-grams as in GPT-3's decontamination (arXiv 2005.14165, 2020: 13 words), with a second, stricter test by containment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sysdesign.dataset.pictures import Picture
from sysdesign.graph import Record
from sysdesign.models.rows import Unfit
from sysdesign.records import Row

LONG, SHORT = 13, 8
CONTAINED = 0.5  # a row that holds more than this share of a prompt's 8-grams paraphrases it
LAW = f"no {LONG} words in a row, and at most {CONTAINED:.0%} of a prompt's {SHORT}-grams"
ALIKE_BITS = 10  # of 256: re-encoded or rescaled copies differ by less, two drawings of different systems by far more
_WORD = re.compile(r"\w+")


class LeakProof(Record):
    """Counted on the finished files, not assumed from how they were made. All `shared_*` and `*_outside_test` must be 0."""

    headline_prompts: int
    headline_sha256: str
    rows_dropped_for_headline: int
    rows_like_a_prompt: int  # finished rows and probes that share word n-grams with a prompt beyond `ngram_law`; must be 0
    ngram_law: str
    topologies: dict[str, int]  # distinct, by split
    pictures: dict[str, int]
    shared_topologies: int  # between train or val, and test
    shared_pictures: int
    shared_texts: int  # whole rows, question and answer and picture
    held_out_styles: tuple[str, ...]
    held_out_style_rows_outside_test: int
    nearest_picture_bits: int | None  # smallest distance of a training picture to a test picture, of 256; None without pictures


class Headline:
    """The evaluation prompts as n-grams."""

    def __init__(self, prompts: Iterable[tuple[str, str]]) -> None:
        """`prompts`: id and text of each."""
        self._short: dict[tuple[str, ...], set[str]] = {}
        self._long: dict[tuple[str, ...], str] = {}
        self._sizes: dict[str, int] = {}
        for prompt_id, text in prompts:
            words = _words(text)
            grams = set(_grams(words, SHORT))
            self._sizes[prompt_id] = len(grams)
            for gram in grams:
                self._short.setdefault(gram, set()).add(prompt_id)
            for gram in _grams(words, LONG):
                self._long[gram] = prompt_id

    def check(self, row: Row) -> None:
        """Raises Unfit when `row` repeats a prompt, whole or in large part."""
        self.check_text("\n".join(texts_of(row)))

    def check_text(self, text: str) -> None:
        """Raises Unfit when `text` repeats a prompt."""
        words = _words(text)
        hits: dict[str, set[tuple[str, ...]]] = {}
        for gram in _grams(words, SHORT):
            for prompt_id in self._short.get(gram, ()):
                hits.setdefault(prompt_id, set()).add(gram)
        if not hits:
            return
        for gram in _grams(words, LONG):
            if gram in self._long:
                raise Unfit("headline_text", f"shares {LONG} words in a row with the held-out prompt {self._long[gram]}")
        for prompt_id, grams in hits.items():
            if len(grams) > CONTAINED * self._sizes[prompt_id]:
                raise Unfit("headline_text", f"contains {len(grams)} of {self._sizes[prompt_id]} {SHORT}-grams of {prompt_id}")


def texts_of(row: Row) -> Iterable[str]:
    """What is asked and answered, without the system prompt."""
    for message in row.messages:
        if message["role"] != "system":
            yield from (part["text"] for part in message["content"] if part["type"] == "text")


def nearest_bits(ours: Sequence[Picture], theirs: Sequence[Picture]) -> int | None:
    """Smallest Hamming distance between the outlines of two sets of pictures; None when one is empty."""
    if not ours or not theirs:
        return None
    import numpy as np

    def bits(pictures: Sequence[Picture]) -> np.ndarray:
        return np.array([list(bytes.fromhex(picture.outline)) for picture in pictures], dtype=np.uint8)

    ours_bits, their_bits = bits(ours), bits(theirs)
    return min(int(np.bitwise_count(their_bits ^ one).sum(axis=1).min()) for one in ours_bits)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)
