"""The model registry: an evaluated export becomes a version with its lineage; aliases say which one answers users.

`challenger` is the version evaluated last, `champion` the one that passed the gate (or that a person promoted, with the
reason recorded). The version's files are what is deployed: GGUF, projector, Modelfile, certificate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sysdesign.artifacts import Artifact
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.tracking.runs import RunLog

CHAMPION, CHALLENGER = "champion", "challenger"


def register(log: RunLog, name: str, evaluate: Artifact, inputs: Mapping[str, Artifact]) -> str:
    """The version number of this evaluation's model; registers it unless it already is. Sets `challenger`, and
    `champion` when the verdict is promote.

    Raises ServiceError when the registry refuses or goes away in the middle; calling again completes the work.
    """
    client, export, dataset = log.client, inputs["export"], inputs["dataset"]
    try:
        version = _registered(client, name, evaluate.digest)
        if version is None:
            model_id = _logged_model(log, evaluate, export, dataset)
            try:
                client.create_registered_model(name, description="Systems-design vision-language model; see each version's lineage tags.")
            except MlflowException as err:
                if err.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            verdict = str(evaluate.manifest.report.get("verdict", "inconclusive"))
            tags = {
                "sysdesign.verdict": verdict, "sysdesign.evaluation": evaluate.digest, "sysdesign.export": export.digest,
                "sysdesign.dataset": dataset.digest, "sysdesign.adapter": inputs["train"].digest, "sysdesign.base": inputs["base"].digest,
                **{f"sha256.{Path(f.path).name}": f.sha256 for f in export.manifest.files if f.path.endswith(".gguf")},
            }  # fmt: skip
            made = client.create_model_version(
                name, f"models:/{model_id}", run_id=log.run, tags=tags, model_id=model_id, description=evaluate.manifest.note
            )
            version = str(made.version)
            client.set_registered_model_alias(name, CHALLENGER, version)
            if verdict == "promote":
                promote(client, name, version, reason="passed the gate")
    except MlflowException as err:
        do = "run the same command again when the registry answers; what was evaluated is kept"
        raise ServiceError("model registry", f"must accept the version ({str(err).splitlines()[0][:200]})", do, name) from None
    log.tags({"sysdesign.registered": f"models:/{name}/{version}"})
    return version


def promote(client: MlflowClient, name: str, version: str, *, reason: str) -> str | None:
    """Move `champion` to `version`; returns the version it was on before. The reason stays as a tag of the version."""
    try:
        before = str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException:
        before = None
    client.set_model_version_tag(name, version, "sysdesign.promoted", f"{datetime.now(UTC).isoformat(timespec='seconds')} {reason}")
    client.set_registered_model_alias(name, CHAMPION, version)
    return before


def fetch_model(uri: str, folder: Path) -> Path:
    """The files of `models:/name@alias` or `models:/name/version`, as a folder laid out like an export artefact.

    Raises ArtifactError when there is no such version.
    """
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=None if _is_local_store() else str(folder)))
    except MlflowException as err:
        do = "run the whole chain first (mlflow run . --env-manager=local), or name a version: models:/sysdesign/1"
        raise ArtifactError("model registry", f"must hold the model ({str(err).splitlines()[0][:160]})", do, uri) from None


def note_deployment(client: MlflowClient, name: str, version: str, where: str) -> None:
    """Record on the version where it runs and since when."""
    client.set_model_version_tag(name, version, f"sysdesign.deployed.{where}", datetime.now(UTC).isoformat(timespec="seconds"))


def _registered(client: MlflowClient, name: str, evaluation: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return next((str(version.version) for version in found if version.tags.get("sysdesign.evaluation") == evaluation), None)


def _logged_model(log: RunLog, evaluate: Artifact, export: Artifact, dataset: Artifact) -> str:
    """A logged model with the shipped files, its metrics tied to the dataset that judged it."""
    client = log.client
    experiment = client.get_run(log.run).info.experiment_id
    params = {str(k): str(v)[:250] for k, v in export.manifest.config.items() if not isinstance(v, dict | list)}
    model = client.create_logged_model(experiment, name="sysdesign-gguf", source_run_id=log.run, model_type="gguf", params=params)
    client.log_model_artifacts(model.model_id, str(export.path))
    client.finalize_logged_model(model.model_id, "READY")
    for metric, value in evaluate.manifest.metrics.items():
        client.log_metric(log.run, metric, value, model_id=model.model_id, dataset_name="sysdesign", dataset_digest=dataset.digest[:32])
    return str(model.model_id)


def _is_local_store() -> bool:
    from sysdesign.tracking.runs import is_local

    return is_local() and not os.environ.get("MLFLOW_REGISTRY_URI")
