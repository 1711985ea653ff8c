"""The finished files -> counts of what the splits share, read back from disk and independent of how the rows were assigned."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from sysdesign.dataset.leaks import LeakProof, nearest_bits
from sysdesign.dataset.pictures import Picture
from sysdesign.errors import ArtifactError


def prove(
    out: Path, pictures: Mapping[str, Picture], held_out_styles: Collection[str], headline_prompts: int, headline_sha256: str, dropped: int
) -> LeakProof:
    """Count again. Raises ArtifactError if anything of test, or the held-out style, is in train or val."""
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
                talk = [message for message in row["messages"] if message["role"] != "system"]
                texts[split].add(hashlib.sha256(json.dumps([row.get("images"), talk]).encode()).digest()[:8])
                if split != "test" and row.get("style") in held_out_styles:
                    stray[split] += 1

    def shared(kind: dict[str, set[str]]) -> int:
        return len((kind["train"] | kind["val"]) & kind["test"])

    def stored(names: set[str]) -> list[Picture]:
        return [pictures[name.removeprefix("images/")] for name in sorted(names)]

    proof = LeakProof(
        headline_prompts=headline_prompts, headline_sha256=headline_sha256, rows_dropped_for_headline=dropped,
        topologies={split: len(found) for split, found in topologies.items()},
        pictures={split: len(found) for split, found in images.items()},
        shared_topologies=shared(topologies), shared_pictures=shared(images),
        shared_texts=len((texts["train"] | texts["val"]) & texts["test"]),
        held_out_styles=tuple(sorted(held_out_styles)), held_out_style_rows_outside_test=sum(stray.values()),
        nearest_picture_bits=nearest_bits(stored(images["train"]), stored(images["test"])),
    )  # fmt: skip
    leaked = {
        "topologies": proof.shared_topologies, "pictures": proof.shared_pictures, "texts": proof.shared_texts,
        "rows in the held-out style": proof.held_out_style_rows_outside_test,
    }  # fmt: skip
    if any(leaked.values()):
        raise ArtifactError(str(out), "train and val must share nothing with test", "please report this with the configuration", leaked)
    return proof
