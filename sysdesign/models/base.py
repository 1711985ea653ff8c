"""A `base` artefact -> the local folder of the model it names, its processor, and what differs between the families.

The artefact of a hub model holds only a name and a commit: gigabytes stay in the hub's own cache, where every tool looks
for them, and a machine that only makes data fetches the processor without the weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sysdesign.artifacts import Artifact
from sysdesign.errors import ArtifactError, ServiceError
from sysdesign.graph import Record

FamilyName = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
NOT_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model")


class Base(Record):
    """`base.json`: which model, exactly."""

    kind: Literal["tiny", "hub", "folder"]
    name: str  # repository on the hub, absolute folder, or "tiny"
    revision: str  # 40-digit commit; for a folder and for the tiny model a sha256 over its files
    family: FamilyName


class Family(Record):
    """What a stage must know of an architecture beyond what transformers knows."""

    side: int  # pixels that one visual token covers in each direction: patch size x spatial merge
    decoder_linears: str  # regular expression over module names, for LoRA
    vision: str  # module name of the vision tower with its merger
    keep_16bit: tuple[str, ...]  # modules that 4-bit loading must leave alone


def _family(side: int) -> Family:
    linears = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    return Family(side=side, decoder_linears=linears, vision="model.visual", keep_16bit=("model.visual", "lm_head"))


FAMILIES: dict[str, Family] = {"qwen2_vl": _family(28), "qwen2_5_vl": _family(28), "qwen3_vl": _family(32)}


def read_base(base: Artifact) -> Base:
    """`base.json` of the artefact. Raises ArtifactError if it does not parse."""
    try:
        return Base.model_validate_json((base.path / "base.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(str(base.path / "base.json"), f"must name the base model ({error})", "run the base stage again") from None


def base_folder(base: Artifact) -> Path:
    """The local folder with weights, processor and tokenizer; fetches what is missing.

    Raises ServiceError when the hub cannot be reached and the weights are not in its cache.
    """
    return _folder(base, weights=True)


def load_processor(base: Artifact) -> Any:
    """The processor of the base (tokenizer, chat template, picture and video processors), without fetching any weights."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(_folder(base, weights=False))


def _folder(base: Artifact, weights: bool) -> Path:
    about = read_base(base)
    if about.kind == "tiny":
        return base.path / "model"
    if about.kind == "folder":
        folder = Path(about.name)
        if not (folder / "config.json").is_file():
            raise ArtifactError(
                about.name, "the folder of the base model must still be there", "restore it, or set --base.name to where it is"
            )
        return folder
    return snapshot(about.name, about.revision, weights=weights, offline=False)


def snapshot(name: str, revision: str, *, weights: bool, offline: bool) -> Path:
    """The folder of a hub repository at `revision` (its name is the commit), fetched as far as it is missing.

    `offline`: look only in the cache. Raises ServiceError with the command that mends it.
    """
    from huggingface_hub import snapshot_download

    cached = _cached(name, revision, weights) if offline or len(revision) == 40 else None
    if cached is not None or offline:
        if cached is None:
            raise _unreachable(name, revision, "offline, and not all of it is in the cache")
        return cached
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=None if weights else list(NOT_WEIGHTS)))
    except (OSError, ValueError) as error:  # every error of the hub's client derives from one of these
        raise _unreachable(name, revision, (str(error).strip().splitlines() or [type(error).__name__])[0]) from None


def _cached(name: str, revision: str, weights: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if _whole(folder, weights) else None


def _whole(folder: Path, weights: bool) -> bool:
    import json

    if not (folder / "config.json").is_file() or not any((folder / n).is_file() for n in ("tokenizer.json", "vocab.json")):
        return False
    if not weights:
        return True
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return all((folder / shard).is_file() for shard in shards)


def _unreachable(name: str, revision: str, reason: str) -> ServiceError:
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return ServiceError(
        f"base.name={name}",
        f"the model must be on the Hugging Face hub or in its cache ({reason[:200]})",
        f"where there is a network: hf download {name} --revision {revision}, then copy {cache}; or set --base.name to a local "
        "folder, or use -P profile=rehearsal, which needs no network",
    )
