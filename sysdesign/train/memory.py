"""The shape of a base and a card's memory -> the fastest way to cut and keep a step that fits, from formulas, before any weight loads.

What counts: frozen weights, embeddings and head, the adapter with its gradients and optimiser, what each decoder layer keeps for
the backward pass, and the largest transient. Formulas follow `decoder.py` tensor by tensor. No torch here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from sysdesign.config.train import TrainConfig
from sysdesign.errors import ArtifactError, LimitError
from sysdesign.graph import Record
from sysdesign.train.order import passes

GIB = 2**30
NF4_BYTES = 0.5 + 4 / 64  # a code, and one fp32 scale for 64 of them
LAUNCH_MS_A_LAYER = 5.0  # forward and backward, on one core of a 2020s server
LOSS_SLICE = 1024  # tokens, as in loss.py
Fp8 = Literal["no", "kept", "made"]  # products in bf16; in e4m3 with codes kept beside the weights, or made at every use
MARGIN = 1.03  # allocator rounding and small tensors


class Shape(Record):
    """Sizes of a Qwen-VL model, from its config.json."""

    hidden: int
    layers: int
    inner: int
    queries: int  # width of all query heads
    keys: int  # width of all key (or value) heads
    heads: int
    vocabulary: int
    tied: bool
    vision: int  # parameters

    @property
    def linear(self) -> int:
        """Parameters of one decoder layer's seven linear maps."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    def adapter(self, rank: int) -> int:
        """Parameters of rank-`rank` updates of all of them."""
        ends = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys) + 3 * (self.hidden + self.inner)
        return self.layers * rank * ends


class Plan(Record):
    """How a step is cut (`micro_tokens`) and what layers keep: `full` keep all, `lean` all but the widest, the others their input."""

    micro_tokens: int
    full: int
    lean: int
    layers: int
    weights: str
    fp8: Fp8
    peak_gib: float  # predicted
    step_ms: float  # predicted, of the step with the longest samples

    def levels(self) -> list[int]:
        """For decoder.py; layers that recompute come first, because their activations would live longest."""
        return [0] * (self.layers - self.full - self.lean) + [1] * self.lean + [2] * self.full


def read_shape(folder: Path) -> Shape:
    """Raises ArtifactError when `config.json` is missing or lacks a size."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config") or config  # published Qwen2-VL configurations are flat
        vision = config["vision_config"]
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        width = int(text.get("head_dim") or hidden // heads)
        return Shape(
            hidden=hidden, layers=int(text["num_hidden_layers"]), inner=int(text["intermediate_size"]), queries=heads * width,
            keys=int(text.get("num_key_value_heads", heads)) * width, heads=heads, vocabulary=int(text["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))), vision=_vision_parameters(vision, hidden),
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(str(folder / "config.json"), f"must give the model's sizes ({error!r})", "run the base stage again") from None


def _vision_parameters(vision: dict[str, Any], hidden: int) -> int:
    """Blocks of 4 d^2 + 2 d f each, patch embedding and merger; within a percent of the real count."""
    width = int(vision.get("embed_dim") or vision["hidden_size"])
    inner = int(vision.get("intermediate_size") or width * vision.get("mlp_ratio", 4))
    gated = 3 if "fullatt_block_indexes" in vision else 2
    merged = width * int(vision.get("spatial_merge_size", 2)) ** 2
    patch = 3 * 2 * int(vision.get("patch_size", 14)) ** 2 * width
    return int(vision["depth"]) * (4 * width**2 + gated * width * inner) + patch + merged * merged + merged * hidden


def kept_bytes(shape: Shape, rank: int, level: int) -> int:
    """Bytes a token that one layer holds for the backward pass, in 16 bit. level: 0 input only, 1 lean, 2 full."""
    if level == 0:
        return 2 * shape.hidden
    lean = 2 * (2 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 7 * rank) + 4 * shape.heads
    return lean + (4 * shape.inner if level == 2 else 0)


def _stored(shape: Shape, cfg: TrainConfig, *, weights: str, fp8: Fp8, vision: bool) -> float:
    """Bytes that lie on the card whatever a pass holds: weights, embeddings and head, the adapter with its gradients and optimiser."""
    linear = shape.linear * shape.layers
    stored = linear * {"nf4": NF4_BYTES, "bf16": 2.0, "fp32": 4.0}[weights] + (2.0 * linear if fp8 == "kept" else 0)
    stored += 2 * shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + (2 * shape.vision if vision else 0)
    return stored + shape.adapter(cfg.lora.rank) * (4 + 4 + (2 if cfg.optimizer == "adamw_8bit" else 8))


def peak_bytes(
    shape: Shape, cfg: TrainConfig, *, tokens: int, trained: int, full: int, lean: int, weights: str, fp8: Fp8, vision: bool
) -> float:
    """Predicted peak of allocated memory in one step of passes of `tokens` tokens, `trained` of them learned from.

    `vision`: the tower stays on the card (it is trained, or its features are not cached).
    """
    rank, stored = cfg.lora.rank, _stored(shape, cfg, weights=weights, fp8=fp8, vision=vision)
    inputs = shape.layers - full - lean
    fulls, leans, bare = (tokens * kept_bytes(shape, rank, level) for level in (2, 1, 0))
    widest = 2 * shape.inner * shape.hidden
    dequantised = (2 * widest if weights == "nf4" and fp8 != "kept" else 0) + (widest if fp8 == "made" else 0)
    codes = tokens * 2 * shape.inner if fp8 != "no" else 0  # e4m3 codes of the widest gradient
    work = max(tokens * 2 * (3 * shape.hidden + 4 * shape.inner), tokens * 2 * (3 * shape.hidden + 3 * shape.inner) + dequantised + codes)
    loss = min(trained, LOSS_SLICE) * shape.vocabulary * 2 * 2 + trained * shape.hidden * 2 * 3
    everything = inputs * bare + lean * leans + full * fulls
    moments = [
        everything + loss,
        everything + (work if full else 0),
    ]  # the backward pass meets full layers first, then lean, then bare ones
    if lean:
        moments.append(inputs * bare + lean * leans + work + tokens * 4 * shape.inner)
    if inputs:
        moments.append(inputs * bare + work + fulls)
    return MARGIN * (stored + max(moments))


def step_ms(shape: Shape, *, tokens: int, full: int, lean: int, weights: str, fp8: Fp8, tflops: float) -> float:
    """Predicted time of one pass: matrix products, what is computed again, dequantisation, and the host's time to launch it all.

    Constants fitted to one H200 (700 TFLOP/s in bf16 products, 2026-11): good to about a fifth, which is enough to order plans.
    """
    inputs = shape.layers - full - lean
    rate = tflops * 1e9 * (1.0 if fp8 == "no" else 1.7)  # operations a millisecond
    products = shape.linear * (2.0 * shape.layers + inputs) + lean * 2 * shape.inner * shape.hidden
    elementwise = 0.5 * tokens * 4.0 * shape.linear * shape.layers / (tflops * 1e9)
    read = 0.1 if fp8 == "kept" or weights != "nf4" else 0.7 if fp8 == "no" else 1.6  # relative cost of getting weights into place
    unpacked = (2 * shape.layers + inputs) * shape.linear * read / (tflops * 1e6)
    starved = 1 + 250 / tokens  # products of few rows run below the card's rate
    return max(2.0 * tokens * products * starved / rate + elementwise + unpacked, LAUNCH_MS_A_LAYER * (shape.layers + 0.3 * inputs))


def plan(
    shape: Shape, cfg: TrainConfig, *, lengths: Sequence[int], trained_share: float, free_gib: float, fp8: bool, vision: bool,
    tflops: float = 200.0,
) -> Plan:  # fmt: skip
    """The fastest setting that stays below `free_gib`.

    Raises LimitError naming what is missing and what to change when not even the longest sample fits.
    """
    longest, room = max(lengths), free_gib * GIB
    step = sorted(lengths, reverse=True)[: cfg.batch]
    slack = 0 if step[0] == step[-1] else longest // 4  # unequal samples do not divide evenly
    wanted = [cfg.micro_tokens] if cfg.micro_tokens else sorted({max(longest, -(-sum(step) // n) + slack) for n in range(1, len(step) + 1)})
    options: list[Plan] = []
    smallest = float("inf")
    modes: tuple[Fp8, ...] = ("kept", "made") if fp8 else ("no",)
    stores = ("bf16", "nf4") if cfg.weights == "auto" else (cfg.weights,)
    for weights, mode in ((weights, mode) for weights in stores for mode in modes):
        for tokens in wanted:
            for full, lean in _splits(shape.layers, cfg.checkpoint_layers):
                size = peak_bytes(
                    shape, cfg, tokens=max(tokens, longest), trained=int(trained_share * max(tokens, longest)) + 1, full=full, lean=lean,
                    weights=weights, fp8=mode, vision=vision,
                )  # fmt: skip
                smallest = min(smallest, size)
                if size <= room:
                    cuts = passes(range(len(step)), step, tokens, padded=False)
                    ms = sum(
                        step_ms(shape, tokens=sum(step[i] for i in cut), full=full, lean=lean, weights=weights, fp8=mode, tflops=tflops)
                        for cut in cuts
                    )
                    options.append(
                        Plan(
                            micro_tokens=tokens,
                            full=full,
                            lean=lean,
                            layers=shape.layers,
                            weights=weights,
                            fp8=mode,
                            peak_gib=size / GIB,
                            step_ms=ms,
                        )
                    )
    if not options:
        raise LimitError(
            "train",
            f"the smallest setting needs {smallest / GIB:.1f} GiB of GPU memory for its longest sample ({longest} tokens)",
            f"use a larger card, set train.max_length below {longest}, lower dataset.picture.max_tokens, or choose a smaller base",
            f"{free_gib:.1f} GiB free",
        )
    return min(options, key=lambda p: (p.step_ms, p.peak_gib))


def _splits(layers: int, checkpointed: int) -> list[tuple[int, int]]:
    """(full, lean) counts to try; a given number of checkpointed layers leaves the others full."""
    if checkpointed >= 0:
        return [(layers - min(checkpointed, layers), 0)]
    return [(full, layers - full) for full in range(layers + 1)] + [(0, lean) for lean in range(layers)]


def advice(used: Plan, had_gib: float, again: Callable[[float], Plan]) -> str:
    """What to change after an out-of-memory error, in numbers that fit.

    `had_gib`: what this process could have had when it failed; `again`: the planner over the same samples with that much room.
    """
    room = min(0.94 * had_gib, 0.9 * used.peak_gib)  # GiB; fragments, and a plan that was too close to the truth
    room = math.floor(room * 100) / 100
    try:
        found = again(room)
    except LimitError as error:
        return f"free GPU memory first ({had_gib:.1f} GiB were left for a plan of {used.peak_gib:.1f}): below that, {error.law}"
    kept = f"passes of {found.micro_tokens} tokens, not {used.micro_tokens}; {found.full} layers keep everything, not {used.full}"
    return f"set train.max_vram_gib to {room:.2f}, {used.peak_gib - room:.2f} below the plan that failed ({kept})"


def advice_unplanned(shape: Shape, cfg: TrainConfig, *, had_gib: float, micro_tokens: int, longest: int) -> str:
    """The same for the libraries' own forward, which has no plan. `micro_tokens`, `longest`: tokens of the failed pass and of a sample.

    A token costs its logits in 16 and three times in 32 bit, every layer's input, and about three times what our widest layer keeps.
    """
    weights = "bf16" if cfg.weights == "auto" else cfg.weights
    stored = _stored(shape, cfg, weights=weights, fp8="no", vision=True)
    token = 14 * shape.vocabulary + 2 * shape.layers * shape.hidden + 3 * kept_bytes(shape, cfg.lora.rank, 2)
    fits = min(int((0.9 * had_gib * GIB - stored) / token), micro_tokens // 2)
    if micro_tokens > longest:
        return f"set train.micro_tokens to {max(fits, longest)} (now {micro_tokens}; the longest sample has {longest})"
    most = max(fits, 64)
    return (
        f"set train.max_length to {most} (the longest sample, {longest}, is alone in its pass), or train.backend.kind to auto, which plans"
    )
