"""The model registry: an evaluated export becomes a version with its lineage; aliases say which one answers users.

`challenger` is the version evaluated last, `champion` the one that passed the gate (or that a person promoted, with the
reason recorded). The version's files are what is deployed: GGUF, projector, Modelfile, certificate.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from sysdesign.artifacts import Artifact
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.models.bundle import CERTIFICATE, certified, uncertified
from sysdesign.tracking.runs import RunLog

if TYPE_CHECKING:
    from sysdesign.evaluate.gate import Verdict

CHAMPION, CHALLENGER = "champion", "challenger"
WHOLE = "sysdesign.registered_whole"  # set last: tags, aliases and promotion are all done
PLACE_TAG = "sysdesign.deployed."  # + where it runs; the value says since when and under which tag
PROMOTED, RETIRED = "sysdesign.promoted", "sysdesign.was_champion"  # when and why; the first only on the version that is champion now
NO_REASON = ", no reason given"
PARITY = "sysdesign.parity"  # passed, none, or failed: a version with the last neither serves nor is promoted
EVALUATION = ("predictions.jsonl", "verdict.json")  # kept with the version, so that the next one can be held against it


def register(log: RunLog, name: str, evaluate: Artifact, inputs: Mapping[str, Artifact]) -> str:
    """The version number of this evaluation's model; registers it unless it already is.

    `challenger` moves to it. `champion` moves only when the evaluation's own verdict, which its page and note show, is to promote, and the
    champion is still the one that it faced.
    Raises ArtifactError when the export's parity certificate failed, ServiceError when the registry refuses or goes away in the
    middle; calling again completes the work.
    """
    client, export, dataset = log.client, inputs["export"], inputs["dataset"]
    passed = certified(export.path)
    if passed is False:
        law = "only a model whose parity certificate passed is registered"
        raise ArtifactError(
            str(export.path / "parity.json"), law, "read parity.html beside it; the limits are in export.parity", "passed: false"
        )
    verdict, lineage = decided(evaluate)
    reasons = "; ".join(verdict.reasons)[:4000]
    try:
        version = registered(client, name, evaluate.digest)
        if version is None:
            champion = to_beat(client, name, export)
            if (now := str(champion.version) if champion else "") != (faced := lineage.get("faced", "")) and verdict.verdict == "promote":
                law = f"the champion must be the one that was faced (version {faced or 'none'}), or the verdict says nothing about it"
                raise ServiceError(
                    "model registry", law, "run the same command again: it asks only the new champion", f"version {now or 'none'}"
                )
            for file in EVALUATION:
                client.log_artifact(log.run, str(evaluate.path / file), "evaluation")
            model_id = _logged_model(log, evaluate, export, dataset)
            create_model(client, name)
            tags = {
                PARITY: "none" if passed is None else "passed", "sysdesign.questions": str(lineage.get("questions", "")),
                "sysdesign.verdict": verdict.verdict, "sysdesign.attempt": str(verdict.attempt), "sysdesign.reasons": reasons,
                "sysdesign.faced": f"version {faced}" if faced else "no champion",
                "sysdesign.evaluation": evaluate.digest, "sysdesign.export": export.digest,
                "sysdesign.dataset": dataset.digest, "sysdesign.adapter": inputs["train"].digest, "sysdesign.base": inputs["base"].digest,
                **{f"sha256.{Path(f.path).name}": f.sha256 for f in export.manifest.files if f.path.endswith(".gguf")},
            }  # fmt: skip
            made = client.create_model_version(
                name, f"models:/{model_id}", run_id=log.run, tags=tags, model_id=model_id, description=evaluate.manifest.note
            )
            version = str(made.version)
        if (
            WHOLE not in client.get_model_version(name, version).tags
        ):  # a registry that went away in the middle is completed by the next call
            client.set_registered_model_alias(name, CHALLENGER, version)
            if verdict.verdict == "promote":
                promote(client, name, version, reason=f"passed the gate: {reasons[:300]}")
            client.set_model_version_tag(name, version, WHOLE, "true")
    except MlflowException as err:
        do = "run the same command again when the registry answers; what was evaluated is kept"
        raise ServiceError("model registry", f"must accept the version ({str(err).splitlines()[0][:200]})", do, name) from None
    log.tags({"sysdesign.registered": f"models:/{name}/{version}"})
    return version


def decided(evaluate: Artifact) -> tuple[Verdict, dict[str, Any]]:
    """The verdict and lineage of an evaluation. Raises ArtifactError when its file is broken."""
    from sysdesign.evaluate.gate import Verdict

    path = evaluate.path / "verdict.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Verdict.model_validate({field: held[field] for field in Verdict.model_fields}), dict(held["lineage"])
    except (OSError, ValueError, KeyError) as err:
        raise ArtifactError(str(path), f"must be the verdict of an evaluation ({type(err).__name__})", "run evaluate again") from None


def to_beat(client: MlflowClient, name: str, export: Artifact) -> ModelVersion | None:
    champion = champion_of(client, name)
    return None if champion is None or champion.tags.get("sysdesign.export") == export.digest else champion


def create_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Systems-design vision-language model; each version's tags are its lineage.")
    except MlflowException as err:
        if err.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version to beat; None only when the registry says that there is none, never because it did not answer."""
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as err:
        if err.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no such alias
            return None
        raise


def show(log: RunLog, name: str, evaluate: Artifact) -> str:
    """Link the version of this evaluation to another run (the whole chain's); returns its address, "" if it has none."""
    version = registered(log.client, name, evaluate.digest)
    if version is None:
        return ""
    model_id = str(log.client.get_model_version(name, version).source).removeprefix("models:/")  # its field `model_id` stays empty
    log._try(lambda: log.client.log_outputs(log.run, [LoggedModelOutput(model_id, 0)]))
    log.tags({"sysdesign.registered": f"models:/{name}/{version}"})
    return f"models:/{name}/{version}"


def is_champion(client: MlflowClient, uri: str) -> bool:
    """Whether `models:/name/version` is the version that answers users."""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    champion = champion_of(client, name) if name else None
    return champion is not None and str(champion.version) == version


def promote(client: MlflowClient, name: str, version: str, *, reason: str, despite_certificate: bool = False) -> str | None:
    """Move `champion` to `version`; returns the version it was on before. The reason stays as a tag of the version.

    Raises ArtifactError when its parity certificate failed, unless `despite_certificate`, which the tag then says.
    """
    champion = champion_of(client, name)
    failed = failed_parity(client, client.get_model_version(name, version))
    if failed and not despite_certificate:
        do = "export and evaluate again; or, knowing what differs, --despite_certificate true"
        raise ArtifactError(f"models:/{name}/{version}", "must have passed its parity certificate to be promoted", do, "failed")
    said = f"{_now()}{' despite a failed parity certificate:' * failed} {reason}"
    client.set_model_version_tag(name, version, PROMOTED, said)
    client.set_registered_model_alias(name, CHAMPION, version)
    _retire(client, name, version)
    return str(champion.version) if champion else None


def notice(client: MlflowClient, name: str) -> str:
    """Record a `champion` that was moved in the registry itself, by a click, with the reason that the version's tag `reason` gives.

    Returns a line for the person when there is no reason, else "".
    """
    champion, line = champion_of(client, name), ""
    if champion is None:
        return line
    version, reason = str(champion.version), champion.tags.get("reason", "").strip()
    recorded = champion.tags.get(PROMOTED, "")
    if not recorded or (reason and recorded.endswith(NO_REASON)):  # the reason may be written after the first look
        said = f"{_now()} seen, moved by hand in the registry{f': {reason}' if reason else NO_REASON}"
        client.set_model_version_tag(name, version, PROMOTED, said)
        if not reason:
            line = (
                f'champion was moved by hand to version {version}; say why: python -m pipelines.promote --version {version} --reason "..."'
            )
    _retire(client, name, version)
    return line


def _retire(client: MlflowClient, name: str, champion: str) -> None:
    """Every other version that says it is champion only was: should an alias come back to it by hand, that is a new promotion."""
    for held in client.search_model_versions(f"name = '{name}' and tags.`{PROMOTED}` LIKE '%'", max_results=1000):
        if str(held.version) != champion:
            client.set_model_version_tag(name, str(held.version), RETIRED, f"{held.tags[PROMOTED]}; until {_now()}")
            client.delete_model_version_tag(name, str(held.version), PROMOTED)
            if held.tags.get("reason"):  # it was the reason of that promotion, and of no later one
                client.delete_model_version_tag(name, str(held.version), "reason")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def failed_parity(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether the files of a version were found to differ from what was trained: its tag says so, or, without one, its certificate."""
    import mlflow

    if version.tags.get(PARITY):
        return bool(version.tags[PARITY] == "failed")
    uri = f"models:/{version.name}/{version.version}"
    if not any(file.path == CERTIFICATE for file in mlflow.artifacts.list_artifacts(artifact_uri=uri)):
        return False
    with tempfile.TemporaryDirectory(prefix="sysdesign-parity-") as folder:
        return certified(Path(mlflow.artifacts.download_artifacts(f"{uri}/{CERTIFICATE}", dst_path=folder)).parent) is False


def fetch_to_serve(client: MlflowClient, uri: str, folder: Path, *, despite_certificate: bool) -> tuple[Path, ModelVersion | None]:
    """The files of the version that `uri` names now, each version in a folder of its own below `folder`, and that version.

    An alias may move at any time: it is read once, and what is served and recorded afterwards goes by the version. A version that
    arrived whole is not fetched again. Raises ArtifactError when there is no such version or its parity certificate failed.
    """
    version = find_version(client, uri)
    if version and not despite_certificate and failed_parity(client, version):
        raise uncertified(uri)
    exact = f"models:/{version.name}/{version.version}" if version else uri
    if _is_local_store():
        return fetch_model(exact, folder), version
    kept = folder / re.sub(r"\W+", "-", str(version.source) if version else uri)  # a version's number may come back, its source may not
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if not kept.is_dir():
            partial = kept.with_name(f"{kept.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fetch_model(exact, partial)
            partial.rename(kept)
    return kept, version


def find_version(client: MlflowClient, uri: str) -> ModelVersion | None:
    """The version that `models:/name@alias` or `models:/name/version` names; None for any other address."""
    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", uri)
    if named is None:
        return None
    try:
        return client.get_model_version_by_alias(named[1], named[2]) if named[2] else client.get_model_version(named[1], named[3])
    except MlflowException as err:
        raise _no_model(uri, err) from None


def fetch_model(uri: str, folder: Path) -> Path:
    """The files of `models:/name@alias` or `models:/name/version`, as a folder laid out like an export artefact.

    Raises ArtifactError when there is no such version.
    """
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=None if _is_local_store() else str(folder)))
    except MlflowException as err:
        raise _no_model(uri, err) from None


def _no_model(uri: str, err: MlflowException) -> ArtifactError:
    do = "run the whole chain first (mlflow run . --env-manager=local), or name a version: models:/sysdesign/1"
    return ArtifactError("model registry", f"must hold the model ({str(err).splitlines()[0][:160]})", do, uri)


def note_deployment(
    client: MlflowClient, name: str, export: Artifact, report: Mapping[str, object], served: ModelVersion | None = None
) -> None:
    """Record where a version runs and since when: `served`, else the newest version of `name` that ships these files.

    A server started for the check alone runs nowhere, and files that no version ships belong to none.
    """
    if not report.get("url"):
        return
    if served is None:
        versions = client.search_model_versions(f"name = '{name}' and tags.`sysdesign.export` = '{export.digest}'", max_results=1000)
        served = max(versions, key=lambda held: int(held.version), default=None)
    if served is not None:
        where = place(str(report["url"]), str(report["model"]))
        record_place(client, served.name, str(served.version), where, f"{report['since']} as {report['version']}")


def place(url: str, model: str) -> str:
    """Where a model runs, in characters that a tag's name may have."""
    return re.sub(r"[^\w.:/ -]", "_", f"{url.partition('://')[2].rstrip('/')}/{model}")


def record_place(client: MlflowClient, name: str, version: str, where: str, since: str) -> None:
    """Tag the version with where it runs since when; the version that ran there before loses the tag. A rerun keeps the first time."""
    held = clear_place(client, where, but=(name, version))
    if held.rpartition(" as ")[2] != since.rpartition(" as ")[2]:
        client.set_model_version_tag(name, version, PLACE_TAG + where, since)


def clear_place(client: MlflowClient, where: str, but: tuple[str, str] = ("", "")) -> str:
    """Take the tag of a place from every version of every model, `but` one; returns what that one's tag says, "" for nothing."""
    held = ""
    for other in client.search_model_versions(f"tags.`{PLACE_TAG}{where}` LIKE '%'", max_results=1000):
        if (other.name, str(other.version)) == but:
            held = other.tags[PLACE_TAG + where]
        else:
            client.delete_model_version_tag(other.name, str(other.version), PLACE_TAG + where)
    return held


def registered(client: MlflowClient, name: str, evaluation: str) -> str | None:
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
