"""Causal attention over packed samples: each token sees only its own sample, with no mask tensor and no padding.

`flash` is torch's kernel for sequences of different lengths laid end to end (CUDA, 16 bit); `sdpa` calls torch's attention once for
each sample and runs anywhere. cuDNN's kernel for packed sequences gave NaN gradients at a third of the speed (torch 2.11, H200,
2026-11), so it is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pack:
    """Where samples lie in a packed batch. starts: (S + 1,) int32 on the device, first is 0, last is T."""

    starts: Tensor
    edges: tuple[int, ...]  # the same numbers on the host, so that nothing waits for the device
    longest: int  # tokens


@cache
def kernel_for(wanted: str, device: str, dtype: torch.dtype) -> str:
    """The kernel that will run: `auto` is flash on CUDA in 16 bit, sdpa elsewhere."""
    fits = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if wanted == "auto":
        return "flash" if fits else "sdpa"
    return wanted if fits else "sdpa"


def attend(q: Tensor, k: Tensor, v: Tensor, pack: Pack, scale: float, kernel: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """q: (T, heads, D); k, v: (T, kv heads, D) -> out: (T, heads, D) and what the derivative needs besides q, k, v, out."""
    if kernel == "flash":
        out, lse, state, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, pack.starts, pack.starts, pack.longest, pack.longest, 0.0, True, False, scale=scale
        )
        return out, (lse, state, unused)
    return torch.cat([_one(q[a:b], k[a:b], v[a:b], scale) for a, b in zip(pack.edges, pack.edges[1:], strict=False)]), ()


def attend_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kept: tuple[Tensor, ...], pack: Pack, scale: float, kernel: str
) -> tuple[Tensor, Tensor, Tensor]:
    """d loss / d (q, k, v) of `attend`."""
    longest, starts = pack.longest, pack.starts
    if kernel == "flash":
        lse, state, unused = kept
        return torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, starts, starts, longest, longest, 0.0, True, state, unused, scale=scale
        )
    parts = []
    for a, b in zip(pack.edges, pack.edges[1:], strict=False):
        with torch.enable_grad():
            ins = [x[a:b].detach().requires_grad_() for x in (q, k, v)]
            part = _one(ins[0], ins[1], ins[2], scale)
        parts.append(torch.autograd.grad(part, ins, grad[a:b]))
    dq, dk, dv = (torch.cat(x) for x in zip(*parts, strict=True))
    return dq, dk, dv


def _one(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return out.squeeze(0).transpose(0, 1)
