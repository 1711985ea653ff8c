"""`mlflow deployments -t ollama`: a registered model served, replaced, asked and taken down, and the registry knows what runs where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.ollama_server import OllamaServer
from tests.test_deploy import make_export


@pytest.fixture
def registered(tracking_uri: str, tmp_path: Path) -> None:
    """Two versions of `shop`; `champion` is the first."""
    import mlflow
    from mlflow import MlflowClient

    mlflow.set_tracking_uri(tracking_uri)
    client = MlflowClient()
    client.create_registered_model("shop")
    experiment = client.create_experiment("x", artifact_location=str(tmp_path / "mlartifacts"))
    for fill in (1, 2):
        model = client.create_logged_model(experiment, name="gguf")
        client.log_model_artifacts(model.model_id, str(make_export(tmp_path / f"export-{fill}", fill)))
        client.finalize_logged_model(model.model_id, "READY")
        client.create_model_version("shop", f"models:/{model.model_id}", model_id=model.model_id)
    client.set_registered_model_alias("shop", "champion", "1")


def test_a_registered_model_through_the_client(registered: None, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.deployments import plugin_manager
    from mlflow.exceptions import MlflowException

    from sysdesign.tracking import registry as records

    plugins = plugin_manager.DeploymentPlugins()
    plugins.register("ollama", "sysdesign.deployments_plugin")
    plugin = plugins["ollama"]
    registry = MlflowClient()
    with OllamaServer(tmp_path / "ollama") as server:
        client = plugin.OllamaDeploymentClient(server.url.replace("http://", "ollama:/"))
        where = records.PLACE_TAG + records.place(server.url, "assistant")
        created = client.create_deployment("assistant", "models:/shop@champion")
        assert created["flavor"] == "gguf" and created["health"]["found"] == 1.0
        assert registry.get_model_version("shop", "1").tags[where].endswith(f"as {created['version']}")
        with pytest.raises(MlflowException, match="use update"):
            client.create_deployment("assistant", "models:/shop@champion")
        since = registry.get_model_version("shop", "1").tags[where]
        client.update_deployment("assistant", "models:/shop/1")
        assert registry.get_model_version("shop", "1").tags[where] == since, "a rerun keeps the time it began"

        updated = client.update_deployment("assistant", "models:/shop/2")
        assert updated["previous"] == created["version"]
        assert where not in registry.get_model_version("shop", "1").tags and where in registry.get_model_version("shop", "2").tags
        assert [d["name"] for d in client.list_deployments()] == ["assistant"]
        assert client.get_deployment("assistant")["capabilities"] == ["completion", "vision"]

        Image.new("RGB", (50, 50)).save(tmp_path / "p.png")
        answers = client.predict("assistant", [{"prompt": "What?", "image": str(tmp_path / "p.png")}, {"prompt": "And?"}])["predictions"]
        assert answers[0]["input_tokens"] > 1024 > answers[1]["input_tokens"] and answers[1]["answer"].startswith("Gateway")
        with pytest.raises(MlflowException, match="must be a picture"):
            client.predict("assistant", {"prompt": "What?", "image": "bm90IGEgcGljdHVyZQ=="})
        with pytest.raises(MlflowException, match="is no option"):
            client.update_deployment("assistant", "models:/shop/2", config={"nonsense": "1"})
        with pytest.raises(MlflowException, match="must hold the model"):
            client.update_deployment("assistant", "models:/shop/9")
        client.delete_deployment("assistant")
        client.delete_deployment("assistant")
        assert server.names() == [] and where not in registry.get_model_version("shop", "2").tags
        with pytest.raises(MlflowException, match="no deployment"):
            client.get_deployment("assistant")


def test_an_alias_that_moves_meanwhile_does_not_change_what_is_recorded(registered: None, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from sysdesign.deployments_plugin import OllamaDeploymentClient
    from sysdesign.tracking import registry as records

    registry = MlflowClient()
    with OllamaServer(tmp_path / "ollama") as server:

        def promoted_in_between(name: str, messages: list[dict[str, Any]]) -> str:
            registry.set_registered_model_alias("shop", "champion", "2")
            return "Gateway Orders Ledger"

        server.answer = promoted_in_between
        client = OllamaDeploymentClient(server.url.replace("http://", "ollama:/"))
        client.create_deployment("assistant", "models:/shop@champion")
        where = records.PLACE_TAG + records.place(server.url, "assistant")
        assert [where in registry.get_model_version("shop", version).tags for version in "12"] == [True, False]
        registry.create_registered_model("other")
        registry.create_model_version("other", registry.get_model_version("shop", "2").source)
        client.update_deployment("assistant", "models:/other/1")
        assert where not in registry.get_model_version("shop", "1").tags, "a place belongs to one version of one model"
        assert where in registry.get_model_version("other", "1").tags


def test_a_failed_certificate_stops_promotion_and_deployment(registered: None, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from sysdesign.deployments_plugin import OllamaDeploymentClient, run_local
    from sysdesign.errors import ArtifactError
    from sysdesign.tracking import registry as records

    registry = MlflowClient()
    export = make_export(tmp_path / "uncertified", 5)
    (export / "parity.json").write_text('{"passed": false}')
    model = registry.create_logged_model(registry.get_experiment_by_name("x").experiment_id, name="gguf")
    registry.log_model_artifacts(model.model_id, str(export))
    registry.finalize_logged_model(model.model_id, "READY")
    registry.create_model_version("shop", f"models:/{model.model_id}", model_id=model.model_id)
    registry.set_model_version_tag("shop", "2", records.PARITY, "failed")
    for version in ("2", "3"):  # by its tag, and by its certificate
        with pytest.raises(ArtifactError, match=r"parity certificate to be promoted.*--despite_certificate true"):
            records.promote(registry, "shop", version, reason="because")
    assert str(registry.get_model_version_by_alias("shop", "champion").version) == "1"
    with OllamaServer(tmp_path / "ollama") as server:
        client = OllamaDeploymentClient(server.url.replace("http://", "ollama:/"))
        for uri in ("models:/shop/2", "models:/shop/3", str(export)):
            with pytest.raises(MlflowException, match=r"parity certificate to serve people.*despite_certificate true"):
                client.create_deployment("assistant", uri)
            with pytest.raises(MlflowException, match="parity certificate to serve people"):
                run_local("assistant", uri)
        assert server.names() == []
        client.create_deployment("assistant", "models:/shop/3", config={"despite_certificate": "true"})
    records.promote(registry, "shop", "3", reason="differs in rounding only", despite_certificate=True)
    champion = registry.get_model_version_by_alias("shop", "champion")
    assert champion.version == 3 and champion.tags["sysdesign.promoted"].endswith(
        "despite a failed parity certificate: differs in rounding only"
    )


def test_the_command_line_finds_the_plugin_by_its_entry_point(tmp_path: Path) -> None:
    info = tmp_path / "site" / "sysdesign-0.dist-info"  # what `pip install -e .` leaves behind
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sysdesign\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[mlflow.deployments]\nollama = sysdesign.deployments_plugin\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlflow", "deployments", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)

    export = make_export(tmp_path / "export")
    with OllamaServer(tmp_path / "ollama") as server:
        target = server.url.replace("http://", "ollama:/")
        created = run("create", "-t", target, "--name", "assistant", "-m", str(export), "-C", "golden.min_found=1.0")
        assert "gguf deployment assistant is created" in created.stdout, created.stderr
        assert any(name.startswith("assistant:v-") for name in server.names())
