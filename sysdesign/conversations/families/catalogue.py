"""Every question family by name, in the order of the documentation; a family is a function of a view and a pen."""

from __future__ import annotations

from collections.abc import Callable

from sysdesign.conversations.asked import Asked
from sysdesign.conversations.families import (
    boundaries,
    buffers,
    doubts,
    faults,
    inventory,
    load,
    money,
    pictures,
    redundancy,
    retries,
    sizing,
    structure,
    time,
)  # fmt: skip
from sysdesign.conversations.pen import Pen
from sysdesign.conversations.view import View

Family = Callable[[View, Pen], Asked | None]

FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        inventory.inventory_count, inventory.inventory_kind, inventory.attribute_read, inventory.extract_graph,
        structure.arrow_query, structure.arrow_mode, structure.neighbours, structure.request_path,
        boundaries.zone_members, boundaries.zone_crossings, boundaries.public_exposure,
        pictures.locate, pictures.what_is_at,
        load.component_rate, load.bottleneck, load.max_load, load.replicas_needed,
        buffers.cache_load, buffers.cache_outage, buffers.needed_hit_ratio, buffers.queue_backlog, buffers.in_flight,
        time.mean_latency, time.latency_budget, time.slowest_part,
        retries.tail_sum, retries.fan_out_tail, retries.retry_storm, retries.timeout_order,
        faults.single_points, faults.waypoints, faults.blast_radius, faults.async_isolation, faults.reachable,
        redundancy.availability, redundancy.error_budget, redundancy.zone_failover, redundancy.quorum, redundancy.replica_loss,
        redundancy.consensus_size,
        sizing.shard_count, sizing.resharding, sizing.hot_key, sizing.storage_estimate, sizing.bandwidth_estimate,
        money.monthly_cost, money.cheapest_fix, money.pipeline_flow,
        doubts.false_premise, doubts.not_drawn, doubts.runbook_diff, doubts.change_effect,
    )
}  # fmt: skip

# Families whose answer follows from the load, so that "now double the load" is a fair next question.
LOAD_FAMILIES = (
    "component_rate",
    "bottleneck",
    "replicas_needed",
    "cache_load",
    "cache_outage",
    "in_flight",
    "zone_failover",
    "bandwidth_estimate",
)
