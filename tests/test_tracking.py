"""MLflow holds what ran, finds what was made elsewhere, and registers what was judged."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sysdesign import flow
from sysdesign.artifacts import Artifact, Store
from sysdesign.config.evaluate import Gate
from sysdesign.config.root import Config
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.evaluate.gate import Evidence, decide
from sysdesign.records import Report
from sysdesign.tracking import lineage, registry, runs
from sysdesign.tracking import standing as standings

pytestmark = pytest.mark.usefixtures("tracking_uri")


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return runs.connect(tmp_path)


class Counted(Report):
    count: int = 2
    questions: str = ""

    def metrics(self) -> dict[str, float]:
        return {"diagrams/count": 2.0}

    def note(self) -> str:
        return "Two drawn."


def draw(cfg: Any, *, seed: int, out: Path, log: Any, runtime: Any, **inputs: Artifact) -> Counted:
    (out / "card.md").write_text("# card")
    (out / "gguf").mkdir()
    (out / "gguf/model-f16.gguf").write_bytes(b"GGUF")
    return Counted()


def make(store: Store, log: runs.RunLog, stage: str = "diagrams") -> flow.Outcome:
    return flow.run(flow.Stage(stage, ()), draw, Config(), store, {}, log)


def test_a_child_hangs_below_its_parent_and_ends_as_it_went(client: MlflowClient) -> None:
    with runs.run(client, "all (rehearsal)") as parent:
        with runs.run(client, "diagrams", parent=parent.run) as child:
            child.metrics({"diagrams/count": 2})
        with pytest.raises(ArtifactError), runs.run(client, "train", parent=parent.run) as failed:
            raise ArtifactError("here", "law", "do")
        with pytest.raises(KeyboardInterrupt), runs.run(client, "export", parent=parent.run) as killed:
            raise KeyboardInterrupt
    assert client.get_run(parent.run).info.status == "FINISHED"
    assert client.get_run(child.run).info.run_name == "diagrams"
    assert client.get_run(child.run).data.tags["mlflow.parentRunId"] == parent.run
    assert client.get_run(failed.run).info.status == "FAILED"
    assert client.get_run(failed.run).data.tags["sysdesign.error"] == "here: law - do"
    assert client.get_run(killed.run).info.status == "KILLED"


def test_a_run_whose_process_was_killed_is_ended_by_the_next_one(client: MlflowClient) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = runs._process(gone.pid)
    gone.kill()
    gone.communicate()
    killed, elsewhere = client.create_run("0"), client.create_run("0")
    client.set_tag(killed.info.run_id, runs.PROCESS, process)
    client.set_tag(elsewhere.info.run_id, runs.PROCESS, process.replace(runs.HOST, "another/1"))
    with runs.run(client, "all") as alive, runs.run(client, "plan") as second:
        status = [client.get_run(run).info.status for run in (killed.info.run_id, elsewhere.info.run_id, alive.run, second.run)]
    assert status == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]


def test_the_run_of_mlflow_run_is_adopted_once(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    given = client.create_run("0").info.run_id
    client.log_param(given, "train.lora.rank", "8")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with runs.run(client, "all") as parent:
        parent.params({"train.lora.rank": 8.0, "seed": 0})
        with runs.run(client, "train", parent=parent.run) as child:
            assert child.run != given
    assert parent.run == given
    assert client.get_run(given).data.params == {"train.lora.rank": "8", "seed": "0"}
    assert client.get_run(given).info.run_name == "all"


def test_logging_to_a_store_that_went_away_is_said_once_and_never_raised(client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    log = runs.RunLog(client, "0" * 32)
    log.metrics({"train/loss": 1.0})
    log.metrics({"train/loss": 1.0})
    assert capsys.readouterr().err.count("the work goes on") == 1


def test_a_store_that_does_not_answer_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match="the tracking store must answer.*unset MLFLOW_TRACKING_URI"):
        runs.connect(tmp_path)


def test_what_was_pushed_is_fetched_and_proved(client: MlflowClient, tmp_path: Path) -> None:
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    with runs.run(client, "diagrams") as log:
        outcome = make(there, log)
        lineage.record(log, outcome, {}, push="always")
    key = outcome.artifact.key
    found = lineage.fetch(client, here, "diagrams", key)
    assert found and found.digest == outcome.artifact.digest
    assert (here.folder("diagrams", key) / "card.md").read_text() == "# card"
    assert lineage.fetch(client, here, "diagrams", "b" * 64) is None
    assert lineage.maker(client, found) == log.run
    run = client.get_run(log.run)
    assert run.data.metrics["diagrams/count"] == 2
    assert run.data.tags["mlflow.note.content"] == "Two drawn."
    assert {entry.path for entry in client.list_artifacts(log.run)} == {"artifact", "card.md", "manifest.json"}


def test_two_that_fetch_at_once_get_one_artefact_and_a_broken_download_is_one_line(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runs.run(client, "diagrams") as log:
        made = make(Store(tmp_path / "here"), log)
        lineage.record(log, made, {}, push="always")
    there = Store(tmp_path / "there")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: lineage.fetch(client, there, "diagrams", made.artifact.key), range(4)))
    assert {artifact.digest for artifact in found if artifact} == {made.artifact.digest} and all(found)

    def breaks_off(self: MlflowClient, run: str, path: str, dst: str) -> str:
        (Path(dst) / "half").write_text("x")
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(MlflowClient, "download_artifacts", breaks_off)
    store = Store(tmp_path / "third")
    with pytest.raises(ServiceError, match=r"must arrive whole \(reset by peer\).*mlflow run \. -e diagrams"):
        lineage.fetch(client, store, "diagrams", made.artifact.key)
    assert not list(store.root.rglob("half"))


def test_a_fetched_artefact_that_was_changed_is_refused(client: MlflowClient, tmp_path: Path) -> None:
    with runs.run(client, "diagrams") as log:
        outcome = make(Store(tmp_path / "there"), log)
        lineage.record(log, outcome, {}, push="always")
        client.log_text(log.run, "# drac", "artifact/card.md")
    with pytest.raises(ArtifactError, match="must match its digest"):
        lineage.fetch(client, Store(tmp_path / "here"), "diagrams", outcome.artifact.key)


def judge(cfg: Any, *, out: Path, standing: Any, **rest: Any) -> Counted:
    """An evaluation that could measure nothing."""
    held = standing()
    nothing = Evidence(gain=None, headline=None, hallucination=None, format_validity=None, champion_missing=held.missing)
    verdict = decide(nothing, Gate(), attempt=held.attempt("q" * 64)).model_dump(mode="json")
    (out / "verdict.json").write_text(json.dumps(verdict | {"lineage": {"questions": "q" * 64, "faced": held.version}}))
    (out / "predictions.jsonl").write_text("")
    (out / "seed.txt").write_text(str(rest["seed"]))
    return Counted(questions="q" * 64)


def judged(store: Store, log: runs.RunLog, made: dict[str, Artifact], seed: int) -> Artifact:
    standing = partial(standings.standing, log.client, store, "sysdesign", made["export"], f"key {seed}")
    return flow.run(flow.Stage("evaluate", ()), partial(judge, standing=standing), Config(seed=seed), store, {}, log).artifact


def test_an_evaluated_export_is_registered_once_with_its_lineage(client: MlflowClient, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with runs.run(client, "evaluate") as log:
        made = {name: make(store, log, name).artifact for name in ("export", "dataset", "train", "base")}
        first, second = (judged(store, log, made, seed) for seed in (0, 1))
        lineage.record(log, flow.Outcome(first, False, 1.0), made, push="never")
        assert registry.register(log, "sysdesign", first, made) == registry.register(log, "sysdesign", first, made) == "1"
        with pytest.raises(MlflowException):
            client.get_model_version_by_alias("sysdesign", "champion")
        assert registry.promote(client, "sysdesign", "1", reason="reads our diagrams") is None
        assert registry.register(log, "sysdesign", second, made) == "2"
        assert registry.show(log, "sysdesign", second) == "models:/sysdesign/2"
    champion = client.get_model_version_by_alias("sysdesign", "champion")
    challenger = client.get_model_version_by_alias("sysdesign", "challenger")
    assert (str(champion.version), str(challenger.version)) == ("1", "2")
    assert champion.tags["sysdesign.promoted"].endswith("reads our diagrams")
    assert champion.tags["sysdesign.dataset"] == made["dataset"].digest
    assert (champion.tags["sysdesign.attempt"], challenger.tags["sysdesign.attempt"]) == ("1", "2")
    assert challenger.tags["sysdesign.verdict"] == "inconclusive"
    folder = registry.fetch_model("models:/sysdesign@champion", tmp_path / "fetched")
    assert store.load(folder).digest == made["export"].digest
    where = {"url": "http://127.0.0.1:11434", "model": "sysdesign", "since": "now", "version": "v-1"}
    registry.note_deployment(client, "sysdesign", made["export"], where)
    assert client.get_model_version("sysdesign", "2").tags["sysdesign.deployed.127.0.0.1:11434/sysdesign"] == "now as v-1"
    assert client.get_run(log.run).outputs.model_outputs
    inputs = client.get_run(log.run).inputs.dataset_inputs
    assert inputs[0].dataset.digest == made["dataset"].digest[:32]
    assert "messages" in inputs[0].dataset.schema


def test_a_failed_certificate_blocks_registration_and_a_half_done_one_is_completed(client: MlflowClient, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with runs.run(client, "evaluate") as log:
        made = {name: make(store, log, name).artifact for name in ("export", "dataset", "train", "base")}
        evaluation = judged(store, log, made, 0)
        (made["export"].path / "parity.json").write_text('{"passed": false}')
        with pytest.raises(ArtifactError, match="certificate passed"):
            registry.register(log, "sysdesign", evaluation, made)
        (made["export"].path / "parity.json").write_text('{"passed": true}')
        assert registry.register(log, "sysdesign", evaluation, made) == "1"
        assert client.get_model_version("sysdesign", "1").tags[registry.PARITY] == "passed"
        client.delete_registered_model_alias("sysdesign", "challenger")  # as if the registry had gone away before this
        client.delete_model_version_tag("sysdesign", "1", registry.WHOLE)
        assert registry.register(log, "sysdesign", evaluation, made) == "1"
    assert str(client.get_model_version_by_alias("sysdesign", "challenger").version) == "1"
    assert not registry.is_champion(client, "models:/sysdesign/1")


def test_a_champion_moved_by_a_click_is_recorded_with_its_reason_or_the_lack_of_one(client: MlflowClient) -> None:
    registry.create_model(client, "sysdesign")
    with runs.run(client, "elsewhere") as log:
        client.log_text(log.run, "weights", "model/weights.gguf")
    for _ in range(3):
        client.create_model_version("sysdesign", f"{client.get_run(log.run).info.artifact_uri}/model", run_id=log.run)
    assert registry.notice(client, "sysdesign") == ""  # nobody is champion
    registry.promote(client, "sysdesign", "1", reason="the first")
    assert registry.notice(client, "sysdesign") == ""

    def tags(version: str) -> dict[str, str]:
        return dict(client.get_model_version("sysdesign", version).tags)

    client.set_registered_model_alias("sysdesign", "champion", "2")  # what the page does
    assert "--version 2 --reason" in registry.notice(client, "sysdesign")
    assert tags("2")[registry.PROMOTED].endswith("moved by hand in the registry, no reason given")
    client.set_model_version_tag("sysdesign", "2", "reason", "thought of later")
    assert registry.notice(client, "sysdesign") == "" and tags("2")[registry.PROMOTED].endswith("in the registry: thought of later")
    assert registry.PROMOTED not in tags("1") and "the first; until 2" in tags("1")[registry.RETIRED]
    client.set_model_version_tag("sysdesign", "1", "reason", "version 2 shouts")
    client.set_registered_model_alias("sysdesign", "champion", "1")  # back
    assert registry.notice(client, "sysdesign") == "" and tags("1")[registry.PROMOTED].endswith("by hand in the registry: version 2 shouts")
    client.set_registered_model_alias("sysdesign", "champion", "2")  # once more: the old reason is not that of this promotion
    assert "--version 2 --reason" in registry.notice(client, "sysdesign")
    registry.promote(client, "sysdesign", "3", reason="calmer")
    assert [registry.PROMOTED in tags(v) for v in "123"] == [False, False, True]


def test_evaluations_that_end_at_once_are_never_both_the_first(client: MlflowClient) -> None:
    with ThreadPoolExecutor(2) as threads:
        taken = list(threads.map(lambda key: standings.take_attempt(client, "sysdesign", "q" * 64, key), ("a" * 64, "b" * 64)))
    assert sorted(taken) in ([1, 2], [2, 2])
    assert standings.take_attempt(client, "sysdesign", "q" * 64, "c" * 64) == 3
    assert standings.take_attempt(client, "sysdesign", "q" * 64, "a" * 64) == taken[0]
    assert standings.take_attempt(client, "sysdesign", "r" * 64, "a" * 64) == 1


def test_a_champion_without_its_files_stops_the_gate_and_one_that_came_meanwhile_is_faced(client: MlflowClient, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with runs.run(client, "evaluate") as log:
        made = {name: make(store, log, name).artifact for name in ("export", "dataset", "train", "base")}
        early = judged(store, log, made, 0)
        assert not standings.outdated(client, "sysdesign", early, made["export"], "key 0")
        with runs.run(client, "elsewhere") as other:  # a version that no evaluation made
            client.log_text(other.run, "weights", "model/weights.gguf")
        source = f"{client.get_run(other.run).info.artifact_uri}/model"
        client.create_model_version("sysdesign", source, run_id=other.run)
        registry.promote(client, "sysdesign", "1", reason="from elsewhere")
        assert standings.outdated(client, "sysdesign", early, made["export"], "key 0"), "it did not face version 1"
        (early.path / "verdict.json").write_text((early.path / "verdict.json").read_text().replace("inconclusive", "promote"))
        with pytest.raises(ServiceError, match=r"the one that was faced \(version none\).*version 1"):
            registry.register(log, "sysdesign", early, made)
        late = judged(store, log, made, 1)
        assert registry.register(log, "sysdesign", late, made) == "2"
        assert not standings.outdated(client, "sysdesign", late, made["export"], "key 1")
    held = client.get_model_version("sysdesign", "2").tags
    assert held["sysdesign.verdict"] == "inconclusive" and held["sysdesign.faced"] == "version 1" and held["sysdesign.attempt"] == "2"
    assert "version 1, could not be asked" in held["sysdesign.reasons"] and "pipelines.promote" in held["sysdesign.reasons"]


def test_a_registry_that_dies_in_the_middle_is_one_line_and_the_next_call_completes(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")

    def dies(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("connection refused")

    with runs.run(client, "evaluate") as log:
        made = {name: make(store, log, name).artifact for name in ("export", "dataset", "train", "base")}
        evaluation = judged(store, log, made, 0)
        for call in ("create_model_version", "set_registered_model_alias"):
            with monkeypatch.context() as broken:
                broken.setattr(MlflowClient, call, dies)
                with pytest.raises(ServiceError, match=r"must accept the version \(connection refused\).*run the same command again"):
                    registry.register(log, "sysdesign", evaluation, made)
            assert not standings.outdated(client, "sysdesign", evaluation, made["export"], "key 0"), "nothing is asked or decided again"
        assert registry.register(log, "sysdesign", evaluation, made) == "1"
        with monkeypatch.context() as broken:
            broken.setattr(MlflowClient, "get_registered_model", dies)
            with pytest.raises(ServiceError, match="must answer"):
                standings.take_attempt(client, "sysdesign", "z" * 64, "k")
    assert str(client.get_model_version_by_alias("sysdesign", "challenger").version) == "1"


def test_a_model_that_is_not_there(client: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="must hold the model"):
        registry.fetch_model("models:/sysdesign@champion", tmp_path)
