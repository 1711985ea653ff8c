"""Frozen linear maps that read the same input, with their LoRA updates, as one product: q, k and v together, gate and up together.

PEFT adds each update to each projection separately: three reads and one write of the widest tensors of the network. Here the
frozen weights of a group lie in one block of storage (the modules keep views of it, so saving and generating still work),
are dequantised once, and the updates are accumulated into the product's own output by the matrix kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Group:
    """`weight()` gives (out, in) in the compute type; adapters are read from the live parameters at every use."""

    weight: Callable[[], Tensor]
    bias: Tensor | None  # (out,)
    edges: tuple[int, ...]  # output columns where one member ends and the next begins; first is 0
    scaling: float
    codes: tuple[Tensor, Tensor, Tensor] | None = None  # e4m3 (out, in), the same transposed (in, out), fp32 row scales (out,)

    def forward(self, x: Tensor, adapters: Sequence[Tensor], ops: Any) -> tuple[Tensor, Tensor]:
        """x: (T, in), adapters: A0, B0, A1, B1, ... -> y: (T, out) and the adapters' inner activations (T, members * r)."""
        inner = x @ _cat(adapters[0::2], x.dtype).t()
        if self.codes is not None:
            codes, scale = ops.quantise_rows(x)
            y = torch._scaled_mm(
                codes, self.codes[0].t(), scale_a=scale, scale_b=self.codes[2][None], bias=self.bias, out_dtype=x.dtype, use_fast_accum=True
            )
        elif self.bias is None:
            y = x @ self.weight().t()
        else:
            y = torch.addmm(self.bias, x, self.weight().t())
        at = 0
        for start, end, b in zip(self.edges, self.edges[1:], adapters[1::2], strict=False):
            rank = b.shape[1]
            y[:, start:end].addmm_(inner[:, at : at + rank], b.to(x.dtype).t(), alpha=self.scaling)
            at += rank
        return y, inner

    def backward(
        self, grad: Tensor, x: Tensor, inner: Tensor, adapters: Sequence[Tensor], ops: Any, need_input: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """grad: (T, out) -> d loss / d x: (T, in), and d loss / d (A0, B0, ...) in the parameters' own type."""
        d_inner, d_b = torch.empty_like(inner), []
        at = 0
        for start, end, b in zip(self.edges, self.edges[1:], adapters[1::2], strict=False):
            rank, part = b.shape[1], grad[:, start:end]
            torch.mm(part, b.to(grad.dtype), out=d_inner[:, at : at + rank])
            d_b.append((part.t() @ inner[:, at : at + rank]).to(b.dtype).mul_(self.scaling))
            at += rank
        d_inner.mul_(self.scaling)
        d_a = (d_inner.t() @ x).to(adapters[0].dtype).split([a.shape[0] for a in adapters[0::2]])
        grads = [g for pair in zip(d_a, d_b, strict=True) for g in pair]
        if not need_input:
            return None, grads
        if self.codes is not None:
            codes, scale = ops.quantise_rows_scaled(grad, self.codes[2])
            ones = torch.ones(1, x.shape[1], device=x.device)
            dx = torch._scaled_mm(codes, self.codes[1].t(), scale_a=scale, scale_b=ones, out_dtype=grad.dtype, use_fast_accum=True)
        else:
            dx = grad @ self.weight()
        return dx.addmm_(d_inner, _cat(adapters[0::2], grad.dtype)), grads


def _cat(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(tuple(parts))).to(dtype)


def adapters_of(modules: Sequence[Any]) -> list[Tensor]:
    """A0, B0, A1, B1, ... of PEFT's LoRA layers."""
    return [w for m in modules for w in (m.lora_A["default"].weight, m.lora_B["default"].weight)]


def group_of(modules: Sequence[Any], dtype: torch.dtype, fp8: bool) -> Group:
    """Join the frozen weights of PEFT LoRA layers that share an input; every member keeps a view of its part."""
    bases = [module.get_base_layer() for module in modules]
    edges = [0]
    for base in bases:
        edges.append(edges[-1] + base.out_features)
    biases = [base.bias for base in bases]
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases]).to(dtype)
    scaling = float(modules[0].scaling["default"])
    weight = _join_nf4(bases, dtype) if hasattr(bases[0].weight, "quant_state") else _join_plain(bases, dtype)
    group = Group(weight, bias, tuple(edges), scaling)
    if fp8:
        whole = weight()
        row_scale = whole.abs().amax(1).float().clamp(min=1e-12) / 448.0
        codes = (whole.float() / row_scale[:, None]).to(torch.float8_e4m3fn)
        group.codes = (codes, codes.t().contiguous(), row_scale)
    return group


def _join_plain(bases: Sequence[Any], dtype: torch.dtype) -> Callable[[], Tensor]:
    whole = torch.cat([base.weight.detach() for base in bases]).to(dtype)
    at = 0
    for base in bases:
        base.weight.data = whole[at : at + base.out_features]
        at += base.out_features
    return lambda: whole


def _join_nf4(bases: Sequence[Any], dtype: torch.dtype) -> Callable[[], Tensor]:
    """Rows are whole numbers of 64-value blocks, so packed matrices laid end to end are the packed form of the joined matrix."""
    from bitsandbytes.functional import dequantize_blockwise

    packed, absmax = [], []
    for base in bases:
        state = base.weight.quant_state
        packed.append(base.weight.data.reshape(-1, 1))
        absmax.append(dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax)
    codes, scales = torch.cat(packed), torch.cat(absmax).float()
    state = bases[0].weight.quant_state
    blocksize, kind, shape = state.blocksize, state.quant_type, (sum(b.out_features for b in bases), bases[0].in_features)
    at = 0
    for base in bases:
        size = base.out_features * base.in_features
        base.weight.data = codes[at // 2 : (at + size) // 2].view(base.weight.data.shape)
        own = base.weight.quant_state
        own.absmax, own.nested, own.state2, own.offset = scales[at // blocksize : (at + size) // blocksize], False, None, None
        at += size
    return lambda: torch.ops.bitsandbytes.dequantize_4bit.default(codes, scales, blocksize, kind, shape, dtype)
