"""A deployment that is cut at any of its requests: what served goes on serving, byte for byte, and the next run completes the work."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from sysdesign.config.deploy import OllamaConfig
from sysdesign.deploy.golden import Health
from sysdesign.deploy.ollama import Ollama
from sysdesign.deploy.rollout import Rollout, roll_out
from sysdesign.errors import ServiceError, SysdesignError
from sysdesign.models.bundle import open_bundle, sha256_file
from tests.ollama_server import OllamaServer
from tests.test_deploy import make_export

LIVE = "sysdesign:latest"
HEALTHY = Health(question="?", answer="!", found=1, prompt_tokens=None, image_tokens=None, seconds=None, tokens_per_second=None)


def deploy(server: OllamaServer, export: Path, check: Callable[[str], Health] = lambda name: HEALTHY) -> Rollout:
    bundle = open_bundle(export)
    digests = {file.name: sha256_file(file) for file in (bundle.text, bundle.projector)}
    cfg = OllamaConfig(url=server.url, replace=True, upload_tries=1, timeout_s=20)
    with Ollama(cfg) as client:
        return roll_out(client, cfg, bundle, digests, check)[0]


def state(server: OllamaServer) -> dict[str, bytes]:
    """Every name and the bytes of its manifest."""
    return {name: server._file(name).read_bytes() for name in server.names()}


def prepare(server: OllamaServer, what: str, exports: list[Path]) -> None:
    """Bring the server into one of the states that a deployment may find."""
    if what != "empty":
        deploy(server, exports[0])
    if what == "a stranger":
        server.write(LIVE, server.manifest(LIVE) | {"system": "a stranger"})
    if what == "a changed version":  # somebody created another model under the tag of the version that is to be deployed, and serves it
        tag = deploy(server, exports[1]).tag
        for name in (tag, LIVE):
            server.write(name, server.manifest(LIVE) | {"system": "changed"})


def cut(seen: list[tuple[str, str]], number: int, where: str, onwards: bool) -> Callable[[str, str], str]:
    """Cuts request `number` before or after the server's work, and all later ones where `onwards`."""

    def fault(method: str, path: str) -> str:
        seen.append((method, path))
        return where if len(seen) - 1 == number else "before" if onwards and len(seen) > number else ""

    return fault


@pytest.mark.parametrize("what", ["empty", "an older version", "a stranger", "a changed version"])
def test_a_cut_at_any_request(tmp_path: Path, what: str) -> None:
    exports = [make_export(tmp_path / f"export-{fill}", fill) for fill in (1, 2)]
    cuts = 0
    for number in itertools.count():
        seen: list[tuple[str, str]] = []
        for where, onwards in (("before", False), ("after", False), ("after", True)):  # onwards: the deploying process was killed
            if where == "after" and seen[number : number + 1] and (seen[number][0] in ("GET", "HEAD") or seen[number][1] == "/api/show"):
                continue  # the server changed nothing: the same as before
            cuts += 1
            with OllamaServer(tmp_path / f"ollama-{cuts}") as server:
                prepare(server, what, exports)
                before = state(server)
                seen = []

                server.fault = cut(seen, number, where, onwards)
                try:
                    deploy(server, exports[1])
                    failed = False
                except SysdesignError:
                    failed = True
                after = state(server)
                server.fault = lambda method, path: ""
                done = deploy(server, exports[1])
                new = state(server)[LIVE]
                if failed and onwards:
                    assert after.get(LIVE) in (before.get(LIVE), new), (number, where, "a model that passed its check, or the one before")
                elif failed:
                    assert after.get(LIVE) == before.get(LIVE), (number, where, seen)
                    assert not any("replaced" in name for name in after)
                else:
                    assert after[LIVE] == new
                assert all(after.get(name) == before[name] for name in before if name not in (LIVE, done.tag)), (number, where)
                assert server.digest(LIVE) == server.digest(done.tag) and not any("trial" in name for name in server.names())
                if what in ("a stranger", "a changed version"):
                    assert before[LIVE] in [content for name, content in state(server).items() if "replaced" in name]
        if number >= len(seen):
            break
    assert cuts > 20


def test_a_failed_check_leaves_every_name_as_it_was(tmp_path: Path) -> None:
    exports = [make_export(tmp_path / f"export-{fill}", fill) for fill in (1, 2)]

    def sick(name: str) -> Health:
        raise ServiceError(name, "must be healthy", "")

    for what in ("empty", "an older version", "a stranger", "a changed version"):
        with OllamaServer(tmp_path / what) as server:
            prepare(server, what, exports)
            before = state(server)
            with pytest.raises(ServiceError, match="must be healthy"):
                deploy(server, exports[1], sick)
            assert state(server) == before
