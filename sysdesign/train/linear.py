"""Frozen linear maps that read the same input, with their LoRA updates, as one product: q, k and v together, gate and up together.

PEFT adds each update to each projection separately: three reads and one write of the widest tensors of the network. Here the
frozen weights of a group lie in one block of storage (the modules keep views of it, so saving and generating still work),
are dequantised once, and the updates are accumulated into the product's own output by the matrix kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sysdesign.train.elementwise import quantise_weight, quantise_weight_t


@dataclass
class Group:
    """`weight()` gives (out, in) in the compute type; `a` and `b` are the adapters in that type, refreshed before every pass."""

    weight: Callable[[], Tensor]
    bias: Tensor | None  # (out,)
    edges: tuple[int, ...]  # output columns where one member ends and the next begins; first is 0
    scaling: float
    a: Tensor  # (members * r, in): every member's A, joined
    b: tuple[Tensor, ...]  # (member's out, r) each, already multiplied by `scaling`
    row_scale: Tensor | None = None  # (out,) fp32: present when products run in fp8
    codes: tuple[Tensor, Tensor] | None = None  # e4m3 (out, in) and the same as (in, out), where memory allows to keep them

    def inner(self, x: Tensor) -> Tensor:
        """x: (T, in) -> the adapters' inner activations (T, members * r)."""
        return x @ self.a.t()

    def frozen(self, x: Tensor, ops: Any) -> Tensor:
        """The frozen product alone, bias included: (T, out)."""
        if self.row_scale is not None:
            weight = self.codes[0] if self.codes is not None else ops.quantise_weight(self.weight(), self.row_scale)
            codes, scale = ops.quantise_rows(x)
            return torch._scaled_mm(
                codes, weight.t(), scale_a=scale, scale_b=self.row_scale[None], bias=self.bias, out_dtype=x.dtype, use_fast_accum=True
            )
        return x @ self.weight().t() if self.bias is None else torch.addmm(self.bias, x, self.weight().t())

    def forward(self, x: Tensor, ops: Any) -> tuple[Tensor, Tensor]:
        """The product with its updates: (T, out), and the inner activations."""
        y, inner, at = self.frozen(x, ops), self.inner(x), 0
        for start, end, b in zip(self.edges, self.edges[1:], self.b, strict=False):
            rank = b.shape[1]
            y[:, start:end].addmm_(inner[:, at : at + rank], b.t())
            at += rank
        return y, inner

    def inner_back(self, grad: Tensor, inner: Tensor) -> tuple[Tensor, list[Tensor]]:
        """grad: (T, out) -> d loss / d inner: (T, members * r), and d loss / d (B0, B1, ...)."""
        d_inner, d_b, at = torch.empty_like(inner), [], 0
        for start, end, b in zip(self.edges, self.edges[1:], self.b, strict=False):
            rank, part = b.shape[1], grad[:, start:end]
            torch.mm(part, b, out=d_inner[:, at : at + rank])
            d_b.append((part.t() @ inner[:, at : at + rank]).float().mul_(self.scaling))
            at += rank
        return d_inner, d_b

    def frozen_back(self, grad: Tensor, ops: Any) -> Tensor:
        """d loss / d x through the frozen product alone: (T, in)."""
        if self.row_scale is None:
            return grad @ self.weight()
        weight = self.codes[1] if self.codes is not None else ops.quantise_weight_t(self.weight(), self.row_scale)
        codes, scale = ops.quantise_rows_scaled(grad, self.row_scale)
        ones = torch.ones(1, len(weight), device=grad.device)
        return torch._scaled_mm(codes, weight.t(), scale_a=scale, scale_b=ones, out_dtype=grad.dtype, use_fast_accum=True)

    def backward(self, grad: Tensor, x: Tensor, inner: Tensor, ops: Any, need_input: bool = True) -> tuple[Tensor | None, list[Tensor]]:
        """grad: (T, out) -> d loss / d x: (T, in), and d loss / d (A0, B0, ...) in fp32."""
        d_inner, d_b = self.inner_back(grad, inner)
        grads = self.joined(d_inner, x, d_b)
        if not need_input:
            return None, grads
        return self.frozen_back(grad, ops).addmm_(d_inner, self.a), grads

    def joined(self, d_inner: Tensor, x: Tensor, d_b: Sequence[Tensor]) -> list[Tensor]:
        """d loss / d (A0, B0, A1, B1, ...)."""
        d_a = (d_inner.t() @ x).float().split([b.shape[1] for b in self.b])
        return [g for pair in zip(d_a, d_b, strict=True) for g in pair]


def adapters_of(modules: Sequence[Any]) -> list[Tensor]:
    """A0, B0, A1, B1, ... of PEFT's LoRA layers."""
    return [w for m in modules for w in (m.lora_A["default"].weight, m.lora_B["default"].weight)]


def refresh(groups: Sequence[Group], modules: Sequence[Sequence[Any]]) -> None:
    """Copy the live adapters into the groups' working copies: a few kernels for the whole model instead of several a layer."""
    to_a: list[Tensor] = []
    to_b: list[Tensor] = []
    from_a: list[Tensor] = []
    from_b: list[Tensor] = []
    for group, members in zip(groups, modules, strict=True):
        pairs = adapters_of(members)
        to_a += group.a.split([p.shape[0] for p in pairs[0::2]])
        to_b += group.b
        from_a += pairs[0::2]
        from_b += pairs[1::2]
    with torch.no_grad():
        torch._foreach_copy_([*to_a, *to_b], [*from_a, *from_b])
        torch._foreach_mul_(to_b, groups[0].scaling)


def group_of(modules: Sequence[Any], dtype: torch.dtype, fp8: Literal["no", "kept", "made"]) -> Group:
    """Join the frozen weights of PEFT LoRA layers that share an input; every member keeps a view of its part.

    fp8: products in bf16, or in e4m3 with codes that are kept (2 bytes a weight) or made at every use.
    """
    bases = [module.get_base_layer() for module in modules]
    edges = [0]
    for base in bases:
        edges.append(edges[-1] + base.out_features)
    biases = [base.bias for base in bases]
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases]).to(dtype)
    scaling = float(modules[0].scaling["default"])
    weight = _join_nf4(bases, dtype) if hasattr(bases[0].weight, "quant_state") else _join_plain(bases, dtype)
    pairs = adapters_of(modules)
    a, b = torch.cat([p.detach() for p in pairs[0::2]]).to(dtype), tuple(p.detach().to(dtype, copy=True) for p in pairs[1::2])
    group = Group(weight, bias, tuple(edges), scaling, a, b)
    use_fp8(group, fp8)
    return group


def use_fp8(group: Group, fp8: Literal["no", "kept", "made"]) -> None:
    """Switch a group's products to e4m3, or back."""
    group.row_scale = group.codes = None
    if fp8 != "no":
        whole = group.weight()
        group.row_scale = whole.abs().amax(1).float().clamp(min=1e-12) / 448.0
        if fp8 == "kept":
            group.codes = (quantise_weight(whole, group.row_scale), quantise_weight_t(whole, group.row_scale))


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
