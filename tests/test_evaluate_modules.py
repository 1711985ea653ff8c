"""The scores as Hugging Face `evaluate` modules give the same figures as the stage, in one combined call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_evaluate import CFG, contestant, knowing, probes, run


def test_modules_agree_with_the_stage(tmp_path: Path) -> None:
    items = probes(tmp_path, 4)
    cfg = CFG.model_copy(update={"library_scores": True, "controls": 0})
    half = knowing(items, wrong=lambda item: item.id.endswith("count"))
    report = run(tmp_path, [contestant("base", knowing(items)), contestant("tuned", half)], items, cfg=cfg, headline=[])
    from sysdesign.evaluate.modules import Part, RougeL, reference

    scores = json.loads((tmp_path / "out/scores.json").read_text())["evaluate"]
    assert scores["tuned"]["score"] == pytest.approx(report.values["eval/score"]) == pytest.approx(2 / 3)
    assert scores["tuned"]["numeric"] == 0.0 and scores["base"]["component_f1"] == 1.0 and scores["tuned"]["score_n"] == len(items)
    assert report.values["eval/rouge_l_base"] == pytest.approx(1.0) and report.values["eval/rouge_l"] < 1.0
    given = [reference(items[0].check, "a b")]
    assert Part("edge_f1").compute(predictions=["3"], references=given) == {"edge_f1_n": 0}  # nothing of the kind: no score, not 0
    assert RougeL().compute(predictions=["a b"], references=given)["rouge_l"] == 1.0
