"""A base configuration -> the exact model that everything after it starts from: built on the spot, or pinned to a commit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sysdesign.config.base import BaseConfig, HubBase, TinyBase
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ConfigError
from sysdesign.models.base import Base, snapshot
from sysdesign.prompts import read_prompt
from sysdesign.records import MetricLog, Report

CORPUS = ("diagrams/seeds.v1.yaml", "student/system.v1.md")


class BaseReport(Report):
    """Which model it is. `parameters` is None where the weights were not opened."""

    kind: str
    name: str
    revision: str
    family: str
    parameters: int | None = None

    def metrics(self) -> dict[str, float]:
        return {} if self.parameters is None else {"base/parameters": float(self.parameters)}

    def note(self) -> str:
        size = "" if self.parameters is None else f", {self.parameters:,} parameters"
        return f"Base model **{self.name}** ({self.family}{size}) at `{self.revision[:12]}`."


def base(cfg: BaseConfig, *, seed: int, out: Path, log: MetricLog, runtime: RuntimeConfig) -> BaseReport:
    """Pin the base model.

    Reads: for kind `tiny` the prompts in CORPUS (its tokenizer learns from them); for kind `hub` the hub or a local folder.
    Writes: `base.json`; for kind `tiny` also the model in the hub's layout below `model/`. The weights of a hub model are
    fetched when a stage first needs them.
    Raises: ServiceError when the hub cannot be reached, ConfigError when the model is of another family than configured.
    """
    match cfg:
        case TinyBase():
            report = _tiny(cfg, seed, out)
        case HubBase():
            report = _published(cfg, runtime.offline or os.environ.get("HF_HUB_OFFLINE") == "1")
    about = Base(kind=report.kind, name=report.name, revision=report.revision, family=report.family)
    (out / "base.json").write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
    log.text(report.note(), "base.md")
    return report


def _tiny(cfg: TinyBase, seed: int, out: Path) -> BaseReport:
    from sysdesign.models.tiny import build_tiny

    folder = out / "model"
    shutil.rmtree(folder, ignore_errors=True)  # seconds to build: a killed run starts over
    parameters = build_tiny(folder, cfg, _lines(), seed)
    return BaseReport(kind="tiny", name="tiny", revision=_folder_sha256(folder), family=cfg.family, parameters=parameters)


def _lines() -> Iterator[str]:
    for name in CORPUS:
        yield from read_prompt(name).splitlines()


def _published(cfg: HubBase, offline: bool) -> BaseReport:
    local = Path(cfg.name).expanduser()
    if local.is_absolute() or cfg.name.startswith((".", "~")) or (local / "config.json").is_file():
        folder = local.resolve()
        _check_family(folder, cfg)
        return BaseReport(kind="folder", name=str(folder), revision=_folder_sha256(folder), family=cfg.family)
    folder = snapshot(cfg.name, cfg.revision, weights=False, offline=offline)
    _check_family(folder, cfg)
    return BaseReport(kind="hub", name=cfg.name, revision=folder.name, family=cfg.family)


def _check_family(folder: Path, cfg: HubBase) -> None:
    try:
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        law = f"must be a model folder with a config.json ({type(error).__name__})"
        raise ConfigError("base.name", law, "give a hub repository, or a folder made by save_pretrained", cfg.name) from None
    if family != cfg.family:
        raise ConfigError("base.family", f"{cfg.name} is of family {family}", f"set --base.family {family}", cfg.family)


def _folder_sha256(folder: Path) -> str:
    """Over name and content of every file, so that a changed byte is another base."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts):
        with path.open("rb") as data:
            digest.update(f"{path.relative_to(folder).as_posix()}\0{hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
