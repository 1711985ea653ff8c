"""Deployment against a strict stand-in for Ollama: what must happen, and above all what must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sysdesign.artifacts import Artifact, Manifest, digest_of, hash_files
from sysdesign.config.deploy import DeployConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.deploy.serving import DeployReport, serve_bundle
from sysdesign.deploy.stage import deploy
from sysdesign.errors import ArtifactError, InputError, ServiceError, ToolError
from sysdesign.models.bundle import open_bundle, parse_modelfile, policy_in_template, sha256_file
from sysdesign.models.picture import PicturePolicy
from sysdesign.records import NullLog
from tests.ollama_server import OllamaServer

MODELFILE = '''# made by a test
FROM ./gguf/model-q8_0.gguf
FROM ./gguf/mmproj-f16.gguf
TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
SYSTEM """You read system-design diagrams."""
PARAMETER stop <|im_start|>
PARAMETER stop <|im_end|>
PARAMETER num_ctx 8192
PARAMETER temperature 0
REQUIRES 0.30.0
'''


def write_gguf(path: Path, kind: str, size: int, fill: int = 1) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), "clip" if kind == "mmproj" else "qwen2vl")
    writer.add_type(kind)
    writer.add_tensor("blk.0.weight", np.full(size, fill, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return make_export(tmp_path / "export-1")


def make_export(folder: Path, fill: int = 1) -> Path:
    (folder / "gguf").mkdir(parents=True)
    write_gguf(folder / "gguf" / "model-q8_0.gguf", "model", 4096, fill)
    write_gguf(folder / "gguf" / "mmproj-f16.gguf", "mmproj", 512)
    (folder / "Modelfile").write_text(MODELFILE)
    (folder / "export.json").write_text(json.dumps({"picture": {"side": 28, "min_tokens": 1024, "max_tokens": 1280}}))
    return folder


def run(server: OllamaServer, folder: Path, out: Path, **ollama: Any) -> DeployReport:
    bundle = open_bundle(folder)
    digests = {file.name: sha256_file(file) for file in (bundle.text, bundle.projector)}
    cfg = DeployConfig.model_validate({"to": "ollama", "ollama": {"url": server.url, "timeout_s": 20, **ollama}})
    return serve_bundle(cfg, bundle, digests, "d" * 64, out=out, seed=0)


def uploads(server: OllamaServer) -> int:
    return sum(method == "POST" and "/blobs/" in path for method, path, _ in server.requests)


def test_create_then_nothing_to_do(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama") as server:
        first = run(server, export, tmp_path / "out")
        assert first.changed and first.uploaded_files == 2 and first.previous is None
        assert first.health.found == 1.0 and (first.health.image_tokens or 0) >= 1024
        assert server.digest("sysdesign") == server.digest(first.version)
        manifest = server.manifest("sysdesign")
        assert manifest["parameters"] == {"stop": ["<|im_start|>", "<|im_end|>"], "num_ctx": 8192, "temperature": 0}
        assert manifest["template"].endswith(parse_modelfile(MODELFILE)["template"])
        assert policy_in_template(manifest["template"]) == open_bundle(export).policy
        before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "ollama").rglob("*") if f.is_file()}
        server.requests.clear()
        second = run(server, export, tmp_path / "out")
        after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "ollama").rglob("*") if f.is_file()}
    assert (second.changed, second.uploaded_files, second.version) == (False, 0, first.version)
    assert before == after, "a second run must not touch the server's store"
    assert {path for method, path, _ in server.requests if method != "HEAD"} == {"/api/version", "/api/tags", "/api/show", "/api/chat"}
    assert json.loads((tmp_path / "out" / "deployment.json").read_text())["version"] == first.version


def test_a_server_that_prefers_the_template_in_the_file_changes_nothing(tmp_path: Path, export: Path) -> None:
    from sysdesign.chat.speakers import Sources, open_speaker
    from sysdesign.config.chat import ChatConfig

    (export / "export.json").write_text(json.dumps({"picture": {"side": 28, "min_tokens": 1024, "max_tokens": 1100}}))
    with OllamaServer(tmp_path / "ollama", jinja="{% if tools %}{{ tools }}{% endif %}") as server:
        run(server, export, tmp_path / "out")
        server.requests.clear()
        assert run(server, export, tmp_path / "out").changed is False
        assert not any(path in ("/api/create", "/api/copy") for _, path, _ in server.requests)
        chat = ChatConfig.model_validate({"via": "ollama", "ollama": {"url": server.url}})
        with open_speaker(chat, Sources(), RuntimeConfig()) as speaker:
            assert speaker.policy == PicturePolicy(min_tokens=1024, max_tokens=1100)


def test_update_keeps_the_version_before_and_drops_older_ones(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama") as server:
        reports = [run(server, export, tmp_path / "out")]
        for fill in (2, 3):
            reports.append(run(server, make_export(tmp_path / f"export-{fill}", fill), tmp_path / "out"))
        assert [report.previous for report in reports] == [None, reports[0].version, reports[1].version]
        assert sorted(server.names()) == sorted(["sysdesign:latest", reports[1].version, reports[2].version])
        assert [report.uploaded_files for report in reports] == [2, 1, 1], "the projector did not change"
        assert len(list((tmp_path / "ollama" / "blobs").iterdir())) == 3, "files of the deleted version are gone"
        server.requests.clear()
        back = run(server, tmp_path / "export-2", tmp_path / "out")
        assert back.changed and back.version == reports[1].version and uploads(server) == 0, "going back sends nothing"


@pytest.mark.parametrize(
    ("answer", "law"),
    [
        ("", "must get an answer"),
        ("gggggggggggggggg", "must name 75%"),
    ],
)
def test_failed_health_check_leaves_the_serving_model(tmp_path: Path, export: Path, answer: str, law: str) -> None:
    with OllamaServer(tmp_path / "ollama") as server:
        good = run(server, export, tmp_path / "out")
        digest = server.digest("sysdesign")
        server.answer = lambda name, messages: "Gateway Orders Ledger" if name in ("sysdesign:latest", good.version) else answer
        bad = make_export(tmp_path / "bad", 9)
        with pytest.raises(ServiceError, match=law):
            run(server, bad, tmp_path / "out")
        assert server.digest("sysdesign") == digest and sorted(server.names()) == sorted(["sysdesign:latest", good.version])
        assert run(server, export, tmp_path / "out").changed is False


def test_an_answer_that_changes_or_a_picture_that_is_not_seen_is_unhealthy(tmp_path: Path, export: Path) -> None:
    count = iter(range(100))
    with OllamaServer(tmp_path / "ollama", answer=lambda name, messages: f"Gateway Orders Ledger {next(count)}") as server:
        with pytest.raises(ServiceError, match="same answer twice"):
            run(server, export, tmp_path / "out")
        assert server.names() == []
        server.answer, server.sees = lambda name, messages: "Gateway Orders Ledger", False
        with pytest.raises(ServiceError, match="image tokens"):
            run(server, export, tmp_path / "out")
        assert server.names() == []


def test_a_server_that_resizes_the_picture_is_unhealthy(tmp_path: Path, export: Path) -> None:
    with (
        OllamaServer(tmp_path / "ollama", tokens_per_picture=lambda width, height: 4096) as server,
        pytest.raises(ServiceError, match=r"the 1200 image tokens.*got '4098 tokens more"),
    ):
        run(server, export, tmp_path / "out")


def test_the_name_moves_back_when_the_switch_fails(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama") as server:
        good = run(server, export, tmp_path / "out")
        copy = server.copy

        def lose(source: str, destination: str) -> None:  # another client takes the name in the same moment
            copy(source, destination)
            if destination == "sysdesign:latest":
                server.write(destination, server.manifest(destination) | {"system": "another client's"})
                server.copy = copy  # type: ignore[method-assign]

        bad = make_export(tmp_path / "other", 7)

        def arm(name: str, messages: list[dict[str, Any]]) -> str:
            server.copy = lose  # type: ignore[method-assign]
            return "Gateway Orders Ledger"

        server.answer = arm
        with pytest.raises(ServiceError, match="after the switch"):
            run(server, bad, tmp_path / "out")
        assert server.digest("sysdesign") == server.digest(good.version)


def test_a_name_held_by_another_model(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama") as server:
        run(server, export, tmp_path / "out")
        stranger = server.manifest("sysdesign") | {"system": "a stranger"}
        server.write("sysdesign:latest", stranger)
        digest = server.digest("sysdesign")
        server.requests.clear()
        with pytest.raises(InputError, match="did not make"):
            run(server, export, tmp_path / "out")
        assert server.digest("sysdesign") == digest and uploads(server) == 0
        taken = run(server, export, tmp_path / "out", replace=True)
        assert taken.changed and server.digest(f"sysdesign:replaced-{digest[:12]}") == digest


def test_a_dropped_upload_goes_on_with_the_file_that_was_cut(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama", drop_uploads_after=[0, 1000]) as server:
        report = run(server, export, tmp_path / "out")
        assert report.changed and uploads(server) == 3, "the projector twice, the text model once"
    with OllamaServer(tmp_path / "fresh", drop_uploads_after=[0, 1, 1]) as server:
        with pytest.raises(ServiceError, match="must arrive whole"):
            run(server, export, tmp_path / "out", upload_tries=2)
        assert run(server, export, tmp_path / "out").uploaded_files == 1, "the next run sends only what is missing"


def test_a_server_that_is_absent_too_old_or_something_else(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama", version="0.17.7") as server:
        with pytest.raises(ToolError, match=r"at least 0\.30\.0.*got '0\.17\.7'"):
            run(server, export, tmp_path / "out")
        server.version = "0.30.0-rc1"
        assert run(server, export, tmp_path / "out").server_version == "0.30.0-rc1"
    with pytest.raises(ServiceError, match="ollama serve"):
        run(server, export, tmp_path / "out")  # it has stopped


def test_an_error_after_status_200_is_an_error(tmp_path: Path, export: Path) -> None:
    with OllamaServer(tmp_path / "ollama", fail_after_headers=True) as server:
        with pytest.raises(ServiceError, match="no space left"):
            run(server, export, tmp_path / "out")
        assert server.names() == []


@pytest.mark.parametrize("cut", [3, 40, 0.5, 0.999])
def test_a_truncated_gguf_is_named_before_anything_is_sent(export: Path, cut: float) -> None:
    file = export / "gguf" / "model-q8_0.gguf"
    data = file.read_bytes()
    file.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(ArtifactError, match=r"model-q8_0\.gguf.*GGUF"):
        open_bundle(export)


def test_a_bundle_must_be_whole(export: Path, tmp_path: Path) -> None:
    for name, law in (("Modelfile", "readable Modelfile"), ("export.json", "picture policy"), ("gguf/mmproj-f16.gguf", "must exist")):
        broken = tmp_path / name.replace("/", "-")
        shutil.copytree(export, broken)
        (broken / name).unlink()
        with pytest.raises(ArtifactError, match=law):
            open_bundle(broken)
    shutil.copy(export / "gguf/model-q8_0.gguf", export / "gguf/mmproj-f16.gguf")
    with pytest.raises(ArtifactError, match="one vision projector"):
        open_bundle(export)


def test_the_stage_refuses_a_file_that_is_not_the_one_exported(tmp_path: Path, export: Path) -> None:
    files = hash_files(export)
    made: Any = {"stage": "export", "version": 1, "key": "0" * 64, "seed": 0, "created": "2026-11-22T00:00:00+00:00", "seconds": 0}
    empty: Any = {"config": {}, "inputs": {}, "prompts": {}, "report": {}}
    manifest = Manifest(digest=digest_of(files), files=files, **made, **empty)
    artifact = Artifact("export", "0" * 64, manifest.digest, export, manifest)
    with OllamaServer(tmp_path / "ollama") as server:
        cfg = DeployConfig.model_validate({"ollama": {"url": server.url}})
        given: Any = {"seed": 0, "out": tmp_path / "out", "log": NullLog(), "runtime": RuntimeConfig(), "export": artifact}
        report = deploy(cfg, **given)
        assert report.server == "ollama" and report.bundle == manifest.digest and report.url in report.start
        write_gguf(export / "gguf" / "model-q8_0.gguf", "model", 4096, fill=8)  # whole, but other weights
        server.requests.clear()
        with pytest.raises(ArtifactError, match="sha256 recorded when it was exported"):
            deploy(cfg, **given)
        assert server.requests == []
