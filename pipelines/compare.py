"""Compare finished evaluations question by question: --runs all, or runs, registered versions and artefacts separated by commas."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.command import ROOT, errors_as_lines, open_store, parse
from sysdesign.artifacts import Store
from sysdesign.config.root import Config
from sysdesign.errors import ArtifactError, InputError, SysdesignError
from sysdesign.profiles import resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OWN = {
    "runs": "`all` in the store, or two and more of: run ids, models:/NAME/VERSION, artefact folders; the first is held against. [all]",
    "out": "Folder for comparison.html and comparison.json. [comparison]",
}


def main() -> None:
    """Find the evaluations, write the page, print the scores."""
    with errors_as_lines(), tempfile.TemporaryDirectory(prefix="sysdesign-compare-") as scratch:
        profile, flags = parse(sys.argv[1:], __doc__ or "", ("runtime",), OWN)
        wanted, out = flags.pop("runs", "all"), Path(flags.pop("out", "comparison"))
        store = open_store(resolve(Config, profile, flags))
        from sysdesign.evaluate.compare import compare
        from sysdesign.evaluate.compare_groups import named_apart

        if wanted.strip() == "all":
            folders = _all(store)
        else:
            names = [name.strip() for name in wanted.split(",") if name.strip()]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise InputError("--runs", "must name every evaluation once", "leave one of them out", twice[0])
            if len(names) < 2:
                raise InputError("--runs", "must name two evaluations or more", f"there are: {_known(store)}", wanted)
            folders = _named(names, store, Path(scratch))
            named_apart(folders)
        report = compare(folders, out)
        for name, score in sorted(report.scores.items(), key=lambda item: -item[1]):
            print(f"{score:.3f}  {name}")
        print(f"{report.note()} Page: {out / 'comparison.html'}")


def _all(store: Store) -> dict[str, Path]:
    """The largest set of evaluations in the store that were asked the same; says which were left out and why."""
    from sysdesign.evaluate.compare_groups import groups, read, together, why_apart

    found, out = [], []
    for folder in sorted(store.root.glob("evaluate-*")):
        try:
            found.append(read(folder.name, store.load(folder).path))
        except SysdesignError as error:
            out.append(f"{folder.name}: {error}")
    sets = groups(found)
    if not sets or len(sets[0]) < 2:
        reasons = "; ".join([*(f"{one.name}: {why_apart(one, sets[0])}" for members in sets[1:] for one in members), *out])
        law = f"needs two finished evaluations that were asked the same{f' ({reasons})' if reasons else ''}"
        raise InputError("--runs", law, "evaluate another model on the same dataset", f"{len(found)} in {store.root}")
    out += [f"{one.name}: {why_apart(one, sets[0])}" for members in sets[1:] for one in members]
    for line in out:
        print(f"left out: {line}", file=sys.stderr)
    if any(len(members) > 1 for members in sets[1:]):
        print(f"of those left out, {together(sets[1:])}", file=sys.stderr)
    return {one.name: one.folder for one in sets[0]}


def _named(names: Iterable[str], store: Store, scratch: Path) -> dict[str, Path]:
    """The folder of each name: a path, an artefact in the store, an MLflow run, a registered version."""
    folders, client = {}, None
    for name in names:
        path = next((path for path in (Path(name), store.root / name) if path.is_dir()), None)
        if path is None and not (name.startswith("models:/") or re.fullmatch("[0-9a-f]{32}", name)):
            law = "must name evaluations: run ids of 32 hex digits, models:/NAME/VERSION or artefact folders"
            raise InputError("--runs", law, f"there are: {_known(store)}", name)
        if path is None:
            from sysdesign.tracking import runs

            client = client or runs.connect(ROOT)
            path = _of_run(name, client, store, scratch)
        folders[name if name.startswith("models:/") else path.name if path.name not in folders else name] = path
    return folders


def _of_run(name: str, client: MlflowClient, store: Store, scratch: Path) -> Path:
    """The evaluation that a run or a registered version stands for; fetched when it is not in the store."""
    from mlflow.exceptions import MlflowException

    from sysdesign.tracking import lineage, registry

    run_id = name
    if name.startswith("models:/"):
        version = registry.find_version(client, name)
        if version is None or not version.run_id:
            raise InputError("--runs", "must name a registered version", "write models:/sysdesign/1 or models:/sysdesign@champion", name)
        run_id = version.run_id
    try:
        run = _evaluation_run(client, client.get_run(run_id), name)
    except MlflowException as error:
        law = f"must name a run of the tracking store ({str(error).splitlines()[0][:120]})"
        raise InputError("--runs", law, "see mlflow ui", name) from None
    key = run.data.tags["sysdesign.key"]
    found = store.find("evaluate", key) or lineage.fetch(client, store, "evaluate", key)
    if found is not None:
        return found.path
    made = run.data.tags.get("sysdesign.made_by_run", run.info.run_id)
    if not any(file.path == "evaluation" for file in client.list_artifacts(made)):
        do = f"make it again with that run's settings: the store {store.root} does not hold {run.data.tags.get('sysdesign.artifact')}"
        raise ArtifactError(f"run {made}", "must have its evaluation in the store or uploaded", do)
    folder = scratch / str(run.data.tags.get("sysdesign.artifact", made))
    client.download_artifacts(made, "evaluation", str(scratch))
    (scratch / "evaluation").rename(folder)
    client.download_artifacts(made, "manifest.json", str(folder))
    return folder


def _evaluation_run(client: MlflowClient, run: Run, name: str) -> Run:
    """The run itself, or that of the evaluation in a run of the whole chain. Raises InputError when there is no finished one."""
    stage, info = run.data.tags.get("sysdesign.stage", "none"), run.info
    if info.lifecycle_stage != "active":
        raise InputError("--runs", "must name a run that is not deleted", f"mlflow runs restore --run-id {info.run_id}", name)
    if stage != "evaluate":
        query = f"tags.`mlflow.parentRunId` = '{info.run_id}' and tags.`sysdesign.stage` = 'evaluate'"
        children = client.search_runs([info.experiment_id], query, max_results=1, order_by=["start_time DESC"])
        if not children:
            law = f"must name a run of evaluate, or of a whole chain that evaluated; this one is {info.run_name!r}"
            raise InputError("--runs", law, "see mlflow ui", name)
        return _evaluation_run(client, children[0], name)
    if info.status != "FINISHED" or "sysdesign.key" not in run.data.tags:
        do = "wait for it" if info.status == "RUNNING" else "run the same evaluation again: it goes on where it stopped"
        raise InputError("--runs", f"must name a finished evaluation; this one is {info.status}", do, name)
    return run


def _known(store: Store) -> str:
    return ", ".join(path.name for path in sorted(store.root.glob("evaluate-*"))) or "none yet; run mlflow run . --env-manager=local"


if __name__ == "__main__":
    main()
