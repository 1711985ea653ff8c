"""A packed batch of embeddings -> the decoder's hidden states at the tokens that count, with a hand-written backward pass.

One autograd function covers a whole decoder layer, so that what is kept for the backward pass is decided here and not by the
graph: each layer keeps everything (`FULL`), all but the widest activations (`LEAN`), or only its input (`INPUT`), and
recomputes the rest. The last layer computes only the rows whose output is used, and the first one no gradient of its input.
Serves Qwen2-VL, Qwen2.5-VL and Qwen3-VL (which normalises queries and keys): weights stay in transformers' and PEFT's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sysdesign.train.attention import Pack, attend, attend_back
from sysdesign.train.elementwise import Elementwise
from sysdesign.train.linear import Group, adapters_of, group_of

INPUT, LEAN, FULL = 0, 1, 2
QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Layer:
    """One decoder layer's frozen parts; `modules` are PEFT's, in the order of the adapters' gradients."""

    qkv: Group
    out: Group
    gate_up: Group
    down: Group
    modules: tuple[Any, ...]
    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None
    heads: tuple[int, int, int]  # query heads, key-value heads, head width
    eps: float
    scale: float


@dataclass(frozen=True)
class Batch:
    """What every layer of one forward pass shares. cos, sin: (T, D); keep: rows whose final state is used."""

    pack: Pack
    cos: Tensor
    sin: Tensor
    keep: Tensor
    kernel: str
    ops: Elementwise


def layers_of(text: Any, dtype: torch.dtype, fp8: bool) -> tuple[Layer, ...]:
    """Read transformers' text model after PEFT wrapped its linears; joins the frozen weights of each group in place."""
    layers = []
    for block in text.layers:
        attention, mlp = block.self_attn, block.mlp
        groups = [[getattr(attention, name) for name in QKV], [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]
        width = attention.head_dim
        counts = (groups[0][0].out_features // width, groups[0][1].out_features // width, width)
        head_norms = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach()) if hasattr(attention, "q_norm") else None
        norms = (block.input_layernorm.weight.detach(), block.post_attention_layernorm.weight.detach())
        joined = [group_of(group, dtype, fp8) for group in groups]
        eps = float(block.input_layernorm.variance_epsilon)
        modules = tuple(module for group in groups for module in group)
        layers.append(Layer(*joined, modules, norms, head_norms, counts, eps, float(attention.scaling)))
    return tuple(layers)


def run(layers: Sequence[Layer], x: Tensor, batch: Batch, levels: Sequence[int], deep: Sequence[Tensor] = ()) -> Tensor:
    """x: (T, H) embeddings -> (len(keep), H) states before the final norm.

    `levels`: what each layer keeps. `deep`: (T, H) additions after the first layers (Qwen3-VL's middle vision features).
    """
    for index, layer in enumerate(layers):
        last = index == len(layers) - 1
        x = _Decode.apply(x, layer, batch, levels[index], last, *adapters_of(layer.modules))
        if index < len(deep):
            x = x + deep[index]
    return x


def _queries(qkv: Tensor, layer: Layer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv, width = layer.heads
    q, k, v = qkv.view(len(qkv), heads + 2 * kv, width).split((heads, kv, kv), 1)
    if layer.head_norms is not None:
        q, k = batch.ops.norm(q, layer.head_norms[0], layer.eps), batch.ops.norm(k, layer.head_norms[1], layer.eps)
    return batch.ops.rotate(q, batch.cos, batch.sin), batch.ops.rotate(k, batch.cos, batch.sin), v


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, batch: Batch, level: int, last: bool, *adapters: Tensor) -> Tensor:
        kept = _forward(x, layer, batch, last, adapters)
        y = kept.pop()
        if level < FULL:
            kept[_WIDE] = None
        if level == INPUT:
            kept = []
        ctx.save_for_backward(x, *kept, *adapters)
        ctx.setting = (layer, batch, last, len(kept))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        layer, batch, last, count = ctx.setting
        x, *rest = ctx.saved_tensors
        kept, adapters = list(rest[:count]), rest[count:]
        if not kept:
            kept = _forward(x, layer, batch, last, adapters)[:-1]
        dx, grads = _backward(grad, x, kept, layer, batch, last, adapters, ctx.needs_input_grad[0])
        return dx, None, None, None, None, *grads


_WIDE = 7  # place of the gate-up activations in what `_forward` returns


def _forward(x: Tensor, layer: Layer, batch: Batch, last: bool, adapters: Sequence[Tensor]) -> list[Any]:
    """[qkv, inner x 3, attention out, middle state, attention's own..., gate_up, y]: see the unpacking in `_backward`."""
    ops = batch.ops
    qkv, inner_qkv = layer.qkv.forward(ops.norm(x, layer.norms[0], layer.eps), adapters[:6], ops)
    q, k, v = _queries(qkv, layer, batch)
    mixed, own = attend(q, k, v, batch.pack, layer.scale, batch.kernel)
    narrow, skip = (mixed.flatten(1), x) if not last else (mixed.flatten(1)[batch.keep], x[batch.keep])
    middle, inner_out = layer.out.forward(narrow, adapters[6:8], ops)
    middle += skip
    gate_up, inner_gate = layer.gate_up.forward(ops.norm(middle, layer.norms[1], layer.eps), adapters[8:12], ops)
    y, inner_down = layer.down.forward(ops.swiglu(gate_up), adapters[12:14], ops)
    y += middle
    return [qkv, inner_qkv, mixed, middle, inner_out, inner_gate, inner_down, gate_up, *own, y]


def _backward(
    grad: Tensor, x: Tensor, kept: list[Any], layer: Layer, batch: Batch, last: bool, adapters: Sequence[Tensor], need_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    ops = batch.ops
    qkv, inner_qkv, mixed, middle, inner_out, inner_gate, inner_down, gate_up, *own = kept
    middle_norm = ops.norm(middle, layer.norms[1], layer.eps)
    if gate_up is None:
        gate_up, _ = layer.gate_up.forward(middle_norm, adapters[8:12], ops)
    grad = grad.contiguous()
    d_act, g_down = layer.down.backward(grad, ops.swiglu(gate_up), inner_down, adapters[12:14], ops)
    d_gate_up = ops.swiglu_back(d_act, gate_up)
    del d_act, gate_up
    d_norm, g_gate = layer.gate_up.backward(d_gate_up, middle_norm, inner_gate, adapters[8:12], ops)
    del d_gate_up, middle_norm
    d_middle = ops.norm_back_add(d_norm, middle, layer.norms[1], layer.eps, grad)
    flat = mixed.flatten(1)
    d_mixed, g_out = layer.out.backward(d_middle, flat[batch.keep] if last else flat, inner_out, adapters[6:8], ops)
    if last:  # rows that no loss looks at get no gradient
        d_mixed = torch.zeros_like(flat).index_copy_(0, batch.keep, d_mixed)
        d_middle = torch.zeros_like(x).index_copy_(0, batch.keep, d_middle)
    q, k, v = _queries(qkv, layer, batch)
    d_q, d_k, d_v = attend_back(d_mixed.view_as(mixed), q, k, v, mixed, tuple(own), batch.pack, layer.scale, batch.kernel)
    d_q, d_k = ops.rotate_back(d_q, batch.cos, batch.sin), ops.rotate_back(d_k, batch.cos, batch.sin)
    if layer.head_norms is not None:
        heads, kv, width = layer.heads
        raw_q, raw_k, _ = qkv.view(len(qkv), heads + 2 * kv, width).split((heads, kv, kv), 1)
        d_q = ops.norm_back(d_q, raw_q, layer.head_norms[0], layer.eps)
        d_k = ops.norm_back(d_k, raw_k, layer.head_norms[1], layer.eps)
    d_qkv = torch.cat((d_q, d_k, d_v), 1).flatten(1)
    d_in, g_qkv = layer.qkv.backward(d_qkv, ops.norm(x, layer.norms[0], layer.eps), inner_qkv, adapters[:6], ops, need_input)
    grads = [*g_qkv, *g_out, *g_gate, *g_down]
    return (None if d_in is None else ops.norm_back_add(d_in, x, layer.norms[0], layer.eps, d_middle)), grads
