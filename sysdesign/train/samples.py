"""Dataset rows -> token ids, labels that are known only where the assistant speaks, and the three position axes of every token.

Everything here is settled on the CPU before training: a row that cannot be used is left out with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.models.rows import IGNORED, Unfit, lay_out, learned_tokens
from sysdesign.records import Row


@dataclass(frozen=True)
class Sample:
    """One row, ready to train on. ids, labels: (T,) int64; positions: (3, T) int64; grids: patches (t, h, w) of each picture."""

    id: str
    ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    pictures: tuple[Path, ...]
    grids: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Skipped:
    """A row that is not trained on, and why."""

    id: str
    reason: str


def encode(rows: Iterable[Row], folder: Path, processor: Any, model: Any, max_length: int) -> tuple[list[Sample], list[Skipped]]:
    """Tokenise every row with the base's own processor; pictures lie below `folder` and satisfy the picture policy already."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for row in rows:
        found = _encode(row, folder, processor, model)
        if isinstance(found, str):
            skipped.append(Skipped(row.id, found))
        elif len(found.ids) > max_length:
            skipped.append(Skipped(row.id, f"{len(found.ids)} tokens, more than train.max_length ({max_length})"))
        elif not (found.labels != IGNORED).any():
            skipped.append(Skipped(row.id, "no token to learn from"))
        else:
            samples.append(found)
    return samples, skipped


def _encode(row: Row, folder: Path, processor: Any, model: Any) -> Sample | str:
    import torch

    paths = tuple(folder / name for name in row.images)
    grids = []
    merge, patch = processor.image_processor.merge_size, processor.image_processor.patch_size
    for path in paths:
        size = _size(path)
        if size is None:
            return f"picture {path.name} cannot be read"
        width, height = size
        if width % (patch * merge) or height % (patch * merge):
            return f"picture {path.name} is {width} x {height} px, not multiples of {patch * merge}"
        grids.append((1, height // patch, width // patch))
    try:
        laid = lay_out(row.messages, processor)
        plain = processor.tokenizer(laid.text, add_special_tokens=False, return_offsets_mapping=True)
        learned: Any = np.zeros(len(plain["input_ids"]), dtype=bool)
        for first, last in learned_tokens(plain["offset_mapping"], laid.spans):
            learned[first:last] = True
    except Unfit as unfit:
        return str(unfit)
    image_id = int(processor.tokenizer.convert_tokens_to_ids(processor.image_token))
    folded = np.array(plain["input_ids"], dtype=np.int64)
    if int((folded == image_id).sum()) != len(grids):
        return f"{int((folded == image_id).sum())} picture places for {len(grids)} pictures"
    times = np.ones_like(folded)
    times[folded == image_id] = [t * h * w // merge**2 for t, h, w in grids]
    ids = folded.repeat(times)
    labels = np.where(learned.repeat(times), ids, IGNORED)
    with torch.no_grad():
        positions, _ = model.get_rope_index(
            torch.from_numpy(ids)[None],
            mm_token_type_ids=torch.from_numpy((ids == image_id).astype(np.int32))[None],
            image_grid_thw=torch.tensor(grids) if grids else None,
        )
    return Sample(row.id, ids, labels, positions[:, 0].numpy(), paths, tuple(grids))


@lru_cache(maxsize=4096)  # many rows ask about one picture
def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture that decodes to its end, None of any other."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow raises all of these for broken files
        return None


def label_table(sample: Sample, processor: Any, most: int = 200) -> str:
    """Tokens of one sample and what is learned from each, runs of picture tokens folded: proof that questions are masked."""
    lines = ["| token | learned |", "|---|---|"]
    image = processor.image_token
    folded = image.replace("|", "\\|")
    run = 0
    for token, label in zip(processor.tokenizer.convert_ids_to_tokens(sample.ids.tolist()), sample.labels.tolist(), strict=True):
        if token == image:
            run += 1
            continue
        if run:
            lines.append(f"| `{folded}` x {run} |  |")
            run = 0
        shown = token.replace("|", "\\|").replace("\n", "\\n")
        lines.append(f"| `{shown}` | {'yes' if label >= 0 else ''} |")
    return "\n".join(lines[: most + 2]) + "\n"
