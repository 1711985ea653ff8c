"""Test prompts, the adapter and the written files -> the parity certificate: that what ships is what was trained.

Four questions. Is the merge the adapter (transformers against itself)? Is the adapter in each file at all (its weights against the
base's)? Is each file, run by llama.cpp, what its weights say (llama.cpp against transformers holding the same, dequantised, weights)?
And what did quantising cost (the file against the merge)?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sysdesign.artifacts import Artifact
from sysdesign.config.export import ExportConfig
from sysdesign.errors import ArtifactError
from sysdesign.export.asked import ask, torn_tokens
from sysdesign.export.certificate import Answer, Certificate, Compared, PromptCheck, between, distance, judge, limits_of
from sysdesign.export.reference import Reference, agree_on_prompt
from sysdesign.models.picture import PicturePolicy
from sysdesign.models.rows import load_probes, load_split, question_of
from sysdesign.records import Row


def parity_rows(dataset: Artifact, count: int) -> list[Row]:
    """`count` rows of the test split, spread evenly, half of them with pictures as far as there are any.

    Raises ArtifactError when the dataset has no test row at all.
    """
    test = load_split(dataset, "test")
    rows = {row.id: row for row in (*load_probes(dataset), *test)} or {row.id: row for row in load_split(dataset, "val")}
    with_pictures, without = [r for r in rows.values() if r.images], [r for r in rows.values() if not r.images]
    half = min(len(with_pictures), count - min(len(without), count // 2))
    chosen = _spread(with_pictures, half) + _spread(without, count - half)
    if not chosen:
        law = "must hold test rows: a certificate compares answers to them"
        raise ArtifactError(
            str(dataset.path), law, "make a larger dataset, or set export.parity.prompts to 0 and ship without a certificate"
        )
    return chosen


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def certify(
    cfg: ExportConfig,
    rows: Sequence[Row],
    images: Path,
    files: Mapping[str, Path],
    projector: Path,
    policy: PicturePolicy,
    load: Callable[[], Reference],
    processor: Path,
    *,
    threads: int,
    gpu: bool,
) -> Certificate:
    """Compare every file in `files` (quantisation -> GGUF). `images`: folder that the rows' picture names are relative to.

    `load` is called after llama.cpp has answered, so that no two models are in memory at once. Raises ServiceError when llama.cpp
    cannot load a file or take a prompt.
    """
    questions = [(question_of(row), [images / name for name in row.images]) for row in rows]
    never = torn_tokens(processor)
    answers = {quant: _answers(cfg, path, projector, policy, questions, never, threads, gpu) for quant, path in files.items()}
    reference = load()
    prompts = [reference.prompt(*question) for question in questions]
    checks = tuple(_read_alike(reference, row, prompt, answers, i) for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)))

    def forced(quant: str) -> list[np.ndarray]:
        return [
            reference.log_probabilities(inputs, [step.token for step in answer.steps])
            for (_, inputs), answer in zip(prompts, answers[quant], strict=True)
        ]

    limits = cfg.parity
    live = forced(cfg.ship)
    reference.become_merged()
    compared: list[Compared] = []
    merged = {quant: forced(quant) for quant in files}
    found = between(live, merged[cfg.ship], limits.tie)
    compared.append(judge("adapter and merged weights, transformers", found, {"largest": limits.merged, "kl": limits.kl, "agreement": 1.0}))
    for quant, path in files.items():
        same, cost = limits_of(quant, limits)
        reference.become(path, projector)
        own = distance(answers[quant], forced(quant), limits.tie, never)
        compared.append(judge(f"{quant} in llama.cpp and its own weights in transformers", own, same))
        compared.append(
            judge(
                f"{quant} in llama.cpp and the merged weights in transformers",
                distance(answers[quant], merged[quant], limits.tie, never),
                cost,
            )
        )
    there = {quant: reference.presence(path) for quant, path in files.items()}
    parts = (*(check.passed for check in checks), *(c.passed for c in compared), *(p.passes(limits.presence) for p in there.values()))
    return Certificate(passed=all(parts), ship=cfg.ship, prompts=checks, comparisons=tuple(compared), adapter=there)


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
        path, projector, context=cfg.context, threads=threads, exact=True, gpu=gpu, min_image_tokens=policy.min_tokens,
        max_image_tokens=policy.max_tokens,
    ) as url:  # fmt: skip
        yield url


def _read_alike(
    reference: Reference, row: Row, prompt: tuple[str, Any], answers: Mapping[str, Sequence[Answer]], index: int
) -> PromptCheck:
    """All files share tokenizer and template, so the first one's reading stands for them; a difference between files would be a bug of
    the runtime and shows as a failed comparison."""
    text, inputs = prompt
    tokenizer = reference.processor.tokenizer
    around = [tokenizer.convert_tokens_to_ids(mark) for mark in ("<|vision_start|>", "<|vision_end|>")]
    first = next(iter(answers.values()))[index]
    marks = (int(reference.processor.image_token_id), around)
    same_prompt, same_tokens, expected = agree_on_prompt(text, inputs["input_ids"][0].tolist(), first, marks)
    return PromptCheck(
        row=row.id, pictures=len(row.images), same_prompt=same_prompt, same_tokens=same_tokens, image_tokens=first.image_tokens,
        expected_image_tokens=expected, answers={quant: found[index].text for quant, found in answers.items()},
    )  # fmt: skip
