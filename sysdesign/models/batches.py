"""Many requests -> replies through a provider's batch interface, at half the price, across crashes.

Reserve, write the intent, post, note the id, wait, settle each reply. A process that dies between posting and noting the id leaves an
intent in state `posting`; whoever comes next looks for that batch at the provider before anything is posted again, and takes only what
proves to be ours: OpenAI's metadata and Anthropic's custom ids carry the intent.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sysdesign.errors import LimitError, ServiceError
from sysdesign.ledger import Intent
from sysdesign.models.paid import (
    ELSEWHERE,
    Answer,
    BatchState,
    Gone,
    MaybeBilled,
    NotTaken,
    Refused,
    Request,
    Result,
    Spender,
    Transient,
    Undecided,
    custom_id,
    whole,
)

MAX_REQUESTS = 800  # a batch of this many with pictures of 180 kB stays below the smaller of the providers' limits, 200 MB
LOOKS = 3  # how often a batch is looked for before it counts as never accepted
READS = 3  # how often results with unreadable lines are fetched
ATTEMPTS = 3  # batches in which a request may error or expire, which costs nothing, before it is given up
UNREADABLE = 0.02  # share of a batch's lines that is given up; above it the results count as garbled and are read again another day
KEPT_DAYS = 29  # providers keep results no longer
T = TypeVar("T")


@dataclass
class Rhythm:
    """Pauses between looks at the provider, on the monotonic clock."""

    first_s: float = 5.0
    longest_s: float = 60.0
    look_s: float = 30.0  # between two looks for a batch that may have been accepted
    deadline_s: float = 26 * 3600.0  # for one batch: providers expire it after 24 h
    sleep: Callable[[float], None] = time.sleep


def buy_batch(
    spender: Spender,
    requests: Mapping[str, Request],
    *,
    size: int = MAX_REQUESTS,
    rhythm: Rhythm | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Answer | NotTaken]:
    """Replies by the callers' names; the few that the provider errored for good map to `NotTaken` and cost nothing.

    Raises LimitError: the cap leaves no room for the rest. ServiceError: refused, failed, not done within the deadline, or too many
    requests without a reply. What was bought is in the ledger then, and the next call goes on from there.
    """
    rhythm, ledger = rhythm or Rhythm(), spender.ledger
    keys = {spender.key(request): request for request in requests.values()}
    failed: dict[str, NotTaken] = {}
    attempts: Counter[str] = Counter()
    running = [found for intent in _ours(spender) if (found := _resume(spender, intent, rhythm)) is not None]
    started, pause = time.monotonic(), rhythm.first_s
    while True:
        under_way = {key for intent in running for key in intent.keys}
        missing = [k for k in keys if k not in under_way and k not in failed and ledger.reply(k) is None]
        progress(len(keys) - len(missing) - sum(ledger.reply(k) is None for k in under_way if k in keys))
        if not missing and not running:
            break
        posted = _post_next(spender, {k: keys[k] for k in missing[:size]}, running, rhythm) if missing else None
        if posted is not None:
            running.append(posted)
            continue
        still = []
        for intent in running:
            state = _state(spender, intent, rhythm)
            if not state.ended:
                still.append(intent)
                continue
            for key, why in _collect(spender, intent, state.problem, rhythm).items():
                attempts[key] += 1
                if why.fatal or attempts[key] >= ATTEMPTS:
                    failed[key] = why
            started, pause = time.monotonic(), rhythm.first_s
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
    return whole(spender, replies)


def settle_open(spender: Spender, keys: Collection[str], rhythm: Rhythm | None = None) -> None:
    """Before live calls: read the batches that have ended. Raises Refused when one that still runs holds some of `keys`."""
    rhythm = rhythm or Rhythm()
    for intent in _ours(spender):
        held = len(set(keys) & set(intent.keys))
        found = _resume(spender, intent, rhythm, wait=False)
        if found is None:
            continue
        state = _state(spender, found, rhythm)
        if state.ended:
            _collect(spender, found, state.problem, rhythm)
        elif held:
            law = f"has {held} of these requests under way ({state.done} of {state.total} done): they must not be paid for twice"
            raise Refused(f"batch {found.remote}", law, "set mode batch (of the teacher or the judge) to wait for them, or come back later")


def under_way(spender: Spender) -> set[str]:
    """Keys that an unfinished batch of ours is buying."""
    return {key for intent in _ours(spender) for key in intent.keys}


def _ours(spender: Spender) -> list[Intent]:
    """Unfinished batches of this provider and model that no living process looks after."""
    return [i for i in spender.ledger.adopt() if (i.provider, i.model) == (spender.place, spender.provider.model)]


def _resume(spender: Spender, intent: Intent, rhythm: Rhythm, wait: bool = True) -> Intent | None:
    """The batch with its remote id, or None when it was never accepted (then its money is free again)."""
    if intent.state == "posted":
        return intent
    if intent.state == "posting":
        remote = _look(spender, intent, rhythm, wait)
        if remote is not None:
            return _noted(spender, intent, remote)
    spender.ledger.close_items(intent, intent.keys, "released", "never accepted")
    spender.ledger.finish(intent)
    return None


def _look(spender: Spender, intent: Intent, rhythm: Rhythm, wait: bool) -> str | None:
    """The batch of that intent at the provider. Acceptance may trail the request, so one look is not enough."""
    looks, told, started = 0, "", time.monotonic()
    while True:
        found = _patiently(rhythm, lambda: spender.provider.find_batch(intent, spender.ledger.remotes()))
        if isinstance(found, Undecided):
            law = "may be one that was posted from here: that shows when it has ended"
            if not wait or time.monotonic() - started > rhythm.deadline_s:
                raise Refused(f"batch {found.batch}", law, "run this again when it has ended: nothing is paid for twice")
            if told != found.batch:
                told = found.batch
                sys.stderr.write(f"waiting for batch {told}: it {law}\n")
            rhythm.sleep(rhythm.longest_s)
            continue
        looks += 1
        if found is not None or looks >= LOOKS:
            return found
        rhythm.sleep(rhythm.look_s)


def _noted(spender: Spender, intent: Intent, remote: str) -> Intent:
    spender.ledger.posted(intent, remote)
    return intent.model_copy(update={"state": "posted", "remote": remote})


def _post_next(spender: Spender, wanted: Mapping[str, Request], running: Sequence[Intent], rhythm: Rhythm) -> Intent | None:
    """Post one batch; None when it has to wait for money or for the provider."""
    ledger, provider = spender.ledger, spender.provider
    items = [(key, spender.worst(request, True)) for key, request in wanted.items()]
    newest = _patiently(rhythm, provider.newest_batch)
    while True:
        try:
            intent = ledger.intend(items, spender.place, provider.model)
            break
        except LimitError:
            if running:
                return None  # a batch that ends costs less than its worst case and makes room
            if len(items) == 1:
                raise
            items = items[: len(items) // 2]
    if intent is None:  # paid since, or being bought by another process
        if not running and all(ledger.reply(key) is None for key in wanted):
            raise Refused(f"{spender.place} {provider.model}", f"{len(wanted)} of these requests are being bought already", ELSEWHERE)
        return None
    ledger.posting(intent, newest)
    intent = intent.model_copy(update={"state": "posting", "newest": newest})
    answer = provider.post_batch([(custom_id(key, intent.id), wanted[key]) for key in intent.keys], intent.id)
    if isinstance(answer, str):
        return _noted(spender, intent, answer)
    if isinstance(answer, MaybeBilled):
        return _resume(spender, intent, rhythm)
    ledger.close_items(intent, intent.keys, "released", answer.why)
    ledger.finish(intent)
    if answer.fatal:
        raise Refused(f"{spender.place} {provider.model}", f"must accept the batch ({answer.why})", answer.do or "read its reply")
    rhythm.sleep(answer.retry_after_s or rhythm.first_s)
    return None


def _state(spender: Spender, intent: Intent, rhythm: Rhythm) -> BatchState:
    """How far a posted batch is. One that the provider has forgotten is lost once its results would be gone anyway."""
    state = _patiently(rhythm, lambda: spender.provider.poll(intent.remote or ""))
    if isinstance(state, BatchState):
        return state
    if time.time() - intent.made < KEPT_DAYS * 86400:
        law = f"must be known to the provider ({state.why})"
        do = f"use the key and the address it was posted with; after {KEPT_DAYS} days it counts as lost"
        raise Refused(f"batch {intent.remote}", law, do)
    raise _lost(spender, intent, state)


def _collect(spender: Spender, intent: Intent, problem: str | None, rhythm: Rhythm) -> dict[str, NotTaken]:
    """Settle an ended batch; returns the requests that got no reply."""
    ledger, where = spender.ledger, f"batch {intent.remote}"
    if problem is not None:
        ledger.close_items(intent, intent.keys, "released", problem)
        ledger.finish(intent)
        raise Refused(where, f"must pass the provider's validation ({problem})", "mend what it names")
    results: list[Result] = []
    for attempt in range(READS):
        if attempt:
            rhythm.sleep(rhythm.first_s)
        found = _patiently(rhythm, lambda: spender.provider.results(intent.remote or ""))
        if isinstance(found, Gone):
            raise _lost(spender, intent, found)
        results = found
        if not any(isinstance(result, MaybeBilled) for _, result in results):
            break
    names = {k[:40]: k for k in intent.keys} | {custom_id(k, intent.id): k for k in intent.keys}
    garbled = [result.why for _, result in results if isinstance(result, MaybeBilled)]
    if results and not garbled and not any(name in names for name, _ in results):
        ledger.posting(intent)  # not ours after all: look for it again
        raise ServiceError(where, "must hold the requests that were posted, and holds others", "run it again: it is looked for anew")
    failed = {k: NotTaken(why="its result is missing or cannot be read, and may be billed", fatal=True) for k in intent.keys}
    for name, result in results:
        key = names.get(name)
        if key is None or isinstance(result, MaybeBilled):
            continue
        if isinstance(result, Answer):
            ledger.settle_item(intent, key, spender.cost(result, True), result.model_dump_json())
            del failed[key]
        else:
            ledger.close_items(intent, [key], "released", result.why)
            failed[key] = result
    if len(garbled) > UNREADABLE * len(results):
        raise ServiceError(f"results of {where}", f"every line must be a result ({garbled[0]})", "run it again later: the rest is kept")
    ledger.finish(intent)
    return {k: why for k, why in failed.items() if ledger.reply(k) is None}


def _lost(spender: Spender, intent: Intent, gone: Gone) -> ServiceError:
    """Close a batch whose results are gone for ever: what it may have cost stays charged."""
    spender.ledger.finish(intent)
    law = f"its {len(intent.keys)} replies can never be read ({gone.why}); their worst case stays charged"
    return ServiceError(f"batch {intent.remote}", law, "run it again to buy them anew")


def _patiently(rhythm: Rhythm, call: Callable[[], T]) -> T:
    """A free call, asked again while it fails for reasons that pass. Raises the last Transient after the deadline."""
    started, pause = time.monotonic(), rhythm.first_s
    while True:
        try:
            return call()
        except Transient as error:
            if time.monotonic() - started > rhythm.deadline_s:
                raise
            if pause == rhythm.first_s:
                sys.stderr.write(f"{error.where}: {error.law}; trying again\n")
            rhythm.sleep(pause)
            pause = min(rhythm.longest_s, pause * 2)
