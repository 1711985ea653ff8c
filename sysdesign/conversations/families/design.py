"""Text-only design answers, composed from a seed prompt: scope, figures, API, data, parts, hard problems, failures, trade-offs.

The content of each section is the seed's; the figures are computed; the grammar varies headings, order and joints. A section never
states a number that is not in the seed or in the estimate.
"""

from __future__ import annotations

from collections.abc import Callable

from sysdesign.conversations.asked import Facts
from sysdesign.conversations.families.estimates import scale_sentence, volume
from sysdesign.conversations.families.words import KINDS
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.rules.estimate import HOT_SHARE, SECONDS_A_DAY, SERVER_CEILING, SERVER_QPS, estimate
from sysdesign.prompts import SeedPrompt

SYNC_KINDS = {"client", "cdn", "dns", "lb", "gateway", "service", "cache", "sql", "nosql", "search", "auth", "model", "function", "object"}


def first(text: str) -> str:
    """The text without its final full stop, for use inside a sentence."""
    return text.rstrip().rstrip(".")


def scope(seed: SeedPrompt, pen: Pen) -> str:
    """What is built, how good it must be, what is left out."""
    needs = seed.requirements
    mark = pen.rng.choice(("- ", "* "))
    lines = [pen.say("[It must|Functional|The system has to|What it does]:")]
    lines += [mark + f for f in needs.functional]
    lines += [pen.say("[How well|Non-functional|Quality targets|Measurable goals]:"), *(mark + f for f in needs.non_functional)]
    lines.append(pen.say("[Left out|Out of scope|Not now]: ") + "; ".join(needs.out_of_scope) + ".")
    return "\n".join(lines)


def figures(seed: SeedPrompt, pen: Pen, facts: Facts) -> str:
    """The estimate line by line, each with its arithmetic, and what it decides."""
    f, s, n = estimate(seed.scale), seed.scale, pen.n
    for name, value in (
        ("read peak", f.read_peak), ("write peak", f.write_peak), ("peak to average", s.peak_to_average), ("average reads", f.read_average),
        ("average writes", f.write_average), ("object size", s.object_kb), ("retention", s.retention_days),
        ("copies", s.replication_factor),
        ("seconds a day", SECONDS_A_DAY), ("reads per write", f.read_write_ratio), ("servers", f.servers), ("load per server", SERVER_QPS),
        ("planned utilisation", SERVER_CEILING), ("hot share", HOT_SHARE), ("read bandwidth", f.read_mbit_s),
        ("requests at peak", f.read_peak + f.write_peak),
        ("bits a byte", 8),
    ):  # fmt: skip
        facts.add(name, value)
    day, total = volume(pen, f.stored_gb_a_day, facts, "new data a day"), volume(pen, f.stored_gb, facts, "stored data")
    hot = volume(pen, f.hot_gb, facts, "hot set")
    lines = [
        pen.say(
            f"[Average load|Mean load]: {n(f.read_peak)} / {n(s.peak_to_average)} = {n(f.read_average)} reads/s and "
            f"{n(f.write_peak)} / {n(s.peak_to_average)} = {n(f.write_average)} writes/s."
        ),
        pen.say(f"[New data|Growth]: {n(f.write_average)} x {n(SECONDS_A_DAY)} s x {n(s.object_kb)} kB = {day} a day[ before copies|]."),
        pen.say(f"[Kept|Stored for] {n(s.retention_days)} days in {s.replication_factor} copies: {total}."),
        pen.say(f"[Read traffic|Outbound] at peak: {n(f.read_peak)} x {n(s.object_kb)} kB x 8 = {n(f.read_mbit_s)} Mbit/s."),
        pen.say(f"[Hot set|Cache]: {pen.percent(HOT_SHARE)} of a day is {hot}."),
        pen.say(
            f"[Servers|Application servers]: {n(f.read_peak + f.write_peak)} requests/s at {n(SERVER_QPS)} each and "
            f"{pen.percent(SERVER_CEILING)} utilisation need {f.servers}."
        ),
    ]
    if f.read_write_ratio >= 5:
        lines.append(
            pen.say(
                f"[Reads outnumber writes|Read to write is] {n(f.read_write_ratio)} to 1, so [reads get caches and "
                "replicas|the read path is what scales]."
            )
        )
    elif f.read_write_ratio <= 1:
        lines.append(
            pen.say(
                f"[There are|It has] {n(f.read_write_ratio)} reads per write, so [the write path decides|ingest, not "
                "serving, is the hard part]."
            )
        )
    mark = pen.rng.choice(("- ", "* ", ""))
    return "\n".join(mark + line for line in lines)


def api(seed: SeedPrompt, pen: Pen) -> str:
    """Endpoints and events."""
    if pen.rng.random() < 0.5:
        rows = ["| call | what it does |", "| --- | --- |", *(f"| {a.method} {a.path} | {a.purpose} |" for a in seed.apis)]
        return "\n".join(rows)
    mark = pen.rng.choice(("- ", "* "))
    return "\n".join(f"{mark}`{a.method} {a.path}`: {a.purpose}" for a in seed.apis)


def data_model(seed: SeedPrompt, pen: Pen) -> str:
    """Entities with keys and fields, and the stores that keep them."""
    mark = pen.rng.choice(("- ", "* "))
    lines = [f"{mark}{e.name} ({pen.say('[key|found by|keyed by]')} {e.key}): {', '.join(e.fields)}" for e in seed.entities]
    stores = [p for p in seed.components if p.type in ("sql", "nosql", "object", "search", "warehouse", "cache")]
    if stores:
        lines.append(pen.say("[Stores|Where it lives|Kept in]: ") + "; ".join(f"{p.technology} for {first(p.role)}" for p in stores) + ".")
    return "\n".join(lines)


def parts(seed: SeedPrompt, pen: Pen) -> str:
    """The components in request order and which side of the asynchronous boundary they are on."""
    waiting = [p for p in seed.components if p.type in SYNC_KINDS]
    later = [p for p in seed.components if p.type not in SYNC_KINDS]
    style = pen.rng.choice(("list", "flow", "mermaid"))
    if style == "list":
        lines = [f"{i}. {p.technology} ({KINDS[p.type][0]}): {first(p.role)}" for i, p in enumerate(seed.components, 1)]
    elif style == "flow":
        lines = [" -> ".join(p.technology for p in seed.components), *(f"- {p.technology} {first(p.role)}" for p in seed.components)]
    else:
        nodes = [f'  n{i}["{p.technology}"]' for i, p in enumerate(seed.components)]
        arrows = [f"  n{i} {'-->' if b.type in SYNC_KINDS else '-.->'} n{i + 1}" for i, b in enumerate(seed.components[1:])]
        lines = ["```mermaid", "flowchart LR", *nodes, *arrows, "```", *(f"- {p.technology}: {first(p.role)}" for p in seed.components)]
    if later:
        lines.append(
            pen.say("[The caller waits for|Synchronous are|On the request path]: ") + ", ".join(p.technology for p in waiting) + "; "
            + pen.say("[asynchronous|behind the answer|later]: ") + ", ".join(p.technology for p in later) + "."
        )  # fmt: skip
    return "\n".join(lines)


def deep_dives(seed: SeedPrompt, pen: Pen, only: int | None = None) -> str:
    """The hard problems: why the naive way fails, what solves it, where that ends."""
    chosen = [seed.deep_dives[only % len(seed.deep_dives)]] if only is not None else list(seed.deep_dives)
    blocks = []
    for dive in chosen:
        shape = pen.rng.choice(("plain", "labelled", "limit_first"))
        if shape == "plain":
            text = f"{dive.problem} {dive.mechanism} {pen.say('[Its limit|Where it ends|What remains]: ')}{dive.limit}"
        elif shape == "labelled":
            text = (
                pen.say("[Problem|Naively|What goes wrong]: ") + dive.problem + "\n"
                + pen.say("[Mechanism|Instead|What works]: ") + dive.mechanism + "\n"
                + pen.say("[Limit|Until|Where it stops]: ") + dive.limit
            )  # fmt: skip
        else:
            text = f"{dive.mechanism} {pen.say('[Without it|The reason|This answers the problem]: ')}{dive.problem} {dive.limit}"
        blocks.append((f"{dive.topic}\n" if only is None else "") + text)
    return "\n\n".join(blocks)


def failures(seed: SeedPrompt, pen: Pen) -> str:
    """What breaks, how it is seen, what is done."""
    if pen.rng.random() < 0.5:
        rows = ["| failure | seen by | answer |", "| --- | --- | --- |"]
        return "\n".join([*rows, *(f"| {f.mode} | {f.detection} | {f.mitigation} |" for f in seed.failures)])
    said = pen.say("[detected by|seen as|visible as]"), pen.say("[answer|mitigation|then]")
    return "\n".join(f"- {f.mode}: {said[0]} {first(f.detection)}; {said[1]}: {first(f.mitigation)}." for f in seed.failures)


def tradeoffs(seed: SeedPrompt, pen: Pen) -> str:
    """What was chosen over what, and what would change the choice."""
    over, unless = pen.say("[over|rather than|instead of]"), pen.say("[Switch when|The alternative wins when|I would change my mind when]")
    return "\n".join(
        f"- {t.choice[0].upper()}{first(t.choice)[1:]} {over} {first(t.alternative)}. {unless} {first(t.when)}." for t in seed.tradeoffs
    )


# What a reader may ask to concentrate on: the sections that answer it, and how it is asked.
FOCUS = (
    (("scope", "figures", "data", "dives"), "[Concentrate on|I care most about] data and scale[, skip the API|]."),
    (("figures", "parts", "failures", "tradeoffs"), "[Keep to|Concentrate on] the architecture and what breaks[; no API please|]."),
    (("scope", "api", "parts", "dives"), "[Stay with|Concentrate on] the interface and the hard parts."),
    (("figures", "dives", "tradeoffs"), "[Be brief|Short version]: numbers, hard parts, alternatives."),
)


def full_design(seed: SeedPrompt, pen: Pen, facts: Facts, focus: tuple[str, ...] | None = None) -> str:
    """Sections under headings, in the order of a good interview answer; `focus` keeps only those named."""
    headings = pen.rng.choice(("## {}", "**{}**", "{}:"))
    sections: list[tuple[str, str, Callable[[], str]]] = [
        ("scope", "[Scope|Requirements|What we build]", lambda: scope(seed, pen)),
        ("figures", "[Estimates|Numbers|Back of the envelope]", lambda: figures(seed, pen, facts)),
        ("api", "[API|Contracts|Interface]", lambda: api(seed, pen)),
        ("data", "[Data|Data model|Data and storage]", lambda: data_model(seed, pen)),
        ("parts", "[Design|High-level design|Components and flow]", lambda: parts(seed, pen)),
        ("dives", "[Deep dives|The hard parts|Where it gets hard]", lambda: deep_dives(seed, pen)),
        ("failures", "[Failures|Failure modes|What breaks]", lambda: failures(seed, pen)),
        ("tradeoffs", "[Trade-offs|Alternatives|Decisions]", lambda: tradeoffs(seed, pen)),
    ]
    if pen.rng.random() < 0.3:
        sections[2], sections[3] = sections[3], sections[2]
    if pen.rng.random() < 0.25:
        sections[6], sections[7] = sections[7], sections[6]
    return "\n\n".join(f"{headings.format(pen.say(title))}\n{write()}" for key, title, write in sections if focus is None or key in focus)


def asked_scale(seed: SeedPrompt, pen: Pen) -> str:
    """The opening question of a design: the seed's own words, or a terse order with the scale."""
    if pen.rng.random() < 0.6:
        return pen.say(("", "[Design this|Design the system|How would you build it]. ")) + seed.prompt.strip()
    about = scale_sentence(seed, estimate(seed.scale), pen, 1.0)
    return pen.say((
        f"Design '{pen.name(seed.title)}' for {about}.",
        f"[How would you build|Sketch a design of|Give me a system design for] '{pen.name(seed.title)}'? [Scale|Load]: {about}.",
    ))  # fmt: skip
