"""Talk to the model: in the terminal, once with --prompt and --image, over a folder of pictures, or on a web page with --web true."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.command import ROOT, errors_as_lines, open_store, parse
from sysdesign.config.root import Config
from sysdesign.errors import ArtifactError, SysdesignError
from sysdesign.profiles import resolve

if TYPE_CHECKING:
    from sysdesign.artifacts import Artifact, Store
    from sysdesign.chat.speakers import Sources

SHORT = {name: f"chat.{name}" for name in ("prompt", "image", "folder", "output", "web", "via")}
OWN = {
    "prompt": "Short for --chat.prompt; so are --image, --folder, --output, --web and --via for theirs.",
    "model": "A registered version, models:/sysdesign@champion or models:/sysdesign/3; empty: what this profile exported.",
}


def main() -> None:
    """Resolve flags, find the model, hand over to `sysdesign.chat`."""
    with errors_as_lines():
        profile, flags = parse(sys.argv[1:], __doc__ or "", ("seed", "chat", "runtime"), OWN)
        model = flags.pop("model", "")
        if "image" in flags and not flags["image"].startswith("["):
            flags["image"] = f"['{flags['image']}']"
        config = resolve(Config, profile, {SHORT.get(name, name): value for name, value in flags.items()})
        if config.chat.output == "json":
            os.environ.setdefault("TQDM_DISABLE", "1")
        sources = _sources(config, profile, model)
        from sysdesign.chat.stage import chat

        chat(config.chat, seed=config.seed, runtime=config.runtime, sources=sources, history=Path.home() / ".sysdesign_history")


def _sources(config: Config, profile: str, model: str) -> Sources:
    """What there is to talk to: a version that was asked for, else this profile's own export, else the registry's."""
    from sysdesign.chat.speakers import Sources
    from sysdesign.models.base import base_folder, read_base
    from sysdesign.models.picture import PIXELS_PER_TOKEN_SIDE, PicturePolicy

    store = open_store(config)
    base, train, export = (_find(name, config, store, profile) for name in ("base", "train", "export"))
    bundle = _registered(model, store) if model else export.path if export else None
    if bundle is None and config.chat.via in ("auto", "llamacpp"):
        bundle = _registered_or_none(config, store)
    bounds = config.dataset.picture
    side = PIXELS_PER_TOKEN_SIDE[read_base(base).family] if base else 28
    return Sources(
        bundle=bundle,
        base=base_folder(base) if base and config.chat.via in ("adapter", "hub") else None,
        adapter=train.path / "adapter" if train else None,
        policy=PicturePolicy(side=side, min_tokens=bounds.min_tokens, max_tokens=bounds.max_tokens),
    )


def _find(name: str, config: Config, store: Store, profile: str) -> Artifact | None:
    from sysdesign import flow

    stage = flow.STAGES[name]
    try:
        return store.find(name, flow.address(stage, config, flow.inputs_of(stage, config, store, profile)))
    except ArtifactError:
        return None


def _registered(uri: str, store: Store) -> Path:
    from sysdesign.tracking import registry, runs

    client = runs.connect(ROOT)
    return registry.fetch_to_serve(client, uri, store.root / ".work" / "models", despite_certificate=True)[0]  # to look at it is free


def _registered_or_none(config: Config, store: Store) -> Path | None:
    for alias in ("champion", "challenger"):
        try:
            return _registered(f"models:/{config.runtime.registered_model}@{alias}", store)
        except SysdesignError:
            continue
    return None


if __name__ == "__main__":
    main()
