"""MLflow's deployment interface -> this project's deployment: `mlflow deployments create -t ollama -m models:/sysdesign@champion`.

MLflow finds this module through the entry point `ollama = sysdesign.deployments_plugin` of the group `mlflow.deployments` (so the
project must be installed: `pip install -e . --no-deps`) and expects in it `target_help`, `run_local` and exactly one client class.
`deploy_model` is the same for a pipeline. On the registered version it records where it runs and since when.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from pydantic import ValidationError

from sysdesign.artifacts import MANIFEST, Manifest
from sysdesign.chat.pictures import prepare, prepare_bytes
from sysdesign.chat.speakers import Sources, Speaker, open_speaker
from sysdesign.config.chat import ChatConfig
from sysdesign.config.deploy import DeployConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.deploy.ollama import Ollama
from sysdesign.deploy.rollout import serving_versions, withdraw
from sysdesign.deploy.serving import DeployReport, serve_bundle, verified_digests
from sysdesign.errors import ConfigError, SysdesignError
from sysdesign.models.bundle import certified, open_bundle, uncertified
from sysdesign.models.chat import Message
from sysdesign.models.stream import gather
from sysdesign.tracking.registry import clear_place, fetch_to_serve, place, record_place


def deploy_model(uri: str, cfg: DeployConfig, *, out: Path, seed: int = 0, threads: int = 0) -> DeployReport:
    """Fetch `models:/name@alias`, `models:/name/version` or a local folder, verify it, serve it, and record where it runs.

    Writes `deployment.json` and `golden.png` below `out`. Raises what fetching, verifying and serving raise.
    """
    folder, version = _fetched(uri, out / "model", cfg)
    bundle = open_bundle(folder)
    manifest = folder / MANIFEST
    known = Manifest.model_validate_json(manifest.read_bytes()) if manifest.is_file() else None
    digests = verified_digests(bundle, known)
    report = serve_bundle(cfg, bundle, digests, known.digest if known else digests[bundle.text.name], out=out, seed=seed, threads=threads)
    if report.url and version:
        where, since = place(report.url, report.model), f"{report.since} as {report.version}"
        record_place(MlflowClient(), version.name, str(version.version), where, since)
    return report


def _fetched(uri: str, folder: Path, cfg: DeployConfig) -> tuple[Path, ModelVersion | None]:
    if Path(uri).is_dir():
        return Path(uri), None
    return fetch_to_serve(MlflowClient(), uri, folder, despite_certificate=cfg.despite_certificate)


def target_help() -> str:
    """What `mlflow deployments help -t ollama` prints."""
    return """\
Target: `ollama` (http://127.0.0.1:11434) or `ollama:/host:port`. Ollama 0.30.0 or newer.

  mlflow deployments create  -t ollama --name sysdesign -m models:/sysdesign@champion
  mlflow deployments update  -t ollama --name sysdesign -m models:/sysdesign/7
  mlflow deployments list    -t ollama
  mlflow deployments get     -t ollama --name sysdesign
  mlflow deployments predict -t ollama --name sysdesign -I questions.json     [{"prompt": "...", "image": "path or base64"}]
  mlflow deployments delete  -t ollama --name sysdesign
  mlflow deployments run-local -t ollama --name sysdesign -m models:/sysdesign@champion     llama.cpp on this machine, until Ctrl-C

-C options, as in the deploy section of the configuration: ollama.replace, ollama.keep, ollama.timeout_s, golden.question,
golden.max_tokens, golden.min_found (0 for a rehearsal's model), despite_certificate (true serves what failed its parity)."""


def run_local(name: str, model_uri: str, flavor: str | None = None, config: dict[str, Any] | None = None) -> None:
    """Serve through llama.cpp on this machine until Ctrl-C; the address goes to stderr."""
    from sysdesign.models import llamacpp

    with _as_mlflow_error(), tempfile.TemporaryDirectory() as scratch:
        cfg = _deploy_config("http://127.0.0.1:11434", name, config or {})
        bundle = open_bundle(_fetched(model_uri, Path(scratch), cfg)[0])
        if certified(bundle.folder) is False and not cfg.despite_certificate:
            raise uncertified(model_uri)
        least, most = bundle.policy.min_tokens, bundle.policy.max_tokens
        with llamacpp.serve(
            bundle.text, bundle.projector, context=bundle.context, alias=name, min_image_tokens=least, max_image_tokens=most
        ) as url:
            sys.stderr.write(f"{name} answers at {url}/chat/completions (Ctrl-C stops)\n")
            with contextlib.suppress(KeyboardInterrupt):
                _wait()


class OllamaDeploymentClient(BaseDeploymentClient):
    """One Ollama server as a deployment target."""

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        address = target_uri.partition(":/")[2].strip("/")
        self._url = f"http://{address}" if address else "http://127.0.0.1:11434"

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: dict[str, Any] | None = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Serve a model under a new name."""
        with _as_mlflow_error():
            if name in self._serving():
                raise MlflowException(f"{name} serves already at {self._url}: use update", error_code=RESOURCE_ALREADY_EXISTS)
            return self._deploy(name, model_uri, config)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another version under the same name; the one before goes on serving if the new one fails its health check."""
        with _as_mlflow_error():
            if model_uri is None:
                raise MlflowException("update needs --model-uri", error_code=INVALID_PARAMETER_VALUE)
            self._require(name)
            return self._deploy(name, model_uri, config)

    def delete_deployment(self, name: str, config: dict[str, Any] | None = None, endpoint: str | None = None) -> None:
        """Take the name and its versions off the server, and off the record of where versions run; twice is as good as once."""
        with _as_mlflow_error(), Ollama(self._config(name, {}).ollama) as server:
            withdraw(server, name)
        clear_place(MlflowClient(), place(self._url, name))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Names that serve a version made by this project."""
        with _as_mlflow_error():
            return [self._described(name, version) for name, version in self._serving().items()]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """What serves under a name."""
        with _as_mlflow_error():
            described = self._described(name, self._require(name))
            with Ollama(self._config(name, {}).ollama) as server:
                shown = server.show(name) or {}
                return described | {"ollama": server.version(), "capabilities": shown.get("capabilities"), "details": shown.get("details")}

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> PredictionsResponse:
        """Answers to rows with `prompt` and, if wanted, `image` (a path or base64) and `max_tokens`: a table, a list or one dict."""
        with _as_mlflow_error(), tempfile.TemporaryDirectory() as scratch:
            rows = (
                inputs.to_dict(orient="records") if hasattr(inputs, "to_dict") else [inputs] if isinstance(inputs, dict) else list(inputs)
            )
            cfg = ChatConfig.model_validate({"via": "ollama", "ollama": {"url": self._url, "model": deployment_name}})
            with open_speaker(cfg, Sources(), RuntimeConfig()) as speaker:
                return PredictionsResponse({"predictions": [_answer(speaker, row, Path(scratch), cfg.max_tokens) for row in rows]})

    def _deploy(self, name: str, model_uri: str, config: dict[str, Any] | None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as out:
            report = deploy_model(model_uri, self._config(name, config or {}), out=Path(out))
        return {"name": name, "flavor": "gguf", **report.model_dump(mode="json")}

    def _config(self, name: str, options: dict[str, Any]) -> DeployConfig:
        return _deploy_config(self._url, name, options)

    def _serving(self) -> dict[str, str]:
        with Ollama(self._config("sysdesign", {}).ollama) as server:
            server.version()
            return serving_versions(server)

    def _require(self, name: str) -> str:
        serving = self._serving()
        if name not in serving:
            raise MlflowException(f"{name} is no deployment of this project at {self._url}", error_code=RESOURCE_DOES_NOT_EXIST)
        return serving[name]

    def _described(self, name: str, version: str) -> dict[str, Any]:
        return {"name": name, "flavor": "gguf", "url": self._url, "version": version}


def _deploy_config(url: str, name: str, options: dict[str, Any]) -> DeployConfig:
    tree: dict[str, Any] = {"to": "ollama", "ollama": {"url": url, "model": name}, "golden": {}}
    for key, value in options.items():
        section, _, field = key.rpartition(".")
        if section not in ("ollama", "golden") and key != "despite_certificate":
            raise ConfigError(f"-C {key}", "is no option", "see mlflow deployments help -t ollama", value)
        (tree[section] if section else tree)[field] = value
    try:
        return DeployConfig.model_validate(tree)
    except ValidationError as err:
        first = err.errors()[0]
        raise ConfigError(".".join(map(str, first["loc"])), first["msg"], "see mlflow deployments help -t ollama", first["input"]) from None


def _answer(speaker: Speaker, row: dict[str, Any], scratch: Path, max_tokens: int) -> dict[str, Any]:
    image = row.get("image")
    pictures: tuple[Path, ...] = ()
    if isinstance(image, str) and image:
        if len(image) < 1024 and Path(image).suffix:
            pictures = (prepare(Path(image), speaker.policy, scratch),)
        else:
            try:
                data = base64.b64decode(image.rpartition(",")[2], validate=True)
            except binascii.Error:
                data = b""
            pictures = (prepare_bytes(data, "image", speaker.policy, scratch),)
    lead = [Message(role="system", text=speaker.system)] if speaker.system else []
    asked = [*lead, Message(role="user", text=str(row.get("prompt", "")), images=pictures)]
    reply = gather(speaker.say(asked, int(row.get("max_tokens") or max_tokens), 0, 0.0))
    return {"answer": reply.text, **reply.model_dump(exclude={"text"})}


@contextlib.contextmanager
def _as_mlflow_error() -> Iterator[None]:
    """MLflow's callers expect its own exception; the line stays the same."""
    try:
        yield
    except SysdesignError as err:
        raise MlflowException(str(err), error_code=INVALID_PARAMETER_VALUE) from None


def _wait() -> None:
    import threading

    threading.Event().wait()
