"""Pictures -> what the language model sees of them: patches, or the frozen vision tower's features, computed once and kept on disk.

With the tower and the merger frozen their output depends on the picture, the image processor and the tower's weights alone;
those three name the file, so epochs, sweep trials and resumed runs share it and any change misses it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sysdesign.train.ranks import Rank
from sysdesign.train.samples import Sample


@dataclass(frozen=True)
class Pictures:
    """Loads a sample's pictures. `cache`: folder of features, or None when the tower is trained and runs at every step."""

    processor: Any
    dtype: torch.dtype
    cache: Path | None

    def pixels(self, sample: Sample) -> Tensor:
        """Patches of all the sample's pictures: (sum of t*h*w, channels * patch volume) fp32."""
        from PIL import Image

        opened = []
        for path in sample.pictures:
            with Image.open(path) as picture:
                opened.append(picture.convert("RGB"))
        return self.processor.image_processor(images=opened, do_resize=False, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]

    def __call__(self, sample: Sample) -> tuple[Tensor | None, tuple[Tensor, ...], Tensor | None]:
        """(features, deep features, pixels): one of the first and the last is None."""
        if self.cache is None:
            return None, (), self.pixels(sample)
        from safetensors.torch import load_file

        parts = [load_file(self.cache / f"{picture_digest(path)}.safetensors") for path in sample.pictures]
        deep = tuple(torch.cat([p[f"deep{i}"] for p in parts]) for i in range(len(parts[0]) - 1))
        return torch.cat([p["features"] for p in parts]), deep, None


def cache_folder(root: Path, model: Any, processor: Any, dtype: torch.dtype) -> Path:
    """Where features of this tower, this image processor and this precision lie below `root`."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.visual.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str).encode())
    digest.update(str(dtype).encode())
    return root / digest.hexdigest()[:16]


def fill(folder: Path, model: Any, pictures: Pictures, samples: Sequence[Sample], device: torch.device, rank: Rank | None = None) -> int:
    """Compute and store the features of every picture that has none yet, shared out over the ranks; returns how many were computed."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    wanted = {picture_digest(path): (path, grid) for s in samples for path, grid in zip(s.pictures, s.grids, strict=True)}
    rank = rank or Rank()
    mine = sorted(wanted.items())[rank.index :: rank.count]
    missing = {digest: at for digest, at in mine if not (folder / f"{digest}.safetensors").exists()}
    for digest, (path, grid) in tqdm(missing.items(), desc="vision features", unit="picture", disable=not missing or not rank.writes):
        alone = _alone(path, grid)
        with torch.no_grad():
            features, deep = encode(model, pictures.pixels(alone).to(device), torch.tensor([grid], device=device))
        tensors = {"features": features, **{f"deep{i}": d for i, d in enumerate(deep)}}
        partial = folder / f".{digest}.{os.getpid()}.tmp"
        save_file({name: t.to(pictures.dtype).cpu().contiguous() for name, t in tensors.items()}, partial)
        partial.replace(folder / f"{digest}.safetensors")
    rank.meet()
    return len(missing)


def encode(model: Any, pixels: Tensor, grids: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the vision tower and merger: (P, H) features and the middle features that Qwen3-VL adds to its first layers."""
    out = model.get_image_features(pixels, grids)
    deep = getattr(out, "deepstack_features", None) or ()
    return torch.cat(tuple(out.pooler_output)), tuple(deep)


def picture_digest(path: Path) -> str:
    """First 32 hex digits of the file's sha256, remembered by path, size and time."""
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


def _digest(path: str, size: int, mtime_ns: int) -> str:
    key = (path, size, mtime_ns)
    if key not in _DIGESTS:
        _DIGESTS[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32]
    return _DIGESTS[key]


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _alone(path: Path, grid: tuple[int, int, int]) -> Sample:
    import numpy as np

    none: Any = np.zeros(0, dtype=np.int64)
    return Sample("", none, none, none, (path,), (grid,))
