"""Which evaluations may be held against one another: scored by the same rules, on questions that all of them were asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sysdesign.errors import ArtifactError, InputError
from sysdesign.evaluate.summary import Prediction
from sysdesign.records import read_jsonl

ALIKE = 0.5  # share of the smaller probe set that two evaluations must have in common to be put together unasked


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation as a comparison sees it."""

    name: str
    folder: Path
    rules: int | None  # version of the stage that scored it; None: its manifest is not there
    made: str  # UTC, ISO 8601; empty without a manifest
    model: str  # the tuned one, and through what it answered
    dataset: str  # first digits of the digest
    predictions: tuple[Prediction, ...]  # of the tuned model

    @property
    def probes(self) -> frozenset[str]:
        return frozenset(asked(p) for p in self.predictions if p.set == "probe" and p.value is not None)


def asked(prediction: Prediction) -> str:
    """Equal for two predictions that answer the same question with the same expected answer."""
    check = prediction.check.model_dump_json() if prediction.check else ""
    return f"{prediction.id}\0{prediction.question}\0{check}"


def read(name: str, folder: Path) -> Evaluation:
    """Open an evaluation. Raises ArtifactError for a folder that holds none, InputError for answers that cannot be read."""
    verdict = verdict_file(folder)
    manifest, scores = _json(folder / "manifest.json"), _json(folder / "scores.json")
    found = tuple(p.model_copy(update={"model": name}) for p in read_jsonl(folder / "predictions.jsonl", Prediction) if p.model == "tuned")
    model = next((str(m.get("name")) for m in scores.get("models", []) if m.get("role") == "tuned"), "")
    dataset = str(verdict.get("lineage", {}).get("dataset", ""))[:12]
    return Evaluation(name, folder, manifest.get("version"), str(manifest.get("created", "")), model, dataset, found)


def verdict_file(folder: Path) -> dict[str, Any]:
    """What `verdict.json` says. Raises ArtifactError when it is not there or not whole."""
    path = folder / "verdict.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        do = "name the folder of an evaluate artefact"
        raise ArtifactError(str(path), f"must be the verdict of an evaluation ({error})", do) from error
    if not isinstance(found, dict) or "verdict" not in found:
        raise ArtifactError(str(path), "must be the verdict of an evaluation", "run evaluate again")
    return found


def groups(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Those that may be compared, together: the largest group first, of equal ones the newest. Each group is oldest first."""
    made: list[tuple[frozenset[str], list[Evaluation]]] = []
    for one in sorted(evaluations, key=lambda e: e.made, reverse=True):
        for number, (common, members) in enumerate(made):
            shared = common & one.probes
            if members[0].rules == one.rules and shared and len(shared) >= ALIKE * min(len(common), len(one.probes)):
                made[number] = (shared, [*members, one])
                break
        else:
            made.append((one.probes, [one]))
    return [members[::-1] for _, members in sorted(made, key=lambda pair: (-len(pair[1]), made.index(pair)))]


def why_apart(one: Evaluation, kept: Sequence[Evaluation]) -> str:
    """Why an evaluation is in another group than `kept`."""
    if one.rules != kept[0].rules:
        return f"scored by version {one.rules} of the rules, the others by version {kept[0].rules}"
    if not one.probes:
        return "it holds no scored probe of a tuned model"
    return f"asked other questions: dataset {one.dataset or 'unknown'}, the others {kept[0].dataset or 'unknown'}"


def check(evaluations: Sequence[Evaluation]) -> None:
    """Raises InputError, with what goes together, unless all were scored by the same rules on at least one common probe."""
    if len({e.rules for e in evaluations}) > 1:
        law = "must be scored by one version of the rules"
    elif not frozenset.intersection(*(e.probes for e in evaluations)):
        law = "must share scored probes"
    else:
        return
    raise InputError("compare", f"the evaluations {law}", f"{together(groups(evaluations))}; evaluate the others again on the same dataset")


def together(found: Sequence[Sequence[Evaluation]]) -> str:
    """What to paste: the groups of two and more, as --runs takes them."""
    pasted = [",".join(e.name for e in members) for members in found if len(members) > 1]
    return "these go together: " + " | ".join(f"--runs {names}" for names in pasted) if pasted else "no two of them go together"


def named_apart(folders: Mapping[str, Path]) -> None:
    """Raises InputError when two names mean one evaluation."""
    seen: dict[Path, str] = {}
    for name, folder in folders.items():
        other = seen.setdefault(folder.resolve(), name)
        if other != name:
            raise InputError("--runs", "must name every evaluation once", "leave one of them out", f"{other} and {name}: {folder.name}")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
