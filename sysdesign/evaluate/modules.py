"""The scores as Hugging Face `evaluate` modules, combined into one call: what the stage measures, for anybody's own loop.

    import evaluate
    from sysdesign.evaluate.modules import Part, RougeL
    suite = evaluate.combine([Part("edge_f1"), Part("numeric"), RougeL()])
    suite.compute(predictions=answers, references=[reference(check, text), ...])

A reference is a JSON string holding the check and the reference answer. Importing this module imports `evaluate`: seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
from evaluate import EvaluationModuleInfo

from sysdesign.evaluate.scoring import score
from sysdesign.evaluate.summary import Prediction
from sysdesign.records import Check

PARTS = (
    "score",
    "numeric",
    "choice",
    "set_f1",
    "component_f1",
    "edge_f1",
    "box_found",
    "hallucination",
    "rejects_false_premise",
    "format",
    "arithmetic",
)
_FEATURES = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


def reference(check: Check | None, text: str = "") -> str:
    """What a module takes as reference: the check and, for ROUGE-L, an answer to compare words with."""
    return json.dumps({"check": check.model_dump(mode="json") if check else None, "text": text})


class Part(evaluate.Metric):
    """One part of the score (`PARTS`), averaged over the answers that have it; an answer without it does not count."""

    def __init__(self, part: str, **kwargs: Any) -> None:
        super().__init__(config_name=part, keep_in_memory=True, **kwargs)

    def _info(self) -> EvaluationModuleInfo:
        return evaluate.MetricInfo(
            description=f"{self.config_name} of answers about architecture diagrams",
            citation="",
            inputs_description="answers and `reference(check)`",
            features=datasets.Features(_FEATURES),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float | int]:
        found = []
        for answer, given in zip(predictions, references, strict=True):
            check = json.loads(given)["check"]
            scored = score(Check.model_validate(check) if check else None, answer)
            value = scored.value if self.config_name == "score" else scored.parts.get(self.config_name)
            if value is not None:
                found.append(value)
        return {self.config_name: sum(found) / len(found), f"{self.config_name}_n": len(found)} if found else {f"{self.config_name}_n": 0}


class RougeL(evaluate.Metric):
    """ROUGE-L F1 against the reference answer. Report only: a wrong number costs it 3 %, a right paraphrase 75 %."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(config_name="rouge_l", keep_in_memory=True, **kwargs)

    def _info(self) -> EvaluationModuleInfo:
        return evaluate.MetricInfo(
            description="ROUGE-L F1 by the rouge-score package",
            citation="",
            inputs_description="answers and `reference(check, text)`",
            features=datasets.Features(_FEATURES),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float | int]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"])
        texts = [json.loads(given)["text"] for given in references]
        pairs = [(text, answer) for text, answer in zip(texts, predictions, strict=True) if text]
        total = sum(scorer.score(text, answer)["rougeL"].fmeasure for text, answer in pairs)
        return {"rouge_l": total / len(pairs), "rouge_l_n": len(pairs)} if pairs else {"rouge_l_n": 0}


def combined(predictions: Sequence[Prediction], references: Mapping[str, str]) -> dict[str, Any]:
    """`evaluate`: every module's result for each model's probe answers; `rouge_l`: by model, where a reference exists."""
    by_model: dict[str, dict[str, Any]] = {}
    for role in dict.fromkeys(prediction.model for prediction in predictions):
        probes = [p for p in predictions if p.model == role and p.set == "probe"]
        suite = evaluate.combine([*(Part(part) for part in PARTS), RougeL()])
        by_model[role] = suite.compute(
            predictions=[p.answer for p in probes], references=[reference(p.check, references.get(p.id, "")) for p in probes]
        )
    return {"evaluate": by_model, "rouge_l": {role: found["rouge_l"] for role, found in by_model.items() if "rouge_l" in found}}
