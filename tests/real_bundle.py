"""A real servable export without a training: a tiny base, untuned, written to GGUF by the project's own exporter."""

from __future__ import annotations

import json
from pathlib import Path

from sysdesign.config.base import TinyBase
from sysdesign.config.export import ExportConfig
from sysdesign.export import families
from sysdesign.export.adapter import NO_ADAPTER
from sysdesign.export.merge import Merge
from sysdesign.export.metadata import Origin
from sysdesign.export.modelfile import write_modelfile
from sysdesign.export.stage import write_files
from sysdesign.export.weights import open_weights
from sysdesign.models.picture import PicturePolicy
from sysdesign.models.tiny import build_tiny


def write_bundle(folder: Path) -> Path:
    """`base/` with the Hugging Face folder beside `export/`; returns the latter. Takes about two seconds."""
    base, export = folder / "base", folder / "export"
    words = [
        "You read system-design diagrams.",
        "Gateway Orders Ledger",
        "List the names of all components in this diagram, one per line.",
    ] * 3
    build_tiny(base, TinyBase(), words, seed=1)
    weights = open_weights(base)
    layout = families.read_layout(base, weights)
    cfg = ExportConfig(quantisations=("q8_0",), ship="q8_0", base_gguf=False, context=4096)
    with Merge(weights, NO_ADAPTER) as merge:
        write_files(export / "gguf", layout, merge, base, Origin(name="tiny", base="tiny-qwen2_vl"), cfg, workers=1)
    policy = PicturePolicy(min_tokens=64, max_tokens=80)
    files = ("gguf/model-q8_0.gguf", "gguf/mmproj-f16.gguf")
    (export / "Modelfile").write_text(write_modelfile(*files, "You read system-design diagrams.", policy, cfg.context, 0.0))
    (export / "export.json").write_text(json.dumps({"picture": policy.model_dump()}))
    return export
