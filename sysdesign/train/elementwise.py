"""The elementwise maps of a Qwen decoder layer with their hand-written derivatives, eager or compiled into single kernels.

Forward formulas follow transformers' modules operation for operation, so that in fp32 the fast path equals the plain one to
rounding. Each derivative recomputes what it can from the layer's inputs, because memory traffic, not arithmetic, is its cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS normalisation over the last dimension in fp32, rounded, then scaled: x: (..., H)."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def norm_back(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """d loss / d x of `norm`; the weight is frozen."""
    wide, g = x.float(), (grad * weight).float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    unit = wide * scale
    return (scale * (g - unit * (g * unit).mean(-1, keepdim=True))).to(x.dtype)


def norm_back_add(grad: Tensor, x: Tensor, weight: Tensor, eps: float, skip: Tensor) -> Tensor:
    """`norm_back` plus the gradient that arrived along the residual connection."""
    return skip + norm_back(grad, x, weight, eps)


def gated(raw: Tensor, inner: Tensor, b_gate: Tensor, b_up: Tensor) -> Tensor:
    """silu(gate) * up, where gate and up are raw: (T, 2F) plus their LoRA updates; inner: (T, 2r), b: (F, r) -> (T, F)."""
    gate, up = _gate_up(raw, inner, b_gate, b_up)
    return torch.nn.functional.silu(gate) * up


def gated_back(
    raw: Tensor, inner: Tensor, b_gate: Tensor, b_up: Tensor, d_act: Tensor, d_inner: Tensor, a_down: Tensor
) -> tuple[Tensor, Tensor]:
    """d loss / d (gate, up): (T, 2F), and `gated` again: (T, F).

    The gradient of the activation is d_act: (T, F) plus the down map's LoRA share, d_inner: (T, r) @ a_down: (r, F).
    """
    gate, up = _gate_up(raw, inner, b_gate, b_up)
    g, u, d = gate.float(), up.float(), torch.addmm(d_act, d_inner, a_down).float()
    s = torch.sigmoid(g)
    d_raw = torch.cat(((d * u * s * (1 + g * (1 - s))).to(raw.dtype), (d * g * s).to(raw.dtype)), -1)
    return d_raw, torch.nn.functional.silu(gate) * up


def _gate_up(raw: Tensor, inner: Tensor, b_gate: Tensor, b_up: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = raw.chunk(2, -1)
    x_gate, x_up = inner.chunk(2, -1)
    return torch.addmm(gate, x_gate, b_gate.t()), torch.addmm(up, x_up, b_up.t())


def rotate_qk(qkv: Tensor, cos: Tensor, sin: Tensor, heads: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Rotated queries (T, queries, D) and keys (T, keys, D) of qkv: (T, (queries + 2 keys) D). heads: queries, keys, D."""
    queries, keys, width = heads
    both = rotate(qkv.view(len(qkv), queries + 2 * keys, width)[:, : queries + keys], cos, sin)
    return both[:, :queries], both[:, queries:]


def rotate_qk_back(d_q: Tensor, d_k: Tensor, d_v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """d loss / d qkv: (T, (queries + 2 keys) D) from the gradients of rotated queries and keys, and of values."""
    return torch.cat((rotate_back(d_q, cos, sin), rotate_back(d_k, cos, sin), d_v), 1).flatten(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding; x: (T, heads, D), cos and sin: (T, D), already mixed from the three position axes."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos[:, None] + turned * sin[:, None]


def rotate_back(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """d loss / d x of `rotate`: the transposed rotation."""
    half = grad.shape[-1] // 2
    turned = grad * sin[:, None]
    return grad * cos[:, None] + torch.cat((turned[..., half:], -turned[..., :half]), -1)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: (T, K) -> e4m3 codes (T, K) and fp32 scales (T, 1), so that codes * scales is x to 3 bits of mantissa."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 448.0  # 448: largest finite e4m3
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def quantise_rows_scaled(x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """`quantise_rows` of x * columns: a weight's row scales, folded into the gradient that meets those rows."""
    return quantise_rows(x.float() * columns)


def quantise_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """(out, in) and fp32 row scales (out,) -> e4m3 codes."""
    return (weight.float() / scale[:, None]).to(torch.float8_e4m3fn)


def quantise_weight_t(weight: Tensor, scale: Tensor) -> Tensor:
    """The same codes as (in, out): Hopper's fp8 product wants both operands with the summed dimension last."""
    return (weight.float() / scale[:, None]).t().contiguous().to(torch.float8_e4m3fn)


def token_losses(logits: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """logits: (N, V) -> sum of -log p(label) and d (that sum * weight) / d logits: (N, V). weight: one number."""
    wide = logits.float()
    total = torch.logsumexp(wide, -1, keepdim=True)
    hit = torch.arange(wide.shape[1], device=wide.device) == labels[:, None]
    loss = (total.squeeze(1) - torch.where(hit, wide, 0.0).sum(1)).sum()
    return loss, ((torch.exp(wide - total) - hit.float()) * weight).to(logits.dtype)


@dataclass(frozen=True)
class Elementwise:
    """The maps above, all eager or all compiled."""

    norm: Callable[..., Tensor] = norm
    norm_back: Callable[..., Tensor] = norm_back
    norm_back_add: Callable[..., Tensor] = norm_back_add
    gated: Callable[..., Tensor] = gated
    gated_back: Callable[..., tuple[Tensor, Tensor]] = gated_back
    rotate_qk: Callable[..., tuple[Tensor, Tensor]] = rotate_qk
    rotate_qk_back: Callable[..., Tensor] = rotate_qk_back
    head_norm: Callable[..., Tensor] = norm  # over heads: (T, heads, D)
    head_norm_back: Callable[..., Tensor] = norm_back
    rotate: Callable[..., Tensor] = rotate
    rotate_back: Callable[..., Tensor] = rotate_back
    quantise_rows: Callable[..., Any] = quantise_rows
    quantise_rows_scaled: Callable[..., Any] = quantise_rows_scaled
    quantise_weight: Callable[..., Tensor] = quantise_weight
    quantise_weight_t: Callable[..., Tensor] = quantise_weight_t
    token_losses: Callable[..., Any] = token_losses


@cache
def elementwise(how: Literal["eager", "compiled", "triton"]) -> Elementwise:
    """The same maps: as written above, compiled for any number of tokens, or through the kernels of `kernels.py`."""
    eager = Elementwise()
    if how == "eager":
        return eager
    compiled = {field.name: torch.compile(getattr(eager, field.name), dynamic=True) for field in fields(Elementwise)}
    if how == "triton":
        from sysdesign.train import kernels

        compiled |= {name: getattr(kernels, name) for name in compiled if hasattr(kernels, name)}
    return Elementwise(**compiled)
