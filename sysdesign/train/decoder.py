"""A packed batch of embeddings -> the decoder's hidden states at the tokens that count, with a hand-written backward pass.

One autograd function covers a whole decoder layer, so that what is kept for the backward pass is decided here and not by the
graph: each layer keeps everything (`FULL`), all but the widest activations (`LEAN`), or only its input (`INPUT`), and
recomputes the rest. The last layer computes only the rows whose output is used, and the first one no gradient of its input.
Serves Qwen2-VL, Qwen2.5-VL and Qwen3-VL (which normalises queries and keys): weights stay in transformers' and PEFT's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sysdesign.train.attention import Pack, attend, attend_back
from sysdesign.train.elementwise import Elementwise
from sysdesign.train.linear import Group, adapters_of, group_of, refresh

INPUT, LEAN, FULL = 0, 1, 2
QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Layer:
    """One decoder layer's parts; `modules` are PEFT's, group by group, in the order of the adapters' gradients."""

    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    modules: tuple[tuple[Any, ...], ...]
    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None
    heads: tuple[int, int, int]  # query heads, key-value heads, head width
    eps: float
    scale: float

    def groups(self) -> tuple[Group, Group, Group, Group]:
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True)
class Batch:
    """What every layer of one forward pass shares. cos, sin: (T, D); keep: rows whose final state is used."""

    pack: Pack
    cos: Tensor
    sin: Tensor
    keep: Tensor
    kernel: str
    ops: Elementwise


def layers_of(text: Any, dtype: torch.dtype, fp8: Literal["no", "kept", "made"]) -> tuple[Layer, ...]:
    """Read transformers' text model after PEFT wrapped its linears; joins the frozen weights of each group in place."""
    layers = []
    for block in text.layers:
        attention, mlp = block.self_attn, block.mlp
        groups = [[getattr(attention, name) for name in QKV], [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]
        width = attention.head_dim
        counts = (groups[0][0].out_features // width, groups[0][1].out_features // width, width)
        head_norms = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach()) if hasattr(attention, "q_norm") else None
        norms = (block.input_layernorm.weight.detach(), block.post_attention_layernorm.weight.detach())
        qkv, out, gate_up, down = (group_of(group, dtype, fp8) for group in groups)
        eps = float(block.input_layernorm.variance_epsilon)
        modules = tuple(tuple(group) for group in groups)
        layers.append(Layer(qkv, out, gate_up, down, modules, norms, head_norms, counts, eps, float(attention.scaling)))
    return tuple(layers)


def run(layers: Sequence[Layer], x: Tensor, batch: Batch, levels: Sequence[int], deep: Sequence[Tensor] = ()) -> Tensor:
    """x: (T, H) embeddings -> (len(keep), H) states before the final norm.

    `levels`: what each layer keeps. `deep`: (T, H) additions after the first layers (Qwen3-VL's middle vision features).
    """
    refresh([g for layer in layers for g in layer.groups()], [m for layer in layers for m in layer.modules])
    for index, layer in enumerate(layers):
        last = index == len(layers) - 1
        x = _Decode.apply(x, layer, batch, levels[index], last, *(p for m in layer.modules for p in adapters_of(m)))
        if index < len(deep):
            x = x + deep[index]
    return x


def _queries(qkv: Tensor, layer: Layer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv, width = layer.heads
    parts = qkv.view(len(qkv), heads + 2 * kv, width)
    v = parts[:, heads + kv :]
    if layer.head_norms is None:
        return *batch.ops.rotate_qk(qkv, batch.cos, batch.sin, layer.heads), v
    q = batch.ops.head_norm(parts[:, :heads], layer.head_norms[0], layer.eps)
    k = batch.ops.head_norm(parts[:, heads : heads + kv], layer.head_norms[1], layer.eps)
    return batch.ops.rotate(q, batch.cos, batch.sin), batch.ops.rotate(k, batch.cos, batch.sin), v


def _queries_back(d_q: Tensor, d_k: Tensor, d_v: Tensor, qkv: Tensor, layer: Layer, batch: Batch) -> Tensor:
    if layer.head_norms is None:
        return batch.ops.rotate_qk_back(d_q, d_k, d_v, batch.cos, batch.sin)
    heads, kv, width = layer.heads
    parts = qkv.view(len(qkv), heads + 2 * kv, width)
    d_q, d_k = batch.ops.rotate_back(d_q, batch.cos, batch.sin), batch.ops.rotate_back(d_k, batch.cos, batch.sin)
    d_q = batch.ops.head_norm_back(d_q, parts[:, :heads], layer.head_norms[0], layer.eps)
    d_k = batch.ops.head_norm_back(d_k, parts[:, heads : heads + kv], layer.head_norms[1], layer.eps)
    return torch.cat((d_q, d_k, d_v), 1).flatten(1)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, batch: Batch, level: int, last: bool, *adapters: Tensor) -> Tensor:
        kept = _forward(x, layer, batch, last)
        y = kept.pop()
        if level < FULL:
            kept[_WIDE] = None
        if level == INPUT:
            kept = []
        ctx.save_for_backward(x, *kept)
        ctx.setting = (layer, batch, last)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        layer, batch, last = ctx.setting
        x, *kept = ctx.saved_tensors
        if not kept:
            kept = _forward(x, layer, batch, last)[:-1]
        dx, grads = _backward(grad, x, kept, layer, batch, last, ctx.needs_input_grad[0])
        return dx, None, None, None, None, *grads


_WIDE = 7  # place of the gate-up activations in what `_forward` returns


def _forward(x: Tensor, layer: Layer, batch: Batch, last: bool) -> list[Any]:
    """What the backward pass can use, in the order of its unpacking there, then the layer's output. gate_up is without its updates."""
    ops = batch.ops
    qkv, inner_qkv = layer.qkv.forward(ops.norm(x, layer.norms[0], layer.eps), ops)
    q, k, v = _queries(qkv, layer, batch)
    mixed, own = attend(q, k, v, batch.pack, layer.scale, batch.kernel)
    narrow, skip = (mixed.flatten(1), x) if not last else (mixed.flatten(1)[batch.keep], x[batch.keep])
    middle, inner_out = layer.out.forward(narrow, ops)
    middle += skip
    middle_norm = ops.norm(middle, layer.norms[1], layer.eps)
    gate_up, inner_gate = layer.gate_up.frozen(middle_norm, ops), layer.gate_up.inner(middle_norm)
    del middle_norm
    y, inner_down = layer.down.forward(ops.gated(gate_up, inner_gate, *layer.gate_up.b), ops)
    y += middle
    return [qkv, inner_qkv, mixed, middle, inner_out, inner_gate, inner_down, gate_up, *own, y]


def _backward(
    grad: Tensor, x: Tensor, kept: list[Any], layer: Layer, batch: Batch, last: bool, need_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    ops = batch.ops
    qkv, inner_qkv, mixed, middle, inner_out, inner_gate, inner_down, gate_up, *own = kept
    middle_norm = ops.norm(middle, layer.norms[1], layer.eps)
    if gate_up is None:
        gate_up = layer.gate_up.frozen(middle_norm, ops)
    grad = grad.contiguous()
    d_inner, d_b = layer.down.inner_back(grad, inner_down)
    d_gate_up, act = ops.gated_back(gate_up, inner_gate, *layer.gate_up.b, layer.down.frozen_back(grad, ops), d_inner, layer.down.a)
    g_down = layer.down.joined(d_inner, act, d_b)
    del act, gate_up
    d_norm, g_gate = layer.gate_up.backward(d_gate_up, middle_norm, inner_gate, ops)
    del d_gate_up, middle_norm
    d_middle = ops.norm_back_add(d_norm, middle, layer.norms[1], layer.eps, grad)
    flat = mixed.flatten(1)
    d_mixed, g_out = layer.out.backward(d_middle, flat[batch.keep] if last else flat, inner_out, ops)
    if last:  # rows that no loss looks at get no gradient
        d_mixed = torch.zeros_like(flat).index_copy_(0, batch.keep, d_mixed)
        d_middle = torch.zeros_like(x).index_copy_(0, batch.keep, d_middle)
    q, k, v = _queries(qkv, layer, batch)
    assert d_mixed is not None
    d_q, d_k, d_v = attend_back(d_mixed.view_as(mixed), q, k, v, mixed, tuple(own), batch.pack, layer.scale, batch.kernel)
    d_qkv = _queries_back(d_q, d_k, d_v, qkv, layer, batch)
    d_in, g_qkv = layer.qkv.backward(d_qkv, ops.norm(x, layer.norms[0], layer.eps), inner_qkv, ops, need_input)
    grads = [*g_qkv, *g_out, *g_gate, *g_down]
    return (None if d_in is None else ops.norm_back_add(d_in, x, layer.norms[0], layer.eps, d_middle)), grads
