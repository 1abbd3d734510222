"""Requests that come when they come, whatever became of those before: an open loop.

    python open_loop.py URL BODY_FILE CONTENT_TYPE RATE SETTLE SECONDS SEED [HEADER ...]

Arrivals are a Poisson process of RATE per second. Each request goes out at its time over a
connection that is free, or a new one; its latency counts from when it was due. Nothing of the first
SETTLE seconds counts, in which queues become what they are in the long run. Prints one line of
JSON: counts, latencies in milliseconds, and how late the client itself was at most.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from client import percentile

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)", re.IGNORECASE)
_REASON = re.compile(rb'"reason": "(\w+)"')
_PATIENCE = 30.0
"""Seconds after the last request in which its answer must have come."""


class Tally:
    """What became of the requests."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.others: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.without_retry_after = 0
        self.lateness = 0.0
        self.first, self.last = 0.0, math.inf
        """What is due between the two counts."""
        self.good = 0
        self.sent = self.answered = 0

    def take(self, head: bytes, body: bytes, due: float) -> None:
        """An answer came to what was due then."""
        now = time.perf_counter()
        seconds = now - due
        status = head[9:12].decode()
        self.good += self.first <= now < self.last and status == "200" and body == self.body
        if due < self.first:
            return
        self.answered += 1
        if status == "200" and body == self.body:
            self.accepted.append(seconds)
        elif status in ("503", "429"):
            self.refused.append(seconds)
            self.without_retry_after += _RETRY_AFTER.search(head) is None
            reason = _REASON.search(body)
            self.reasons[reason[1].decode() if reason else "none"] += 1
        else:
            self.others["wrong answers" if status == "200" else status] += 1

    def report(self, seconds: float) -> str:
        return json.dumps(
            {
                "seconds": seconds,
                "sent": self.sent,
                "good": self.good,
                "accepted": _summary(self.accepted),
                "refused": _summary(self.refused),
                "reasons": self.reasons,
                "without_retry_after": self.without_retry_after,
                "others": self.others,
                "unanswered": self.sent - self.answered,
                "client_late_ms": self.lateness * 1000,
            }
        )


def _summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "p50_ms": percentile(ordered, 0.50) * 1000,
        "p99_ms": percentile(ordered, 0.99) * 1000,
    }


class Connection(asyncio.Protocol):
    """One connection; it goes back to ``free`` when its answer is there."""

    def __init__(self, tally: Tally, free: list[Connection]) -> None:
        self._tally = tally
        self._free = free
        self._due = 0.0
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what this class says but do not descend from it.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._buffer, 0, end) if end > 3 else None
        if length is None or len(self._buffer) < end + int(length[1]):
            return
        head, body, self._buffer = self._buffer[:end], self._buffer[end:], b""
        self._tally.take(head, body, self._due)
        self._free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._free:
            self._free.remove(self)


async def run(
    host: str,
    port: int,
    request: bytes,
    tally: Tally,
    rate: float,
    settle: float,
    seconds: float,
    seed: int,
) -> str:
    """The report of one run, as JSON."""
    loop = asyncio.get_running_loop()
    between = random.Random(seed)
    free: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def send(due: float) -> None:
        connection = free.pop() if free else None
        if connection is None:
            made = await loop.create_connection(lambda: Connection(tally, free), host, port)
            connection = made[1]
        connection.send(request, due)

    due = time.perf_counter()
    tally.first, tally.last = due + settle, due + settle + seconds
    while (due := due + between.expovariate(rate)) < tally.last:
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        if due >= tally.first:
            tally.lateness = max(tally.lateness, time.perf_counter() - due)
            tally.sent += 1
        task = loop.create_task(send(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    patience = time.perf_counter() + _PATIENCE
    while tally.answered < tally.sent and time.perf_counter() < patience:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return tally.report(seconds)


def main() -> int:
    url, file, content_type, rate, settle, seconds, seed, *headers = sys.argv[1:]
    place = urlsplit(url)
    body = Path(file).read_bytes()
    lines = [
        f"POST {place.path} HTTP/1.1",
        f"Host: {place.netloc}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    host, port = place.hostname or "127.0.0.1", place.port or 80
    times = float(rate), float(settle), float(seconds)
    made = run(host, port, request, Tally(body), *times, int(seed))
    print(loop.run_until_complete(made))
    loop.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
