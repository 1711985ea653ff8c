"""Whether a Ray address can be a cluster's, found in seconds: Ray itself tries for minutes and then says little."""

from __future__ import annotations

import os
import socket

from sysdesign.errors import ServiceError

WHERE = "runner.address"
WAIT_S = 5.0
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # a client's first bytes (RFC 9113, 3.4), with empty settings


def require_cluster(address: str) -> None:
    """Raises ServiceError unless something answers at host:port ("" and "auto" name no address)."""
    if "://" in address:
        do = "write host:port, and start the sweep on the cluster itself (ray job submit)"
        raise ServiceError(WHERE, "the driver must run inside the cluster", do, address)
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    do = "start one (ray start --head --port=6379), or leave the address out to use this machine"
    if not host or not port.isdigit():
        raise ServiceError(WHERE, "must be host:port", do, address)
    try:
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as talk:
            if os.environ.get("RAY_USE_TLS") == "1":  # then what comes is not for these eyes
                return
            talk.sendall(HELLO)
            said = talk.recv(9, socket.MSG_WAITALL)
    except (OSError, OverflowError) as err:
        raise ServiceError(WHERE, f"a Ray cluster must answer there ({err})", do, address) from None
    if said[3:4] != b"\4":  # every gRPC server begins with its settings
        raise ServiceError(WHERE, "a Ray cluster must answer there, and what does is none", do, address)
