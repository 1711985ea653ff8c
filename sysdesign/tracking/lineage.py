"""Writes a finished stage into its run: parameters, metrics, what it read, what it made; and finds results by key.

Every artefact's run carries its key and digest as tags, so a machine that lacks an artefact can ask the tracking server
who made it, download it, and prove by its digest that it is the same: data from the laptop, training on a rented GPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from sysdesign.artifacts import MANIFEST, Artifact, Store, digest_of, hash_files
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.flow import Outcome
from sysdesign.tracking.runs import RunLog, is_local

SHOWN = {".html", ".json", ".md", ".png", ".yaml", ".txt"}
SHOWN_BYTES = 8 * 2**20  # larger files are pushed as part of the artefact or not at all
SHOWN_PICTURES = 24
UPLOAD = "artifact"  # folder below a run's artefacts that holds a whole stage artefact


def record(log: RunLog, outcome: Outcome, inputs: Mapping[str, Artifact], *, push: str) -> None:
    """Tags, metrics, note, inputs and viewable files of one finished stage."""
    artifact, manifest = outcome.artifact, outcome.artifact.manifest
    made_by = None
    if outcome.cached:
        made_by = maker(log.client, artifact)
    log.tags(
        {
            "sysdesign.stage": artifact.stage, "sysdesign.key": artifact.key, "sysdesign.digest": artifact.digest,
            "sysdesign.cached": str(outcome.cached).lower(), "sysdesign.artifact": f"{artifact.stage}-{artifact.key[:12]}",
            "sysdesign.commit": manifest.commit or "unknown", **({"sysdesign.made_by_run": made_by} if made_by else {}),
            "mlflow.note.content": _note(outcome, made_by),
        }
    )  # fmt: skip
    log.metrics({**manifest.metrics, f"{artifact.stage}/seconds": manifest.seconds})
    dataset = inputs.get("dataset") or (artifact if artifact.stage == "dataset" else None)
    if dataset:
        log._try(lambda: log.client.log_inputs(log.run, [dataset_input(dataset, artifact.stage)]))
    if outcome.cached:
        return
    _show(log, artifact)
    if push == "always" or (push == "auto" and not is_local()):
        log._try(lambda: log.client.log_artifacts(log.run, str(artifact.path), UPLOAD))


def summarise(parent: RunLog, outcome: Outcome, inputs: Mapping[str, Artifact]) -> None:
    """What a person looks for first, on the run of the whole chain: its metrics, its dataset, its report and contact sheet."""
    artifact = outcome.artifact
    parent.metrics(artifact.manifest.metrics | ({} if outcome.cached else {f"{artifact.stage}/seconds": outcome.seconds}))
    if artifact.stage == "dataset":
        parent._try(lambda: parent.client.log_inputs(parent.run, [dataset_input(artifact, "dataset")]))
    for name in ("contact_sheet.png", "report.html"):
        if (artifact.path / name).is_file():
            parent.file(artifact.path / name)


def dataset_input(dataset: Artifact, context: str) -> DatasetInput:
    """The dataset artefact as MLflow shows it: name, digest, source, schema, row counts."""
    report = dataset.manifest.report
    columns = [
        ("id", "string"), ("messages", "list<struct<role, content>>"), ("images", "list<string>"), ("family", "string"),
        ("check", "struct<kind, expected, unit, tolerance>"), ("facts", "list<struct<name, value, unit, rule>>"),
        ("graph_sha256", "string"), ("topology", "string"), ("style", "string"), ("n_tokens", "long"), ("n_image_tokens", "long"),
    ]  # fmt: skip
    schema = {"mlflow_colspec": [{"name": name, "type": kind, "required": True} for name, kind in columns]}
    source = {"uri": f"{dataset.stage}-{dataset.key[:12]}", "key": dataset.key}
    numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
    entity = Dataset(
        name="sysdesign",
        digest=report.get("content_sha256", dataset.digest)[:32],  # of rows and pixels: two machines may pack them into other bytes
        source_type="local",
        source=json.dumps(source),
        schema=json.dumps(schema),
        profile=json.dumps(numbers),
    )
    role = {"dataset": "preparation", "train": "training", "export": "parity", "evaluate": "evaluation"}.get(context, context)
    return DatasetInput(entity, [InputTag("mlflow.data.context", role), InputTag("sysdesign.digest", dataset.digest)])


def maker(client: MlflowClient, artifact: Artifact) -> str | None:
    """The run that made this artefact, if this store knows it."""
    found = _search(client, artifact.stage, artifact.key)
    return next((run.info.run_id for run in found if run.data.tags.get("sysdesign.digest") == artifact.digest), None)


def fetch(client: MlflowClient, store: Store, stage: str, key: str) -> Artifact | None:
    """Bring an artefact that a finished run uploaded under this key, verified against its digest; None if nobody did.

    Raises ArtifactError when what arrives is not what its manifest records, ServiceError when the server breaks off.
    """
    if not any(_uploaded(client, run) for run in _search(client, stage, key)):
        return None
    (store.root / ".work").mkdir(parents=True, exist_ok=True)
    with FileLock(store.root / ".work" / f"fetch-{stage}-{key[:12]}.lock"):  # a second process waits, then finds what the first brought
        return store.find(stage, key) or _download(client, store, stage, key)


def _uploaded(client: MlflowClient, run: Any) -> bool:
    return any(entry.path == UPLOAD for entry in client.list_artifacts(run.info.run_id))


def _download(client: MlflowClient, store: Store, stage: str, key: str) -> Artifact | None:
    for run in _search(client, stage, key):
        if not _uploaded(client, run):
            continue
        scratch = store.root / ".work" / f"fetch-{stage}-{key[:12]}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        folder = scratch / UPLOAD
        try:
            client.download_artifacts(run.info.run_id, UPLOAD, str(scratch))
        except Exception as err:  # every artefact store has its own family of errors
            shutil.rmtree(scratch, ignore_errors=True)
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
            do = f"try again, or make the stage here: mlflow run . -e {stage} --env-manager=local"
            raise ServiceError(f"run {run.info.run_id}", f"the uploaded {stage} artefact must arrive whole ({reason})", do) from None
        found = store.load(folder)
        if found.key != key or digest_of(hash_files(folder)) != found.digest:
            shutil.rmtree(scratch, ignore_errors=True)
            do = f"delete that run's artefacts or make the stage again: mlflow run . -e {stage} --env-manager=local"
            raise ArtifactError(f"run {run.info.run_id}", f"the uploaded {stage} artefact must match its digest", do, found.digest[:12])
        store.folder(stage, key).parent.mkdir(parents=True, exist_ok=True)
        folder.rename(store.folder(stage, key))
        shutil.rmtree(scratch, ignore_errors=True)
        return store.find(stage, key)
    return None


def _search(client: MlflowClient, stage: str, key: str) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    tags = {"key": key, "stage": stage, "cached": "false"}
    query = " and ".join([f"tags.`sysdesign.{name}` = '{value}'" for name, value in tags.items()] + ["status = 'FINISHED'"])
    return list(client.search_runs(experiments, query, max_results=5, order_by=["start_time DESC"]))


def _note(outcome: Outcome, made_by: str | None) -> str:
    note = outcome.artifact.manifest.note
    if outcome.cached:
        by = f" It was made by run `{made_by}`." if made_by else ""
        note += f"\n\nFound in the store, not made again.{by}"
    return note


def _show(log: RunLog, artifact: Artifact) -> None:
    """What a person opens in the UI: reports, cards, manifests and the first pictures."""
    log.file(artifact.path / MANIFEST)
    pictures = 0
    for entry in artifact.manifest.files:
        path = artifact.path / entry.path
        if (path.suffix not in SHOWN and path.name != "Modelfile") or entry.size > SHOWN_BYTES:
            continue
        if any(part in ("model", "processor", "adapter", "hf", "merged") for part in entry.path.split("/")[:-1]):
            continue
        if path.suffix == ".png" and "/" in entry.path:
            pictures += 1
            if pictures > SHOWN_PICTURES:
                continue
        log.file(path, entry.path.rpartition("/")[0])
