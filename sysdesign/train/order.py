"""Sample lengths and a seed -> which samples each optimiser step sees, and how they are cut into forward passes.

The whole order is known before the first step, so the number of steps, the longest pass and the time left are facts, not
estimates, and a resumed run continues at the exact sample.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def steps_of(count: int, *, epochs: float, batch: int, max_steps: int, seed: int) -> list[list[int]]:
    """Sample indices of every step: each epoch is its own shuffle, the epochs run on without a gap."""
    wanted = max(1, round(count * epochs))
    steps = math.ceil(wanted / batch)
    if max_steps:
        steps = min(steps, max_steps) if epochs * count >= max_steps * batch else max_steps
        wanted = steps * batch
    stream: list[int] = []
    epoch = 0
    while len(stream) < wanted:
        order = list(range(count))
        random.Random(f"{seed}:order:{epoch}").shuffle(order)
        stream += order
        epoch += 1
    stream = stream[:wanted]
    return [stream[i : i + batch] for i in range(0, len(stream), batch)]


def passes(indices: Sequence[int], lengths: Sequence[int], micro_tokens: int, *, padded: bool) -> list[list[int]]:
    """Cut one step into forward passes of at most `micro_tokens` tokens, as few and as even as first-fit gives.

    A padded pass costs its longest sample times its samples; a packed one the sum. A sample longer than the limit is alone.
    """
    limit = max(micro_tokens, 1)
    ordered = sorted(indices, key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    for index in ordered:
        for content in bins:
            cost = (len(content) + 1) * lengths[content[0]] if padded else sum(lengths[i] for i in content) + lengths[index]
            if cost <= limit:
                content.append(index)
                break
        else:
            bins.append([index])
    if padded:
        return bins
    even: list[list[int]] = [[] for _ in bins]  # longest first into the emptiest: a pass of one sample wastes the card
    for index in ordered:
        min(even, key=lambda content: sum(lengths[i] for i in content)).append(index)
    fits = all(content and (len(content) == 1 or sum(lengths[i] for i in content) <= limit) for content in even)
    return even if fits else bins


def most_tokens(steps: Sequence[Sequence[int]], lengths: Sequence[int], micro_tokens: int, *, padded: bool) -> int:
    """Tokens of the largest forward pass that will happen, padding included."""
    costs = [
        len(part) * lengths[part[0]] if padded else sum(lengths[i] for i in part)
        for step in steps
        for part in passes(step, lengths, micro_tokens, padded=padded)
    ]
    return max(costs, default=0)
