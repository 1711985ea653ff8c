"""A bundle -> a model that serves, in Ollama or in llama.cpp's server, proved by a golden question; whoever brought the bundle."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sysdesign.artifacts import Manifest
from sysdesign.config.deploy import DeployConfig
from sysdesign.deploy import golden
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.models import llamacpp, stream
from sysdesign.models.bundle import CERTIFICATE, Bundle, certified, sha256_file, uncertified
from sysdesign.models.chat import Message, Reply
from sysdesign.records import Report

Shown = tuple[Path, int]  # the golden picture and its image tokens


class DeployReport(Report):
    """What serves, where, and what it said."""

    server: Literal["ollama", "llama.cpp"]
    server_version: str
    url: str  # empty when the server was started for the check alone
    model: str  # the name to ask for
    version: str  # the server's name of exactly these weights and settings
    bundle: str  # digest of the export it was made from
    previous: str | None = None  # what served under that name before
    changed: bool  # False: the same version served already
    uploaded_files: int = 0
    health: golden.Health
    start: str  # the command that talks to it
    since: str  # UTC, ISO 8601

    def metrics(self) -> dict[str, float]:
        """Only what was measured."""
        health = self.health
        named = {
            "deploy/found": health.found, "deploy/image_tokens": health.image_tokens, "deploy/first_answer_s": health.seconds,
            "deploy/tokens_per_second": health.tokens_per_second, "deploy/changed": float(self.changed),
        }  # fmt: skip
        return {name: float(value) for name, value in named.items() if value is not None}

    def note(self) -> str:
        """Where it serves and what it answered."""
        answer = " ".join(self.health.answer.split())[:120]
        what = f"`{self.model}` {'serves' if self.changed else 'already served'} version `{self.version}` in {self.server}"
        before = f", before that `{self.previous}`" if self.previous else ""
        return f"{what} {self.server_version}{before}; asked about the golden picture it said {answer!r}. Talk to it: `{self.start}`"


def verified_digests(bundle: Bundle, manifest: Manifest | None) -> dict[str, str]:
    """File name -> sha256 of both GGUF files. Raises ArtifactError when one is not what the manifest of its export records."""
    recorded = {entry.path: entry.sha256 for entry in manifest.files} if manifest else {}
    digests = {}
    for file in (bundle.text, bundle.projector):
        digests[file.name] = sha256_file(file)
        if recorded.get(file.relative_to(bundle.folder).as_posix(), digests[file.name]) != digests[file.name]:
            do = f"it was changed since, or did not arrive whole; fetch or export it again: rm -r {bundle.folder}"
            raise ArtifactError(str(file), "must have the sha256 recorded when it was exported", do, digests[file.name][:12])
    return digests


def serve_bundle(
    cfg: DeployConfig, bundle: Bundle, digests: dict[str, str], digest: str, *, out: Path, seed: int, threads: int = 0
) -> DeployReport:
    """Like `deploy`, for a bundle that came from anywhere; `digests`: file name -> sha256, `digest`: identifies the whole.

    `threads` of llama.cpp, 0 for all cores. Raises ArtifactError when the parity certificate failed and the config does not override it.
    """
    if certified(bundle.folder) is False and not cfg.despite_certificate:
        raise uncertified(str(bundle.folder / CERTIFICATE))
    out.mkdir(parents=True, exist_ok=True)
    picture = out / "golden.png"
    tokens = golden.draw_golden(picture, bundle.policy)
    use_ollama = cfg.to == "ollama" or (cfg.to == "auto" and _ollama_answers(cfg))
    if use_ollama:
        report = _in_ollama(cfg, bundle, digests, digest, (picture, tokens), seed)
    else:
        report = _in_llamacpp(cfg, bundle, digests, digest, (picture, tokens), seed, threads)
    partial = out / "deployment.json.tmp"
    partial.write_text(json.dumps(report.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    partial.replace(out / "deployment.json")
    return report


def _ollama_answers(cfg: DeployConfig) -> bool:
    from sysdesign.deploy.ollama import Ollama

    with Ollama(cfg.ollama) as server:
        try:
            server.version()  # too old is an error of its own: falling back would hide it
        except ServiceError:
            return False
    return True


def _in_ollama(cfg: DeployConfig, bundle: Bundle, digests: dict[str, str], digest: str, shown: Shown, seed: int) -> DeployReport:
    from tqdm import tqdm

    from sysdesign.deploy.ollama import Ollama
    from sysdesign.deploy.rollout import roll_out

    with Ollama(cfg.ollama) as server:
        version = server.version()

        def check(name: str) -> golden.Health:
            to = stream.Endpoint(dialect="ollama", url=server.url, model=name, context=bundle.context, timeout_s=cfg.ollama.timeout_s)
            return golden.check_health(lambda said: _ask(to, said, cfg, seed), cfg.golden, *shown, bundle.system, f"{server.url} {name}")

        total = bundle.text.stat().st_size + bundle.projector.stat().st_size
        with tqdm(total=total, unit="B", unit_scale=True, desc=f"to {server.url}", leave=False, delay=1.0) as bar:
            rollout, health = roll_out(server, cfg.ollama, bundle, digests, check, bar)
    return DeployReport(
        server="ollama", server_version=version, url=cfg.ollama.url, model=cfg.ollama.model, version=rollout.tag, bundle=digest,
        previous=rollout.previous, changed=rollout.switched, uploaded_files=rollout.uploaded, health=health,
        start=_chat(cfg), since=_now(),
    )  # fmt: skip


def _in_llamacpp(
    cfg: DeployConfig, bundle: Bundle, digests: dict[str, str], digest: str, shown: Shown, seed: int, threads: int
) -> DeployReport:
    """Start the server, ask, stop it: it lives as long as the process that talks to it, so `pipelines.chat` starts its own."""
    context = min(cfg.llamacpp.context, bundle.context)
    policy, patience = bundle.policy, cfg.llamacpp.timeout_s
    with llamacpp.serve(
        bundle.text, bundle.projector, context=context, threads=threads, timeout_s=patience, min_image_tokens=policy.min_tokens,
        max_image_tokens=policy.max_tokens,
    ) as url:  # fmt: skip
        to = stream.Endpoint(dialect="openai", url=url, model=bundle.text.stem, context=context, timeout_s=cfg.llamacpp.timeout_s)
        health = golden.check_health(lambda said: _ask(to, said, cfg, seed), cfg.golden, *shown, bundle.system, "llama.cpp")
    import xllamacpp

    return DeployReport(
        server="llama.cpp", server_version=xllamacpp.__version__, url="", model=bundle.text.stem,
        version=digests[bundle.text.name][:12], bundle=digest, changed=True, health=health, start="python -m pipelines.chat", since=_now(),
    )  # fmt: skip


def _ask(to: stream.Endpoint, messages: list[Message], cfg: DeployConfig, seed: int) -> Reply:
    return stream.gather(stream.stream(to, messages, max_tokens=cfg.golden.max_tokens, seed=seed))


def _chat(cfg: DeployConfig) -> str:
    """Not `ollama run`: that sends pictures as they are, and Ollama resizes them in another way than training did."""
    default = type(cfg.ollama)()
    given = {"url": cfg.ollama.url, "model": cfg.ollama.model}
    flags = "".join(f" --chat.ollama.{name} {value}" for name, value in given.items() if value != getattr(default, name))
    return f"python -m pipelines.chat --via ollama{flags}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
