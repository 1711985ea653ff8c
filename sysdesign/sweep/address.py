"""Whether a Ray address can be a cluster's, found in five seconds: Ray itself tries for minutes and then says little."""

from __future__ import annotations

import socket

from sysdesign.errors import ServiceError

WHERE = "runner.address"


def require_cluster(address: str) -> None:
    """Raises ServiceError unless something answers at host:port ("" and "auto" name no address)."""
    if "://" in address:
        do = "write host:port, and start the sweep on the cluster itself (ray job submit)"
        raise ServiceError(WHERE, "the driver must run inside the cluster", do, address)
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as err:
        do = "start one (ray start --head --port=6379), or leave the address out to use this machine"
        raise ServiceError(WHERE, f"a Ray cluster must answer there ({err})", do, address) from None
