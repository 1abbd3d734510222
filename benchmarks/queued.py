"""What one waiting request costs when many wait: the fleet's core, without sockets or processes.

    python benchmarks/queued.py --requests 100000 --discipline fifo

The clients are calls of the core, and the worker is a pretence that answers when it is told to, so
this is what the frontend spends on its queue, and nothing else. The line of JSON on standard output
has microseconds of processor time per request for each step, and the bytes that a waiting request
holds. A step that takes longer than ``PATIENCE`` is given up, and named in ``unfinished``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from flambeau.frontend.commands import Send, Spawn
from flambeau.frontend.errors import QueueFullError
from flambeau.frontend.fleet import Fleet
from flambeau.frontend.jobs import Job, Part
from flambeau.frontend.version_spec import VersionSpec
from flambeau.frontend.worker_memory import resident_bytes
from flambeau.worker.messages import Answer, Load, Result, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flambeau.frontend.commands import Command

T = TypeVar("T")

KEY = ("m", "1.0")
PATIENCE = 8.0
MOMENT = 1e-7
"""Seconds of the core's own clock from one event to the next."""
REFUSED = 1000
URGENT, LEAST_URGENT, PRIORITIES = 0, 9, 10


class Crowd:
    """A version with a queue for ``requests`` and one worker that answers when it is told to."""

    def __init__(self, requests: int, discipline: str) -> None:
        self._now = 100.0
        self._number = 0
        self._work: list[Work] = []
        self._identity = ""
        self._discipline = discipline
        spec = VersionSpec(
            KEY,
            "folder",
            "handler.py",
            queue_size=requests,
            queue_discipline=discipline,
            client_timeout=3600.0,
        )
        self._fleet = Fleet(
            lambda spec: None,
            lambda: 1.0,
            lambda spec, device: Load(*spec.key, spec.model_dir, spec.handler, spec.batch_size),
        )
        self._fleet.add(spec)
        self._run(self._fleet.scale(KEY, 1, 1, self._now))
        self._run(self._fleet.hello(self._identity, 1, 4242, self._now))
        self._run(self._fleet.loaded(self._identity, 2, self._now))
        for _ in range(5):  # so that it knows how long a request takes
            self.offer()
            self.answer()

    def __len__(self) -> int:
        return len(self._fleet.versions[KEY].queue)

    def _run(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Spawn):
                self._identity = command.identity
            elif isinstance(command, Send) and isinstance(command.message, Work):
                self._work.append(command.message)

    def offer(self, priority: int | None = None) -> Job:
        """A client comes; raises QueueFullError. Its priority is one of all where none is given."""
        self._now += MOMENT
        self._number += 1
        parts = [Part("body", "application/json", b'{"number": %d}' % self._number)]
        job = Job(f"request-{self._number}", {"Host": "localhost"}, parts, self._now)
        job.priority = self._number % PRIORITIES if priority is None else priority
        try:
            self._run(self._fleet.offered(KEY, job, self._now))
        finally:
            self._run(self._fleet.flush())
        return job

    def answer(self) -> None:
        """The worker answers what it has."""
        self._now += MOMENT
        work, self._work = self._work, []
        for each in work:
            answers = [Answer(body=b"{}") for _ in each.requests]
            result = Result(each.batch_id, MOMENT, answers)
            self._run(self._fleet.result(self._identity, result, self._now))

    def leave(self, job: Job) -> None:
        """The client of ``job`` leaves."""
        self._now += MOMENT
        self._run(self._fleet.abandoned(KEY, job, self._now))

    def refuse(self) -> None:
        """A client comes for whom there is no room."""
        try:
            self.offer(LEAST_URGENT)
        except QueueFullError:
            return
        raise AssertionError("the queue was not full")


class Timing:
    """Microseconds of processor time per call, by what was called."""

    def __init__(self) -> None:
        self.micros: dict[str, float] = {}
        self.unfinished: list[str] = []

    def each(self, what: str, calls: Iterable[Callable[[], T]]) -> list[T]:
        """Make the calls, and give back what they return."""
        gc.collect()
        returned = []
        began = time.process_time()
        for number, call in enumerate(calls):
            returned.append(call())
            if not number % 64 and time.process_time() - began > PATIENCE:
                self.unfinished.append(what)
                break
        self.micros[what] = (time.process_time() - began) / len(returned) * 1e6
        return returned


def measure(requests: int, discipline: str) -> dict[str, object]:
    """Fill a queue, refuse, let clients leave in both orders and others come, and drain it."""
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)  # as the server does
    timing = Timing()
    crowd = Crowd(requests, discipline)
    gc.collect()
    before = resident_bytes(os.getpid())
    jobs = _fill(timing, "come", crowd, requests)
    held = (resident_bytes(os.getpid()) - before) / max(1, len(crowd))
    if "come" not in timing.unfinished:
        timing.each("are refused", (crowd.refuse for _ in range(REFUSED)))
        if discipline == "priority":
            timing.each("displace another", (partial(crowd.offer, URGENT) for _ in jobs[::2]))
    timing.each("are served", _until_empty(crowd))
    jobs = _fill(timing, "come", crowd, requests)
    timing.each("leave, the oldest first", (partial(crowd.leave, job) for job in jobs))
    jobs = _fill(timing, "come", crowd, requests)
    timing.each("leave, the newest first", (partial(crowd.leave, job) for job in jobs[::-1]))
    jobs = _fill(timing, "come", crowd, requests)
    timing.each("leave, and another comes", (partial(_replace, crowd, job) for job in jobs))
    return {
        "discipline": discipline,
        "requests": requests,
        "bytes": held,
        "micros": timing.micros,
        "unfinished": timing.unfinished,
    }


def _fill(timing: Timing, what: str, crowd: Crowd, requests: int) -> list[Job]:
    return timing.each(what, _until_full(crowd, requests))


def _until_full(crowd: Crowd, requests: int) -> Iterable[Callable[[], Job]]:
    while len(crowd) < requests:
        yield crowd.offer


def _until_empty(crowd: Crowd) -> Iterable[Callable[[], None]]:
    while len(crowd):
        yield crowd.answer


def _replace(crowd: Crowd, job: Job) -> None:
    crowd.leave(job)
    crowd.offer()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a waiting request costs.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--discipline", default="fifo")
    arguments = parser.parse_args()
    json.dump(measure(arguments.requests, arguments.discipline), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
