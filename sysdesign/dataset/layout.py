"""Token counts of rows -> what a trainer must plan for: the worst batch, the packed length, the share that is learned."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from sysdesign.graph import Record

BATCHES = (1, 2, 4, 8, 16)


class Layout(Record):
    """One split. Tokens count pictures; `worst_batch`: rows in a batch to its tokens after padding, the longest rows together."""

    rows: int
    tokens: int
    image_tokens: int
    trained_tokens: int
    longest: int
    median: int
    p95: int
    worst_batch: dict[int, int]
    bins: int  # sequences of `bin_tokens` that hold all rows, best fit first
    bin_tokens: int
    bin_fill: float  # share of the bins that is not padding
    packed: tuple[tuple[int, ...], ...]  # row numbers of each bin; empty for splits that are not trained on


def lay_out_split(tokens: Sequence[int], image_tokens: int, trained_tokens: int, bin_tokens: int, keep: bool) -> Layout:
    """The layout of rows with these token counts, in file order; `keep`: also which row is in which bin."""
    ordered = sorted(tokens)
    packed = pack(tokens, bin_tokens)
    worst = {size: size * ordered[-1] for size in BATCHES if len(ordered) >= size}
    return Layout(
        rows=len(tokens), tokens=sum(tokens), image_tokens=image_tokens, trained_tokens=trained_tokens,
        longest=ordered[-1] if ordered else 0, median=_quantile(ordered, 0.5), p95=_quantile(ordered, 0.95), worst_batch=worst,
        bins=len(packed), bin_tokens=bin_tokens, bin_fill=round(sum(tokens) / (len(packed) * bin_tokens), 4) if packed else 0.0,
        packed=tuple(map(tuple, packed)) if keep else (),
    )  # fmt: skip


def pack(tokens: Sequence[int], limit: int) -> list[list[int]]:
    """Row numbers in bins of at most `limit` tokens: longest first, each into the fullest bin that takes it. O(n log n)."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for row in sorted(range(len(tokens)), key=lambda r: (-tokens[r], r)):
        at = bisect_left(room, (tokens[row], -1))
        if at == len(room):
            bins.append([row])
            insort(room, (limit - tokens[row], len(bins) - 1))
        else:
            left, chosen = room.pop(at)
            bins[chosen].append(row)
            insort(room, (left - tokens[row], chosen))
    return bins


def _quantile(ordered: Sequence[int], q: float) -> int:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0
