"""The fast path: one packed pass in, its loss out, through the hand-written decoder instead of transformers' forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sysdesign.train.attention import Pack, kernel_for
from sysdesign.train.batches import Packed
from sysdesign.train.decoder import Batch, Layer, layers_of, run
from sysdesign.train.elementwise import elementwise
from sysdesign.train.features import encode
from sysdesign.train.loss import cross_entropy


class FastPath:
    """Holds the joined frozen weights of a PEFT-wrapped Qwen-VL model; the adapters stay PEFT's own parameters."""

    def __init__(
        self,
        wrapped: Any,
        *,
        dtype: torch.dtype,
        fp8: Literal["no", "kept", "made"],
        ops: Literal["eager", "compiled", "triton"],
        attention: str,
        levels: Sequence[int],
    ) -> None:
        """`levels`: what each decoder layer keeps for the backward pass, see `decoder.py`."""
        whole = wrapped.get_base_model()
        self.model, self.head = whole.model, whole.lm_head.weight.detach()
        self.text = self.model.language_model
        self.layers: tuple[Layer, ...] = layers_of(self.text, dtype, fp8)
        self.dtype, self.levels = dtype, tuple(levels)
        self.ops = elementwise(ops)
        self.kernel = kernel_for(attention, self.head.device.type, dtype)

    def loss(self, batch: Packed, total: float) -> Tensor:
        """Sum of the pass's token losses over `total`, the tokens that the whole optimiser step learns from."""
        states = self.states(batch)
        norm = self.text.norm
        states = _Norm.apply(states, norm.weight.detach(), float(norm.variance_epsilon), self.ops)
        return cross_entropy(states, self.head, batch.targets, total, self.ops)

    def states(self, batch: Packed) -> Tensor:
        """(N, H) states of the rows that predict a trained token, before the final norm."""
        with torch.no_grad():
            x = torch.nn.functional.embedding(batch.ids, self.text.embed_tokens.weight).to(self.dtype)
            cos, sin = self.text.rotary_emb(x[None], batch.positions[:, None])
        features, deep = batch.features, batch.deep
        if batch.pixels is not None and batch.grids is not None:  # the tower or the merger is trained
            features, deep = encode(self.model, batch.pixels, batch.grids)
        if features is not None:
            x = x.index_copy(0, batch.spots, features.to(self.dtype))
        added = [torch.zeros_like(x).index_copy(0, batch.spots, d.to(self.dtype)) for d in deep]
        longest = max(b - a for a, b in zip(batch.edges, batch.edges[1:], strict=False))
        shared = Batch(Pack(batch.starts, batch.edges, longest), cos[0], sin[0], batch.keep, self.kernel, self.ops)
        return run(self.layers, x, shared, self.levels, added)


class _Norm(torch.autograd.Function):
    """The final norm, whose weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, ops: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.setting = (eps, ops)
        return ops.norm(x, weight, eps)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        eps, ops = ctx.setting
        return ops.norm_back(grad, x, weight, eps), None, None, None
