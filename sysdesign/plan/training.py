"""A base, a configuration and a card -> how a training step would be cut there, its memory and its minutes.

Cut and memory are the train stage's own planner's. Times follow its step formula at the card's 16-bit peak, corrected by the nearest
measured step; on a card that was not measured they are an estimate, because kernels reach different shares of different peaks.
"""

from __future__ import annotations

from sysdesign.config.root import Config
from sysdesign.config.train import PeftBackend, UnslothBackend
from sysdesign.errors import LimitError
from sysdesign.graph import Record
from sysdesign.plan.points import Card, Points, TrainPoint
from sysdesign.plan.work import Work
from sysdesign.train import memory

REACHED = 700 / 989  # of the 16-bit peak by large products on the measured card; memory.step_ms is fitted to the reached rate
FRAGMENTS = 0.96  # of the card that the train stage plans with
FORWARD = 1 / 3  # of a training step's time, for validation
LONGEST_SHARE = 0.9  # of the longest row: the mean of the longest batch's other rows
PLAIN_SHARE = 5813 / 16118  # the libraries' own forward against the fast path, measured on the same samples
PLAIN_GIB = 33.12  # its peak there, eight samples a batch


class Training(Record):
    """`why_not`: what keeps it from fitting, else empty."""

    minutes: float
    tokens_per_s: float
    peak_gib: float
    cut: str
    why_not: str = ""


def training_on(card: Card, config: Config, work: Work, points: Points) -> Training:
    """What training takes on this card."""
    backend = config.train.backend
    if isinstance(backend, UnslothBackend) or not card.bf16:
        return _by_library(card, work, points, config, points.unsloth.tokens_per_s, points.unsloth.peak_gib, "Unsloth")
    if isinstance(backend, PeftBackend) and backend.plain:
        rate = PLAIN_SHARE * max(_rate(point) for point in points.train_points if point.fp8 == "no")
        return _by_library(card, work, points, config, rate, PLAIN_GIB, "the libraries' own forward")
    cfg = config.train
    longest = min(work.longest_row, cfg.max_length)
    lengths = [longest, *[round(LONGEST_SHARE * longest)] * (min(cfg.batch, work.rows_train) - 1)]
    frozen = not (cfg.lora.vision or cfg.lora.merger)
    room = min(card.gib * FRAGMENTS, cfg.max_vram_gib or float("inf"))
    try:
        plan = memory.plan(
            work.shape, cfg, lengths=lengths, trained_share=work.trained_share, free_gib=room, fp8=cfg.compute == "fp8", vision=not frozen
        )
    except LimitError as error:
        return Training(minutes=0, tokens_per_s=0, peak_gib=0, cut="", why_not=f"{error.law}: {error.do}")
    step_tokens = cfg.batch * work.row_tokens
    passes = max(1, -(-int(step_tokens) // max(plan.micro_tokens, 1)))
    ms = passes * _pass_ms(work.shape, plan, step_tokens / passes, card) * _correction(points, work.shape, plan, step_tokens / passes)
    seconds = _all_steps_s(work, config, ms / 1000, step_tokens)
    features = points.cost("features_s_picture") * _slower(card) * work.pictures if frozen else 0
    seconds += features + work.weight_bytes / 2**30 * points.cost("load_s_gib")
    cut = f"{plan.weights}, {passes} x {step_tokens / passes:,.0f} tokens, layers {plan.full} full {plan.lean} lean of {plan.layers}"
    return Training(minutes=seconds / 60, tokens_per_s=step_tokens / ms * 1000, peak_gib=plan.peak_gib, cut=cut)


def _by_library(card: Card, work: Work, points: Points, config: Config, rate: float, peak_gib: float, name: str) -> Training:
    """Backends that the planner does not cut: scaled from their measured 7B step by operations and by weights."""
    seven = points.shapes["Qwen/Qwen2-VL-7B-Instruct"]
    size = (work.shape.linear * work.shape.layers) / (seven.linear * seven.layers)
    rate = rate / _slower(card) / size
    peak = peak_gib * size
    step_tokens = config.train.batch * work.row_tokens
    seconds = _all_steps_s(work, config, step_tokens / rate, step_tokens)
    why = f"{name} needs about {peak:.1f} GiB: use a larger card" if peak > card.gib else ""
    return Training(minutes=seconds / 60, tokens_per_s=rate, peak_gib=peak, cut=name, why_not=why)


def _all_steps_s(work: Work, config: Config, step_s: float, step_tokens: float) -> float:
    validations = work.steps / max(work.steps_per_val, 1) + 1
    return work.steps * step_s + validations * work.rows_val * work.row_tokens / step_tokens * step_s * FORWARD


def _slower(card: Card) -> float:
    """How much longer products take than on the measured card."""
    return 989 / card.tflops


def _pass_ms(shape: memory.Shape, plan: memory.Plan, tokens: float, card: Card) -> float:
    return memory.step_ms(
        shape,
        tokens=max(1, round(tokens)),
        full=plan.full,
        lean=plan.lean,
        weights=plan.weights,
        fp8=plan.fp8,
        tflops=card.tflops * REACHED,
    )


def _correction(points: Points, shape: memory.Shape, plan: memory.Plan, tokens: float) -> float:
    """Measured over predicted time of the measured step most like this one."""

    def distance(point: TrainPoint) -> float:
        kept = abs(point.full - 28 * plan.full / plan.layers) / 28 + abs(point.lean - 28 * plan.lean / plan.layers) / 28
        return kept + abs(point.tokens - tokens) / 12152 + 10 * ((point.fp8 == "no") != (plan.fp8 == "no"))

    nearest = min(points.train_points, key=distance)
    seven = points.shapes["Qwen/Qwen2-VL-7B-Instruct"]
    predicted = nearest.passes * memory.step_ms(
        seven, tokens=nearest.tokens, full=nearest.full, lean=nearest.lean, weights="nf4", fp8=nearest.fp8, tflops=989 * REACHED
    )
    return nearest.step_ms / predicted


def _rate(point: TrainPoint) -> float:
    return point.tokens * point.passes / point.step_ms * 1000
