"""A dataset artefact -> its rows, and a row -> token ids, labels and patches exactly as the base's own processor makes them.

The one place that decides which tokens are learned: what the assistant says, up to and with its end mark, in every turn.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sysdesign.artifacts import Artifact
from sysdesign.errors import ArtifactError
from sysdesign.records import Row, read_jsonl

IGNORED = -100
Split = Literal["train", "val", "test"]


class Unfit(ValueError):
    """A row that cannot be laid out. `reason` is a short code, `detail` a sentence: the caller rejects the row with them."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True)
class Laid:
    """A conversation as the chat template writes it, one placeholder a picture; `spans`: characters that are learned."""

    text: str
    spans: tuple[tuple[int, int], ...]


def iter_split(dataset: Artifact, split: Split) -> Iterator[Row]:
    """Rows of `train`, `val` or `test` in file order, streamed. Raises ArtifactError as `read_jsonl`."""
    return read_jsonl(dataset.path / "rows" / f"{split}.jsonl", Row)


def load_split(dataset: Artifact, split: Split) -> list[Row]:
    """All rows of a split."""
    return list(iter_split(dataset, split))


def load_probes(dataset: Artifact) -> list[Row]:
    """Single questions on graphs no training row has seen. The last message is the reference answer: do not show it to a model."""
    return list(read_jsonl(dataset.path / "probes.jsonl", Row))


def question_of(row: Row) -> list[dict[str, Any]]:
    """The messages up to, and without, the last answer."""
    return list(row.messages[:-1])


def fingerprint(processor: Any) -> str:
    """sha256 over all that turns a row into numbers: chat template, tokenizer, picture settings. Two equal ones compile equally."""
    tokenizer = processor.tokenizer
    pictures = processor.image_processor
    names = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "rescale_factor", "do_resize", "do_rescale")
    about = {
        "template": processor.chat_template or tokenizer.chat_template,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "pictures": {name: getattr(pictures, name, None) for name in names},
        "bounds": {name: pictures.size[name] for name in ("shortest_edge", "longest_edge")},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def require_compiled(dataset: Artifact, processor: Any) -> None:
    """Raises ArtifactError unless `dataset` was compiled against a processor that equals this one."""
    path = dataset.path / "compile.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["processor_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(str(path), "a dataset must be compiled before it is used", "run the dataset stage again") from None
    wanted = fingerprint(processor)
    if found != wanted:
        law = f"the dataset must be compiled against this base's processor ({wanted[:12]})"
        raise ArtifactError(str(path), law, "run the dataset stage with this base", str(found)[:12])


def lay_out(messages: Sequence[Mapping[str, Any]], processor: Any) -> Laid:
    """The text of a whole conversation and where its learned parts lie.

    For every answer the template writes the conversation up to it (with the opening of the assistant's turn) and with it;
    both must be beginnings of the whole text, or else the mask would be a guess. Raises Unfit.
    """
    messages = list(messages)
    whole = processor.apply_chat_template(messages, tokenize=False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opening = processor.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        closed = whole if index + 1 == len(messages) else processor.apply_chat_template(messages[: index + 1], tokenize=False)
        if not (whole.startswith(closed) and closed.startswith(opening)):
            raise Unfit("mask_boundary", f"the chat template rewrites earlier turns, so answer {index} has no fixed place")
        end = len(closed.rstrip())  # the line break after the end mark is never generated
        if end <= len(opening):
            raise Unfit("no_trained_token", f"answer {index} is empty")
        spans.append((len(opening), end))
    if not spans:
        raise Unfit("no_trained_token", "no message of the assistant")
    return Laid(whole, tuple(spans))


def learned_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """First and one past the last token of each span, given each token's characters. Raises Unfit where a token reaches over an edge."""
    ranges = []
    for start, end in spans:
        first = bisect_left(offsets, (start, start + 1))
        last = bisect_left(offsets, (end,))
        if first == len(offsets) or offsets[first][0] != start:
            raise Unfit("mask_boundary", f"a token joins the end of the question with the beginning of the answer at character {start}")
        if last <= first or offsets[last - 1][1] != end:
            raise Unfit("mask_boundary", f"a token reaches over the end of the answer at character {end}")
        ranges.append((first, last))
    return ranges


def encode(row: Row, processor: Any, images_root: Path) -> dict[str, Any]:
    """Arguments of the model's forward for one row, without the batch axis.

    input_ids, labels, attention_mask, mm_token_type_ids: (T,) int64, labels -100 outside the assistant's answers;
    with pictures also pixel_values: (patches, values) float32 and image_grid_thw: (pictures, 3).
    Raises Unfit when places and pictures differ in number, when features and tokens do, or when the mask is ambiguous.
    """
    import torch
    from PIL import Image

    laid = lay_out(row.messages, processor)
    mark = processor.image_token
    if laid.text.count(mark) != len(row.images):
        raise Unfit("image_count", f"{laid.text.count(mark)} picture places for {len(row.images)} pictures")
    pictures = []
    for name in row.images:
        with Image.open(images_root / name) as picture:
            pictures.append(picture.convert("RGB"))
    made = processor(text=[laid.text], images=pictures or None, return_tensors="pt")
    ids = made["input_ids"][0]
    plain = processor.tokenizer(laid.text, add_special_tokens=False, return_offsets_mapping=True)
    learned = torch.zeros(len(plain["input_ids"]), dtype=torch.bool)
    for first, last in learned_tokens(plain["offset_mapping"], laid.spans):
        learned[first:last] = True
    counts = [int(grid.prod()) // processor.image_processor.merge_size**2 for grid in made.get("image_grid_thw", [])]
    remaining = iter(counts)
    times = torch.tensor([next(remaining) if token == processor.image_token_id else 1 for token in plain["input_ids"]])
    expanded = torch.tensor(plain["input_ids"]).repeat_interleave(times)
    if not torch.equal(expanded, ids):
        raise Unfit("token_count", f"the processor makes {len(ids)} tokens where text and pictures give {len(expanded)}")
    labels = torch.where(learned.repeat_interleave(times), ids, IGNORED)
    encoded = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": made["attention_mask"][0],
        "mm_token_type_ids": made["mm_token_type_ids"][0],
    }
    if pictures:
        patches = made["pixel_values"].shape[0]
        if patches != sum(counts) * processor.image_processor.merge_size**2:
            raise Unfit("feature_count", f"{patches} patches for {sum(counts)} picture tokens")
        encoded |= {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
    return encoded
