"""Back-of-the-envelope figures of a seed prompt's scale: each is one line of arithmetic on the stated numbers."""

from __future__ import annotations

import math

from sysdesign.graph import Record
from sysdesign.prompts import Scale

SECONDS_A_DAY = 86_400


class Estimate(Record):
    """Figures for one scale. Rates are requests a second, volumes gigabytes (10^6 kB), bandwidth megabits a second."""

    read_peak: float
    write_peak: float
    read_average: float
    write_average: float
    peak_to_average: float
    reads_a_day: float
    writes_a_day: float
    per_actor_a_day: float
    read_write_ratio: float
    stored_gb_a_day: float
    stored_gb: float
    read_mbit_s: float
    write_mbit_s: float
    hot_gb: float
    servers: int


HOT_SHARE = 0.2  # of a day's writes kept hot: the usual 80/20 assumption, stated as such wherever it is used
SERVER_QPS = 1000.0  # requests a second one application server is assumed to bear
SERVER_CEILING = 0.6  # utilisation it is planned for


def estimate(scale: Scale, factor: float = 1.0) -> Estimate:
    """The figures when every load is multiplied by `factor`; sizes, retention and the shape of the day stay."""
    read, write = scale.read_qps_peak * factor, scale.write_qps_peak * factor
    average_read, average_write = read / scale.peak_to_average, write / scale.peak_to_average
    daily_gb = average_write * SECONDS_A_DAY * scale.object_kb / 1e6
    return Estimate(
        read_peak=read,
        write_peak=write,
        read_average=average_read,
        write_average=average_write,
        peak_to_average=scale.peak_to_average,
        reads_a_day=average_read * SECONDS_A_DAY,
        writes_a_day=average_write * SECONDS_A_DAY,
        per_actor_a_day=(average_read + average_write) * SECONDS_A_DAY / (scale.daily_active_users * factor),
        read_write_ratio=scale.read_write_ratio,
        stored_gb_a_day=daily_gb,
        stored_gb=daily_gb * scale.retention_days * scale.replication_factor,
        read_mbit_s=read * scale.object_kb * 8 / 1000,
        write_mbit_s=write * scale.object_kb * 8 / 1000,
        hot_gb=daily_gb * HOT_SHARE,
        servers=max(2, math.ceil((read + write) / (SERVER_QPS * SERVER_CEILING) - 1e-9)),
    )
