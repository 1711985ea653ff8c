"""Is the plan's API cost what the ledger is then charged? The whole conversations stage against a local server that speaks both protocols.

    python -m experiments.benchmarks.plan_cost [diagrams]

The server bills every reply by its own arithmetic and returns the drafts unchanged with 60 tokens on top, so the plan is asked with that
wording (1.0) and that much thinking (60) in place of its assumptions about a real teacher. Everything else is the plan's own: how many
requests, how long prefix, graph, tasks and replies are, prices, cache and batch discounts. The first request goes alone and writes the
prefix to the cache (for an hour before a batch), the others read it, and this server never misses; a real batch may.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
STARTS = ('{"system": ', '{"tasks": ')  # of a request's own part; without cache it follows the prefix in one text
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main(diagrams: int = 40) -> None:
    """Print planned and committed dollars for each teacher and mode."""
    from provider_server import KEY, Faults, ProviderServer, echo

    from sysdesign.artifacts import Store
    from sysdesign.config.root import Config
    from sysdesign.conversations.stage import conversations
    from sysdesign.diagrams.stage import diagrams as draw
    from sysdesign.profiles import resolve
    from sysdesign.records import NullLog

    os.environ["PLAN_COST_KEY"] = KEY
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = Store(folder / "drawn")
        small = resolve(Config, "full", {"diagrams.count": str(diagrams), "conversations.text_only": str(diagrams * 4 // 5)})
        with store.work("diagrams", "d" * 64, 5) as work:
            draw(small.diagrams, seed=0, out=work, log=NullLog(), runtime=small.runtime)
            about = {"version": 1, "seed": 0, "config": {}, "inputs": {}, "prompts": {}, "report": {}, "seconds": 0.0}
            drawn = store.commit(work, stage="diagrams", key="d" * 64, **about)
        for profile in ("teacher-claude", "teacher-openai"):
            for mode, cache in (("live", "true"), ("batch", "false"), ("batch", "true")):
                if profile == "teacher-openai" and cache == "false":
                    continue  # this protocol caches by itself
                faults = Faults(reply=lambda text: echo(text[max(text.rfind(start) for start in STARTS) :]))
                with ProviderServer(faults) as server:
                    flags = {
                        "diagrams.count": str(diagrams),
                        "conversations.text_only": str(diagrams * 4 // 5),
                        "conversations.teacher.mode": mode,
                        "conversations.teacher.cache": cache,
                        "conversations.teacher.api_key_env": "PLAN_COST_KEY",
                        "conversations.teacher.base_url": server.url + ("/v1" if profile == "teacher-openai" else ""),
                        "conversations.teacher.i_have_read_provider_terms": "true",
                        "conversations.teacher.image_share": "0",
                        "runtime.store": str(folder / f"{profile}-{mode}-{cache}"),
                        "runtime.budget_usd": "50",
                        "runtime.yes": "true",
                    }
                    config = resolve(Config, f"full,{profile}", flags)
                    planned = planned_usd(config)
                    out = folder / f"out-{profile}-{mode}-{cache}"
                    out.mkdir()
                    cfg, runtime = config.conversations, config.runtime
                    report = conversations(cfg, seed=0, out=out, log=NullLog(), runtime=runtime, diagrams=drawn)
                    spent = report.spent_usd or 0.0
                    print(
                        f"{profile:15} {mode:6} cache {cache:6} planned ${planned:.4f}  ledger ${spent:.4f}  "
                        f"billed ${server.account.billed / 1e6:.4f}  "
                        f"planned/ledger {planned / spent:.3f}  ({report.conversations} kept, {report.rejected} rejected)",
                        flush=True,
                    )


def planned_usd(config: object) -> float:
    """The plan's expected API dollars for a teacher that words nothing anew and thinks 60 tokens."""
    from sysdesign.plan.planner import this_computer
    from sysdesign.plan.points import Figure, read_points
    from sysdesign.plan.stages import estimate
    from sysdesign.plan.work import work_of

    points = read_points()
    asked = {"wording": Figure(value=1.0, source="the server"), "thinking_low": Figure(value=60.0, source="the server")}
    points = points.model_copy(update={"requests": {**points.requests, **asked}})
    return estimate("conversations", config, work_of(config, points), this_computer(), points).api_usd  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
