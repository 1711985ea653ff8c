"""The certificate: what it compares, and that it fails when what ships is not what was trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysdesign.artifacts import Artifact
from sysdesign.config.export import ExportConfig, ParityConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError
from sysdesign.evaluate.scoring import score
from sysdesign.export.certificate import Answer, Said, Step, TaskScores, distance
from sysdesign.export.parity import parity_rows
from sysdesign.export.stage import ExportReport, export
from sysdesign.models.bundle import open_bundle
from sysdesign.records import NullLog
from tests.export_inputs import make_base, make_dataset, make_train, rewrite

SHORT = {
    "quantisations": ["q8_0"], "ship": "q8_0", "base_gguf": False, "context": 1024, "parity": {"prompts": 2, "tokens": 6, "f16": False},
}  # fmt: skip
CPU = RuntimeConfig(device="cpu", workers=2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    base = make_base(folder / "base")
    return {"base": base, "train": make_train(folder / "train", base), "dataset": make_dataset(folder / "dataset", count=2)}


def run(
    out: Path, inputs: dict[str, Artifact], parity: dict[str, Any] | None = None, **changes: Any
) -> tuple[ExportReport, dict[str, Any]]:
    out.mkdir(parents=True, exist_ok=True)
    cfg = ExportConfig.model_validate(SHORT | changes | {"parity": SHORT["parity"] | (parity or {})})  # type: ignore[operator]
    report = export(cfg, seed=0, out=out, log=NullLog(), runtime=CPU, score=score, **inputs)
    return report, json.loads((out / "parity.json").read_text())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_tuned_model_answers_the_same_through_transformers_and_llama_cpp(family: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", family)
    side = 32 if family == "qwen3_vl" else 28
    found = {"base": base, "train": make_train(tmp_path / "train", base), "dataset": make_dataset(tmp_path / "dataset", side, count=2)}
    report, said = run(tmp_path / "out", found, quantisations=["f32", "f16"], ship="f16", parity={"tokens": 12})
    assert report.certified is True and report.largest is not None and report.largest < 0.02
    for prompt in said["prompts"]:
        assert {told["text"] for told in prompt["answers"].values()} == {prompt["answers"]["adapter"]["text"]}, prompt["answers"]
        assert prompt["answers"].keys() == {"adapter", "merged", "f32", "f16"}
    assert [prompt["pictures"] for prompt in said["prompts"]] == [1, 0]
    assert open_bundle(tmp_path / "out").policy.side == side


def test_answers_are_compared_to_their_end(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """A head whose end token outshines every other as soon as its direction is positive: answers end early, on both sides."""
    base = dataclasses.replace(inputs["base"], path=Path(shutil.copytree(inputs["base"].path, tmp_path / "base")))
    added = json.loads((base.path / "model" / "tokenizer.json").read_text())["added_tokens"]
    end = next(token["id"] for token in added if token["content"] == "<|im_end|>")

    def louder(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"][end] *= 6

    rewrite(base.path / "model" / "model.safetensors", louder)
    report, said = run(tmp_path / "out", inputs | {"base": base}, quantisations=["f16"], ship="f16", parity={"tokens": 64})
    assert report.certified is True
    told = [answer for prompt in said["prompts"] for answer in prompt["answers"].values()]
    assert any(answer["ended"] for answer in told)
    for prompt in said["prompts"]:
        assert len({(answer["text"], answer["ended"]) for answer in prompt["answers"].values()}) == 1
    exact = next(c["distance"] for c in said["comparisons"] if c["what"].startswith("f16 in llama.cpp and the merged"))
    assert exact["agree"] == exact["tokens"] < 128


def test_another_end_is_another_answer() -> None:
    def likeliest(*tokens: int) -> np.ndarray:
        rows = np.full((len(tokens), 8), -9.0, np.float32)
        rows[range(len(tokens)), tokens] = -0.001
        return rows

    answer = Answer(
        prompt="",
        text_tokens=(),
        image_tokens=0,
        text="a",
        ended=True,
        steps=(Step(token=3, top={3: -0.001}), Step(token=7, top={7: -0.001})),
    )
    assert distance([answer], [likeliest(3, 7)], tie=0.01).agree == 2
    assert distance([answer], [likeliest(3, 4)], tie=0.01).agree == 1  # the other side would have gone on


def test_an_f16_file_is_certified_and_removed_where_none_ships(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    report, said = run(tmp_path, inputs, parity={"f16": True})
    assert report.certified is True
    compared = [c["what"] for c in said["comparisons"]]
    assert [what for what in compared if what.startswith("f16 in llama.cpp")] and len(compared) == 5
    assert said["adapter"].keys() == {"f16", "q8_0"} and "gguf/model-f16.gguf" not in report.files
    assert sorted(p.name for p in tmp_path.rglob("*.gguf")) == ["mmproj-f16.gguf", "model-q8_0.gguf"]
    assert not (tmp_path / "certificate-only").exists()


def test_task_scores_stand_side_by_side(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    _, said = run(tmp_path, inputs)
    scores = said["scores"]
    assert scores["questions"] == 2 and scores["mean"].keys() == {"adapter", "merged", "q8_0"}
    for prompt, row in zip(said["prompts"], parity_rows(inputs["dataset"], 2), strict=True):
        for told in prompt["answers"].values():
            assert told["score"] == score(row.check, told["text"], cut=not told["ended"]).value
    page = (tmp_path / "parity.html").read_text()
    assert "Task scores" in page and page.count("mean score") == 1
    scored = TaskScores(questions=4, mean={"adapter": 0.9, "merged": 0.9, "q8_0": 0.3}, largest_drop=0.5)
    assert not scored.passed and scored.model_copy(update={"largest_drop": 0.7}).passed
    assert TaskScores(questions=0, mean={}, largest_drop=0).passed and Said(text="", ended=True).score is None


def test_a_bfloat16_reference_is_held_to_what_bfloat16_can_show(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    report, _ = run(tmp_path, inputs, parity={"precision": "bfloat16", "f16": True, "prompts": 2, "tokens": 16})
    assert report.certified is True


def test_shipping_the_untuned_base_fails_the_certificate(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """The mistake that users of other tools report most: a merge that changed nothing."""
    run(tmp_path / "right", inputs, base_gguf=True)
    (tmp_path / "wrong" / "gguf").mkdir(parents=True)
    shutil.copy(tmp_path / "right" / "gguf" / "base-q8_0.gguf", tmp_path / "wrong" / "gguf" / "model-q8_0.gguf")
    report, said = run(tmp_path / "wrong", inputs)
    assert report.certified is False and "failed" in report.note() and report.metrics()["export/certified"] == 0.0
    page = (tmp_path / "wrong" / "parity.html").read_text()
    assert "<li>the adapter in q8_0" in page and "Broken" not in (tmp_path / "right" / "parity.html").read_text()
    found = {c["what"]: c["passed"] for c in said["comparisons"]}
    assert found["q8_0 in llama.cpp and its own weights in transformers"] is True  # the runtime is not to blame
    assert abs(said["adapter"]["q8_0"]["share"]) < 0.05 and len(said["adapter"]["q8_0"]["absent"]) == 14


def test_a_projector_without_its_part_of_the_adapter_fails_the_certificate(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    tuned = inputs | {"train": make_train(tmp_path / "train", inputs["base"], vision=True)}
    report, said = run(tmp_path / "right", tuned, base_gguf=True)
    assert report.certified is True and abs(said["adapter"]["projector"]["share"] - 1) < 0.05
    (tmp_path / "wrong" / "gguf").mkdir(parents=True)
    shutil.copy(tmp_path / "right" / "gguf" / "base-mmproj-f16.gguf", tmp_path / "wrong" / "gguf" / "mmproj-f16.gguf")
    report, said = run(tmp_path / "wrong", tuned)
    assert report.certified is False
    assert abs(said["adapter"]["q8_0"]["share"] - 1) < 0.05 and abs(said["adapter"]["projector"]["share"]) < 0.05
    assert "mm.0.weight" in said["adapter"]["projector"]["absent"]


def test_prompts_with_and_without_a_picture_are_always_among_them(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    rows = parity_rows(make_dataset(tmp_path / "pictures", only_pictures=True), 4)
    assert [len(row.images) for row in rows] == [1, 1, 1, 0] and rows[-1].check is None
    assert all(part["type"] == "text" for message in rows[-1].messages for part in message["content"])
    blind = make_dataset(tmp_path / "texts")
    for name in ("probes.jsonl", "rows/test.jsonl"):
        lines = [line for line in (blind.path / name).read_text().splitlines() if not json.loads(line).get("images")]
        (blind.path / name).write_text("\n".join(lines) + "\n")
    (blind.path / "rows" / "val.jsonl").touch()
    with pytest.raises(ArtifactError, match=r"row with a picture.*2 rows without a picture"):
        parity_rows(blind, 4)
    with pytest.raises(ValueError, match="0 or at least 2"):
        ParityConfig(prompts=1)


def test_pictures_that_one_side_would_resize_fail_the_certificate(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """A picture below the policy's bounds is enlarged by llama.cpp and not by the processor: the answers belong to two pictures."""
    from PIL import Image

    dataset = make_dataset(tmp_path / "dataset", count=2)
    Image.new("RGB", (28 * 4, 28 * 3), "white").save(dataset.path / "images" / "0.png")
    report, said = run(tmp_path / "out", inputs | {"dataset": dataset})
    assert report.certified is False
    picture = said["prompts"][0]
    assert picture["expected_image_tokens"] == 12 and picture["image_tokens"] >= 64
