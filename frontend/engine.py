"""The shell around Fleet: it runs the commands and owns clock, timer, sockets and processes."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic as now
from typing import TYPE_CHECKING, Any

from .. import FlambeauError
from ..worker.messages import Bye, Chunk, Hello, Loaded, LoadFailed, Message, Pong, Result
from ..worker.protocol import ProtocolError
from .commands import Command, Kill, Notify, Report, Resolve, Scaled, Send, Spawn, Stream, Warn
from .errors import DrainingError
from .jobs import Outcome
from .router import Router
from .streams import BodyStream
from .worker_memory import resident_bytes
from .worker_processes import WorkerProcesses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..worker.messages import Answer
    from .exits import Exit
    from .fleet import Fleet
    from .jobs import Job
    from .launcher import Launcher
    from .lifecycle import VersionKey
    from .version_spec import VersionSpec
    from .versions import Version

logger = logging.getLogger("flambeau.engine")

NEVER = float("inf")
MEASURE_EVERY = 2.0
"""Seconds between two looks at the memory of the workers."""


def deliver(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    """Give ``outcome`` to whoever awaits ``future``, unless he has gone."""
    if not future.done():
        future.set_result(outcome)


class Engine:
    """Queues, batches and workers behind one synchronous call: ``predict``.

    Made inside a running event loop. All times are readings of ``time.monotonic``: an event loop's
    own clock may tick in whole milliseconds. ``device_environ`` says which variables a version's
    worker on a device needs, ``on_exit(key, exit)`` is told of every worker that ended and
    ``on_samples`` of the metrics that a version's handlers report. ``on_loaded`` is told, by
    TorchServe's name of it, of each worker that has loaded its model, and in how many seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        launcher: Launcher,
        socket_path: Path,
        cores: int,
        device_environ: Callable[[VersionSpec, int | None], Mapping[str, str]],
        on_exit: Callable[[VersionKey, Exit], None],
        on_samples: Callable[[VersionKey, Sequence[Sequence[Any]]], None],
        on_loaded: Callable[[VersionKey, int, float], None],
    ) -> None:
        self._fleet = fleet
        self._on_exit = on_exit
        self._on_samples = on_samples
        self._on_loaded = on_loaded
        self._loop = asyncio.get_running_loop()
        self._router = Router(socket_path, self._received, self._violated)
        self._processes = WorkerProcesses(launcher, self._router.endpoint, cores, device_environ)
        self._waiting: dict[Job, Callable[[Outcome], None]] = {}
        self._streams: dict[Job, BodyStream] = {}
        self._changes: dict[VersionKey | None, asyncio.Future[None]] = {}
        """The next change of a version, or of any (None), where somebody waits for it."""
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._measuring = self._loop.call_later(MEASURE_EVERY, self._measure)
        self._rings_at = NEVER

    def admit(self, key: VersionKey, job: Job) -> None:
        """Raise what ``predict`` would raise for want of room, before the request is read."""
        self._fleet.admit(key, job, now())

    def predict(self, key: VersionKey, job: Job) -> asyncio.Future[Outcome]:
        """Queue ``job``; the future gets its outcome and never an exception.

        Raises ServiceUnavailableError at once when the version cannot take it.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self.submit(key, job, partial(deliver, future))
        return future

    def submit(self, key: VersionKey, job: Job, on_outcome: Callable[[Outcome], None]) -> None:
        """Queue ``job``; ``on_outcome`` is called once, with its outcome, unless it is abandoned.

        It must neither raise nor call this object. Raises ServiceUnavailableError at once when the
        version cannot take it.
        """
        try:
            commands = self._fleet.offered(key, job, now())
        except FlambeauError:
            self._run(self._fleet.flush())
            raise
        self._waiting[job] = on_outcome
        self._run(commands)

    def abandon(self, key: VersionKey, job: Job) -> None:
        """The client of ``job`` left. Idempotent."""
        self._waiting.pop(job, None)
        self._streams.pop(job, None)
        self._run(self._fleet.abandoned(key, job, now()))

    def version(self, key: VersionKey) -> Version | None:
        """The version as it is now, to be read and not changed."""
        return self._fleet.versions.get(key)

    def pids_of_ranks(self, identity: str) -> list[int]:
        """The processes of a worker that has ranks, as far as they have reported for work."""
        group = self._processes.groups.get(identity)
        return [] if group is None else group.pids

    def add(self, spec: VersionSpec) -> None:
        """Make a version known, without workers. Raises DrainingError when it is too late."""
        if self._is_closing:
            raise DrainingError("The server is shutting down and takes no new models.")
        self._fleet.add(spec)

    def scale(self, key: VersionKey, min_workers: int, max_workers: int) -> None:
        """Want this many workers; ``wait_until`` tells when they are there."""
        self._run(self._fleet.scale(key, min_workers, max_workers, now()))

    def replace(self, key: VersionKey) -> None:
        """Have new workers in the place of the version's, as its files have changed."""
        self._run(self._fleet.replace(key, now()))

    def roll(self, key: VersionKey, spec: VersionSpec) -> None:
        """Have workers that run ``spec`` in the place of the version's; see ``Fleet.roll``."""
        self._run(self._fleet.roll(key, spec, now()))

    def proven(self, key: VersionKey) -> None:
        """The version has shown that it can take another's place; see ``VersionSpec.trials``."""
        self._fleet.proven(key)

    def preparing(self, key: VersionKey) -> None:
        """Keep the version's workers back until ``prepared`` is called."""
        self._run(self._fleet.preparing(key))

    def prepared(self, key: VersionKey, failure: Exit | None) -> None:
        """Start the workers that were kept back, or give the version up."""
        self._run(self._fleet.prepared(key, failure, now()))

    def drain(self, key: VersionKey, timeout: float) -> None:
        """Let the version serve what it has, at most ``timeout`` seconds, and go."""
        started = now()
        self._run(self._fleet.drain(key, started + timeout, started))

    async def wait_until(
        self, key: VersionKey | None, condition: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait until ``condition``, which is looked at after every change of this version or of one
        of its workers; where ``key`` is None, of any version.

        False when ``timeout`` seconds passed first.
        """
        deadline = None if timeout is None else now() + timeout
        while not condition():
            left = None if deadline is None else deadline - now()
            if left is not None and left <= 0:
                return False
            change = self._changes.get(key)
            if change is None:
                change = self._changes[key] = self._loop.create_future()
            await asyncio.wait([change], timeout=left)
        return True

    async def close(self, timeout: float) -> None:
        """Drain every version for at most ``timeout`` seconds, then end every worker.

        New versions are refused from now on.
        """
        self._is_closing = True
        for key in list(self._fleet.versions):
            self.drain(key, timeout)
        # Past the drain itself, Stop, SIGTERM and SIGKILL each have their own time.
        await self.wait_until(None, lambda: self._fleet.is_empty, timeout + 30.0)
        self.abort()
        await self._processes.ended()
        if self._timer is not None:
            self._timer.cancel()
        self._measuring.cancel()
        self._router.close()
        self._processes.close()

    def abort(self) -> None:
        """Do not wait for anybody: answer every request 503 and kill every worker."""
        self._run(self._fleet.abort(now()))

    def _run(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Resolve):
                self._resolve(command.job)
            elif isinstance(command, Stream):
                self._stream(command.job, command.piece)
            elif isinstance(command, Send):
                if not self._send(command.identity, command.message):
                    self._loop.call_soon(self._undelivered, command)
            else:
                self._run_rare(command)
        self._arm()

    def _send(self, identity: str, message: Message) -> bool:
        group = self._processes.groups.get(identity)
        if group is None:
            return self._router.send(identity, message)
        return all(self._router.send(rank, share) for rank, share in group.spread(message))

    def _run_rare(self, command: Scaled | Spawn | Kill | Report | Notify | Warn) -> None:
        match command:
            case Notify(key):
                self._notify(key)
            case Spawn():
                self._processes.start(command, len(self._fleet.workers), self._exited)
            case Kill(identity, force):
                self._processes.kill(identity, force)
            case Report(key, exit):
                self._report(key, exit)
            case Scaled(key, event):
                logger.info(
                    "model %s version %s: %d -> %d workers: %s",
                    *key,
                    event.before,
                    event.after,
                    event.reason,
                )
            case Warn(identity, message):
                logger.warning("worker %s %s", identity, message)

    def _resolve(self, job: Job) -> None:
        on_outcome = self._waiting.pop(job, None)
        if on_outcome is None or job.outcome is None:
            return
        if job.streams and job in self._streams:
            self._streams.pop(job).finish(job.outcome)
        else:
            on_outcome(job.outcome)

    def _stream(self, job: Job, piece: Answer) -> None:
        """The first piece is the outcome, with a stream that the others go into."""
        on_outcome = self._waiting.get(job)
        if on_outcome is None:
            return
        stream = self._streams.get(job)
        if stream is None:
            stream = self._streams[job] = BodyStream()
            outcome = Outcome(piece.status, piece.reason, piece.headers)
            outcome.queued = job.taken_at - job.offered_at
            outcome.batched = now() - job.taken_at
            outcome.stream = stream
            on_outcome(outcome)
        stream.put(piece.body)

    def _notify(self, key: VersionKey) -> None:
        """Wake whoever waits for this version, or for all, and nobody else: many may wait."""
        for about in (key, None):
            change = self._changes.pop(about, None)
            if change is not None:
                change.set_result(None)

    def _arm(self) -> None:
        """Have the timer ring when the fleet wants it; one that rings too early does no harm."""
        at = self._fleet.next_alarm
        if at is None or at >= self._rings_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = self._loop.call_later(at - now(), self._ring)

    def _ring(self) -> None:
        self._rings_at = NEVER
        try:
            self._run(self._fleet.tick(now()))
        finally:
            self._arm()

    def _measure(self) -> None:
        """Tell the fleet how much memory each worker has."""
        self._measuring = self._loop.call_later(MEASURE_EVERY, self._measure)
        for identity, worker in list(self._fleet.workers.items()):
            if worker.pid is not None:
                pids = self.pids_of_ranks(identity) or [worker.pid]
                memory = sum(map(resident_bytes, pids))
                self._run(self._fleet.measured(identity, memory, now()))

    def _received(self, identity: str, message: Message) -> None:
        if identity in self._processes.ranks:
            group, rank = self._processes.ranks[identity]
            try:
                folded = group.fold(rank, message)
            except ProtocolError as error:
                self._violated(identity, str(error))
                return
            if folded is None:
                return
            identity, message = group.identity, folded
        at = now()
        match message:
            case Result():
                if message.samples:
                    self._sampled(identity, message.samples)
                self._run(self._fleet.result(identity, message, at))
            case Chunk():
                self._run(self._fleet.chunk(identity, message, at))
            case Pong():
                self._run(self._fleet.pong(identity, at))
            case Hello():
                self._run(
                    self._fleet.hello(identity, message.major, message.pid, at, message.minor)
                )
            case Loaded():
                logger.info("worker %s is ready after %.1f s", identity, message.seconds)
                self._told_loaded(identity, message.seconds)
                if message.samples:
                    self._sampled(identity, message.samples)
                schemas = (message.input_schema, message.output_schema)
                self._run(self._fleet.loaded(identity, message.credits, at, schemas))
            case LoadFailed():
                self._run(self._fleet.load_failed(identity, message, at))
            case Bye():
                pass
            case _:
                self._violated(identity, f"sent a {type(message).__name__}")

    def _sampled(self, identity: str, samples: Sequence[Sequence[Any]]) -> None:
        worker = self._fleet.workers.get(identity)
        if worker is not None:
            self._on_samples(worker.slot.version.key, samples)

    def _told_loaded(self, identity: str, seconds: float) -> None:
        worker = self._fleet.workers.get(identity)
        if worker is not None:
            self._on_loaded(worker.slot.version.key, worker.slot.number, seconds)

    def _violated(self, identity: str, what: str) -> None:
        if identity in self._processes.ranks:
            identity = self._processes.ranks[identity][0].identity
        self._run(self._fleet.violated(identity, what, now()))

    def _undelivered(self, send: Send) -> None:
        self._run(self._fleet.undelivered(send.identity, send.message, now()))

    def _exited(self, exit: Exit) -> None:
        # What it said before it died counts: read it first.
        self._router.drain()
        self._processes.forget(exit.identity)
        self._run(self._fleet.exited(exit, now()))

    def _report(self, key: VersionKey, exit: Exit) -> None:
        level = logging.INFO if exit.was_wanted else logging.ERROR
        reason, why = exit.reason.value, exit.explanation
        logger.log(level, "worker %s ended: %s: %s", exit.identity, reason, why)
        self._on_exit(key, exit)
