"""Export: the whole stage on a tiny model, and the certificate that must fail when what ships is not what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysdesign.artifacts import Artifact
from sysdesign.config.export import ExportConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError
from sysdesign.export.stage import ExportReport, export
from sysdesign.models.bundle import open_bundle
from sysdesign.records import NullLog
from tests.export_inputs import POLICY, make_base, make_dataset, make_train

SHORT = {"quantisations": ["f16", "q8_0"], "ship": "q8_0", "context": 1024, "parity": {"prompts": 2, "tokens": 8}}
CPU = RuntimeConfig(device="cpu", workers=2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    base = make_base(folder / "base")
    return {"base": base, "train": make_train(folder / "train", base), "dataset": make_dataset(folder / "dataset")}


def run(out: Path, inputs: dict[str, Artifact], **changes: Any) -> ExportReport:
    out.mkdir(parents=True, exist_ok=True)
    return export(ExportConfig.model_validate(SHORT | changes), seed=0, out=out, log=NullLog(), runtime=CPU, **inputs)


@pytest.fixture(scope="module")
def exported(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    out = tmp_path_factory.mktemp("exported")
    return out, run(out, inputs, keep_merged=True)


def test_the_stage_ships_a_bundle_that_passed_its_certificate(exported: tuple[Path, ExportReport]) -> None:
    out, report = exported
    assert report.certified is True and report.changed == 14 and "passed" in report.note()
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and "merged" not in p.parts)
    assert names == [
        "Modelfile", "export.json", "gguf/base-q8_0.gguf", "gguf/mmproj-f16.gguf", "gguf/model-f16.gguf", "gguf/model-q8_0.gguf",
        "parity.html", "parity.json",
    ]  # fmt: skip
    bundle = open_bundle(out)
    assert bundle.text.name == "model-q8_0.gguf" and bundle.projector.name == "mmproj-f16.gguf"
    assert (bundle.policy.min_tokens, bundle.policy.max_tokens) == (POLICY["min_tokens"], POLICY["max_tokens"])
    assert bundle.stop == ("<|im_start|>", "<|im_end|>") and bundle.requires == "0.30.0" and bundle.system.startswith("You are")
    assert "picture" in json.loads((out / "export.json").read_text())


def test_the_certificate_says_what_was_compared(exported: tuple[Path, ExportReport]) -> None:
    out, _ = exported
    certificate = json.loads((out / "parity.json").read_text())
    with_picture, without = certificate["prompts"]
    assert with_picture["pictures"] == 1 and with_picture["image_tokens"] == with_picture["expected_image_tokens"] == 72
    assert without["pictures"] == 0 and all(p["same_prompt"] and p["same_tokens"] for p in certificate["prompts"])
    by_name = {c["what"]: c for c in certificate["comparisons"]}
    exact = by_name["f16 in llama.cpp and the merged weights in transformers"]["distance"]
    assert exact["agree"] == exact["tokens"] >= 8 and exact["largest"] < 0.02
    live = by_name["adapter and merged weights, transformers"]["distance"]
    assert live["agree"] == live["tokens"] and live["largest"] < 1e-4
    assert all(abs(found["share"] - 1) < 0.05 and not found["absent"] for found in certificate["adapter"].values())
    page = (out / "parity.html").read_text()
    assert "passed" in page and "<script" not in page and all(c["what"] in page for c in certificate["comparisons"])


def test_the_files_say_where_they_come_from(exported: tuple[Path, ExportReport], inputs: dict[str, Artifact]) -> None:
    from gguf import GGUFReader

    out, _ = exported
    tuned, base = (GGUFReader(out / "gguf" / f"{name}-q8_0.gguf") for name in ("model", "base"))
    said = {name: field.contents() for name, field in tuned.fields.items()}
    assert said["sysdesign.adapter.sha256"] == inputs["train"].digest and said["sysdesign.dataset.sha256"] == inputs["dataset"].digest
    assert said["tokenizer.chat_template"] == (inputs["base"].path / "model" / "chat_template.jinja").read_text()
    assert said["general.base_model.0.version"] == "0" * 40 and said["general.file_type"] == 7
    assert "sysdesign.adapter.sha256" not in base.fields
    changed = {t.name for t, b in zip(tuned.tensors, base.tensors, strict=True) if not np.array_equal(t.data, b.data)}
    assert changed == {
        f"blk.{i}.{m}.weight" for i in (0, 1) for m in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }


def test_the_merged_folder_loads_and_is_what_peft_merges(exported: tuple[Path, ExportReport], inputs: dict[str, Artifact]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    merged = AutoModelForImageTextToText.from_pretrained(exported[0] / "merged", dtype=torch.float32)
    assert AutoProcessor.from_pretrained(exported[0] / "merged").image_token == "<|image_pad|>"
    base = AutoModelForImageTextToText.from_pretrained(inputs["base"].path / "model", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, inputs["train"].path / "adapter").merge_and_unload()
    for (name, ours), other in zip(merged.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(ours, other.bfloat16().float(), rtol=2**-7, atol=1e-6), name  # one rounding to 16 bit


def test_a_run_again_keeps_whole_files_and_finishes(exported: tuple[Path, ExportReport], inputs: dict[str, Artifact]) -> None:
    out, first = exported
    files = sorted((out / "gguf").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    (out / "Modelfile").unlink()
    assert run(out, inputs, keep_merged=True, parity={"prompts": 0}).files == first.files
    assert [file.stat().st_mtime_ns for file in files] == before and (out / "Modelfile").is_file()


def test_a_dataset_without_test_rows_is_told_before_llama_cpp_is_asked(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    import dataclasses

    for name in ("probes.jsonl", "rows/test.jsonl", "rows/val.jsonl"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).touch()
    empty = dataclasses.replace(inputs["dataset"], path=tmp_path / "d")
    with pytest.raises(ArtifactError, match="row with a picture.*no rows"):
        run(tmp_path / "out", inputs | {"dataset": empty})
