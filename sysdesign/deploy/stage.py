"""An export -> a model that answers questions about pictures, in Ollama or in llama.cpp's server, proved by a golden question."""

from __future__ import annotations

from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.deploy import DeployConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.deploy.serving import DeployReport, serve_bundle, verified_digests
from sysdesign.models.bundle import open_bundle
from sysdesign.records import MetricLog


def deploy(cfg: DeployConfig, *, seed: int, out: Path, log: MetricLog, runtime: RuntimeConfig, export: Artifact) -> DeployReport:
    """Serve an export and prove that it answers; what served before goes on serving when it does not.

    Reads `Modelfile`, `export.json` and `gguf/` of the export. Writes `deployment.json` and `golden.png`.
    Raises ArtifactError when a file is not the one that was exported, ServiceError when no server answers or the model fails its
    health check, ToolError when Ollama is too old, InputError when the name belongs to another model.
    """
    bundle = open_bundle(export.path)
    digests = verified_digests(bundle, export.manifest)
    report = serve_bundle(cfg, bundle, digests, export.digest, out=out, seed=seed, threads=runtime.workers)
    log.image(out / "golden.png", "deploy/golden")
    return report
