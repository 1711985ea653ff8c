"""Stages run once, resume where they were killed, and say what is missing."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from sysdesign import flow
from sysdesign.artifacts import Artifact, Store
from sysdesign.config.root import Config
from sysdesign.errors import ArtifactError, ConfigError
from sysdesign.records import NullLog, Report


class Drawn(Report):
    count: int

    def metrics(self) -> dict[str, float]:
        return {"diagrams/count": self.count}

    def note(self) -> str:
        return f"{self.count} drawn."


def draw(cfg: Any, *, seed: int, out: Path, log: Any, runtime: Any) -> Drawn:
    with (out / "journal.txt").open("a") as journal:
        journal.write("x")
    (out / "seed.txt").write_text(str(seed))
    return Drawn(count=cfg.count)


DIAGRAMS = flow.Stage("diagrams", ())


def run(store: Store, config: Config, function: Any = draw, stage: flow.Stage = DIAGRAMS, **options: Any) -> flow.Outcome:
    return flow.run(stage, function, config, store, {}, NullLog(), **options)


def test_a_rerun_is_found_and_another_seed_is_another_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, again, other = run(store, Config()), run(store, Config()), run(store, Config(seed=1))
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert first.artifact == again.artifact
    assert other.artifact.key != first.artifact.key
    assert first.artifact.manifest.metrics == {"diagrams/count": 500}
    assert first.artifact.manifest.note == "500 drawn."
    assert not list((tmp_path / ".work").glob("diagrams-*/*"))


def test_what_cannot_change_an_output_is_not_hashed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run(store, Config())
    assert run(store, Config.model_validate({"runtime": {"workers": 3, "device": "cpu"}})).artifact.key == first.artifact.key
    assert not run(store, Config.model_validate({"diagrams": {"count": 3}})).cached


def test_a_killed_stage_resumes_in_its_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def killed(cfg: Any, **options: Any) -> Report:
        draw(cfg, **options)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, Config(), killed)
    outcome = run(store, Config())
    assert (outcome.artifact.path / "journal.txt").read_text() == "xx"


def test_a_stage_keeps_its_caches_in_the_store_whatever_folder_a_person_is_in(tmp_path: Path) -> None:
    def drawn(cfg: Any, *, runtime: Any, **options: Any) -> Drawn:
        assert runtime.store == str(tmp_path / "elsewhere")
        return draw(cfg, runtime=runtime, **options)

    run(Store(tmp_path / "elsewhere"), Config.model_validate({"runtime": {"store": "artifacts"}}), drawn)


def test_fresh_makes_it_again_in_the_same_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run(store, Config())
    again = run(store, Config(), fresh=True)
    assert not again.cached
    assert again.artifact.path == first.artifact.path


def test_a_missing_input_is_an_instruction(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"conversations reads the diagrams artefact.*mlflow run \. -e diagrams -P profile=rehearsal"):
        flow.inputs_of(flow.STAGES["conversations"], Config(), Store(tmp_path), "rehearsal")
    with pytest.raises(ConfigError, match="did you mean diagrams"):
        flow.find_stage("diagram")


def test_a_tampered_input_stops_the_stage_that_reads_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = run(store, Config()).artifact
    (made.path / "seed.txt").write_text("9")
    with pytest.raises(ArtifactError, match=r"seed\.txt: must have the sha256"):
        flow.run(flow.Stage("conversations", ("diagrams",)), draw, Config(), store, {"diagrams": made}, NullLog())


def test_what_another_machine_made_is_fetched_by_key(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    made = run(there, Config(), stage=flow.STAGES["diagrams"]).artifact
    asked = []

    def fetch(stage: str, key: str) -> Artifact | None:
        asked.append((stage, key))
        return there.find(stage, key)

    assert flow.inputs_of(flow.STAGES["conversations"], Config(), here, "full", fetch) == {"diagrams": made}
    assert asked == [("diagrams", made.key)]


def _race(root: str, results: Any) -> None:
    results.put(run(Store(Path(root)), Config()).cached)


def test_two_at_once_make_one_result(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_race, args=(str(tmp_path), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    cached = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert cached == [False, True]
    assert (next(tmp_path.glob("diagrams-*")) / "journal.txt").read_text() == "x"


def test_an_edited_file_of_your_own_is_another_dataset(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "rows.jsonl"
    mine.parent.mkdir()
    mine.write_text("{}\n")
    config = Config.model_validate({"dataset": {"extra": {"paths": [str(mine)]}}})
    stage = flow.Stage("dataset", ())
    before = flow.address(stage, config, {})
    mine.write_text('{"a": 1}\n')
    edited = flow.address(stage, config, {})
    (mine.parent / "picture.png").write_bytes(b"x")
    added = flow.address(stage, config, {})
    (mine.parent / "picture.png").write_bytes(b"y")  # another picture of the same size
    assert len({before, edited, added, flow.address(stage, config, {})}) == 4
