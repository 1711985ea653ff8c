"""Hidden states at the tokens that count -> cross-entropy and its gradient, a slice at a time, so that no full logits ever exist.

512 tokens of a 152,064-word vocabulary are 0.3 GB in fp32; a batch of eight samples would be 3 GB, several times over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SLICE = 1024  # tokens


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, labels: Tensor, total: float, ops: Any) -> Tensor:
        grad = torch.empty_like(states)
        loss = torch.zeros((), device=states.device, dtype=torch.float32)
        weight = torch.full((), 1.0 / total, device=states.device)  # a tensor, so that compiled code serves every value
        for start in range(0, len(states), SLICE):
            part, want = states[start : start + SLICE], labels[start : start + SLICE]
            lost, d_logits = ops.token_losses(part @ head.t(), want, weight)
            loss += lost
            torch.mm(d_logits, head, out=grad[start : start + SLICE])
        ctx.save_for_backward(grad)
        return loss / total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return ctx.saved_tensors[0] * grad.to(ctx.saved_tensors[0].dtype), None, None, None, None


def cross_entropy(states: Tensor, head: Tensor, labels: Tensor, total: float, ops: Any) -> Tensor:
    """Sum of -log p(label) over rows, divided by `total`. states: (N, H); head: (V, H), frozen; labels: (N,), none ignored."""
    return _CrossEntropy.apply(states, head, labels, total, ops)  # type: ignore[no-any-return]
