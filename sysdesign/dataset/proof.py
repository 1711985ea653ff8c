"""The finished files -> counts of what the splits share, read back from disk and independent of how the rows were assigned."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sysdesign.dataset.leaks import LAW, Headline, LeakProof, nearest_bits
from sysdesign.dataset.pictures import Picture
from sysdesign.errors import ArtifactError
from sysdesign.models.rows import Unfit


def prove(
    out: Path,
    pictures: Mapping[str, Picture],
    held_out_styles: Collection[str],
    prompts: Sequence[tuple[str, str]],
    headline_sha256: str,
    dropped: int,
) -> LeakProof:
    """Count again. Raises ArtifactError if anything of test, or the held-out style, is in train or val, or a prompt is in any row.

    `prompts`: id and text of each held-out prompt.
    """
    headline = Headline(prompts)
    like_a_prompt: list[str] = []

    def compare(row: dict[str, Any], talk: Sequence[dict[str, Any]]) -> None:
        try:
            headline.check_text("\n".join(part["text"] for message in talk for part in message["content"] if part["type"] == "text"))
        except Unfit as unfit:
            like_a_prompt.append(f"{row['id']} {unfit.detail}")

    topologies: dict[str, set[str]] = {}
    images: dict[str, set[str]] = {}
    texts: dict[str, set[bytes]] = {}
    stray: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        topologies[split], images[split], texts[split] = set(), set(), set()
        with (out / "rows" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row.get("topology"):
                    topologies[split].add(row["topology"])
                images[split].update(row.get("images", ()))
                talk = _talk(row)
                compare(row, talk)
                texts[split].add(hashlib.sha256(json.dumps([row.get("images"), talk]).encode()).digest()[:8])
                if split != "test" and row.get("style") in held_out_styles:
                    stray[split] += 1
    with (out / "probes.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            compare(row, _talk(row))

    def shared(kind: dict[str, set[str]]) -> int:
        return len((kind["train"] | kind["val"]) & kind["test"])

    def stored(names: set[str]) -> list[Picture]:
        return [pictures[name.removeprefix("images/")] for name in sorted(names)]

    proof = LeakProof(
        headline_prompts=len(prompts), headline_sha256=headline_sha256, rows_dropped_for_headline=dropped,
        rows_like_a_prompt=len(like_a_prompt), ngram_law=LAW,
        topologies={split: len(found) for split, found in topologies.items()},
        pictures={split: len(found) for split, found in images.items()},
        shared_topologies=shared(topologies), shared_pictures=shared(images),
        shared_texts=len((texts["train"] | texts["val"]) & texts["test"]),
        held_out_styles=tuple(sorted(held_out_styles)), held_out_style_rows_outside_test=sum(stray.values()),
        nearest_picture_bits=nearest_bits(stored(images["train"]), stored(images["test"])),
    )  # fmt: skip
    leaked = {
        "topologies": proof.shared_topologies, "pictures": proof.shared_pictures, "texts": proof.shared_texts,
        "rows in the held-out style": proof.held_out_style_rows_outside_test, "rows like a held-out prompt": like_a_prompt[:3],
    }  # fmt: skip
    if found := {what: count for what, count in leaked.items() if count}:
        law = "train and val must share nothing with test, and no row may repeat a held-out prompt"
        raise ArtifactError(str(out), law, "please report this with the configuration", found)
    return proof


def _talk(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [message for message in row["messages"] if message["role"] != "system"]
