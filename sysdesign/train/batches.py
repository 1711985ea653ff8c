"""Samples -> the tensors of one forward pass: padded for transformers' own forward, or packed end to end for the fast path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sysdesign.models.rows import IGNORED
from sysdesign.train.samples import Sample


@dataclass(frozen=True)
class Packed:
    """One packed pass of T tokens, of which N are learned from, with P picture tokens.

    ids: (T,); positions: (3, T); keep: (N,) rows whose next token is the target; targets: (N,); starts: (S + 1,) int32;
    spots: (P,) rows that picture features replace; features: (P, H), or None when `pixels` and `grids` are to be encoded;
    deep: middle vision features (Qwen3-VL), each (P, H).
    """

    ids: Tensor
    positions: Tensor
    keep: Tensor
    targets: Tensor
    starts: Tensor
    edges: tuple[int, ...]
    spots: Tensor
    features: Tensor | None
    deep: tuple[Tensor, ...]
    pixels: Tensor | None
    grids: Tensor | None

    def to(self, device: Any) -> Packed:
        """The same pass on `device`; host copies are pinned first, so that the transfer overlaps with work in flight."""

        def move(x: Tensor | None) -> Tensor | None:
            if x is None or x.device.type == torch.device(device).type:
                return x
            return (x.pin_memory() if torch.device(device).type == "cuda" else x).to(device, non_blocking=True)

        names = ("ids", "positions", "keep", "targets", "starts", "spots", "features", "pixels", "grids")
        moved = {name: move(getattr(self, name)) for name in names}
        return Packed(**moved, edges=self.edges, deep=tuple(x for x in map(move, self.deep) if x is not None))  # type: ignore[arg-type]


def packed(samples: Sequence[Sample], image_token_id: int, pictures: Any) -> Packed:
    """Lay samples end to end. `pictures(sample)` gives (features, deep, pixels) of its pictures, see `features.py`."""
    edges: np.ndarray = np.cumsum([0, *(len(s.ids) for s in samples)])
    ids = np.concatenate([s.ids for s in samples])
    shifted = np.concatenate([np.append(s.labels[1:], IGNORED) for s in samples])
    keep = np.flatnonzero(shifted != IGNORED)
    loaded = [pictures(s) for s in samples if s.pictures]
    features = [f for f, _, _ in loaded if f is not None]
    pixels = [p for _, _, p in loaded if p is not None]
    deep = tuple(torch.cat(parts) for parts in zip(*(d for _, d, _ in loaded), strict=True)) if loaded else ()
    grids = [grid for s in samples for grid in s.grids]
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(np.concatenate([s.positions for s in samples], 1)),
        keep=torch.from_numpy(keep),
        targets=torch.from_numpy(shifted[keep]),
        starts=torch.from_numpy(edges.astype(np.int32)),
        edges=tuple(int(e) for e in edges),
        spots=torch.from_numpy(np.flatnonzero(ids == image_token_id)),
        features=torch.cat(features) if features else None,
        deep=deep,
        pixels=torch.cat(pixels) if pixels else None,
        grids=torch.tensor(grids) if grids else None,
    )


def padded(samples: Sequence[Sample], image_token_id: int, pad_id: int, pixels: Any) -> dict[str, Tensor]:
    """Arguments of transformers' forward, padded on the right. `pixels(sample)` gives its pictures' patches."""
    longest = max(len(s.ids) for s in samples)

    def stack(rows: list[np.ndarray], fill: int) -> Tensor:
        return torch.from_numpy(np.stack([np.pad(r, (0, longest - len(r)), constant_values=fill) for r in rows]))

    batch = {
        "input_ids": stack([s.ids for s in samples], pad_id),
        "attention_mask": stack([np.ones_like(s.ids) for s in samples], 0),
        "labels": stack([s.labels for s in samples], IGNORED),
        "mm_token_type_ids": stack([(s.ids == image_token_id).astype(np.int64) for s in samples], 0),
    }
    grids = [grid for s in samples for grid in s.grids]
    if grids:
        batch["pixel_values"] = torch.cat([pixels(s) for s in samples if s.pictures])
        batch["image_grid_thw"] = torch.tensor(grids)
    return batch
