"""The merge -> every GGUF file of an export, each written in one pass, checked, and kept if it is there already."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from sysdesign.config.export import ExportConfig
from sysdesign.export import families, metadata, recipe
from sysdesign.export.adapter import NO_ADAPTER
from sysdesign.export.gguf_file import Planned, planned_bytes, require_free, write_gguf
from sysdesign.export.kernels import quantise
from sysdesign.export.merge import Merge, plan
from sysdesign.export.metadata import Origin
from sysdesign.export.verify import verify_gguf


def write_files(
    out: Path, layout: families.Layout, merge: Merge, processor: Path, origin: Origin, cfg: ExportConfig, *, workers: int,
    f16_for_certificate: Path | None = None,
) -> dict[str, int]:  # fmt: skip
    """All GGUF files below `out`; bytes by name. The disk is checked for all of them before the first byte is written.

    `f16_for_certificate`: where an F16 text model goes that does not ship; it is not counted in the result, and the caller's to remove.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    out.mkdir(parents=True, exist_ok=True)
    untuned = Merge(merge.weights, NO_ADAPTER)
    untuned_origin = origin.model_copy(update={"adapter_sha256": "", "name": origin.base.rpartition("/")[2]})
    jobs = [(out / f"model-{q}.gguf", q, merge, origin) for q in cfg.quantisations] + [(out / "mmproj-f16.gguf", "", merge, origin)]
    if cfg.base_gguf:
        jobs.append((out / f"base-{cfg.ship}.gguf", cfg.ship, untuned, untuned_origin))
        if any(name.startswith("visual.") for name in merge.adapter.pairs):
            jobs.append((out / "base-mmproj-f16.gguf", "", untuned, untuned_origin))
    if f16_for_certificate:
        f16_for_certificate.parent.mkdir(exist_ok=True)
        jobs.append((f16_for_certificate, "f16", merge, origin))
    planned = {path: plan_file(layout, quant) for path, quant, *_ in jobs}
    missing = [t for path, t in planned.items() if not any(path.with_name(path.name + end).exists() for end in ("", ".partial"))]
    spare = "set export.parity.f16 to false, " if f16_for_certificate else ""
    require_free(out, sum(map(planned_bytes, missing)), spare)
    sizes = {}
    with untuned, threadpool_limits(1):  # our threads take the cores; BLAS threads inside each would fight for them
        for path, quant, rows, source in jobs:
            fill = partial(_fill, layout=layout, processor=processor, origin=source, quant=quant, tensors=planned[path])
            with Bar(sum(prod(t.shape) for t in planned[path]), path.name) as done:
                architecture = metadata.architecture(layout, vision=not quant)
                size = write_gguf(path, architecture, fill, planned[path], rows, quantise, workers=workers, progress=done)
            verify_gguf(path, planned[path])
            if path != f16_for_certificate:
                sizes[f"gguf/{path.name}"] = size
    return sizes


def plan_file(layout: families.Layout, quant: str) -> list[Planned]:
    """The tensors of the text model in `quant`, or of the projector when `quant` is empty."""
    if not quant:
        return plan(layout.vision_pieces, {p.name: recipe.vision_type(p) for p in layout.vision_pieces})
    return plan(layout.text_pieces, {p.name: recipe.text_type(p, quant, layout) for p in layout.text_pieces})


def _fill(writer: Any, layout: families.Layout, processor: Path, origin: Origin, quant: str, tensors: list[Planned]) -> None:
    metadata.add_origin(writer, origin, sum(prod(t.shape) for t in tensors))
    if quant:
        metadata.add_text(writer, layout, quant)
        metadata.add_tokenizer(writer, processor, layout.text)
    else:
        metadata.add_vision(writer, layout)


class Bar:
    """A progress bar in weights; safe to tell from several threads."""

    def __init__(self, total: int, name: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="w", unit_scale=True, desc=name, leave=False, delay=1.0)

    def __enter__(self) -> Callable[[int], Any]:
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
