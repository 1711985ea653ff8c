"""Triton kernels of the decoder layer's elementwise maps: one pass over memory each, for CUDA.

torch.compile's versions of the same maps with a free number of tokens took two to four times as long on an H200 (torch 2.11): it
recomputes both halves of a concatenation and divides indices by run-time sizes. Here the gated activation also adds the LoRA updates of
the tensors it reads, which saves one read and one write of the widest tensors of the network.
"""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm(x, weight, y, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    wide = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / width + eps)
    w = tl.load(weight + at, mask=inside, other=0.0)
    tl.store(y + row * width + at, w * (wide * scale).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _norm_back(grad, x, weight, skip, dx, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    wide = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * width + at, mask=inside, other=0.0).to(tl.float32) * w
    scale = tl.rsqrt(tl.sum(wide * wide) / width + eps)
    unit = wide * scale
    out = scale * (g - unit * (tl.sum(g * unit) / width))
    if ADD:
        out += tl.load(skip + row * width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * width + at, out.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(qkv, cos, sin, out, heads, row, HALF: tl.constexpr, HEADS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head, at = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = head < heads
    place = head * 2 * HALF + at
    low = tl.load(qkv + token * row + place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(qkv + token * row + place + HALF, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + token * 2 * HALF + at).to(tl.float32)
    s = tl.load(sin + token * 2 * HALF + at).to(tl.float32)
    base = out + token * heads * 2 * HALF + place
    tl.store(base, (low * c - high * s).to(out.dtype.element_ty), mask=inside)
    tl.store(base + HALF, (high * c + low * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_back(dq, dk, dv, cos, sin, out, queries, keys, HALF: tl.constexpr, HEADS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    width: tl.constexpr = 2 * HALF
    head, at = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    is_q, is_k = head < queries, (head >= queries) & (head < queries + keys)
    is_v = (head >= queries + keys) & (head < queries + 2 * keys)
    c = tl.load(cos + token * width + at).to(tl.float32)
    s = tl.load(sin + token * width + at).to(tl.float32)
    q = dq + token * queries * width + head * width + at
    k = dk + token * keys * width + (head - queries) * width + at
    v = dv + token * keys * width + (head - queries - keys) * width + at
    low = tl.load(q, mask=is_q, other=0.0).to(tl.float32) + tl.load(k, mask=is_k, other=0.0).to(tl.float32)
    high = tl.load(q + HALF, mask=is_q, other=0.0).to(tl.float32) + tl.load(k + HALF, mask=is_k, other=0.0).to(tl.float32)
    v_low, v_high = tl.load(v, mask=is_v, other=0.0).to(tl.float32), tl.load(v + HALF, mask=is_v, other=0.0).to(tl.float32)
    base = out + token * (queries + 2 * keys) * width + head * width + at
    inside = head < queries + 2 * keys
    tl.store(base, tl.where(is_v, v_low, low * c + high * s).to(out.dtype.element_ty), mask=inside)
    tl.store(base + HALF, tl.where(is_v, v_high, high * c - low * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated(raw, inner, b_gate, b_up, act, tokens, width, rank, ROWS: tl.constexpr, COLS: tl.constexpr, RANK: tl.constexpr):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    gate, up = _gate_up(raw, inner, b_gate, b_up, row, col, tokens, width, rank, RANK)
    inside = (row < tokens)[:, None] & (col < width)[None, :]
    place = row.to(tl.int64)[:, None] * width + col[None, :]
    tl.store(act + place, (gate * tl.sigmoid(gate) * up).to(act.dtype.element_ty), mask=inside)


@triton.jit
def _gated_back(
    raw, inner, b_gate, b_up, d_act, d_inner, a_down, act, d_raw, tokens, width, rank,
    ROWS: tl.constexpr, COLS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    gate, up = _gate_up(raw, inner, b_gate, b_up, row, col, tokens, width, rank, RANK)
    r = tl.arange(0, RANK)
    inside = (row < tokens)[:, None] & (col < width)[None, :]
    tall = row.to(tl.int64)[:, None]
    place = tall * width + col[None, :]
    d = tl.load(d_act + place, mask=inside, other=0.0).to(tl.float32)
    left = tl.load(d_inner + tall * rank + r[None, :], mask=(row < tokens)[:, None] & (r < rank)[None, :], other=0.0)
    right = tl.load(a_down + r[:, None] * width + col[None, :], mask=(r < rank)[:, None] & (col < width)[None, :], other=0.0)
    d += tl.dot(left, right)
    s = tl.sigmoid(gate)
    silu = gate * s
    tl.store(act + place, (silu * up).to(act.dtype.element_ty), mask=inside)
    double = tall * (2 * width) + col[None, :]
    tl.store(d_raw + double, (d * up * (s + silu * (1 - s))).to(d_raw.dtype.element_ty), mask=inside)
    tl.store(d_raw + double + width, (d * silu).to(d_raw.dtype.element_ty), mask=inside)


@triton.jit
def _gate_up(raw, inner, b_gate, b_up, row, col, tokens, width, rank, RANK: tl.constexpr):
    r = tl.arange(0, RANK)
    inside = (row < tokens)[:, None] & (col < width)[None, :]
    tall = row.to(tl.int64)[:, None]
    place = tall * (2 * width) + col[None, :]
    rows, cols = (row < tokens)[:, None] & (r < rank)[None, :], (col < width)[None, :] & (r < rank)[:, None]
    x_gate = tl.load(inner + tall * (2 * rank) + r[None, :], mask=rows, other=0.0)
    x_up = tl.load(inner + tall * (2 * rank) + rank + r[None, :], mask=rows, other=0.0)
    w_gate = tl.load(b_gate + col[None, :] * rank + r[:, None], mask=cols, other=0.0)
    w_up = tl.load(b_up + col[None, :] * rank + r[:, None], mask=cols, other=0.0)
    gate = tl.load(raw + place, mask=inside, other=0.0).to(tl.float32) + tl.dot(x_gate, w_gate)
    up = tl.load(raw + place + width, mask=inside, other=0.0).to(tl.float32) + tl.dot(x_up, w_up)
    return gate, up


@triton.jit
def _quantise(x, columns, codes, scales, width, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    most = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
        if SCALED:
            value *= tl.load(columns + at, mask=at < width, other=0.0)
        most = tl.maximum(most, tl.abs(value))
    scale = tl.maximum(tl.max(most), 1e-12) / 448.0
    tl.store(scales + row, scale)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
        if SCALED:
            value *= tl.load(columns + at, mask=at < width, other=0.0)
        tl.store(codes + row * width + at, (value / scale).to(codes.dtype.element_ty), mask=at < width)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See elementwise.norm; x is contiguous."""
    y = torch.empty_like(x)
    _norm[(len(x),)](x, weight, y, x.shape[1], eps, BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8)
    return y


def norm_back(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See elementwise.norm_back."""
    dx = torch.empty_like(x)
    _norm_back[(len(x),)](grad, x, weight, x, dx, x.shape[1], eps, ADD=False, BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8)
    return dx


def norm_back_add(grad: Tensor, x: Tensor, weight: Tensor, eps: float, skip: Tensor) -> Tensor:
    """See elementwise.norm_back_add."""
    dx = torch.empty_like(x)
    _norm_back[(len(x),)](grad, x, weight, skip, dx, x.shape[1], eps, ADD=True, BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8)
    return dx


def rotate_qk(qkv: Tensor, cos: Tensor, sin: Tensor, heads: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """See elementwise.rotate_qk."""
    queries, keys, width = heads
    out = qkv.new_empty(len(qkv), queries + keys, width)
    _rotate[(len(qkv),)](qkv, cos, sin, out, queries + keys, qkv.shape[1], HALF=width // 2, HEADS=triton.next_power_of_2(queries + keys))
    return out[:, :queries], out[:, queries:]


def rotate_qk_back(d_q: Tensor, d_k: Tensor, d_v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """See elementwise.rotate_qk_back."""
    tokens, queries, width = d_q.shape
    keys = d_k.shape[1]
    out = d_q.new_empty(tokens, (queries + 2 * keys) * width)
    d_q, d_k, d_v = d_q.contiguous(), d_k.contiguous(), d_v.contiguous()
    _rotate_back[(tokens,)](d_q, d_k, d_v, cos, sin, out, queries, keys, HALF=width // 2, HEADS=triton.next_power_of_2(queries + 2 * keys))
    return out


def gated(raw: Tensor, inner: Tensor, b_gate: Tensor, b_up: Tensor) -> Tensor:
    """See elementwise.gated."""
    tokens, width, rank = len(raw), raw.shape[1] // 2, b_gate.shape[1]
    act = raw.new_empty(tokens, width)
    grid = (triton.cdiv(width, 128), triton.cdiv(tokens, 64))
    _gated[grid](
        raw, inner, b_gate, b_up, act, tokens, width, rank, ROWS=64, COLS=128, RANK=max(16, triton.next_power_of_2(rank)), num_warps=8
    )
    return act


def gated_back(
    raw: Tensor, inner: Tensor, b_gate: Tensor, b_up: Tensor, d_act: Tensor, d_inner: Tensor, a_down: Tensor
) -> tuple[Tensor, Tensor]:
    """See elementwise.gated_back."""
    tokens, width, rank = len(raw), raw.shape[1] // 2, b_gate.shape[1]
    act, d_raw = raw.new_empty(tokens, width), torch.empty_like(raw)
    grid = (triton.cdiv(width, 64), triton.cdiv(tokens, 64))
    _gated_back[grid](
        raw, inner, b_gate, b_up, d_act, d_inner, a_down, act, d_raw, tokens, width, rank,
        ROWS=64, COLS=64, RANK=max(16, triton.next_power_of_2(rank)), num_warps=8,
    )  # fmt: skip
    return d_raw, act


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See elementwise.quantise_rows."""
    return _quantised(x, x, False)


def quantise_rows_scaled(x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """See elementwise.quantise_rows_scaled."""
    return _quantised(x, columns, True)


def _quantised(x: Tensor, columns: Tensor, scaled: bool) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    codes, scales = torch.empty_like(x, dtype=torch.float8_e4m3fn), torch.empty(len(x), 1, device=x.device)
    _quantise[(len(x),)](
        x, columns, codes, scales, x.shape[1], SCALED=scaled, BLOCK=min(4096, triton.next_power_of_2(x.shape[1])), num_warps=8
    )
    return codes, scales
