"""The thirty held-out prompts: counts, possible graphs, and every expected answer computed a second time, by slow and other means."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from sysdesign.graph import Architecture, Edge
from sysdesign.graph_rules import problems
from sysdesign.prompts import HeadlinePrompt, headline_prompts

HEADLINE = {prompt.id[:3]: prompt for prompt in headline_prompts()}
SPLIT = {
    "extraction": 5, "numeric": 5, "relation": 3, "grounding": 2, "false-premise": 2, "critique": 1,
    "design": 8, "estimation": 2, "tradeoff": 2,
}  # fmt: skip
PICTURES = [prompt for prompt in HEADLINE.values() if prompt.graph is not None]


def test_thirty_headline_prompts_eighteen_with_a_picture() -> None:
    assert len(HEADLINE) == 30 and len(PICTURES) == 18
    assert Counter(p.category for p in HEADLINE.values()) == SPLIT
    assert Counter(p.style for p in PICTURES) == {"held_out": 6, "icons": 3, "drawio": 3, "dark": 3, "whiteboard": 3}
    for prompt in HEADLINE.values():
        pictured = list(SPLIT).index(prompt.category) < 6
        assert (prompt.graph is not None) == (prompt.style is not None) == pictured
        assert prompt.check is not None or prompt.rubric is not None


@pytest.mark.parametrize("prompt", PICTURES, ids=lambda p: p.id)
def test_a_headline_picture_is_possible_and_its_own(prompt: HeadlinePrompt) -> None:
    graph = prompt.graph
    assert graph is not None and prompt.check is not None
    assert problems(graph) == []
    assert 6 <= len(graph.components) <= 16
    assert graph.seed_id == prompt.id and graph.domain == prompt.domain
    connected = {end for edge in graph.edges for end in (edge.src, edge.dst)}
    assert connected == {c.id for c in graph.components}
    for field in prompt.show:
        kind, name = field.split(".")
        records = {"component": graph.components, "edge": graph.edges, "flow": graph.flows}[kind]
        assert any(getattr(record, name) is not None for record in records), field


def test_headline_graphs_are_wired_differently() -> None:
    graphs = [p.graph for p in PICTURES if p.graph]
    assert len({g.topology() for g in graphs}) == len({g.sha256() for g in graphs}) == 18


def _names(graph: Architecture) -> dict[str, str]:
    return {c.id: c.name for c in graph.components}


@pytest.mark.parametrize("key", ["h01", "h02", "h03", "h04"])
def test_expected_graphs_are_the_graphs(key: str) -> None:
    prompt = HEADLINE[key]
    assert prompt.graph and prompt.check
    names, zones = _names(prompt.graph), {z.id: z.name for z in prompt.graph.zones}
    assert [c["name"] for c in prompt.check.expected["components"]] == list(names.values())
    assert [(e["src"], e["dst"]) for e in prompt.check.expected["edges"]] == [(names[e.src], names[e.dst]) for e in prompt.graph.edges]
    for said, component in zip(prompt.check.expected["components"], prompt.graph.components, strict=True):
        assert said.get("type", component.type) == component.type
        assert said.get("zone") == (zones[component.zone] if component.zone else None)
    for said, edge in zip(prompt.check.expected["edges"], prompt.graph.edges, strict=True):
        assert said.get("label", edge.protocol) == edge.protocol
    assert ("type" in prompt.check.expected["components"][0]) == (key == "h01")


def test_expected_asynchronous_arrows() -> None:
    graph, check = HEADLINE["h05"].graph, HEADLINE["h05"].check
    assert graph and check
    names = _names(graph)
    assert check.expected == [[names[e.src], names[e.dst]] for e in graph.edges if e.mode == "async"]


def _rates(graph: Architecture) -> dict[str, float]:
    """Requests a second at peak, by walking every path from the entry: slow, and unlike the product's own propagation."""
    flow = graph.flows[0]
    found: dict[str, float] = dict.fromkeys((c.id for c in graph.components), 0.0)

    def walk(at: str, rate: float) -> None:
        found[at] += rate
        for edge in graph.edges:
            if edge.src == at:
                miss = 1 - (graph.component(edge.via_cache).hit_ratio or 0) if edge.via_cache else 1
                walk(edge.dst, rate * edge.calls_per_request * miss)

    walk(flow.entry, flow.peak_qps)
    return found


def _used(graph: Architecture) -> dict[str, float]:
    rates = _rates(graph)
    return {c.name: rates[c.id] / (c.replicas * c.capacity_qps) for c in graph.components if c.capacity_qps}


def _answers(graph: Architecture, down: str, at: str) -> bool:
    """Whether a request to `at` is answered while `down` is dead: all hard calls, and one of each alternative."""
    if at == down:
        return False
    calls = [e for e in graph.edges if e.src == at and e.mode == "sync" and e.dependency == "hard"]
    groups: dict[str, list[Edge]] = {}
    for index, edge in enumerate(calls):
        groups.setdefault(edge.alt_group or f"#{index}", []).append(edge)
    return all(any(_answers(graph, down, e.dst) for e in group) for group in groups.values())


def _single_points(graph: Architecture) -> list[str]:
    entry = graph.components[0].id
    return [c.name for c in graph.components if c.replicas == 1 and c.type != "client" and not _answers(graph, c.id, entry)]


def test_expected_bottleneck_and_largest_load() -> None:
    graph, check = HEADLINE["h06"].graph, HEADLINE["h06"].check
    assert graph and check
    used = _used(graph)
    facts = {fact.name: fact.value for fact in HEADLINE["h06"].facts}
    assert max(used, key=used.__getitem__) == facts["bottleneck"] == "Plate Model"
    assert used["Permit DB"] == pytest.approx(facts["utilisation of Permit DB at peak"])
    assert _rates(graph)["plates"] == pytest.approx(facts["load of Plate Model at peak"])
    assert check.expected == pytest.approx(graph.flows[0].peak_qps / max(used.values()))


def test_expected_latency() -> None:
    graph, check = HEADLINE["h07"].graph, HEADLINE["h07"].check
    assert graph and check

    def wait(at: str) -> float:
        calls = [e for e in graph.edges if e.src == at and e.mode == "sync"]
        together = {e.parallel_group for e in calls if e.parallel_group}
        one_by_one = sum(e.calls_per_request * wait(e.dst) for e in calls if not e.parallel_group)
        side_by_side = sum(max(e.calls_per_request * wait(e.dst) for e in calls if e.parallel_group == group) for group in together)
        return (graph.component(at).service_ms or 0) + one_by_one + side_by_side

    assert check.expected == wait("phone") == 86


def test_expected_downtime() -> None:
    graph, check = HEADLINE["h08"].graph, HEADLINE["h08"].check
    assert graph and check
    up = 1.0
    for c in graph.components:
        if c.availability is not None and not _answers(graph, c.id, "astronomer"):
            up *= 1 - (1 - c.availability) ** c.replicas
    assert check.expected == pytest.approx((1 - up) * 30 * 24 * 60, abs=0.05)
    assert check.tolerance is not None and check.expected * (1 + check.tolerance) < (1 - up * 0.95) * 43_200  # the soft cache may not count


def test_expected_database_rate_and_cost() -> None:
    recipes, bureau = HEADLINE["h09"], HEADLINE["h10"]
    assert recipes.graph and recipes.check and bureau.graph and bureau.check
    assert recipes.check.expected == pytest.approx(_rates(recipes.graph)["recipe-db"])
    inside = [c for c in bureau.graph.components if c.zone in ("core", "gpus")]
    assert bureau.check.expected == sum(c.replicas * (c.cost_usd or 0) for c in inside)


def test_expected_single_points_waypoints_and_waiters() -> None:
    kiosk, plate, shelter = HEADLINE["h11"], HEADLINE["h12"], HEADLINE["h13"]
    assert kiosk.graph and kiosk.check and plate.graph and plate.check and shelter.graph and shelter.check
    assert kiosk.check.expected == _single_points(kiosk.graph)

    def reaches(graph: Architecture, without: str) -> bool:
        seen, todo = {"jarn"}, ["jarn"]
        while todo:
            at = todo.pop()
            for edge in graph.edges:
                if edge.src == at and edge.dst != without and edge.dst not in seen:
                    seen.add(edge.dst)
                    todo.append(edge.dst)
        return "pell" in seen

    between = [c for c in plate.graph.components if c.id not in ("jarn", "pell")]
    assert plate.check.expected == [c.name for c in between if not reaches(plate.graph, c.id)]
    others = [c for c in shelter.graph.components if c.id != "scorer"]
    assert shelter.check.expected == [c.name for c in others if not _answers(shelter.graph, "scorer", c.id)]


def test_expected_boxes_are_drawn_and_absent_things_are_absent() -> None:
    for key in ("h14", "h15"):
        prompt = HEADLINE[key]
        assert prompt.graph and prompt.check
        drawn = {*_names(prompt.graph).values(), *(z.name for z in prompt.graph.zones)}
        assert set(prompt.check.expected) <= drawn and set(prompt.check.expected.values()) == {None}
        assert all(name in prompt.prompt for name in prompt.check.expected)
    for key in ("h16", "h17"):
        prompt = HEADLINE[key]
        assert prompt.graph and prompt.check
        assert prompt.check.expected in prompt.prompt
        assert prompt.check.expected.casefold() not in prompt.graph.canonical_json().casefold()
        assert all(c.type != "cache" for c in prompt.graph.components)


def test_expected_critique() -> None:
    prompt = HEADLINE["h18"]
    assert prompt.graph and prompt.check and prompt.rubric
    used, single = _used(prompt.graph), _single_points(prompt.graph)
    assert prompt.check.expected == [name for name, share in used.items() if share > 0.7 and name in single]
    assert [number.value for number in prompt.rubric.required_numbers] == pytest.approx(
        [100 * used[n] for n in prompt.check.expected], abs=0.1
    )
    assert used["Label Queue"] > 0.7 and used["Label Worker"] > 0.7  # the trap


def test_estimates_are_right() -> None:
    clips, chess = HEADLINE["h27"], HEADLINE["h28"]
    assert clips.check and chess.check
    clip_mb = 18 * 1.6 / 8
    assert clips.check.expected == pytest.approx(750_000 * 22 * clip_mb * 14 / 1e6)
    moves = 340_000 / 6
    assert chess.check.expected == math.ceil(moves * 5 / (40_000 * 0.6))
    wanted = {(key, number.name): number.value for key, p in HEADLINE.items() if p.rubric for number in p.rubric.required_numbers}
    computed = {
        ("h19", "photos in at peak"): 400 * 2.5,
        ("h19", "photos a day"): 100 * 86_400 * 2.5 / 1e6,
        ("h20", "taps in the busiest quarter hour"): 4e6 * 0.06 / 900,
        ("h20", "taps in the busiest quarter hour in all"): 4e6 * 0.06,
        ("h21", "views that reach the origin"): 30_000 * 0.06,
        ("h21", "new versions a day"): 12 * 86_400 * 30 / 1e6,
        ("h22", "check-ins of all devices"): 6e6 * 3 / 900,
        ("h22", "all vaults"): 6e6 * 200 / 1e9,
        ("h23", "answers in the window"): 8e6 / 10,
        ("h24", "pulls at a rollout"): 90_000 / 3600,
        ("h24", "bytes out at a rollout"): 90_000 / 3600 * 400 * 0.2,
        ("h25", "slips of a draw"): 18e6 * 0.4 / 1e6,
        ("h26", "samples in"): 1200 * 3 * 100 * 4 / 1e6,
        ("h27", "clip"): clip_mb,
        ("h27", "mean upload"): 750_000 * 22 * clip_mb * 8 / 86_400 / 1e3,
        ("h27", "disk"): 750_000 * 22 * clip_mb * 14 / 1e6,
        ("h28", "moves"): moves,
        ("h28", "outgoing messages"): moves * 5,
        ("h28", "stored a day"): moves * 86_400 * 12 / 1e9,
        ("h29", "restaurant hours offline in a month"): 220 * 2,
        ("h30", "three copies"): 40 * 3,
        ("h30", "erasure coding"): 40 * 14 / 10,
        ("h30", "tape in two towns"): 40 * 2,
        ("h30", "read in a year"): 40 * 0.01,
    }
    assert set(computed) == {key for key in wanted if key[0] != "h18"}
    for key, value in computed.items():
        assert wanted[key] == pytest.approx(value, rel=0.01), key
