"""A config and what lies on this disk -> one model that talks, with the picture policy and system prompt it was trained with."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sysdesign.config.chat import ChatConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.graph import Record
from sysdesign.models import stream
from sysdesign.models.bundle import open_bundle, policy_in_template
from sysdesign.models.chat import Message, Reply
from sysdesign.models.picture import PIXELS_PER_TOKEN_SIDE, PicturePolicy
from sysdesign.prompts import read_prompt

Say = Callable[[Sequence[Message], int, int, float], Generator[str, None, Reply]]  # (messages, max_tokens, seed, temperature)
SYSTEM = "student/system.v1.md"


class Sources(Record):
    """What there is on this machine; None where it was not made or not asked for."""

    bundle: Path | None = None  # an export, or a registered version
    base: Path | None = None  # a Hugging Face folder
    adapter: Path | None = None
    policy: PicturePolicy = PicturePolicy()  # for `adapter` and `hub`; a bundle carries its own


@dataclass(frozen=True)
class Speaker:
    """A model to talk to."""

    name: str
    system: str
    policy: PicturePolicy
    context: int  # tokens
    say: Say
    version: str = ""  # which weights and settings the name stands for now


@contextmanager
def open_speaker(cfg: ChatConfig, sources: Sources, runtime: RuntimeConfig) -> Iterator[Speaker]:
    """The model that `cfg.via` names, for as long as the block lasts.

    Raises ServiceError when no server answers or none serves the model, ArtifactError when what it needs was not made.
    """
    match cfg.via:
        case "ollama":
            yield _ollama(cfg, sources)
        case "auto":
            served = _ollama_or_none(cfg, sources)
            if served is not None:
                yield served
            else:
                with _llamacpp(cfg, sources, runtime) as speaker:
                    yield speaker
        case "llamacpp":
            with _llamacpp(cfg, sources, runtime) as speaker:
                yield speaker
        case "adapter" | "hub":
            with _local(cfg, sources, runtime) as speaker:
                yield speaker


def _ollama_or_none(cfg: ChatConfig, sources: Sources) -> Speaker | None:
    try:
        return _ollama(cfg, sources)
    except ServiceError:
        if sources.bundle is None:
            raise
        return None


def _ollama(cfg: ChatConfig, sources: Sources) -> Speaker:
    """System prompt and policy come from the server, which was told them at deployment: any machine can talk to it."""
    import httpx

    url, model = cfg.ollama.url.rstrip("/"), cfg.ollama.model
    start = "start it with `ollama serve`, or use the exported files: --chat.via llamacpp"
    try:
        patience = httpx.Timeout(30.0, connect=3.0)
        answer = httpx.post(f"{url}/api/show", json={"model": model}, timeout=patience, trust_env=False)
        listed = httpx.get(f"{url}/api/tags", timeout=patience, trust_env=False)
    except httpx.HTTPError as err:
        raise ServiceError(url, "an Ollama server must answer here", start, str(err) or type(err).__name__) from None
    if answer.status_code != 200:
        said = stream.server_message(answer.content)
        raise ServiceError(url, f"Ollama must serve {model}", "deploy it: python -m pipelines.deploy", said)
    try:
        shown: dict[str, Any] = answer.json()
        context = re.search(r"^num_ctx\s+(\d+)", shown.get("parameters", ""), re.MULTILINE)
        names = (model.lower(), f"{model.lower()}:latest")
        version = next((m["digest"][:12] for m in listed.json().get("models") or [] if m["name"].lower() in names), "")
        family = {"qwen2vl": "qwen2_vl", "qwen25vl": "qwen2_5_vl", "qwen3vl": "qwen3_vl"}.get(shown["details"]["family"], "qwen2_vl")
    except (ValueError, KeyError, TypeError):
        raise ServiceError(url, "an Ollama server must answer here", start, answer.text[:80]) from None
    written = "".join(shown.get(name, "") for name in ("template", "modelfile"))  # the GGUF's own template may be shown instead of ours
    policy = policy_in_template(written) or PicturePolicy(side=PIXELS_PER_TOKEN_SIDE[family])
    to = stream.Endpoint(
        dialect="ollama", url=url, model=model, context=int(context[1]) if context else 4096, timeout_s=cfg.ollama.timeout_s, start=start
    )
    return _endpoint(to, f"{model} in Ollama at {url}", shown.get("system", ""), policy, version)


@contextmanager
def _llamacpp(cfg: ChatConfig, sources: Sources, runtime: RuntimeConfig) -> Iterator[Speaker]:
    from sysdesign.models import llamacpp

    if sources.bundle is None:
        raise ArtifactError("chat.via", "llamacpp needs exported files", "make them: python -m pipelines.all", cfg.via)
    bundle = open_bundle(sources.bundle)
    context, policy = min(cfg.llamacpp.context, bundle.context), bundle.policy
    with llamacpp.serve(
        bundle.text, bundle.projector, context=context, threads=runtime.workers, timeout_s=cfg.llamacpp.timeout_s,
        min_image_tokens=policy.min_tokens, max_image_tokens=policy.max_tokens, reuse=True,
    ) as url:  # fmt: skip
        to = stream.Endpoint(dialect="openai", url=url, model=bundle.text.stem, context=context, timeout_s=cfg.llamacpp.timeout_s)
        yield _endpoint(to, f"{bundle.text.stem} in llama.cpp", bundle.system, policy, sources.bundle.name)


def _endpoint(to: stream.Endpoint, name: str, system: str, policy: PicturePolicy, version: str) -> Speaker:
    def say(messages: Sequence[Message], max_tokens: int, seed: int, temperature: float) -> Generator[str, None, Reply]:
        return stream.stream(to, messages, max_tokens=max_tokens, seed=seed, temperature=temperature)

    return Speaker(name, system, policy, to.context, say, version)


@contextmanager
def _local(cfg: ChatConfig, sources: Sources, runtime: RuntimeConfig) -> Iterator[Speaker]:
    from sysdesign.models.local import Local

    if sources.base is None or (cfg.via == "adapter" and sources.adapter is None):
        law = f"{cfg.via} needs the base model" + (" and a trained adapter" if cfg.via == "adapter" else "")
        raise ArtifactError("chat.via", law, "make them: python -m pipelines.all", cfg.via)
    context = _positions(sources.base)
    model = Local(sources.base, adapter=sources.adapter if cfg.via == "adapter" else None, device=runtime.device)
    one_at_a_time = threading.Lock()

    def say(messages: Sequence[Message], max_tokens: int, seed: int, temperature: float) -> Generator[str, None, Reply]:
        stream.check_length(messages, context)
        with one_at_a_time:
            return (yield from model.stream(messages, max_tokens=max_tokens, seed=seed, temperature=temperature))

    try:
        weights = sources.adapter if cfg.via == "adapter" and sources.adapter else sources.base
        yield Speaker(model.name, read_prompt(SYSTEM).strip(), sources.policy, context, say, "/".join(weights.parts[-2:]))
    finally:
        model.close()


def _positions(folder: Path) -> int:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 32768
    return int(config.get("text_config", config).get("max_position_embeddings", 32768))
