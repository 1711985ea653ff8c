"""The elementwise maps of a Qwen decoder layer with their hand-written derivatives, eager or compiled into single kernels.

Forward formulas follow transformers' modules operation for operation, so that in fp32 the fast path equals the plain one to
rounding. Each derivative recomputes what it can from the layer's inputs, because memory traffic, not arithmetic, is its cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

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


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up: (T, 2F), gate first."""
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def swiglu_back(grad: Tensor, gate_up: Tensor) -> Tensor:
    """d loss / d gate_up: (T, 2F)."""
    gate, up = gate_up.chunk(2, -1)
    g, u, d = gate.float(), up.float(), grad.float()
    s = torch.sigmoid(g)
    return torch.cat(((d * u * s * (1 + g * (1 - s))).to(grad.dtype), (d * g * s).to(grad.dtype)), -1)


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


def token_losses(logits: Tensor, labels: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """logits: (N, V) -> sum of -log p(label) and d (that sum * weight) / d logits: (N, V)."""
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
    swiglu: Callable[..., Tensor] = swiglu
    swiglu_back: Callable[..., Tensor] = swiglu_back
    rotate: Callable[..., Tensor] = rotate
    rotate_back: Callable[..., Tensor] = rotate_back
    quantise_rows: Callable[..., Any] = quantise_rows
    quantise_rows_scaled: Callable[..., Any] = quantise_rows_scaled
    token_losses: Callable[..., Any] = token_losses


@cache
def elementwise(compiled: bool) -> Elementwise:
    """The same maps, compiled for any number of tokens when asked."""
    eager = Elementwise()
    if not compiled:
        return eager
    return Elementwise(**{field.name: torch.compile(getattr(eager, field.name), dynamic=True) for field in fields(Elementwise)})
