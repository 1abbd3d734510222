"""A light HTTP/1.1 load generator on asyncio, for machines without wrk.

    python client.py URL BODY_FILE CONTENT_TYPE CONNECTIONS SECONDS [KEY]

Every connection has one request under way. Prints one line of JSON. Its own work is part of what it
measures (about 0.05 ms for each request), so its figures are a little worse than those of wrk.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_LONGEST_WAIT = 10.0


class Connection(asyncio.Protocol):
    """Sends the same request again and again, until the common end of the run."""

    def __init__(self, request: bytes, end: float) -> None:
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._end = end
        self._sent = 0.0
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what this class says but do not descend from it.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            self._buffer = buffer
            return
        length = _LENGTH.search(buffer, 0, head)
        if length is None:
            self._fail("answers without a length")
            return
        missing = head + 4 + int(length[1]) - len(buffer)
        self._buffer = buffer
        if missing <= 0:
            self._answered(buffer[9:10] == b"2" and missing == 0)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._fail("lost connections")

    def _answered(self, is_good: bool) -> None:
        now = time.perf_counter()
        self._buffer = b""
        self.latencies.append(now - self._sent)
        if not is_good:
            self.failures.append("answers that are not 2xx")
        if now < self._end:
            self._send()
        else:
            self._finish()

    def _send(self) -> None:
        if self._transport is not None:
            self._sent = time.perf_counter()
            self._transport.write(self._request)

    def _fail(self, what: str) -> None:
        self.failures.append(what)
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self._transport is not None:
            self._transport.close()


async def run(host: str, port: int, request: bytes, connections: int, seconds: float) -> str:
    """The report of one run, as JSON."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    end = started + seconds
    clients = [
        (await loop.create_connection(lambda: Connection(request, end), host, port))[1]
        for _ in range(connections)
    ]
    futures = [client.done for client in clients]
    _, late = await asyncio.wait(futures, timeout=seconds + _LONGEST_WAIT)
    failures = [failure for client in clients for failure in client.failures]
    failures += ["timeouts"] * len(late)
    latencies = sorted(each for client in clients for each in client.latencies)
    return json.dumps(
        {
            "requests": len(latencies),
            "seconds": time.perf_counter() - started,
            "p50_ms": percentile(latencies, 0.50) * 1000,
            "p99_ms": percentile(latencies, 0.99) * 1000,
            "errors": {kind: failures.count(kind) for kind in set(failures)},
        }
    )


def percentile(ordered: list[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> int:
    url, file, content_type, connections, seconds, *keys = sys.argv[1:]
    place = urlsplit(url)
    body = Path(file).read_bytes()
    head = (
        f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        + "".join(f"Authorization: Bearer {key}\r\n" for key in keys)
        + "\r\n"
    )
    host, port = place.hostname or "127.0.0.1", place.port or 80
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    print(
        loop.run_until_complete(
            run(host, port, head.encode() + body, int(connections), float(seconds))
        )
    )
    loop.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
