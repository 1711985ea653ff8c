"""The compare command: which evaluations go together, and one clear line for every name that is no finished evaluation."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.compare import main
from sysdesign.artifacts import Artifact, Store
from tests.test_evaluate import contestant, knowing, probes, run


def made(store: Store, name: str, *, wrong: int = 0, other: bool = False, version: int = 3) -> Artifact:
    """An evaluation in the store; `wrong`: how many graphs its model misreads; `other`: asked about another dataset."""
    work = store.root / f"work-{name}"
    work.mkdir(parents=True)
    items = probes(work, 4)
    if other:
        items = [item.model_copy(update={"id": f"other-{item.id}"}) for item in items]
    script = knowing(items, wrong=lambda item: int(re.findall(r"\d+", item.id)[0]) < wrong)
    lineage = {"dataset": "b" * 64 if other else "a" * 64}
    run(work, [contestant("base", knowing(items)), contestant("tuned", script)], items, headline=[], lineage=lineage)
    about = {"stage": "evaluate", "version": version, "key": name * 8 + "0" * 56, "seed": 7, "config": {}, "inputs": {}, "prompts": {}}
    artifact = store.commit(work / "out", **about, report={}, note="", metrics={}, seconds=1.0)
    shutil.rmtree(work)
    return artifact


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    for name, about in {"1": {"wrong": 2}, "2": {}, "3": {"version": 2}, "4": {"other": True}, "5": {"other": True}, "6": {}}.items():
        made(store, name, **about)  # type: ignore[arg-type]
    (store.root / "evaluate-broken").mkdir()
    return store


def compared(store: Store, runs: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["compare", "--runs", runs, "--out", str(out), "--runtime.store", str(store.root)])
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


def folder(digit: str) -> str:
    return f"evaluate-{digit * 8}0000"


def test_all_compares_the_largest_group_and_names_what_is_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared(store, "all", tmp_path / "out", monkeypatch) == 0
    said = capsys.readouterr()
    assert [line.split()[1] for line in said.out.splitlines()[:3]][-1] == folder("1"), "the worst is last"
    assert sorted(re.findall(r"evaluate-(\d)\d+$", said.out, re.MULTILINE)) == ["1", "2", "6"]
    assert f"left out: {folder('3')}: scored by version 2 of the rules, the others by version 3" in said.err
    assert f"left out: {folder('4')}: asked other questions: dataset bbbbbbbbbbbb, the others aaaaaaaaaaaa" in said.err
    assert "left out: evaluate-broken:" in said.err and re.search(rf"--runs (?=.*{folder('4')})(?=.*{folder('5')})", said.err)
    page = (tmp_path / "out/comparison.html").read_text()
    assert "tuned script" in page and folder("3") not in page


@pytest.mark.parametrize(("runs", "code", "says"), [
    ("0" * 32, 3, "must name a run of the tracking store"),
    ("nonsense", 3, "must name evaluations: run ids of 32 hex digits"),
    (f"{folder('2')},{folder('4')}", 3, "must share scored probes - these go together: --runs evaluate-"),
    (folder("4"), 3, "no two of them go together"),
    (folder("3"), 3, "must be scored by one version of the rules"),
    (folder("1"), 3, "must name every evaluation once"),
    ("./" + folder("1"), 3, "must name every evaluation once"),
    ("", 3, "must name two evaluations or more"),
])  # fmt: skip
def test_a_name_that_cannot_be_compared_is_one_line(
    store: Store, runs: str, code: int, says: str, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert compared(store, f"{folder('1')},{runs}", tmp_path / "out", monkeypatch) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_runs_are_named_by_their_ids(
    store: Store, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(tracking_uri)

    def recorded(stage: str, status: str = "FINISHED", digit: str = "", parent: str = "") -> str:
        tags = {"sysdesign.stage": stage, "sysdesign.cached": "false"}
        tags |= {"sysdesign.key": digit * 8 + "0" * 56, "sysdesign.artifact": folder(digit)} if digit else {}
        tags |= {"mlflow.parentRunId": parent} if parent else {}
        run_id = str(client.create_run("0", tags=tags).info.run_id)
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        return run_id

    chain = recorded("all")
    own, gone, deleted = recorded("evaluate", digit="2", parent=chain), recorded("evaluate", digit="9"), recorded("evaluate", digit="1")
    client.delete_run(deleted)
    assert compared(store, f"{folder('1')},{chain}", tmp_path / "out", monkeypatch) == 0
    assert folder("2") in capsys.readouterr().out
    for name, says in {
        recorded("evaluate", "RUNNING"): "this one is RUNNING",
        recorded("evaluate", "FAILED"): "this one is FAILED",
        recorded("train"): "must name a run of evaluate, or of a whole chain",
        deleted: "must name a run that is not deleted",
        gone: "must have its evaluation in the store or uploaded",
        f"{own},{chain}": "must name every evaluation once",
        "models:/sysdesign/7": "must hold the model",
    }.items():
        assert compared(store, f"{folder('1')},{name}", tmp_path / "no", monkeypatch) in (3, 4), name
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1, said
    assert not (tmp_path / "no").exists()
    from sysdesign.tracking import registry  # a store that was cleared: what the registry keeps of the evaluation is enough

    for file in registry.EVALUATION:
        client.log_artifact(gone, str(store.root / folder("6") / file), "evaluation")
    client.log_artifact(gone, str(store.root / folder("6") / "manifest.json"))
    assert compared(store, f"{folder('1')},{gone}", tmp_path / "fetched", monkeypatch) == 0
