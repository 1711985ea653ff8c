"""From settings to jobs: which graph, style, damage and facts each picture gets, in exact shares, before anything is drawn."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sysdesign.config.diagrams import DiagramsConfig
from sysdesign.diagrams import facts
from sysdesign.diagrams.draw import Job
from sysdesign.diagrams.generate import generate
from sysdesign.diagrams.styles import HELD_OUT, TRAINED
from sysdesign.graph import Architecture
from sysdesign.prompts import HeadlinePrompt, SeedPrompt

DAMAGES = ("jpeg", "blur", "perspective", "low_contrast")
T = TypeVar("T")
REDRAWS = 12  # attempts at a topology not seen before; a small vocabulary of sizes may run out of new ones


def plan(cfg: DiagramsConfig, prompts: Sequence[SeedPrompt], seed: int) -> list[Job]:
    """All pictures of the training set, in order. Pure: the same settings and seed give the same jobs."""
    rng = random.Random(f"{seed}/plan")
    held_out = _share(cfg.count, {True: cfg.held_out_share, False: 1 - cfg.held_out_share}, rng)
    trained = iter(_share(held_out.count(False), {name: getattr(cfg.styles, name) for name in TRAINED}, rng))
    styles = [HELD_OUT if out else next(trained) for out in held_out]
    # the held-out style stays clean: damage and an unknown look would be two questions in one
    damaged = iter(_share(held_out.count(False), {True: cfg.degraded_share, False: 1 - cfg.degraded_share}, rng))
    kinds = [False if out else next(damaged) for out in held_out]
    seen: set[str] = set()
    jobs = []
    for index, (style, damage) in enumerate(zip(styles, kinds, strict=True)):
        graph, topology = fresh(cfg, prompts, seed, index, 0, seen)
        jobs.append(job(cfg, graph, topology, seed, index, style, rng.choice(DAMAGES) if damage else None))
    return jobs


def fresh(
    cfg: DiagramsConfig, prompts: Sequence[SeedPrompt], seed: int, index: int, attempt: int, seen: set[str]
) -> tuple[Architecture, str]:
    """Graph `index`, from `attempt` on the first whose topology is new, and that topology; `seen` gains it."""
    for more in range(REDRAWS):
        graph = generate(cfg, prompts, seed, index, attempt + more)
        signature = graph.topology()
        if signature not in seen:
            break
    seen.add(signature)
    return graph, signature


def job(cfg: DiagramsConfig, graph: Architecture, topology: str, seed: int, index: int, style: str, degraded: str | None) -> Job:
    """The picture of one generated graph."""
    bundles = facts.choose(graph, cfg.fact_density, random.Random(f"{seed}/{index}/facts"))
    return Job(
        id=f"d{index:05d}",
        folder="images",
        graph=graph,
        topology=topology,
        style=style,
        degraded=degraded,
        bundles=tuple(bundles),
        seed=f"{seed}/{index}",
        **_limits(cfg),
    )


def headline_jobs(layout: str, prompts: Sequence[HeadlinePrompt]) -> list[Job]:
    """The pictures of the evaluation prompts: every fact their questions need, the same bytes whatever the settings and the seed."""
    return [
        Job(
            id=p.id, folder="headline", graph=p.graph, topology=p.graph.topology(), bundles=(p.show,), must_show=True,
            seed=f"headline/{p.id}",
            style=HELD_OUT if p.style == "held_out" else p.style or "drawio",
            **_limits(DiagramsConfig().model_copy(update={"layout": layout})),
        )
        for p in prompts
        if p.graph is not None
    ]  # fmt: skip


def _limits(cfg: DiagramsConfig) -> dict[str, Any]:
    return {"layout": cfg.layout, "max_pixels": cfg.max_pixels, "max_aspect": cfg.max_aspect, "min_font_px": cfg.min_font_px}


def _share(count: int, weights: Mapping[T, float], rng: random.Random) -> list[T]:
    """`count` choices in proportion to their weights, to the nearest one (largest remainder), shuffled."""
    total = sum(weights.values())
    exact = {key: count * weight / total for key, weight in weights.items()}
    given = {key: int(value) for key, value in exact.items()}
    for key in sorted(exact, key=lambda k: given[k] - exact[k])[: count - sum(given.values())]:
        given[key] += 1
    out = [key for key, number in given.items() for _ in range(number)]
    rng.shuffle(out)
    return out
