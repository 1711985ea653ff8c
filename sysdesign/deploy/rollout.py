"""A verified bundle -> the model that Ollama serves under its name, or everything as it was.

The version is created under a tag for the trial and health-checked there. Only then does it get its own tag (`v-<12 hex digits>` of
what it is made of), and the serving name moves, by copies that take no space and no time. Until its check is passed no name that was
there before is touched; what the serving name pointed to stays under a second name while it moves, and the name moves back when
anything fails. A run that was killed leaves at most such second names, which the next run replaces or removes. Running twice changes
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from sysdesign.config.deploy import OllamaConfig
from sysdesign.deploy.golden import Health
from sysdesign.deploy.ollama import Ollama, Tag
from sysdesign.errors import InputError, ServiceError, SysdesignError
from sysdesign.graph import Record
from sysdesign.models.bundle import Bundle, template_with_policy

VERSION_TAG = re.compile(r"v-[0-9a-f]{12}")
TRIAL = "-trial"  # after a version's tag: made, not checked yet
ASIDE = "replaced-"  # a tag; 12 digits of what it points to follow, so that nothing set aside is ever overwritten


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

    uploaded = 0
    shown = server.show(candidate) if candidate.lower() in tags else None
    fresh = shown is None or not _same_settings(shown, bundle)
    tried = candidate + TRIAL if fresh else candidate
    if fresh:
        for file in (bundle.text, bundle.projector):
            uploaded += server.push(file, digests[file.name], progress)
    try:
        if fresh:
            server.create(tried, bundle, digests)
            shown = server.show(tried)
        _require_vision(shown, f"{server.url} {tried}")
        health = check(tried)
        new = _by_folded_name(server).get(tried.lower())
        if new is None:
            raise ServiceError(server.url, f"{tried} must be listed once it is created", "another client deleted it; deploy again")
    except BaseException:
        if fresh:
            with contextlib.suppress(SysdesignError):  # the first error is the one to show; the next run removes what is left
                server.delete(tried)
        raise

    switched = serving is None or serving.digest != new.digest
    second = owner if owner and not (fresh and owner.lower() == candidate.lower()) else None  # another name for what serves now
    aside = f"{cfg.model}:{ASIDE}{serving.digest[:12]}" if serving and switched and second is None else None
    try:
        if aside:
            server.copy(live, aside)
        if fresh:
            server.copy(tried, candidate)
        if switched:
            server.copy(candidate, live)
        now = _by_folded_name(server).get(live.lower())
        if now is None or now.digest != new.digest:
            raise ServiceError(server.url, f"{live} must point to {candidate} after the switch", "deploy again: another client changed it")
    except BaseException:
        _move_back(server, live, serving, second or aside)
        with contextlib.suppress(SysdesignError):
            for name in [tried] * fresh + ([aside] if aside and aside.lower() not in tags else []):
                server.delete(name)
        raise
    deleted: tuple[str, ...] = ()
    with contextlib.suppress(SysdesignError):  # the new version serves; what could not be removed now is removed by the next run
        deleted = _prune(server, cfg, keep=[candidate, *([owner] if owner else [])])
    previous = None if serving is None or not switched else owner or serving.digest[:12]
    rollout = Rollout(
        tag=candidate, digest=new.digest, previous=previous, uploaded=uploaded, created=fresh, switched=switched, deleted=deleted
    )
    return rollout, health


def _move_back(server: Ollama, live: str, before: Tag | None, second: str | None) -> None:
    """Make the serving name point to what it pointed to `before`, which `second` points to as well; nothing when it still does."""
    try:
        now = _by_folded_name(server).get(live.lower())
        if (now and now.digest) == (before and before.digest):
            return
        if before is None:
            server.delete(live)
        elif second:
            server.copy(second, live)
    except SysdesignError as err:
        do = f"when it answers again, deploy again, or put the model back by hand: ollama cp {second} {live}" if second else "deploy again"
        raise ServiceError(server.url, f"{live} must go on serving what it served", do, str(err)) from None


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
    names = [tag.name for state in ("", TRIAL) for tag in _versions(tags, model, state)]
    if live and _owner(tags, model, live):
        names.insert(0, live.name)
    for name in names:
        server.delete(name)
    return tuple(names)


def _by_folded_name(server: Ollama) -> dict[str, Tag]:
    return {name.lower(): tag for name, tag in server.tags().items()}  # Ollama treats names alike whatever their case


def _versions(tags: dict[str, Tag], model: str, state: str = "") -> list[Tag]:
    """This project's versions of a model, the most recently made first (the order in which Ollama lists). `state`: TRIAL for those
    that a run made and did not come to check."""
    found = {name.partition(f"{model.lower()}:")[2]: tag for name, tag in tags.items() if name.startswith(f"{model.lower()}:")}
    return [tag for label, tag in found.items() if label.endswith(state) and VERSION_TAG.fullmatch(label.removesuffix(state))]


def _owner(tags: dict[str, Tag], model: str, serving: Tag | None) -> str | None:
    """The version tag that the serving name points to; None when it points to nothing of ours."""
    return next((tag.name for tag in _versions(tags, model) if serving and tag.digest == serving.digest), None)


def _same_settings(shown: dict[str, Any], bundle: Bundle) -> bool:
    """Where the GGUF's own chat template can do more, Ollama shows that one; the Modelfile that it shows has ours all the same."""
    written = (shown.get("template", ""), shown.get("modelfile", ""))
    return any(template_with_policy(bundle) in text for text in written) and shown.get("system", "") == bundle.system


def _require_vision(shown: dict[str, Any] | None, where: str) -> None:
    capabilities = (shown or {}).get("capabilities") or []
    if "vision" not in capabilities:
        law = "the model must be able to see: Ollama lists `vision` among its capabilities"
        raise ServiceError(where, law, "export again and compare the projector file", capabilities)


def _prune(server: Ollama, cfg: OllamaConfig, keep: list[str]) -> tuple[str, ...]:
    tags = _by_folded_name(server)
    versions = [tag.name for tag in _versions(tags, cfg.model)]
    kept = [*dict.fromkeys([*keep, *versions])][: max(cfg.keep, 1)]
    extra = [*(name for name in versions if name not in kept), *(tag.name for tag in _versions(tags, cfg.model, TRIAL))]
    for name in extra:
        server.delete(name)
    return tuple(extra)
