"""Text-only questions with one number as the answer: rates, volumes and bandwidth from the scale that the question states."""

from __future__ import annotations

from sysdesign.conversations.asked import Asked, Facts
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules.estimate import HOT_SHARE, SECONDS_A_DAY, SERVER_CEILING, SERVER_QPS, Estimate, estimate
from sysdesign.prompts import SeedPrompt
from sysdesign.records import Check


def scale_sentence(seed: SeedPrompt, figures: Estimate, pen: Pen, factor: float) -> str:
    """The numbers a question has to state."""
    s = seed.scale
    actors = s.daily_active_users * factor
    return pen.say(
        (
            f"{pen.n(actors)} daily {pen.name(s.actor)}, peaks of {pen.n(figures.read_peak)} reads/s and "
            f"{pen.n(figures.write_peak)} writes/s "
            f"({pen.n(s.peak_to_average)} times the average), {pen.n(s.object_kb)} kB per {pen.name(s.object)}, "
            f"kept {pen.n(s.retention_days)} days in {s.replication_factor} copies",
            f"[peak|at peak] {pen.n(figures.read_peak)} reads and {pen.n(figures.write_peak)} writes per second, peak to average "
            f"{pen.n(s.peak_to_average)}, {pen.n(actors)} {pen.name(s.actor)} a day; a {pen.name(s.object)} is {pen.n(s.object_kb)} kB, "
            f"retention {pen.n(s.retention_days)} days, replication {s.replication_factor}",
        )
    )


def volume(pen: Pen, gb: float, facts: Facts, name: str) -> str:
    """`3.9 TB` or `64.8 GB` or `12 MB`, whichever reads best; the printed figure becomes a fact."""
    value, unit = (gb / 1000, "TB") if gb >= 1000 else (gb, "GB") if gb >= 1 else (gb * 1000, "MB")
    facts.add(name, value, unit)
    return f"{pen.n(value)} {unit}"


def estimate_number(seed: SeedPrompt, pen: Pen, factor: float) -> Asked:
    """One figure of the scale with its arithmetic."""
    figures, facts, s = estimate(seed.scale, factor), Facts("arithmetic on the stated scale"), seed.scale
    for name, value in (
        ("reads at peak", figures.read_peak), ("writes at peak", figures.write_peak), ("peak to average", s.peak_to_average),
        ("object size", s.object_kb), ("retention", s.retention_days), ("copies", s.replication_factor), ("seconds a day", SECONDS_A_DAY),
        ("bits a byte", 8), ("daily actors", s.daily_active_users * factor), ("average writes", figures.write_average),
        ("average reads", figures.read_average),
    ):  # fmt: skip
        facts.add(name, value)
    n, title, about = pen.n, pen.name(seed.title), scale_sentence(seed, figures, pen, factor)
    average = (f"[Average writes|Mean write rate]: {n(figures.write_peak)} / {n(s.peak_to_average)} = {n(figures.write_average)}/s.",)
    kind = pen.rng.choice(("daily_writes", "storage", "daily_storage", "read_bandwidth", "per_actor", "servers", "hot_set"))
    steps: tuple[tuple[str, ...], ...]
    if kind == "daily_writes":
        value, unit, what = figures.writes_a_day, "", "writes per day"
        steps = (average, (f"x {n(SECONDS_A_DAY)} s = {n(value)} [a day|per day].",))
    elif kind == "daily_storage":
        value, unit, what = figures.stored_gb_a_day, "GB", "gigabytes of new data per day, one copy"
        facts.add("writes a day", figures.writes_a_day)
        steps = (average, (f"[That is|A day brings] {n(figures.writes_a_day)} objects of {n(s.object_kb)} kB, {n(value)} GB.",))
    elif kind == "storage":
        value, unit, what = figures.stored_gb, "GB", "gigabytes stored at the end of the retention, all copies"
        facts.add("new data a day", figures.stored_gb_a_day, "GB")
        steps = (
            average,
            (
                f"[New data|Growth]: {n(figures.write_average)} x {n(SECONDS_A_DAY)} x {n(s.object_kb)} kB = "
                f"{n(figures.stored_gb_a_day)} GB a day.",
            ),
            (f"x {n(s.retention_days)} days x {s.replication_factor} copies = {n(value)} GB.",),
        )
    elif kind == "read_bandwidth":
        value, unit, what = figures.read_mbit_s, "Mbit/s", "megabits per second of read traffic at peak"
        facts.add("kilobytes per second", figures.read_peak * s.object_kb)
        steps = (
            (f"{n(figures.read_peak)} x {n(s.object_kb)} kB = {n(figures.read_peak * s.object_kb)} kB/s.",),
            (f"x 8 = {n(value)} Mbit/s.",),
        )
    elif kind == "per_actor":
        value, unit, what = figures.per_actor_a_day, "", f"requests per day from one of the {pen.name(s.actor)}, on average"
        facts.add("average rate", figures.read_average + figures.write_average)
        facts.add("requests a day", figures.reads_a_day + figures.writes_a_day)
        steps = (
            (
                f"[Average rate|Mean load]: ({n(figures.read_peak)} + {n(figures.write_peak)}) / {n(s.peak_to_average)} = "
                f"{n(figures.read_average + figures.write_average)}/s.",
            ),
            (
                f"[Per day|A day has] {n(figures.reads_a_day + figures.writes_a_day)} requests, over "
                f"{n(s.daily_active_users * factor)} {pen.name(s.actor)}: {n(value)} each.",
            ),
        )
    elif kind == "servers":
        value, unit = float(figures.servers), ""
        what = f"application servers at peak, if one bears {n(SERVER_QPS)} requests/s and is planned for {pen.percent(SERVER_CEILING)}"
        facts.add("load per server", SERVER_QPS)
        facts.add("planned utilisation", SERVER_CEILING)
        facts.add("usable load per server", SERVER_QPS * SERVER_CEILING)
        facts.add("requests at peak", figures.read_peak + figures.write_peak)
        steps = (
            (f"[Peak|In all]: {n(figures.read_peak)} + {n(figures.write_peak)} = {n(figures.read_peak + figures.write_peak)} requests/s.",),
            (f"[One server carries|Usable per server]: {n(SERVER_QPS)} x {n(SERVER_CEILING)} = {n(SERVER_QPS * SERVER_CEILING)}.",),
            (f"[Rounded up|Division, rounded up, never fewer than two]: {n(value)}.",),
        )
    else:
        value, unit, what = figures.hot_gb, "GB", f"gigabytes of cache to hold {pen.percent(HOT_SHARE)} of one day's new data"
        facts.add("hot share", HOT_SHARE)
        facts.add("new data a day", figures.stored_gb_a_day, "GB")
        steps = (
            average,
            (f"[New data|Growth]: {n(figures.stored_gb_a_day)} GB a day.",),
            (f"{n(figures.stored_gb_a_day)} x {n(HOT_SHARE)} = {n(value)} GB.",),
        )
    facts.add(what, value, unit or None)
    return Asked(
        family="estimate_number",
        ask=(
            f"[{title}|System: {title}]: {about}. How many {what}?",
            f"[Estimate|Work out] for '{title}': {about}. [What I need|Wanted]: {what}.",
            f"[A capacity question|Back of the envelope|Sizing] for '{title}' ({about}): how many {what}?",
        ),
        facts=facts.all(),
        check=Check(kind="number", expected=value, unit=unit or None, tolerance=0.02),
        lead=(f"[About|Roughly|Some] {n(value, unit)}.", f"[It comes to|The estimate is|That makes] {n(value, unit)}."),
        short=(f"{n(value, unit)}",),
        steps=steps,
        trap=(
            "[Store and bill by the average, size by the peak|Volumes follow the average, machines the peak].",
            "[Copies and indexes|Replication and indexes] [multiply|come on top of] the raw volume.",
        ),
    )
