"""Test prompts, the adapter and the written files -> the parity certificate: that what ships is what was trained.

Five questions. Is the merge the adapter (transformers against itself)? Is the adapter in each file at all (its weights against the
base's)? Is each file, run by llama.cpp, what its weights say (llama.cpp against transformers holding the same, dequantised, weights)?
What did quantising cost (the file against the merge)? And how well does each do the task (their own greedy answers, scored)?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sysdesign.artifacts import Artifact
from sysdesign.config.export import ExportConfig
from sysdesign.errors import ArtifactError
from sysdesign.export.asked import ask, torn_tokens
from sysdesign.export.certificate import (
    ADAPTER,
    MERGED,
    Answer,
    Certificate,
    Distance,
    PromptCheck,
    Said,
    TaskScores,
    between,
    distance,
    judge,
    limits_of,
    limits_of_merge,
)
from sysdesign.export.reference import Reference, agree_on_prompt
from sysdesign.graph import Architecture
from sysdesign.models.picture import PicturePolicy
from sysdesign.models.rows import load_probes, load_split, question_of
from sysdesign.records import Check, Row

_SMALL = 64 * 2**20  # bytes of a model in which llama.cpp's threads, which spin while they wait for each other, cost more than they do


class Scorer(Protocol):
    """A check and an answer -> something whose `value` is the score, 0 to 1 or None (sysdesign.evaluate.scoring.score)."""

    def __call__(self, check: Check | None, answer: str, *, graph: Architecture | None, question: str, cut: bool) -> Any: ...


def parity_rows(dataset: Artifact, count: int) -> list[Row]:
    """`count` rows that training has not seen, spread evenly, half of them with pictures as far as there are others.

    A dataset whose every question shows a picture gives one of them without it, unscored: the text model alone must be certified too.
    Raises ArtifactError when no row has a picture.
    """
    rows = {row.id: row for row in (*load_probes(dataset), *load_split(dataset, "test"))}
    if not any(row.images for row in rows.values()):
        rows |= {row.id: row for row in load_split(dataset, "val")}
    with_pictures, without = [r for r in rows.values() if r.images], [r for r in rows.values() if not r.images]
    if not with_pictures:
        found = f"{len(without)} rows without a picture" if without else "no rows"
        law = "must hold a probe, test or val row with a picture: a certificate compares answers to them"
        do = "make a larger dataset, or set export.parity.prompts to 0 and ship without a certificate"
        raise ArtifactError(str(dataset.path), law, do, found)
    without = without or [_blind(with_pictures[0])]
    half = min(len(with_pictures), count - min(len(without), count // 2))
    return _spread(with_pictures, half) + _spread(without, count - half)


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _blind(row: Row) -> Row:
    """The same question without its picture."""
    messages = tuple(
        message | {"content": [part for part in message["content"] if part["type"] != "image"]}
        if not isinstance(message["content"], str) else message
        for message in row.messages
    )  # fmt: skip
    return row.model_copy(update={"id": f"{row.id} without its picture", "messages": messages, "images": (), "check": None})


def certify(
    cfg: ExportConfig,
    rows: Sequence[Row],
    images: Path,
    files: Mapping[str, Path],
    projector: Path,
    policy: PicturePolicy,
    load: Callable[[], Reference],
    processor: Path,
    score: Scorer | None,
    *,
    threads: int,
    gpu: bool,
) -> Certificate:
    """Compare every file in `files` (quantisation -> GGUF). `images`: folder that the rows' picture names are relative to.

    `load` is called after llama.cpp has answered, so that no two models are in memory at once. `score` None leaves the answers
    unscored. Raises ServiceError when llama.cpp cannot load a file or take a prompt.
    """
    limits = cfg.parity
    questions = [(question_of(row), [images / name for name in row.images]) for row in rows]
    never = torn_tokens(processor)
    answers = {quant: _answers(cfg, path, projector, policy, questions, never, threads, gpu) for quant, path in files.items()}
    reference = load()
    prompts = [reference.prompt(*question) for question in questions]

    def forced(quant: str) -> list[np.ndarray]:
        return [
            reference.log_probabilities(inputs, [step.token for step in answer.steps])
            for (_, inputs), answer in zip(prompts, answers[quant], strict=True)
        ]

    def greedy() -> list[tuple[str, bool]]:
        return [reference.greedy(inputs, limits.tokens, never) for _, inputs in prompts]

    live, said = forced(cfg.ship), {ADAPTER: greedy()}
    reference.become_merged()
    said[MERGED] = greedy()
    cost: dict[str, Distance] = {}
    for quant in files:
        merged = forced(quant)
        cost[quant] = distance(answers[quant], merged, limits.tie, never)
        if quant == cfg.ship:
            found = between(live, merged, limits.tie)
    compared = [judge("adapter and merged weights, transformers", found, limits_of_merge(limits))]
    del live, merged  # (tokens, vocabulary) each
    for quant, path in files.items():
        same, dear = limits_of(quant, limits)
        reference.become(path, projector)
        own = distance(answers[quant], forced(quant), limits.tie, never)
        compared.append(judge(f"{quant} in llama.cpp and its own weights in transformers", own, same))
        compared.append(judge(f"{quant} in llama.cpp and the merged weights in transformers", cost[quant], dear))
    said |= {quant: [(answer.text, answer.ended) for answer in found] for quant, found in answers.items()}
    checks = tuple(
        _read_alike(
            reference,
            row,
            prompt,
            [found[i] for found in answers.values()],
            _scored(row, {who: told[i] for who, told in said.items()}, score),
        )
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    )
    there = {quant: reference.presence(path) for quant, path in files.items()}
    if reference.vision_was_tuned:
        there["projector"] = reference.presence(projector)
    scores = _means(checks, limits.score_drop)
    parts = (*(check.passed for check in checks), *(c.passed for c in compared), *(p.passes(limits.presence) for p in there.values()))
    return Certificate(
        passed=all(parts) and scores.passed, ship=cfg.ship, prompts=checks, comparisons=tuple(compared), adapter=there,
        tolerance=limits.presence, scores=scores,
    )  # fmt: skip


def _scored(row: Row, told: Mapping[str, tuple[str, bool]], score: Scorer | None) -> dict[str, Said]:
    return {
        who: Said(
            text=text, ended=ended,
            score=score(row.check, text, graph=row.graph, question=_asked(row), cut=not ended).value if score and row.check else None,
        )
        for who, (text, ended) in told.items()
    }  # fmt: skip


def _asked(row: Row) -> str:
    content = row.messages[-2]["content"]
    return content if isinstance(content, str) else " ".join(part["text"] for part in content if part["type"] == "text")


def _means(checks: Sequence[PromptCheck], largest_drop: float) -> TaskScores:
    held = [check.answers for check in checks if all(said.score is not None for said in check.answers.values())]
    mean = {who: float(np.mean([answers[who].score for answers in held])) for who in held[0]} if held else {}
    return TaskScores(questions=len(held), mean=mean, largest_drop=largest_drop)


def _answers(
    cfg: ExportConfig, path: Path, projector: Path, policy: PicturePolicy, questions: Sequence[tuple[list[dict[str, Any]], list[Path]]],
    never: Sequence[int], threads: int, gpu: bool,
) -> list[Answer]:  # fmt: skip
    parity = cfg.parity
    with _served(cfg, path, projector, policy, threads, gpu) as url:
        return [ask(url, said, pictures, tokens=parity.tokens, top=parity.top, never=never) for said, pictures in questions]


@contextmanager
def _served(cfg: ExportConfig, path: Path, projector: Path, policy: PicturePolicy, threads: int, gpu: bool) -> Iterator[str]:
    from sysdesign.models.llamacpp import serve

    with serve(
        path, projector, context=cfg.context, threads=1 if path.stat().st_size < _SMALL else threads, exact=True, gpu=gpu,
        min_image_tokens=policy.min_tokens, max_image_tokens=policy.max_tokens,
    ) as url:  # fmt: skip
        yield url


def _read_alike(reference: Reference, row: Row, prompt: tuple[str, Any], found: Sequence[Answer], answers: dict[str, Said]) -> PromptCheck:
    """`found`: what each file's server read and answered; all must have read the prompt in the same way."""
    text, inputs = prompt
    tokenizer = reference.processor.tokenizer
    around = [tokenizer.convert_tokens_to_ids(mark) for mark in ("<|vision_start|>", "<|vision_end|>")]
    marks = (int(reference.processor.image_token_id), around)
    read = [agree_on_prompt(text, inputs["input_ids"][0].tolist(), answer, marks) for answer in found]
    expected = read[0][2]
    worst = next((answer.image_tokens for answer in found if answer.image_tokens != expected), expected)
    return PromptCheck(
        row=row.id, question=_asked(row), pictures=len(row.images), same_prompt=all(one[0] for one in read),
        same_tokens=all(one[1] for one in read),
        image_tokens=worst, expected_image_tokens=expected, answers=answers,
    )  # fmt: skip
