"""Graph topologies, seeds and pictures -> train, val or test, so that nothing learned about one can be asked of another.

A split by row would put the same graph, asked twice, on both sides. Systems wired alike share a topology signature whatever
their names and numbers are, and fall into the same split; a topology drawn in the held-out style belongs to test.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from typing import Literal

Split = Literal["train", "val", "test"]


def split_topologies(
    topologies: Iterable[str], held_out: Collection[str], val_share: float, test_share: float, seed: int
) -> dict[str, Split]:
    """Topology to split: all of `held_out` to test, of the others a share (rounded up, so that small sets have all three splits)."""
    everything = set(topologies)
    free = sorted(everything - set(held_out), key=lambda topology: _draw(seed, "topology", topology))
    n_test = min(math.ceil(test_share * len(free)), max(0, len(free) - 1))
    n_val = min(math.ceil(val_share * len(free)), max(0, len(free) - 1 - n_test))
    splits: dict[str, Split] = dict.fromkeys(everything & set(held_out), "test")
    for place, topology in enumerate(free):
        splits[topology] = "test" if place < n_test else "val" if place < n_test + n_val else "train"
    return splits


def split_seed(seed_id: str, val_share: float, test_share: float, seed: int) -> Split:
    """The split of text-only tasks of one seed prompt; it does not depend on which others there are."""
    place = _draw(seed, "seed", seed_id)
    return "test" if place < test_share else "val" if place < test_share + val_share else "train"


def split_user_row(pictures: Collection[str], text: str, val_share: float, seed: int) -> Split | None:
    """The split of a row of your own: by its picture, so that a picture is on one side; None when its pictures disagree."""
    marks = sorted(pictures) or [hashlib.sha256(text.encode()).hexdigest()]
    places = {_draw(seed, "user", mark) < val_share for mark in marks}
    if len(places) > 1:
        return None
    return "val" if places.pop() else "train"


def _draw(seed: int, kind: str, name: str) -> float:
    """In [0, 1), uniform over names and independent of every other name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()[:8], "big") / 2**64
