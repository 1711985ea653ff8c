"""Every rule against an independent calculation on hundreds of random systems."""

from __future__ import annotations

import itertools
import math
import random

import brute_force as brute
import pytest

from sysdesign.conversations.rules import capacity, faults, load, time, wiring
from sysdesign.conversations.rules.estimate import estimate
from sysdesign.graph import Architecture, Component, Edge
from sysdesign.prompts import seed_prompts

GRAPHS = [brute.random_graph(seed) for seed in range(300)]
SMALL = [brute.random_graph(seed, 6) for seed in range(1000, 1200)]


def test_rates_are_the_sum_over_all_paths() -> None:
    for graph in GRAPHS:
        qps = graph.flows[0].peak_qps
        found, slow = load.rates(graph, "c0", qps), brute.rates(graph, "c0", qps)
        assert found is not None and set(found) == set(slow)
        assert all(math.isclose(found[n], slow[n], rel_tol=1e-9, abs_tol=1e-9) for n in slow), graph.title


def test_a_loop_has_no_rates() -> None:
    parts = (Component(id="a", name="A", type="service"), Component(id="b", name="B", type="service"))
    edges = (Edge(src="a", dst="b"), Edge(src="b", dst="a", mode="async"))
    assert load.rates(Architecture(title="loop", domain="t", seed_id="t", components=parts, edges=edges), "a", 5) is None


def test_at_the_largest_load_exactly_the_bottleneck_is_full() -> None:
    checked = 0
    for graph in GRAPHS:
        qps = graph.flows[0].peak_qps
        used = load.utilisations(graph, "c0", qps)
        if not used:
            continue
        most = load.max_load(used, qps)
        again = brute.rates(graph, "c0", most)
        full = {
            n for n in used if math.isclose(again[n], graph.component(n).replicas * (graph.component(n).capacity_qps or 0), rel_tol=1e-9)
        }
        over = [n for n in used if again[n] > graph.component(n).replicas * (graph.component(n).capacity_qps or 0) * (1 + 1e-9)]
        assert full == set(load.bottlenecks(used)) and not over
        checked += 1
    assert checked > 250


def test_textbook_graph_rules_are_wrong_here() -> None:
    """Undirected articulation points are not the single points of failure, and a node cut is not the largest load."""
    import networkx

    points = cuts = 0
    for graph in GRAPHS:
        drawn = networkx.Graph((e.src, e.dst) for e in graph.edges)
        textbook = {n for n in networkx.articulation_points(drawn) if graph.component(n).replicas == 1 and n != "c0"}
        points += textbook != set(faults.single_points(graph, "c0"))
        split = networkx.DiGraph()
        for c in graph.components:
            split.add_edge((c.id, 0), (c.id, 1), **({} if c.type == "client" else {"capacity": c.replicas * (c.capacity_qps or 0)}))
            if all(e.src != c.id for e in graph.edges):
                split.add_edge((c.id, 1), "end")
        for e in graph.edges:
            split.add_edge((e.src, 1), (e.dst, 0))
        used = load.utilisations(graph, "c0", 100.0)
        if used:
            cuts += not math.isclose(networkx.maximum_flow_value(split, ("c0", 0), "end"), load.max_load(used, 100.0), rel_tol=1e-6)
    assert points > 100 and cuts > 200


def test_single_points_and_blast_radius_by_switching_each_component_off() -> None:
    for graph in GRAPHS:
        ids = [c.id for c in graph.components]
        dead = [c.id for c in graph.components if c.replicas == 1 and c.type != "client" and not brute.works(graph, "c0", {c.id})]
        assert list(faults.single_points(graph, "c0")) == dead
        for failed in ids:
            hit = [v for v in ids if v != failed and not brute.works(graph, v, {failed})]
            assert list(faults.blast_radius(graph, failed)) == hit


def test_waypoints_by_deleting_each_component() -> None:
    for graph in GRAPHS[:200]:
        ids = [c.id for c in graph.components]
        for target in ids[1:]:
            found = faults.waypoints(graph, "c0", target)
            if not brute.connected(graph, "c0", target):
                assert found is None
                continue
            needed = {n for n in ids if n not in ("c0", target) and not brute.connected(graph, "c0", target, without=n)}
            assert found is not None and set(found) == needed
            assert all(brute.connected(graph, a, b) for a, b in itertools.pairwise(("c0", *found, target)))  # in path order


def test_availability_by_all_patterns_of_failure() -> None:
    exact = 0
    for graph in SMALL:
        found = faults.request_availability(graph, "c0")
        if found is not None:
            exact += 1
            assert math.isclose(found, brute.availability(graph, "c0"), rel_tol=1e-9), graph.title
    assert exact > 120


def test_availability_by_monte_carlo() -> None:
    graph = next(g for g in SMALL if (v := faults.request_availability(g, "c0")) is not None and v < 0.97)
    rng, up, draws = random.Random(1), 0, 20_000
    parts = [c for c in graph.components if c.type != "client"]
    for _ in range(draws):
        down = {c.id for c in parts if all(rng.random() > (c.availability or 1) for _ in range(c.replicas))}
        up += brute.works(graph, "c0", down)
    value = faults.request_availability(graph, "c0")
    assert value is not None and abs(up / draws - value) < 4 * math.sqrt(value * (1 - value) / draws)


@pytest.mark.parametrize(("replicas", "needed", "each"), [(3, 2, 0.9), (5, 3, 0.99), (1, 1, 0.5), (4, 1, 0.8), (6, 5, 0.95)])
def test_k_of_n_by_enumeration(replicas: int, needed: int, each: float) -> None:
    total = sum(
        math.prod(each if up else 1 - each for up in pattern)
        for pattern in itertools.product((True, False), repeat=replicas)
        if sum(pattern) >= needed
    )
    assert math.isclose(faults.replicated_availability(each, replicas, needed), total)


def test_mean_latency_by_a_running_clock_and_by_paths() -> None:
    timed = 0
    for graph in GRAPHS:
        alternatives = any(e.alt_group for e in graph.edges)
        found = time.mean_ms(graph, "c0")
        if found is None:
            assert alternatives
            continue
        timed += 1
        assert math.isclose(found, brute.clock(graph, "c0"), rel_tol=1e-9, abs_tol=1e-9)
        sequential = sum(
            brute.weight(graph, p) * (graph.component(p[-1].dst if p else "c0").service_ms or 0)
            for p in brute.paths(graph, "c0", lambda e: e.mode == "sync")
        )
        parts = time.contributions(graph, "c0")
        assert math.isclose(time.mean_ms(graph, "c0", parallel=False) or 0, sequential, rel_tol=1e-9, abs_tol=1e-9)
        assert parts is not None and math.isclose(sum(parts.values()), sequential, rel_tol=1e-9, abs_tol=1e-9)
    assert timed > 150


def test_mean_latency_by_monte_carlo_with_random_misses() -> None:
    parts = (
        Component(id="a", name="A", type="service", service_ms=5),
        Component(id="k", name="K", type="cache", service_ms=1, hit_ratio=0.7),
        Component(id="d", name="D", type="sql", service_ms=20),
    )
    edges = (Edge(src="a", dst="k", calls_per_request=2), Edge(src="a", dst="d", calls_per_request=2, via_cache="k"))
    graph = Architecture(title="t", domain="t", seed_id="t", components=parts, edges=edges)
    rng, draws = random.Random(0), 40_000
    mean = sum(5 + sum(1 + (20 if rng.random() > 0.7 else 0) for _ in range(2)) for _ in range(draws)) / draws
    assert time.mean_ms(graph, "a") == pytest.approx(5 + 2 + 12) and abs(mean - 19) < 0.3
    assert load.cached_mean_ms(0.7, 1, 20) == pytest.approx(7)


def test_sum_of_p99s_bounds_even_the_worst_dependence() -> None:
    rng = random.Random(3)
    for n in (2, 3, 5):
        rows = [[rng.expovariate(1) for _ in range(n)] for _ in range(20_000)]
        for i in range(n):  # each part is slow on its own one per cent: the worst case for the sum
            for row in rows[i * 200 : (i + 1) * 200]:
                row[i] += 1000
        p99 = tuple(sorted(row[i] for row in rows)[int(0.99 * len(rows)) - 1] for i in range(n))
        limit, share = time.p99_bound(p99)
        within = sum(sum(row) <= limit for row in rows) / len(rows)
        assert within >= share - 0.002 and within < 0.99  # so p99s do not add up to a p99


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_fan_out_by_enumeration(n: int) -> None:
    slow = sum(math.prod(0.05 if s else 0.95 for s in pattern) for pattern in itertools.product((True, False), repeat=n) if any(pattern))
    assert math.isclose(time.any_slow(0.05, n), slow)


def test_retries_by_counting_attempts() -> None:
    rng = random.Random(5)
    for _ in range(200):
        retries = tuple(rng.randint(0, 3) for _ in range(rng.randint(1, 4)))
        calls = 0

        def attempt(layer: int, retries: tuple[int, ...] = retries) -> None:
            nonlocal calls
            for _ in range(1 + retries[layer]):
                if layer + 1 == len(retries):
                    calls += 1
                else:
                    attempt(layer + 1)

        attempt(0)
        assert faults.retry_amplification(retries) == calls


def test_queues_by_stepping_through_time() -> None:
    rng = random.Random(7)
    for _ in range(200):
        workers, each = rng.randint(1, 5), rng.randint(10, 90)
        arrivals, backlog = rng.randint(1, 300), rng.randint(1000, 9000)
        filled = sum(max(0.0, arrivals * 0.01 - workers * each * 0.01) for _ in range(100))
        assert load.queue_growth(arrivals, workers, each) == pytest.approx(filled, abs=1e-6)
        spent = load.drain_s(backlog, arrivals, workers, each)
        if arrivals >= workers * each:
            assert spent is None
            continue
        left, steps, dt = float(backlog), 0, 0.5
        while left > 0 and steps < 40_000:
            left += (arrivals - workers * each) * dt
            steps += 1
        if steps < 40_000:
            assert spent is not None and abs(spent - steps * dt) <= dt
        need = load.replicas_for(arrivals, each)
        assert need * each >= arrivals and (need == 1 or (need - 1) * each < arrivals)


def test_littles_law_by_simulation() -> None:
    rate, own = 200.0, 35.0
    starts = [i / rate for i in range(4000)]
    moments = [5 + i * 0.01 for i in range(500)]
    inside = sum(sum(s <= t < s + own / 1000 for s in starts) for t in moments) / len(moments)
    assert load.in_flight(rate, own) == pytest.approx(inside, rel=0.02)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_quorums_by_all_subsets(n: int) -> None:
    nodes = range(n)
    for w, r in itertools.product(range(1, n + 1), repeat=2):
        overlap = all(set(a) & set(b) for a in itertools.combinations(nodes, w) for b in itertools.combinations(nodes, r))
        assert faults.reads_see_last_write(n, w, r) == overlap
        survive = [max(k for k in range(n + 1) if n - k >= q) for q in (w, r)]
        assert list(faults.tolerated_failures(n, w, r)) == survive
    majority = max(k for k in range(n) if n - k > n / 2)
    assert faults.raft_tolerance(n) == majority


def test_zone_loss_and_error_budget() -> None:
    for zones, replicas, each in itertools.product((2, 3, 4), (12, 24), (10.0, 50.0)):
        for peak in (100.0, 300.0, 480.0, 900.0):
            left = sum(each for i in range(replicas) if i % zones != 0)
            assert faults.survives_zone_loss(replicas * each, zones, peak) == (left >= peak)
        assert faults.safe_utilisation(zones) == pytest.approx(sum(1 for i in range(replicas) if i % zones) / replicas)
    minutes = sum(1 for m in range(30 * 24 * 60) if m / (30 * 24 * 60) >= 0.999)
    assert faults.error_budget_minutes(0.999) == pytest.approx(minutes, abs=1)


def test_shards_and_moved_keys_by_counting() -> None:
    rng = random.Random(2)
    for _ in range(300):
        data, per, qps, each = rng.randint(10, 9000), rng.randint(50, 900), rng.randint(10, 9000), rng.randint(50, 900)
        n = 1
        while n * per < data or n * each < qps:
            n += 1
        assert capacity.shards(data, per, qps, each) == n
    for n in (3, 4, 9):
        keys = n * (n + 1) * 50
        moved = sum(k % n != k % (n + 1) for k in range(keys)) / keys
        assert capacity.moved_share(n, consistent=False) == pytest.approx(moved, abs=0.02)
        points = sorted((rng.random(), s) for s in range(n + 1) for _ in range(400))
        before = [p for p in points if p[1] < n]

        def owner(ring: list[tuple[float, int]], x: float) -> int:
            return next((s for p, s in ring if p >= x), ring[0][1])

        xs = [rng.random() for _ in range(1500)]
        moved = sum(owner(points, x) != owner(before, x) for x in xs) / len(xs)
        assert capacity.moved_share(n, consistent=True) == pytest.approx(moved, abs=0.05)


def test_min_cut_by_all_bipartitions() -> None:
    rng, checked = random.Random(9), 0
    for graph in GRAPHS:
        pairs = list(dict.fromkeys((e.src, e.dst) for e in graph.edges))
        links = {pair: float(rng.randint(1, 12)) for pair in pairs}
        sink = next(c.id for c in reversed(graph.components) if all(a != c.id for a, _ in pairs))
        if not capacity.reaches(links, "c0", sink):
            continue
        value, cut = capacity.min_cut(links, "c0", sink)
        assert value == brute.min_cut(links, "c0", sink) == sum(links[c] for c in cut)
        assert not capacity.reaches({k: v for k, v in links.items() if k not in cut}, "c0", sink)
        checked += 1
    assert checked > 200


def test_cost_storage_and_bandwidth() -> None:
    for graph in GRAPHS[:100]:
        bill = sum((c.cost_usd or 0) for c in graph.components if c.type not in ("client", "external") for _ in range(c.replicas))
        assert capacity.monthly_cost_usd(graph) == pytest.approx(bill)
    assert capacity.storage_gb(10, 2, 1, 3) == pytest.approx(sum(10 * 2 * 3 for _ in range(86_400)) / 1e6)
    assert capacity.bandwidth_mbit_s(500, 4) == pytest.approx(500 * 4000 * 8 / 1e6)


def test_structure_by_plain_reading() -> None:
    for graph in GRAPHS:
        ids, types = [c.id for c in graph.components], {c.id: c.type for c in graph.components}
        inner = [c.id for c in graph.components if c.zone == "inner"]
        outer = [c.id for c in graph.components if c.zone in ("inner", "outer")]
        assert list(wiring.members(graph, "inner")) == inner and list(wiring.members(graph, "outer")) == outer
        crossing = [e for e in graph.edges if (e.src in outer) != (e.dst in outer)]
        assert list(wiring.crossings(graph, "outer")) == crossing
        ways = [p for p in brute.paths(graph, "c0") if p]
        exposed = {
            p[-1].dst for p in ways if types[p[-1].dst] not in ("client", "cdn", "dns", "external", "gateway", "lb")
            and all(types[e.dst] in ("client", "cdn", "dns", "external") for e in p[:-1])
        }  # fmt: skip
        assert set(wiring.exposed(graph)) == exposed
        for target in ids[1:]:
            to = {tuple(e.dst for e in p) for p in ways if p[-1].dst == target}
            assert wiring.only_path(graph, "c0", target) == (("c0", *next(iter(to))) if len(to) == 1 else None)


def test_estimates_of_every_seed_by_adding_up_a_day() -> None:
    for seed in seed_prompts():
        found, s = estimate(seed.scale), seed.scale
        written = sum(s.write_qps_peak / s.peak_to_average * 3600 for _ in range(24))
        assert found.writes_a_day == pytest.approx(written)
        assert found.stored_gb_a_day == pytest.approx(written * s.object_kb * 1000 / 1e9)
        assert found.stored_gb == pytest.approx(
            sum(found.stored_gb_a_day for _ in range(int(s.retention_days))) * s.replication_factor, rel=1e-2
        )
        assert found.servers >= 2 and found.servers * 600 >= s.read_qps_peak + s.write_qps_peak - 1e-6


def test_caches() -> None:
    rng = random.Random(4)
    for _ in range(200):
        rate, limit = rng.randint(10, 5000), rng.randint(10, 3000)
        ratio = load.needed_hit_ratio(rate, limit)
        assert rate * (1 - ratio) <= limit + 1e-9 and (ratio == 0 or rate * (1 - ratio + 0.01) > limit)
