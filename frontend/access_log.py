"""The access log: one line for each answered call, in TorchServe's form."""

from __future__ import annotations

import logging
from urllib.parse import unquote

logger = logging.getLogger("flambeau.access")


def log_access(
    peer: object, line: str, status: int, seconds: float, request_id: str | None = None
) -> None:
    """Log peer, request line, status and milliseconds; ``line`` holds no control characters.

    The line is TorchServe's and has no room for ``request_id``: a log in JSON has it as a field.
    ``peer`` is a socket's peer name, or gRPC's text for it, such as ``ipv4:127.0.0.1:9``.
    """
    logger.info(
        '%s "%s" %d %d',
        _peer(peer),
        line,
        status,
        round(seconds * 1000),
        extra={"request_id": request_id},
    )


def _peer(peer: object) -> str:
    """``/ip:port``; the peer of a Unix socket, which has neither, is this machine."""
    if isinstance(peer, tuple) and len(peer) >= 2:
        host, port = peer[:2]
        return f"/[{host}]:{port}" if ":" in str(host) else f"/{host}:{port}"
    if isinstance(peer, str) and peer.startswith(("ipv4:", "ipv6:")):
        return f"/{unquote(peer.partition(':')[2])}"
    return "127.0.0.1"
