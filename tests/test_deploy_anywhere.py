"""From a machine that has nothing but the tracking server's address: fetch by alias, verify, serve, record."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sysdesign.artifacts import MANIFEST, Manifest, digest_of, hash_files
from sysdesign.deploy.serving import verified_digests
from sysdesign.errors import ArtifactError
from sysdesign.models.bundle import open_bundle
from tests.ollama_server import OllamaServer
from tests.test_deploy import make_export


@pytest.fixture
def tracking_server(template_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real tracking server that keeps its artefacts itself."""
    shutil.copy(template_database, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    where = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path / "kept")]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--port", url.rpartition(":")[2], "--workers", "1"]
    quick = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its helper processes start slower than it does
    server = subprocess.Popen(
        command, cwd=tmp_path, env=quick, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/health", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


def test_deploy_from_anywhere(tracking_server: str, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    import mlflow
    from mlflow import MlflowClient

    from sysdesign.tracking.registry import fetch_to_serve

    export = make_export(tmp_path / "export")
    files = hash_files(export)
    made: Any = {"stage": "export", "version": 1, "key": "0" * 64, "seed": 0, "created": "2026-11-22T00:00:00+00:00", "seconds": 0}
    empty: Any = {"config": {}, "inputs": {}, "prompts": {}, "report": {}}
    (export / MANIFEST).write_text(Manifest(digest=digest_of(files), files=files, **made, **empty).model_dump_json())
    client = MlflowClient(tracking_server)
    model = client.create_logged_model(client.create_experiment("x"), name="gguf")
    client.log_model_artifacts(model.model_id, str(export))
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("sysdesign")
    client.create_model_version("sysdesign", f"models:/{model.model_id}", model_id=model.model_id)
    client.set_registered_model_alias("sysdesign", "champion", "1")

    store = tmp_path / "laptop"
    with OllamaServer(tmp_path / "ollama") as server:
        flags = ["--model", "models:/sysdesign@champion", "--deploy.to", "ollama", "--deploy.ollama.url", server.url]
        flags += ["--runtime.store", str(store)]
        first = command("deploy", *flags)
        assert first.returncode == 0, first.stderr
        where = f"sysdesign.deployed.{server.url.removeprefix('http://')}/sysdesign"
        since = client.get_model_version("sysdesign", "1").tags[where]
        assert since.partition(" as ")[2] in server.names()
        (fetched,) = (path for path in (store / ".work" / "models").iterdir() if path.is_dir())
        assert hash_files(fetched) == files
        file = fetched / "gguf" / "model-q8_0.gguf"
        file.write_bytes(file.read_bytes()[:-1] + b"x")  # a bad disk, or a hand
        mlflow.set_tracking_uri(tracking_server)
        again, version = fetch_to_serve(client, "models:/sysdesign@champion", fetched.parent, despite_certificate=False)
        assert again == fetched and file.read_bytes()[-1:] == b"x", "what arrived whole is not fetched again"
        with pytest.raises(ArtifactError, match="sha256 recorded when it was exported"):
            verified_digests(open_bundle(again), Manifest.model_validate_json((again / MANIFEST).read_bytes()))
        assert version and version.tags[where] == since
