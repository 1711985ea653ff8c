"""Artefacts -> the models that are compared, each with the digest of its weights and a way to open it.

Through llama.cpp the very files that ship are asked, and the base in the same quantisation in the same runtime; through transformers
the adapter on its base. A served model answers one question at a time, so on a CPU both servers run side by side on half the cores each:
faster than one after the other. A picture is read once for all the questions about it. What is read in other portions may differ in the
last bits of its probabilities, and a near tie then in its words: so each picture's questions start from nothing (`PictureByPicture`) and
come in one order, and an answer depends on the questions about its own picture that came before it, on nothing else that was asked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.evaluate import EvaluateConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError
from sysdesign.models.bundle import Bundle, open_bundle
from sysdesign.models.chat import ChatModel, Message, Reply
from sysdesign.models.picture import PicturePolicy


@dataclass(frozen=True)
class Contestant:
    """`role`: base, tuned, champion. `digest`: of all weights that answer. `size`: bytes, to decide what fits side by side.

    `ships`: it is the very file that the Modelfile names.
    """

    role: str
    name: str
    digest: str
    size: int
    open: Callable[[int], AbstractContextManager[ChatModel]]  # threads -> the model
    ships: bool = False


class PictureByPicture:
    """Two ways to one server: after `begin` the next question is read from its start, the ones after it reuse what it shares with them."""

    def __init__(self, anew: ChatModel, reusing: ChatModel) -> None:
        self.name, self._anew, self._reusing, self._begins = reusing.name, anew, reusing, True

    def begin(self) -> None:
        """What comes next is about something else."""
        self._begins = True

    def reply(self, messages: Sequence[Message], *, max_tokens: int, seed: int) -> Reply:
        """As `ChatModel.reply`. A question that was refused has not begun anything."""
        reply = (self._anew if self._begins else self._reusing).reply(messages, max_tokens=max_tokens, seed=seed)
        self._begins = False
        return reply

    def close(self) -> None:
        """Close both."""
        self._anew.close()
        self._reusing.close()


def contestants(
    cfg: EvaluateConfig, runtime: RuntimeConfig, *, export: Artifact, train: Artifact, base: Artifact, champion: Artifact | None
) -> tuple[list[Contestant], PicturePolicy]:
    """Base first, then the tuned model, then the champion if there is one; and the picture policy they were trained on.

    Raises ArtifactError naming the file that is missing.
    """
    bundle = open_bundle(export.path)
    if cfg.through == "transformers":
        from sysdesign.models.base import base_folder

        folder = base_folder(base)
        adapter = train.path / "adapter"
        if not adapter.is_dir():
            raise ArtifactError(str(adapter), "must hold the trained adapter", "run the train stage again")
        return [
            _local("base", folder, None, base.digest, cfg, runtime),
            _local("tuned", folder, adapter, f"{base.digest}+{_sum(train, 'adapter/')}", cfg, runtime),
        ], bundle.policy
    quant = cfg.quant or bundle.text.stem.removeprefix("model-")
    found = [
        _served("base", export, f"gguf/base-{quant}.gguf", bundle, cfg, runtime, "set export.base_gguf to true and run export again"),
        _served(
            "tuned",
            export,
            f"gguf/model-{quant}.gguf",
            bundle,
            cfg,
            runtime,
            f"add {quant} to export.quantisations, or unset evaluate.quant",
        ),
    ]
    if champion is not None:
        other = open_bundle(champion.path)
        found.append(_served("champion", champion, other.text.relative_to(champion.path).as_posix(), other, cfg, runtime, "fetch it again"))
    return found, bundle.policy


def fits_side_by_side(models: list[Contestant], runtime: RuntimeConfig) -> bool:
    """Whether all may be held at once: on a CPU, with several cores, in half of the memory that is free."""
    import psutil

    if runtime.device == "cuda" or cores(runtime) < 2:
        return False
    return 2 * sum(model.size for model in models) < psutil.virtual_memory().available // 2


def cores(runtime: RuntimeConfig) -> int:
    """Cores this stage may use."""
    return runtime.workers or os.cpu_count() or 1


def _served(role: str, export: Artifact, file: str, bundle: Bundle, cfg: EvaluateConfig, runtime: RuntimeConfig, do: str) -> Contestant:
    text, own = export.path / file, export.path / "gguf/base-mmproj-f16.gguf"
    projector = own if role == "base" and own.is_file() else bundle.projector  # there when the adapter changes vision
    hashes = {entry.path: entry.sha256 for entry in export.manifest.files}
    if not text.is_file() or file not in hashes:
        raise ArtifactError(str(text), f"the {role} model's file must be in the export artefact", do)
    both = f"{hashes[file]}{hashes.get(projector.relative_to(export.path).as_posix(), '')}"

    @contextmanager
    def opened(threads: int) -> Iterator[ChatModel]:
        from sysdesign.models.llamacpp import serve
        from sysdesign.models.openai_http import LLAMACPP, LLAMACPP_REUSE, OpenAiHttp

        bounds = bundle.policy
        with serve(
            text,
            projector,
            context=cfg.context_tokens,
            threads=threads,
            min_image_tokens=bounds.min_tokens,
            max_image_tokens=bounds.max_tokens,
            gpu=runtime.device != "cpu",
            reuse=True,
        ) as url:
            ways = (OpenAiHttp(url, "sysdesign", name=f"{role}:{text.name}", extra=extra) for extra in (LLAMACPP, LLAMACPP_REUSE))
            model = PictureByPicture(*ways)
            try:
                yield model
            finally:
                model.close()

    size = text.stat().st_size + projector.stat().st_size
    digest = hashlib.sha256(both.encode()).hexdigest()
    return Contestant(
        role=role, name=f"{text.stem} (llama.cpp)", digest=digest, size=size, open=opened, ships=role != "base" and text == bundle.text
    )


def _local(role: str, folder: Path, adapter: Path | None, digest: str, cfg: EvaluateConfig, runtime: RuntimeConfig) -> Contestant:
    @contextmanager
    def opened(threads: int) -> Iterator[ChatModel]:
        from sysdesign.models.local import Local

        model = Local(folder, adapter=adapter, name=role, device=runtime.device, precision=cfg.precision, group=cfg.group)
        try:
            yield model
        finally:
            model.close()

    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    name = "base (transformers)" if adapter is None else "base + adapter (transformers)"
    return Contestant(role=role, name=name, digest=hashlib.sha256(digest.encode()).hexdigest(), size=size, open=opened)


def _sum(artifact: Artifact, folder: str) -> str:
    lines = "".join(f"{f.path}\0{f.sha256}\n" for f in artifact.manifest.files if f.path.startswith(folder))
    return hashlib.sha256(lines.encode()).hexdigest()
