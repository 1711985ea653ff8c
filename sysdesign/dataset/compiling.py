"""Drafts -> rows with exact token counts, or the reason why the base's processor could not train on them.

Texts go through the real chat template and tokenizer in batches. Pictures have aligned sizes already, so their tokens are
arithmetic; the arithmetic is checked against the real processor once for every distinct size, and whole rows on a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sysdesign.dataset.draft import Draft
from sysdesign.errors import ArtifactError
from sysdesign.models.rows import IGNORED, Laid, Unfit, encode, lay_out, learned_tokens
from sysdesign.records import Row

BATCH_BYTES = 1 << 20  # text that is tokenised at once: 350 MB of Python objects in the worst case, one token a byte
BYTES_A_TOKEN = 16  # far above any text worth learning: English has 4.5, code 3


class Compiler:
    """The base's processor and what was proved of it so far. `sizes`: picture size in pixels to its visual tokens."""

    def __init__(self, processor: Any, side: int, max_tokens: int, root: Path) -> None:
        self.processor, self.side, self.max_tokens, self.root = processor, side, max_tokens, root
        self.sizes: dict[tuple[int, int], int] = {}
        self._special = tuple(sorted(processor.tokenizer.get_added_vocab(), key=len, reverse=True))

    def compile(self, drafts: Sequence[Draft]) -> list[Row | Unfit]:
        """One outcome a draft, in order. Raises ArtifactError when the processor resizes what the picture policy aligned."""
        outcomes: list[Row | Unfit] = []
        laid: list[tuple[Draft, Laid]] = []
        for draft in drafts:
            try:
                laid.append((draft, self._lay_out(draft)))
                outcomes.append(draft.row)
            except Unfit as unfit:
                outcomes.append(unfit)
        if not laid:
            return outcomes
        counted = self._count_all(laid)
        return [outcome if isinstance(outcome, Unfit) else next(counted) for outcome in outcomes]

    def check_size(self, draft: Draft) -> None:
        """Raises Unfit for a row whose text is far beyond `max_tokens`, before anything is done that costs memory by the token."""
        parts = (part for message in draft.row.messages for part in message["content"] if part["type"] == "text")
        size, most = sum(len(part["text"].encode()) for part in parts), self.max_tokens * BYTES_A_TOKEN
        if size > most:
            law = f"{size:,} bytes of text, not tokenised: dataset.max_tokens is {self.max_tokens}, {BYTES_A_TOKEN} bytes for each at most"
            raise Unfit("too_long", law)

    def check_whole(self, row: Row) -> None:
        """Raises ArtifactError unless the real processor, given text and pictures, agrees with the counts of `row`."""
        made = encode(row, self.processor, self.root)
        image_tokens = int((made["input_ids"] == self.processor.image_token_id).sum())
        trained = int((made["labels"] != IGNORED).sum())
        found = (len(made["input_ids"]), image_tokens, trained)
        if found != (row.n_tokens, row.n_image_tokens, row.n_trained_tokens):
            law = f"row {row.id}: batch compilation must agree with the processor: tokens, picture tokens, learned {found}"
            raise ArtifactError("dataset", law, "please report this with the row", (row.n_tokens, row.n_image_tokens, row.n_trained_tokens))

    def _lay_out(self, draft: Draft) -> Laid:
        places = 0
        for message in draft.row.messages:
            for part in message["content"]:
                if part["type"] == "image":
                    places += 1
                elif mark := next((s for s in self._special if s in part["text"]), None):
                    raise Unfit("special_token", f"the text contains {mark}, which would be read as structure")
        if places != len(draft.pictures):
            raise Unfit("image_count", f"{places} picture places for {len(draft.pictures)} pictures")
        return lay_out(draft.row.messages, self.processor)

    def _count_all(self, laid: Sequence[tuple[Draft, Laid]]) -> Iterator[Row | Unfit]:
        start = 0
        while start < len(laid):
            end, size = start + 1, len(laid[start][1].text.encode())
            while end < len(laid) and (size := size + len(laid[end][1].text.encode())) <= BATCH_BYTES:
                end += 1
            batch = laid[start:end]
            made = self.processor.tokenizer([text.text for _, text in batch], add_special_tokens=False, return_offsets_mapping=True)
            for (draft, text), ids, offsets in zip(batch, made["input_ids"], made["offset_mapping"], strict=True):
                yield self._counted(draft, text, ids, offsets)
            start = end

    def _counted(self, draft: Draft, laid: Laid, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Row | Unfit:
        pictures = sum(self._picture_tokens(picture.width, picture.height, picture.name) for picture in draft.pictures)
        if list(ids).count(self.processor.image_token_id) != len(draft.pictures):
            return Unfit("image_count", "the template does not write one place a picture")
        total = len(ids) - len(draft.pictures) + pictures
        if total > self.max_tokens:
            return Unfit("too_long", f"{total} tokens, {pictures} of them pictures; dataset.max_tokens is {self.max_tokens}")
        try:
            learned = sum(last - first for first, last in learned_tokens(offsets, laid.spans))
        except Unfit as unfit:
            return unfit
        if not learned:
            return Unfit("no_trained_token", "no token of the answer is left to learn")
        return draft.row.model_copy(update={"n_tokens": total, "n_image_tokens": pictures, "n_trained_tokens": learned})

    def _picture_tokens(self, width: int, height: int, name: str) -> int:
        """Visual tokens of a stored picture; the first of each size goes through the real processor."""
        known = self.sizes.get((width, height))
        if known is not None:
            return known
        from PIL import Image

        tokens = (width // self.side) * (height // self.side)
        pictures = self.processor.image_processor
        with Image.open(self.root / "images" / name) as stored:
            actual = stored.size
            made = pictures(images=[stored.convert("RGB")], return_tensors="pt")
        grid = [int(n) for n in made["image_grid_thw"][0]]
        features = made["pixel_values"].shape[0] // pictures.merge_size**2
        if actual != (width, height) or features != tokens or grid[1:] != [height // pictures.patch_size, width // pictures.patch_size]:
            law = f"the base's processor must take a picture of {width} x {height} px as it is: {tokens} tokens; it makes {features}"
            raise ArtifactError(f"images/{name}", law, "choose dataset.picture within the processor's own bounds", dict(pictures.size))
        self.sizes[width, height] = tokens
        return tokens
