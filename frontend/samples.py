"""Requests with which a worker is tried before it serves: given ones, and recorded ones. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..worker.messages import Part

MAX_RECORDED_BYTES = 1 << 20
"""The largest request that is recorded."""
RECORD_EVERY = 64
"""Once there are enough, one in so many requests takes the place of the oldest."""
_HEADERS = 8 << 10
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Sample:
    """A request to try a worker with, so many times; ``name`` is what a failure calls it."""

    name: str
    headers: dict[str, str]
    parts: list[Part]
    times: int = 1


class Recorder:
    """Keeps up to ``limit`` requests that were answered well: the first, then one now and then."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Sample] = []
        self._seen = 0

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._kept)

    def offer(self, headers: dict[str, str], parts: list[Part]) -> None:
        """A request was answered well."""
        self._seen += 1
        if len(self._kept) >= self._limit and self._seen % RECORD_EVERY:
            return
        size = sum(len(part.body) for part in parts)
        if size > MAX_RECORDED_BYTES or sum(map(len, headers.values())) > _HEADERS:
            return
        if len(self._kept) >= self._limit:
            del self._kept[0]
        kept = {name: value for name, value in headers.items() if name.lower() not in _SECRET}
        self._kept.append(Sample("a recorded request", kept, parts))


def for_worker(samples: Iterable[Sample], *, strict: bool) -> list[list[Any]]:
    """Samples as ``Load.warm_up`` has them; ``strict``: one that fails fails the start."""
    return [
        [
            sample.name,
            sample.headers,
            [[part.name, part.content_type, bytes(part.body)] for part in sample.parts],
            sample.times,
            strict,
        ]
        for sample in samples
    ]
