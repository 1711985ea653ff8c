"""Artefacts are whole or absent, prove their bytes, and are made by one process at a time."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sysdesign.artifacts import MANIFEST, Artifact, Store, key_of
from sysdesign.errors import ArtifactError, LimitError

KEY = "a" * 64


def about(**changes: Any) -> dict[str, Any]:
    fixed = {"stage": "diagrams", "version": 1, "key": KEY, "seed": 0, "config": {"count": 2}}
    return fixed | {"inputs": {}, "prompts": {}, "report": {}, "seconds": 1.0} | changes


def make(store: Store) -> Artifact:
    with store.work("diagrams", KEY, 1) as work:
        (work / "images").mkdir(exist_ok=True)
        (work / "images/a.png").write_bytes(b"picture")
        (work / "diagrams.jsonl").write_text("{}\n")
        return store.commit(work, **about())


def test_an_artefact_is_found_again_and_proves_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("diagrams", KEY) is None
    made = make(store)
    found = store.find("diagrams", KEY)
    assert found == made
    store.verify(made)
    assert [entry.path for entry in made.manifest.files] == ["diagrams.jsonl", "images/a.png"]


def test_the_digest_depends_on_bytes_and_the_key_on_what_went_in(tmp_path: Path) -> None:
    one, two = make(Store(tmp_path / "1")), make(Store(tmp_path / "2"))
    assert one.digest == two.digest
    base = key_of("train", 1, {"rank": 16}, 0, {}, {"dataset": "d"})
    others = [
        key_of("train", 2, {"rank": 16}, 0, {}, {"dataset": "d"}),
        key_of("train", 1, {"rank": 32}, 0, {}, {"dataset": "d"}),
        key_of("train", 1, {"rank": 16}, 1, {}, {"dataset": "d"}),
        key_of("train", 1, {"rank": 16}, 0, {"p": "1"}, {"dataset": "d"}),
        key_of("train", 1, {"rank": 16}, 0, {}, {"dataset": "e"}),
    ]
    assert len({base, *others}) == 6


def test_a_killed_run_leaves_its_work_and_no_artefact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.work("diagrams", KEY, 1) as work:
        (work / "half.png").write_bytes(b"x")
        raise RuntimeError
    assert store.find("diagrams", KEY) is None
    with store.work("diagrams", KEY, 1) as work:
        assert (work / "half.png").read_bytes() == b"x"


def test_corrupt_tampered_and_locked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = make(store)
    (made.path / "images/a.png").write_bytes(b"pictur3")  # same size
    with pytest.raises(ArtifactError, match=r"a\.png: must have the sha256"):
        store.verify(made)
    (made.path / "images/a.png").write_bytes(b"longer than before")
    with pytest.raises(ArtifactError, match=r"a\.png: must be the 7 bytes"):
        store.find("diagrams", KEY)
    (made.path / MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest must be whole.*rm -r"):
        store.find("diagrams", KEY)
    other = FileLock(str(tmp_path / ".work" / f"diagrams-{KEY[:12]}") + ".lock")
    with other, pytest.raises(ArtifactError, match="another one holds this"), store.work("diagrams", KEY, 0.05):
        pass


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(LimitError, match="disk must have room.*GiB free"), store.work("diagrams", KEY, 1) as work:
        raise OSError(errno.ENOSPC, "No space left on device", str(work / "x"))
