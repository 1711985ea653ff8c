"""A verified bundle -> the model that Ollama serves under its name, or everything as it was.

The version is created under a tag of its own (`v-<12 hex digits>` of what it is made of) and health-checked there. Only then does
the serving name move, by a copy that takes no space and no time. A model that fails its check was never served; the name moves
back if its last look fails. Running twice changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from sysdesign.config.deploy import OllamaConfig
from sysdesign.deploy.golden import Health
from sysdesign.deploy.ollama import Ollama, Tag
from sysdesign.errors import InputError, ServiceError
from sysdesign.graph import Record
from sysdesign.models.bundle import Bundle, template_with_policy

VERSION_TAG = re.compile(r"v-[0-9a-f]{12}")


class Rollout(Record):
    """What changed on the server."""

    tag: str  # name:v-... of this version
    digest: str  # Ollama's digest of the serving model
    previous: str | None  # the tag, or the digest where it has none, that served before
    uploaded: int  # files sent in this run
    created: bool
    switched: bool  # the serving name moved
    deleted: tuple[str, ...] = ()


def version_tag(bundle: Bundle, digests: dict[str, str]) -> str:
    """The tag of a version: a hash over both files and every setting that can change an answer."""
    made_of = [digests, template_with_policy(bundle), bundle.system, bundle.parameters, bundle.requires]
    return "v-" + hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


def roll_out(
    server: Ollama, cfg: OllamaConfig, bundle: Bundle, digests: dict[str, str], check: Callable[[str], Health], progress: Any = None
) -> tuple[Rollout, Health]:
    """Upload what is missing, create the version, check its health, move the name, delete versions beyond `cfg.keep`.

    `check(name)` asks the golden question. Raises what it raises, after undoing what this call did; InputError when the name
    is held by a model this project did not make.
    """
    live, candidate = f"{cfg.model}:latest", f"{cfg.model}:{version_tag(bundle, digests)}"
    tags = _by_folded_name(server)
    serving = tags.get(live.lower())
    owner = _owner(tags, cfg.model, serving)
    if serving and owner is None and not cfg.replace:
        law = "the name is held by a model that this project did not make"
        raise InputError(
            f"{server.url} {live}", law, "choose another with --deploy.ollama.model, or take it with --deploy.ollama.replace true"
        )

    uploaded, created = 0, False
    shown = server.show(candidate) if candidate.lower() in tags else None
    if shown is None or not _same_settings(shown, bundle):
        for file in (bundle.text, bundle.projector):
            uploaded += server.push(file, digests[file.name], progress)
        server.create(candidate, bundle, digests)
        created = True
        shown = server.show(candidate)
    try:
        _require_vision(shown, f"{server.url} {candidate}")
        health = check(candidate)
    except BaseException:
        if created:
            server.delete(candidate)
        raise

    new = _by_folded_name(server).get(candidate.lower())
    if new is None:
        raise ServiceError(server.url, f"{candidate} must be listed once it is created", "another client deleted it; deploy again")
    switched = serving is None or serving.digest != new.digest
    if switched:
        if serving and owner is None:
            server.copy(live, f"{cfg.model}:replaced")
        server.copy(candidate, live)
        now = _by_folded_name(server).get(live.lower())
        if now is None or now.digest != new.digest:
            if serving and owner:
                server.copy(owner, live)
            raise ServiceError(server.url, f"{live} must point to {candidate} after the switch", "deploy again: another client changed it")
    deleted = _prune(server, cfg, keep=[candidate, *([owner] if owner else [])])
    previous = None if serving is None or not switched else owner or serving.digest[:12]
    rollout = Rollout(
        tag=candidate, digest=new.digest, previous=previous, uploaded=uploaded, created=created, switched=switched, deleted=deleted
    )
    return rollout, health


def serving_versions(server: Ollama) -> dict[str, str]:
    """Every name that serves one of this project's versions -> that version's tag."""
    tags = _by_folded_name(server)
    found = {}
    for name, tag in tags.items():
        model, _, label = name.rpartition(":")
        if label == "latest" and (owner := _owner(tags, model, tag)):
            found[tag.name.rpartition(":")[0]] = owner
    return found


def withdraw(server: Ollama, model: str) -> tuple[str, ...]:
    """Delete the serving name, if it serves one of this project's versions, and all versions; returns what was deleted."""
    tags = _by_folded_name(server)
    live = tags.get(f"{model.lower()}:latest")
    names = [tag.name for tag in _versions(tags, model)]
    if live and _owner(tags, model, live):
        names.insert(0, live.name)
    for name in names:
        server.delete(name)
    return tuple(names)


def _by_folded_name(server: Ollama) -> dict[str, Tag]:
    return {name.lower(): tag for name, tag in server.tags().items()}  # Ollama treats names alike whatever their case


def _versions(tags: dict[str, Tag], model: str) -> list[Tag]:
    """This project's versions of a model, the most recently made first (the order in which Ollama lists)."""
    return [tag for name, tag in tags.items() if name.startswith(f"{model.lower()}:") and VERSION_TAG.fullmatch(name.rpartition(":")[2])]


def _owner(tags: dict[str, Tag], model: str, serving: Tag | None) -> str | None:
    """The version tag that the serving name points to; None when it points to nothing of ours."""
    return next((tag.name for tag in _versions(tags, model) if serving and tag.digest == serving.digest), None)


def _same_settings(shown: dict[str, Any], bundle: Bundle) -> bool:
    return shown.get("template") == template_with_policy(bundle) and shown.get("system", "") == bundle.system


def _require_vision(shown: dict[str, Any] | None, where: str) -> None:
    capabilities = (shown or {}).get("capabilities") or []
    if "vision" not in capabilities:
        law = "the model must be able to see: Ollama lists `vision` among its capabilities"
        raise ServiceError(where, law, "export again and compare the projector file", capabilities)


def _prune(server: Ollama, cfg: OllamaConfig, keep: list[str]) -> tuple[str, ...]:
    versions = [tag.name for tag in _versions(_by_folded_name(server), cfg.model)]
    kept = [*dict.fromkeys([*keep, *versions])][: max(cfg.keep, 1)]
    extra = tuple(name for name in versions if name not in kept)
    for name in extra:
        server.delete(name)
    return extra
