"""Base and adapter -> GGUF files that Ollama and llama.cpp serve, a Modelfile, and a certificate that they are what was trained."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path

from sysdesign.artifacts import Artifact
from sysdesign.config.export import ExportConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError
from sysdesign.export import families
from sysdesign.export.adapter import Adapter, open_adapter
from sysdesign.export.certificate import Certificate
from sysdesign.export.files import Bar, write_files
from sysdesign.export.merge import Merge
from sysdesign.export.merged_folder import write_merged
from sysdesign.export.metadata import Origin
from sysdesign.export.modelfile import write_modelfile
from sysdesign.export.page import certificate_page
from sysdesign.export.parity import Scorer, certify, parity_rows
from sysdesign.export.reference import Reference
from sysdesign.export.weights import open_weights
from sysdesign.models.base import FAMILIES, base_folder, read_base
from sysdesign.models.picture import PicturePolicy
from sysdesign.prompts import read_prompt
from sysdesign.records import MetricLog, Report

SYSTEM = "student/system.v1.md"


class ExportReport(Report):
    """What was written. `certified` is None where no certificate was asked for."""

    ship: str
    picture: PicturePolicy
    files: dict[str, int]  # name -> bytes
    parameters: int
    changed: int  # tensors that the adapter changes
    certified: bool | None
    largest: float | None = None  # of the shipped file against its own weights in transformers
    quantised_kl: float | None = None  # of the shipped file against the merged weights
    prompts: int = 0

    def metrics(self) -> dict[str, float]:
        found = {"export/bytes": float(sum(self.files.values())), "export/changed_tensors": float(self.changed)}
        given = {"export/parity_largest": self.largest, "export/quantised_kl": self.quantised_kl}
        found |= {name: value for name, value in given.items() if value is not None}
        return found | ({} if self.certified is None else {"export/certified": float(self.certified)})

    def note(self) -> str:
        size = self.files[f"gguf/model-{self.ship}.gguf"] / 1e6
        verdict = {
            None: "no parity certificate was asked for",
            True: "the parity certificate **passed**",
            False: "the parity certificate **failed**",
        }
        return f"`{self.ship}` text model of {size:,.1f} MB with an f16 projector; {verdict[self.certified]} ({self.prompts} prompts)."


def export(
    cfg: ExportConfig, *, seed: int, out: Path, log: MetricLog, runtime: RuntimeConfig, train: Artifact, base: Artifact, dataset: Artifact,
    score: Scorer | None = None,
) -> ExportReport:  # fmt: skip
    """Merge, convert, certify.

    Reads: the base's folder, `adapter/` and `processor/` of train, `probes.jsonl`, `rows/` and `images/` of dataset,
    prompts/student/system.v1.md. Writes: `gguf/model-<quantisation>.gguf`, `gguf/mmproj-f16.gguf`, `gguf/base-<ship>.gguf` (and
    `gguf/base-mmproj-f16.gguf` when the adapter changes vision), `Modelfile`, `export.json`, `parity.json`, `parity.html`, `merged/`.
    Files that are there whole are kept, and a torn one is finished. `seed` is unused: nothing here is random. `score` scores the
    certificate's answers; None leaves them unscored.
    Raises InputError for weights, adapters and tokenizers that cannot be exported exactly, LimitError when the disk is too small,
    ServiceError when llama.cpp does not load what was written.
    """
    folder, processor, adapter_folder = base_folder(base), train.path / "processor", train.path / "adapter"
    for needed in (processor, adapter_folder):
        if not needed.is_dir():
            raise ArtifactError(str(needed), "the training artefact must hold it", "run the train stage again")
    weights = open_weights(folder)
    layout = families.read_layout(folder, weights)
    adapter = open_adapter(adapter_folder, weights)
    policy = _picture_policy(dataset, base)
    system = read_prompt(SYSTEM)
    modelfile = write_modelfile(f"gguf/model-{cfg.ship}.gguf", "gguf/mmproj-f16.gguf", system, policy, cfg.context, cfg.temperature)
    origin = _origin(base, train, dataset, folder)
    workers = runtime.workers or os.cpu_count() or 1
    rows = parity_rows(dataset, cfg.parity.prompts) if cfg.parity.prompts else []

    with Merge(weights, adapter, cfg.merge == "dequantised") as merge:
        f16 = (
            out / "certificate-only" / "model-f16.gguf"
            if cfg.parity.prompts and cfg.parity.f16 and "f16" not in cfg.quantisations
            else None
        )
        sizes = write_files(out / "gguf", layout, merge, processor, origin, cfg, workers=workers, f16_for_certificate=f16)
        if cfg.keep_merged:
            with Bar(sum(prod(p.shape) for p in (*layout.text_pieces, *layout.vision_pieces)), "merged") as done:
                sizes["merged"] = write_merged(out / "merged", folder, processor, merge, int(cfg.shard_gb * 1e9), done)
        files = ({"f16": f16} if f16 else {}) | {quant: out / "gguf" / f"model-{quant}.gguf" for quant in cfg.quantisations}
        load = partial(
            Reference, folder, processor, adapter_folder, device=runtime.device, precision=cfg.parity.precision, merge=merge, layout=layout
        )
        certificate = certify(
            cfg, rows, dataset.path, files, out / "gguf" / "mmproj-f16.gguf", policy, load, processor, score, threads=workers,
            gpu=runtime.device != "cpu",
        ) if rows else None  # fmt: skip
    shutil.rmtree(out / "certificate-only", ignore_errors=True)
    (out / "Modelfile").write_text(modelfile, encoding="utf-8")
    report = _report(cfg, policy, sizes, layout, adapter, certificate)
    (out / "export.json").write_text(json.dumps(report.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    if certificate is not None:
        (out / "parity.json").write_text(certificate.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (out / "parity.html").write_text(certificate_page(certificate), encoding="utf-8")
        for name in ("parity.json", "parity.html"):
            log.file(out / name, "parity")
    log.file(out / "Modelfile")
    return report


def _picture_policy(dataset: Artifact, base: Artifact) -> PicturePolicy:
    """The policy that the dataset's pictures were resized by."""
    said = dataset.manifest.config.get("picture", {})
    return PicturePolicy(side=FAMILIES[read_base(base).family].side, **said)


def _origin(base: Artifact, train: Artifact, dataset: Artifact, folder: Path) -> Origin:
    about = read_base(base)
    named = {"hub": about.name, "folder": Path(about.name).name}  # where a folder lies on this machine is nobody's business
    name = named.get(about.kind, f"{about.kind}-{about.family}")
    return Origin(
        name="sysdesign " + name.rpartition("/")[2], base=name, base_revision=about.revision, license=_license(folder),
        adapter_sha256=train.digest, training_key=train.key, dataset_sha256=dataset.digest,
    )  # fmt: skip


def _license(folder: Path) -> str:
    """`license:` in the head of the base's README, as the hub requires it; empty when there is none."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if readme.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")


def _report(
    cfg: ExportConfig,
    policy: PicturePolicy,
    sizes: Mapping[str, int],
    layout: families.Layout,
    adapter: Adapter,
    certificate: Certificate | None,
) -> ExportReport:
    own = cost = None
    if certificate is not None:
        own, cost = (c.distance for c in certificate.comparisons if c.what.startswith(f"{cfg.ship} "))
    pieces = (*layout.text_pieces, *layout.vision_pieces)
    return ExportReport(
        ship=cfg.ship, picture=policy, files=dict(sizes), parameters=sum(prod(piece.shape) for piece in pieces),
        changed=len(adapter.pairs), certified=certificate.passed if certificate else None, largest=own.largest if own else None,
        quantised_kl=cost.kl if cost else None, prompts=len(certificate.prompts) if certificate else 0,
    )  # fmt: skip
