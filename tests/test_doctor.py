"""The doctor on a bare machine, on one with broken stores, and on a complete one; never a traceback, never a key."""

from __future__ import annotations

import datetime
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from provider_server import KEY, ProviderServer

from sysdesign.artifacts import Store
from sysdesign.config.root import Config
from sysdesign.doctor import machine, services, stores
from sysdesign.doctor.checkup import checkup
from sysdesign.doctor.findings import Finding, line, verdict
from sysdesign.errors import ConfigError
from sysdesign.profiles import resolve

ROOT = Path(__file__).parents[1]
Command = Callable[..., subprocess.CompletedProcess[str]]


class Servers(BaseHTTPRequestHandler):
    """Ollama's and MLflow's version pages; `answers` maps a path to (status, body)."""

    answers: dict[str, tuple[int, str]] = {}
    date: str | None = None

    def log_message(self, *args: object) -> None: ...

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, "not here"))
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


@pytest.fixture
def server() -> Iterator[Callable[..., str]]:
    """`server({"/version": (200, "3.17.2")})` -> its address."""
    running = []

    def start(answers: dict[str, tuple[int, str]], date: str | None = None) -> str:
        handler = type("Handler", (Servers,), {"answers": answers, "date": date})
        http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        return f"http://127.0.0.1:{http.server_address[1]}"

    yield start
    for http in running:
        http.shutdown()
        http.server_close()


def tool(folder: Path, name: str, output: str, code: int = 0) -> Path:
    """A program of that name that prints `output`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return folder


def named(found: list[Finding], name: str) -> Finding:
    return next(finding for finding in found if finding.name == name)


def bad_ones(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found if finding.state == "bad"}


def config(profile: str = "rehearsal", **flags: str) -> Config:
    return resolve(Config, profile, {name.replace("__", "."): value for name, value in flags.items()})  # type: ignore[no-any-return]


def test_a_complete_machine_is_ready(
    server: Callable[..., str], tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server({"/api/version": (200, '{"version": "0.31.2"}')})
    monkeypatch.setenv("PATH", f"{tool(tmp_path / 'bin', 'dot', 'dot - graphviz version 12.1.0 (0)')}:{os.environ['PATH']}")
    found = checkup(config(deploy__ollama__url=url), "rehearsal", tmp_path, lambda: (0.1, 0.1, 0.0))
    assert not bad_ones(found), [line(finding) for finding in found]
    said = {finding.name: finding.says for finding in found}
    assert "0.31.2" in said["ollama"] and said["graphviz"] == "12.1.0" and "tables as MLflow" in said["tracking"]
    assert {"python", "disk", "memory", "gpu", "fonts", "llama.cpp", "artefacts", "api keys", "clock"} <= set(said)
    assert verdict(found)[1] == 0 and verdict(found)[0].startswith("ready")


def test_a_bare_machine_hears_what_to_install(tmp_path: Path) -> None:
    """A Python without any package: the doctor still speaks, in one line."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipelines.doctor"], cwd=ROOT, capture_output=True, text=True, env={"PATH": "/nowhere"}
    )
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert re.fullmatch(r"bad   packages .*pydantic.* - uv pip install -r requirements.txt.*\n", done.stdout)


def test_a_machine_without_tools_gets_a_command_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setattr("importlib.metadata.version", _nothing_installed)
    asked = config("full,h200,teacher-claude", diagrams__layout="dot", deploy__to="ollama", deploy__ollama__url="http://127.0.0.1:9")
    found = checkup(asked, "full,h200,teacher-claude", tmp_path, lambda: (10**6, 10**6, 72.0))
    wrong = bad_ones(found)
    assert {"disk", "graphviz", "ollama", "llama.cpp", "teacher key"} <= set(wrong)
    assert "sky launch" in named(found, "gpu").mend and "72 GiB" in named(found, "gpu").says
    assert named(found, "memory").state == "warn" and "apt-get install graphviz" in wrong["graphviz"].mend
    assert all(finding.mend for finding in found if finding.state != "ok")
    assert verdict(found)[1] == 5
    assert all("\n" not in line(finding) for finding in found)


def _nothing_installed(name: str) -> str:
    import importlib.metadata

    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("output", "code", "state", "words"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920, 81000, 590.44", 0, "ok", "driver 590"),
        ("NVIDIA A100-SXM4-80GB, 81920, 8100, 590.44", 0, "warn", "7.9 of 80 GiB free"),
        ("NVIDIA A100-SXM4-80GB, 81920, 81000, 535.10", 0, "bad", "580 is the oldest"),
        ("Failed to initialize NVML: Driver/library version mismatch", 1, "bad", "mismatch"),
    ],
)
def test_card_and_driver(output: str, code: int, state: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tool(tmp_path / 'bin', 'nvidia-smi', output, code)}:{os.environ['PATH']}")
    found = machine.gpu(config("full,h200"), 60.0, "full,h200")
    assert found.state == state and words in found.says


def test_a_broken_graphviz_and_missing_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tool(tmp_path / 'bin', 'dot', 'libgvc.so.6: cannot open shared object file', 127)}:{os.environ['PATH']}")
    assert machine.graphviz(config()).state == "bad" and "libgvc" in machine.graphviz(config()).says
    (tmp_path / "a.woff").write_text("short")
    assert machine.fonts(tmp_path).state == "bad" and "git checkout" in machine.fonts(tmp_path).mend


def test_packages_are_held_against_their_pins(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("PyYAML==0.1 \\\n    --hash=sha256:00\nno-such-thing==1.0\npywin32==311 ; sys_platform == 'win32'\n")
    assert machine.packages(pins).state == "bad" and "1 of 2 are missing: no-such-thing" in machine.packages(pins).says
    pins.write_text("PyYAML==0.1\n")
    assert machine.packages(pins).state == "warn" and "not 0.1" in machine.packages(pins).says
    assert machine.packages(ROOT / "requirements.txt").state != "bad"


def test_a_broken_artefact_store(command: Command, tmp_path: Path, tracking_uri: str) -> None:
    broken = tmp_path / "store" / f"train-{'a' * 12}"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    done = command("doctor", "--runtime.store", str(tmp_path / "store"), "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 5 == told["code"] and "Traceback" not in done.stderr
    finding = next(found for found in told["findings"] if found["name"] == "artefacts")
    assert finding["state"] == "bad" and f"rm -r {broken}" in finding["mend"]


def test_broken_old_and_newer_tracking_databases(tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    assert stores.tracking(tmp_path)[0].state == "ok"
    known, head = stores._revisions()
    older = sorted(known - {head})[0]
    for version, words in ((older, "older MLflow"), ("feedfacecafe", "newer MLflow")):
        with sqlite3.connect(path) as database:
            database.execute("update alembic_version set version_num = ?", (version,))
        found = stores.tracking(tmp_path)[0]
        assert found.state == "bad" and words in found.says
    assert f"mlflow db upgrade {tracking_uri}" not in found.mend, "nothing can be upgraded to the past"
    path.write_bytes(b"not a database" * 100)
    found = stores.tracking(tmp_path)[0]
    assert found.state == "bad" and f"mv {path}" in found.mend
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    assert stores.tracking(tmp_path)[0].state == "ok", "a store that is not there yet is made by the first run"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/data/mlruns"])
def test_the_file_store_trap(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = stores.tracking(tmp_path)[0]
    assert found.state == "bad" and "unset MLFLOW_TRACKING_URI" in found.mend
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert stores.file_store_trap(tmp_path) is None
    (tmp_path / "mlruns/0").mkdir(parents=True)
    (tmp_path / "mlruns/0/meta.yaml").write_text("old")
    trap = stores.file_store_trap(tmp_path)
    assert trap is not None and trap.state == "warn"


def test_a_tracking_server_its_version_and_its_clock(server: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    own = importlib.metadata.version("mlflow")
    hour_ago = format_datetime(datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1), usegmt=True)
    cases = [
        ((200, own), "ok", own),
        ((200, "2.9.0"), "warn", "2.9.0"),
        ((403, ""), "bad", "refuses"),
        ((200, "<html>"), "bad", "not as an MLflow"),
    ]
    for answer, state, words in cases:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server({"/version": answer}, hour_ago))
        found, date = stores.tracking(tmp_path)
        assert found.state == state and words in found.says
    today = datetime.date.today()
    assert services.clock(today, date).state == "warn" and "60 min" in services.clock(today, date).says
    assert services.clock(today + datetime.timedelta(days=30), None).state == "bad"
    assert services.clock(today, "no date").state == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    found, _ = stores.tracking(tmp_path)
    assert found.state == "bad" and "does not answer" in found.says and "secret" not in line(found)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/mlflow")
    found, _ = stores.tracking(tmp_path)
    assert found.state == "bad" and "secret" not in line(found)


@pytest.mark.parametrize(("version", "state"), [("0.30.0", "ok"), ("0.29.9", "warn"), ("0.0.0", "ok"), ("1.2", "ok")])
def test_ollama_old_and_new(version: str, state: str, server: Callable[..., str]) -> None:
    url = server({"/api/version": (200, json.dumps({"version": version}))})
    assert services.ollama(config(deploy__ollama__url=url)).state == state
    strict = services.ollama(config(deploy__ollama__url=url, deploy__to="ollama"))
    assert strict.state == ("bad" if state == "warn" else state)
    assert services.ollama(config(deploy__ollama__url=server({"/api/version": (200, "[]")}))).state == "warn"


def test_keys_are_tried_and_never_shown(server: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ProviderServer() as provider:
        flags = {"conversations__teacher__base_url": provider.url, "conversations__teacher__api_key_env": "DOCTOR_KEY"}
        asked = config("full,teacher-claude", **flags)
        for key, state in ((KEY, "ok"), ("sk-wrong-0123456789", "bad"), (f" {KEY}\n", "bad"), (f"'{KEY}'", "bad"), ("", "bad")):
            monkeypatch.setenv("DOCTOR_KEY", key)
            found = services.keys(asked)
            assert [finding.state for finding in found] == [state], line(found[0])
            assert "DOCTOR_KEY" in found[0].says
            assert not key.strip() or key.strip() not in line(found[0])
        assert provider.account.billed == 0
    local = {"conversations__teacher__api": "chat", "conversations__teacher__model": "qwen3"}
    url = server({"/v1/models": (200, '{"data": [{"id": "qwen3:latest"}]}')})
    assert services.keys(config("full,teacher-openai", **local, conversations__teacher__base_url=f"{url}/v1"))[0].state == "ok"
    gone = services.keys(config("full,teacher-openai", **local, conversations__teacher__base_url="http://127.0.0.1:9/v1"))[0]
    assert gone.state == "bad" and "ollama serve" in gone.mend


def test_a_profile_that_cannot_be_planned_is_a_finding(tmp_path: Path, tracking_uri: str) -> None:
    def needs() -> tuple[float, float, float]:
        raise ConfigError("base.name", "must be known", "choose another")

    found = checkup(config(deploy__ollama__url="http://127.0.0.1:9"), "rehearsal", tmp_path, needs)
    assert named(found, "profile").state == "bad" and named(found, "profile").mend == "choose another"


def test_the_hub_switched_off_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert machine.hub(config("full")).state == "bad" and machine.hub(config()).state == "ok"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert machine.hub(config("full")).state == "warn"
    there = tmp_path / "models--Qwen--Qwen2-VL-7B-Instruct/snapshots/abc"
    there.mkdir(parents=True)
    (there / "config.json").write_text("{}")
    assert machine.hub(config("full")).state == "ok"


def test_the_command_needs_neither_torch_nor_mlflow(tmp_path: Path, tracking_uri: str) -> None:
    probe = (
        "import sys, pipelines.doctor as d\n"
        f"try: d.main(['--runtime.store', {str(tmp_path / 'store')!r}, '--deploy.ollama.url', 'http://127.0.0.1:9'])\n"
        "except SystemExit as left: print(left.code, [m for m in ('torch', 'mlflow', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip().endswith("[]") and "Traceback" not in done.stderr
    assert Store(tmp_path / "store").root.exists() is False, "looking makes nothing"
