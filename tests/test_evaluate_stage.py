"""The whole stage on a real export: base and tuned GGUF files served by llama.cpp, the thirty headline prompts, a verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sysdesign.artifacts import Artifact, hash_files
from sysdesign.config.evaluate import EvaluateConfig
from sysdesign.config.runtime import RuntimeConfig
from sysdesign.errors import ArtifactError
from sysdesign.evaluate.stage import evaluate
from sysdesign.models.bundle import certified
from sysdesign.prompts import headline_prompts
from sysdesign.records import Boxes, Check, DiagramRecord, NullLog, Row, read_jsonl, write_jsonl
from tests.export_inputs import artifact
from tests.real_bundle import write_bundle
from tests.test_evaluate import architecture

CFG = EvaluateConfig(probe_tokens=4, headline_tokens=4, controls=1, context_tokens=4096, library_scores=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    from PIL import Image

    store = tmp_path_factory.mktemp("store")
    for name in ("dataset/images", "dataset/rows", "diagrams/headline", "train", "base"):
        (store / name).mkdir(parents=True)
    export = write_bundle(store)
    shutil.copy(export / "gguf/model-q8_0.gguf", export / "gguf/base-q8_0.gguf")
    Image.new("RGB", (224, 224), "white").save(store / "dataset/images/a.png")
    drawn = []
    for prompt in headline_prompts():
        if prompt.graph is not None:
            Image.new("RGB", (300, 200), "white").save(store / f"diagrams/headline/{prompt.id}.png")
            boxes = Boxes(components={c.id: (10.0, 10.0, 40.0, 30.0) for c in prompt.graph.components})
            drawn.append(
                DiagramRecord(
                    id=prompt.id, graph=prompt.graph, graph_sha256=prompt.graph.sha256(), topology="t", seed_id=prompt.id,
                    domain=prompt.domain,
                    style=prompt.style or "icons", image=f"headline/{prompt.id}.png", image_sha256="0", width=300, height=200,
                    boxes=boxes, visible=(),
                    min_font_px=12,
                )
            )  # fmt: skip
    write_jsonl(store / "diagrams/headline.jsonl", drawn)
    write_jsonl(store / "diagrams/diagrams.jsonl", [])
    rows = []
    for number in range(3):
        graph = architecture(number)
        asked = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many replicas has Orders?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": str(graph.component("orders").replicas)}]},
        ]
        rows.append(
            Row(
                id=f"r{number}", split="test", conversation_id=f"c{number}", graph_sha256=graph.sha256(), style="icons",
                seed_id="s", provider="offline",
                family="attribute_read", messages=tuple(asked), images=("images/a.png",), graph=graph,
                check=Check(kind="number", expected=graph.component("orders").replicas),
            )
        )  # fmt: skip
    write_jsonl(store / "dataset/probes.jsonl", rows)
    for split in ("train", "val"):
        write_jsonl(store / f"dataset/rows/{split}.jsonl", [])
    made = {name: artifact(store / name, name, name[0] * 64) for name in ("dataset", "diagrams", "export", "train", "base")}
    held = made["export"]
    files = held.manifest.model_copy(update={"files": hash_files(held.path)})
    return made | {"export": Artifact(held.stage, held.key, held.digest, held.path, files)}


def test_the_stage_asks_what_ships_and_ends_with_a_verdict(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    report = evaluate(CFG, seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(device="cpu", workers=2), **inputs)
    assert report.verdict == "inconclusive" and report.probes == 3 and report.values["eval/gain"] == 0.0  # the two files are the same
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert sum(line["set"] == "headline" for line in lines) == 60 and {line["model"] for line in lines} == {"base", "tuned"}
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert set(verdict["lineage"]["gguf"]) >= {"gguf/base-q8_0.gguf", "gguf/model-q8_0.gguf"}
    assert "unknown" in verdict["power"]
    assert (tmp_path / "report.html").stat().st_size > 50_000 and not (tmp_path / ".pictures").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.jsonl", "report.html", "scores.json", "verdict.json"]


def test_a_missing_base_file_names_the_setting_that_makes_it(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    missing = CFG.model_copy(update={"quant": "q4_k_m"})
    with pytest.raises(ArtifactError, match=r"base_gguf"):
        evaluate(missing, seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(device="cpu"), **inputs)


def test_a_certificate_is_read_or_missing_or_broken(tmp_path: Path) -> None:
    held = artifact(tmp_path, "export", "e" * 64)
    assert certified(held.path) is None
    for text, passed in (('{"passed": true}', True), ('{"passed": false}', False), ("[]", None)):
        (tmp_path / "parity.json").write_text(text)
        assert certified(held.path) is passed
    (tmp_path / "parity.json").write_text("{")
    with pytest.raises(ArtifactError, match="certificate"):
        certified(held.path)


def test_a_resumed_evaluation_answers_as_an_uninterrupted_one(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    cache, given = inputs["dataset"].path.parent / ".answers", []
    cfg = CFG.model_copy(update={"probe_tokens": 24, "headline_tokens": 24})
    for resumed in (False, True):
        if resumed:  # every second answer is lost, as if they had not been given yet
            for file in sorted(cache.rglob("*.json"))[::2]:
                file.unlink()
        evaluate(cfg, seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(device="cpu", workers=2), **inputs)
        given.append((tmp_path / "predictions.jsonl").read_bytes())
    assert given[0] == given[1]


def test_a_probe_that_training_saw_is_caught_by_the_stage(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(inputs["dataset"].path, store / "dataset")
    shutil.copytree(inputs["dataset"].path.parent / ".answers", store / ".answers")  # the same questions: nothing is asked again
    seen = next(iter(read_jsonl(store / "dataset/probes.jsonl", Row)))
    write_jsonl(store / "dataset/rows/train.jsonl", [seen.model_copy(update={"split": "train", "topology": None, "images": ()})])
    leaking = inputs | {"dataset": artifact(store / "dataset", "dataset", "d" * 64)}
    report = evaluate(CFG, seed=0, out=tmp_path, log=NullLog(), runtime=RuntimeConfig(device="cpu", workers=2), **leaking)
    assert report.verdict != "promote" and report.probes == 2
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert any("leak into training" in line["detail"] for line in verdict["criteria"]) and seen.id in (tmp_path / "report.html").read_text()
