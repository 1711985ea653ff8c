"""Two sets of log-probabilities for the same tokens -> how far apart they are, held against limits: the parity certificate.

Both sides see the tokens that llama.cpp chose, so that one early tie does not make everything after it incomparable; that each of
these tokens is also the other side's likeliest means that both would have written the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sysdesign.config.export import ParityConfig
from sysdesign.export.presence import Presence
from sysdesign.graph import Record

ADAPTER, MERGED = "adapter", "merged"  # the two contestants that run in transformers
FLOOR = -10.0  # tokens below e^-10 are noise on both sides: they count in the divergence, not in the largest difference


class Step(Record):
    """One token that llama.cpp chose, and the likeliest tokens in its place."""

    token: int
    top: dict[int, float]  # token id -> log-probability


class Answer(Record):
    """What llama.cpp answered to one prompt, and how it read the prompt."""

    prompt: str  # as its template wrote it, pictures as <picture>
    text_tokens: tuple[int, ...]
    image_tokens: int
    text: str
    steps: tuple[Step, ...]
    ended: bool  # by itself: its last step is then the token that ends an answer


class Distance(Record):
    """How far two models are apart over all prompts and tokens."""

    tokens: int
    agree: int  # tokens at which both choose the same, ties counted as the same
    largest: float  # difference of log-probability
    kl: float  # mean over tokens, in nats


class Compared(Record):
    """One comparison of the certificate: its numbers, the limits they had to keep, and whether they did."""

    what: str
    distance: Distance
    limits: dict[str, float]
    passed: bool


class Said(Record):
    """A greedy answer. `ended`: by itself, not by the limit. `score`: by the project's rules, None where the question has no check."""

    text: str
    ended: bool
    score: float | None = None


class PromptCheck(Record):
    """Whether both sides read one prompt the same way, and what was answered."""

    row: str
    question: str
    pictures: int
    same_prompt: bool
    same_tokens: bool
    image_tokens: int
    expected_image_tokens: int
    answers: dict[str, Said]  # contestant -> its greedy answer

    @property
    def passed(self) -> bool:
        return self.same_prompt and self.same_tokens and self.image_tokens == self.expected_image_tokens


class TaskScores(Record):
    """Mean score of each contestant over the `questions` that have a check. `largest_drop`: how far a file may lie below the adapter."""

    questions: int
    mean: dict[str, float]
    largest_drop: float

    @property
    def passed(self) -> bool:
        return not self.questions or min(self.mean.values()) >= self.mean[ADAPTER] - self.largest_drop


class Certificate(Record):
    """`parity.json`. `passed` false blocks promotion."""

    passed: bool
    ship: str
    prompts: tuple[PromptCheck, ...]
    comparisons: tuple[Compared, ...]
    adapter: dict[str, Presence]  # how much of the adapter is in each file
    tolerance: float  # of its shares
    scores: TaskScores


def distance(answers: Sequence[Answer], others: Sequence[np.ndarray], tie: float, never: Sequence[int] = ()) -> Distance:
    """`others`: for each answer the other side's log-probabilities, (steps, vocabulary) float. `never`: tokens nobody may choose."""
    allowed: np.ndarray = np.ones(others[0].shape[1] if others else 0, bool)
    allowed[list(never)] = False
    tokens = agree = 0
    largest, divergences = 0.0, []
    for answer, other in zip(answers, others, strict=True):
        for step, row in zip(answer.steps, other, strict=True):
            tokens += 1
            agree += bool(row[allowed].max() - row[step.token] <= tie)
            ids: np.ndarray = np.fromiter(step.top, np.int64)
            ours: np.ndarray = np.fromiter(step.top.values(), np.float64)
            theirs = row[ids].astype(np.float64)
            near = ours > FLOOR
            largest = max(largest, float(np.abs(ours - theirs)[near].max(initial=0.0)))
            divergences.append(_divergence(ours, theirs))
    return Distance(tokens=tokens, agree=agree, largest=largest, kl=float(np.mean(divergences)) if divergences else 0.0)


def between(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], tie: float) -> Distance:
    """The same for two sides whose whole distributions are known."""
    answers = []
    for rows in ours:
        steps = [Step(token=int(row.argmax()), top={int(i): float(row[i]) for i in np.flatnonzero(row > FLOOR)}) for row in rows]
        answers.append(Answer(prompt="", text_tokens=(), image_tokens=0, text="", steps=tuple(steps), ended=False))
    return distance(answers, theirs, tie)


def _divergence(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Kullback-Leibler divergence over the tokens known on both sides, all others as one."""
    p, q = np.exp(ours), np.exp(theirs)
    rest_p, rest_q = max(0.0, 1 - p.sum()), max(1e-12, 1 - q.sum())
    tail = rest_p * math.log(rest_p / rest_q) if rest_p > 1e-9 else 0.0
    return max(0.0, float((p * (ours - theirs)).sum()) + tail)


def judge(what: str, found: Distance, limits: Mapping[str, float]) -> Compared:
    """`limits`: upper ones for `largest` and `kl`, a lower one for `agreement`."""
    share = found.agree / found.tokens if found.tokens else 0.0  # a server that ends every answer at once has shown nothing
    values = {"largest": found.largest, "kl": found.kl, "agreement": share}
    kept = all(values[name] >= limit if name == "agreement" else values[name] <= limit for name, limit in limits.items())
    return Compared(
        what=what, distance=found, limits=dict(limits), passed=found.tokens > 0 and kept and all(map(math.isfinite, values.values()))
    )


def limits_of_merge(cfg: ParityConfig) -> dict[str, float]:
    """Live adapter against merged weights. In bfloat16 the merge itself is rounded on this side, which the files' merge is not."""
    exact = cfg.precision == "float32"
    return {"largest": cfg.merged if exact else cfg.runtime, "kl": cfg.kl, "agreement": 1.0 if exact else cfg.agreement}


def limits_of(quant: str, cfg: ParityConfig) -> tuple[dict[str, float], dict[str, float]]:
    """(same weights in both runtimes, file against merged weights). llama.cpp rounds activations too: to 8 bits beside quantised
    weights, to bfloat16 beside bfloat16 ones; and a transformers side in bfloat16 is exact beside nothing."""
    exact = quant in ("f32", "f16") and cfg.precision == "float32"
    same = {"largest": cfg.exact if exact else cfg.runtime, "kl": cfg.kl, "agreement": 1.0 if exact else cfg.agreement}
    cost = dict(same) if quant in ("f32", "f16") else {"kl": cfg.quantised_kl}
    return same, cost
