"""Many requests -> replies through a provider's batch interface, at half the price, across crashes.

Reserve, write the intent, post, note the id, wait, settle each reply. A process that dies between posting and noting the id leaves an
intent in state `posting`; whoever comes next looks for that batch at the provider before anything is posted again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sysdesign.errors import LimitError, ServiceError
from sysdesign.ledger import Intent
from sysdesign.models.paid import Answer, MaybeBilled, NotTaken, Request, Spender

MAX_REQUESTS = 800  # a batch of this many with pictures of 180 kB stays below the smaller of the providers' limits, 200 MB
LOOKS = 3  # how often a batch is looked for before it counts as never accepted


@dataclass
class Rhythm:
    """Pauses between looks at the provider, on the monotonic clock."""

    first_s: float = 5.0
    longest_s: float = 60.0
    look_s: float = 30.0  # between two looks for a batch that may have been accepted
    deadline_s: float = 26 * 3600.0  # providers expire a batch after 24 h
    sleep: Callable[[float], None] = time.sleep


def custom_id(key: str) -> str:
    """What a request is called inside a batch: within both providers' alphabet and length."""
    return key[:40]


def buy_batch(
    spender: Spender,
    requests: Mapping[str, Request],
    *,
    size: int = MAX_REQUESTS,
    rhythm: Rhythm | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Answer | NotTaken]:
    """Replies by the callers' names. A request the provider errored or expired maps to `NotTaken`; it cost nothing.

    Raises LimitError: the cap leaves no room for a single request. ServiceError: refused, failed, or not done within the deadline.
    """
    rhythm, ledger = rhythm or Rhythm(), spender.ledger
    keys = {spender.key(request): request for request in requests.values()}
    failed: dict[str, NotTaken] = {}
    running = [found for intent in _ours(spender) if (found := _resume(spender, intent, rhythm)) is not None]
    started, pause = time.monotonic(), rhythm.first_s
    while True:
        under_way = {key for intent in running for key in intent.keys}
        missing = [k for k in keys if k not in under_way and k not in failed and ledger.reply(k) is None]
        progress(len(keys) - len(missing) - sum(ledger.reply(k) is None for k in under_way if k in keys))
        if not missing and not running:
            break
        try:
            posted = _post_next(spender, {k: keys[k] for k in missing[:size]}, running, rhythm) if missing else None
        except LimitError:
            if all(ledger.reply(k) is None for k in keys):
                raise
            failed |= dict.fromkeys(missing, NotTaken(why="over the cap"))  # what was bought is worth keeping
            continue
        if posted is not None:
            running.append(posted)
            continue
        still = []
        for intent in running:
            state = spender.provider.poll(intent.remote or "")
            if state.ended:
                failed |= _collect(spender, intent, state.problem)
                pause = rhythm.first_s
            else:
                still.append(intent)
        running = still
        if running:
            if time.monotonic() - started > rhythm.deadline_s:
                raise ServiceError(
                    f"batch {running[0].remote}", f"must end within {rhythm.deadline_s / 3600:.0f} h", "run it again later: nothing is lost"
                )
            rhythm.sleep(pause)
            pause = min(rhythm.longest_s, pause * 1.5)
    replies: dict[str, Answer | NotTaken] = {}
    for name, request in requests.items():
        key = spender.key(request)
        body = ledger.reply(key)
        replies[name] = Answer.model_validate_json(body) if body is not None else failed.get(key, NotTaken(why="no reply"))
    return replies


def _ours(spender: Spender) -> list[Intent]:
    """Unfinished batches of this provider and model that no living process looks after."""
    return [i for i in spender.ledger.adopt() if (i.provider, i.model) == (spender.provider.name, spender.provider.model)]


def _resume(spender: Spender, intent: Intent, rhythm: Rhythm) -> Intent | None:
    """The batch with its remote id, or None when it was never accepted (then its money is free again)."""
    if intent.state == "posted":
        return intent
    if intent.state == "posting":
        remote = _look(spender, intent, rhythm)
        if remote is not None:
            return _noted(spender, intent, remote)
    spender.ledger.close_items(intent, intent.keys, "released", "never accepted")
    spender.ledger.finish(intent)
    return None


def _look(spender: Spender, intent: Intent, rhythm: Rhythm) -> str | None:
    """The batch of that intent at the provider. Acceptance may trail the request, so one look is not enough."""
    ids = [custom_id(k) for k in intent.keys]
    for attempt in range(LOOKS):
        if attempt:
            rhythm.sleep(rhythm.look_s)
        remote = spender.provider.find_batch(intent.id, ids, spender.ledger.remotes())
        if remote is not None:
            return remote
    return None


def _noted(spender: Spender, intent: Intent, remote: str) -> Intent:
    spender.ledger.posted(intent, remote)
    return intent.model_copy(update={"state": "posted", "remote": remote})


def _post_next(spender: Spender, wanted: Mapping[str, Request], running: Sequence[Intent], rhythm: Rhythm) -> Intent | None:
    """Post one batch; None when it has to wait for money or for the provider."""
    ledger, provider = spender.ledger, spender.provider
    items = [(key, spender.worst(request, True)) for key, request in wanted.items()]
    while True:
        try:
            intent = ledger.intend(items, provider.name, provider.model)
            break
        except LimitError:
            if running:
                return None  # a batch that ends costs less than its worst case and makes room
            if len(items) == 1:
                raise
            items = items[: len(items) // 2]
    ledger.posting(intent)
    answer = provider.post_batch([(custom_id(key), wanted[key]) for key, _ in items], intent.id)
    if isinstance(answer, str):
        return _noted(spender, intent, answer)
    if isinstance(answer, MaybeBilled):
        return _resume(spender, intent.model_copy(update={"state": "posting"}), rhythm)
    ledger.close_items(intent, intent.keys, "released", answer.why)
    ledger.finish(intent)
    if answer.fatal:
        raise ServiceError(f"{provider.name} {provider.model}", f"must accept the batch ({answer.why})", answer.do or "read its reply")
    rhythm.sleep(answer.retry_after_s or rhythm.first_s)
    return None


def _collect(spender: Spender, intent: Intent, problem: str | None) -> dict[str, NotTaken]:
    """Settle an ended batch; returns the requests that got no reply."""
    ledger, names = spender.ledger, {custom_id(k): k for k in intent.keys}
    if problem is not None:
        ledger.close_items(intent, intent.keys, "released", problem)
        ledger.finish(intent)
        raise ServiceError(f"batch {intent.remote}", f"must pass the provider's validation ({problem})", "mend what it names")
    failed: dict[str, NotTaken] = {}
    for name, result in spender.provider.results(intent.remote or ""):
        key = names.get(name)
        if key is None:
            continue  # not ours: adopted by mistake, or a provider's slip
        if isinstance(result, Answer):
            cost = spender.provider.price.cost(result.usage, batch=True, long=True)
            ledger.settle_item(intent, key, cost, result.model_dump_json())
        else:
            ledger.close_items(intent, [key], "released", result.why)
            failed[key] = result
    ledger.finish(intent)
    return failed | {k: NotTaken(why="no result in the batch") for k in intent.keys if k not in failed and ledger.reply(k) is None}
