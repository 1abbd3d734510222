"""Requests: into the queue, into batches, to an outcome. Fleet's part that is about jobs. Pure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ..worker.messages import Cancel, Work
from ..worker.protocol import CANCEL_SINCE
from . import memory_limits
from .batcher import ModelQueue
from .commands import Agenda, Resolve, Send, Stream
from .deadlines import set_deadline
from .errors import (
    DeadlineUnreachableError,
    DrainingError,
    InferenceError,
    InstallingError,
    ModelLoadingError,
    NoFreeWorkerError,
    NoWorkerError,
    QueueFullError,
    SequenceClosedError,
)
from .estimates import comes_too_late, seconds_to_room
from .exits import TIMED_OUT, Exit, ExitReason
from .jobs import Batch, Job, JobState, Outcome
from .lifecycle import VersionState, WorkerState
from .outcomes import answered, death, failed, too_late
from .roster import Worker, too_slow
from .sequences import SequenceQueue, ended_sequences
from .worker_choice import worker_beside_suspects, worker_to_prefetch, worker_with_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import FlambeauError
    from ..worker.messages import Answer, Result
    from .versions import Version


CANCEL_GRACE = 5.0
"""Seconds that a worker has to let go of a batch, before it counts as hung itself."""


class Dispatcher:
    """Gives every job one outcome and keeps ``Version.running`` equal to the jobs in flight."""

    def __init__(self, agenda: Agenda, watch: Callable[[Worker], None]) -> None:
        self._agenda = agenda
        self._watch = watch
        self._batch_ids = itertools.count(1)

    def offer(self, version: Version, job: Job, now: float) -> None:
        """Queue a new job; raises ServiceUnavailableError when that is not possible."""
        self._check_state(version, job, now)
        self._check_room(version, job, now)
        if not version.queue.offer(job, now):
            self._make_room(version, job, now)
        if job.deadline is not None or version.spec.queue_timeout:
            version.deadlines.expect(job, version.spec.queue_timeout)
            self._watch_deadlines(version)
        self.dispatch(version, now)

    def admit(self, version: Version, job: Job, now: float) -> None:
        """Raise what ``offer`` would raise for want of room, before the request is read."""
        if version.queue.displaces or not version.has_active_slot:
            # Who gives way to whom depends on what is not read yet; and workers may be to come.
            return
        self._check_room(version, job, now)
        if version.queue.refuses_all:
            raise self._full(version, job)

    @staticmethod
    def _check_state(version: Version, job: Job, now: float) -> None:
        name, requested = version.key[0], job.requested_version
        if version.state is VersionState.FAILED and version.failure is not None:
            raise failed(version, now)
        if version.state is VersionState.DRAINING:
            raise DrainingError(f'Model "{name}" is being unregistered.')
        if not version.has_active_slot:
            raise InstallingError(name) if version.is_preparing else NoWorkerError(name, requested)

    @staticmethod
    def _check_room(version: Version, job: Job, now: float) -> None:
        name, requested, spec = version.key[0], job.requested_version, version.spec
        if spec.job_ticket and not version.has_ticket:
            raise NoFreeWorkerError(name, requested, seconds_to_room(version))
        if spec.client_timeout or spec.queue_timeout or job.time_limit is not None:
            set_deadline(job, spec.client_timeout)
            if comes_too_late(version, job, now):
                pause, pending = seconds_to_room(version), len(version.queue)
                raise DeadlineUnreachableError(name, pause, pending)

    def _make_room(self, version: Version, job: Job, now: float) -> None:
        """Queue ``job`` in the place of one that is less urgent; raises QueueFullError."""
        other = version.queue.yields_to(job)
        if other is None:
            raise self._full(version, job)
        self._fail(version, other, self._full(version, other), now)
        version.queue.offer(job, now)

    @staticmethod
    def _full(version: Version, job: Job) -> QueueFullError:
        return QueueFullError(
            version.key[0],
            job.requested_version,
            seconds_to_room(version),
            len(version.queue),
            version.spec.overload_status,
        )

    def send_away(self, version: Version, job: Job, now: float) -> None:
        """A version is being loaded, and its clients do not want to wait for that."""
        error = ModelLoadingError(version.key[0], "nobody had asked for it lately")
        self._fail(version, job, error, now)

    def abandon(self, version: Version, job: Job) -> None:
        """The client left: a waiting job leaves the queue, a running one is cancelled."""
        if not job.is_settled:
            self._cancel(version, job)
            self._settle(version, job, JobState.CANCELLED, Outcome())

    def dispatch(self, version: Version, now: float) -> None:
        """Send batches as long as one is due and a worker can take it."""
        queue = version.queue
        if isinstance(queue, SequenceQueue):
            self._dispatch_sequences(version, queue, now)
            return
        while len(queue):
            worker = worker_with_room(version)
            if worker is not None:
                due = queue.due(now, version.running, version.workers_at_hand)
                if due is not None and due > now:
                    self._wake(version, due)
                    return
                self._send(version, worker, queue.take(now), now)
                if not worker.has_room:
                    version.free.remove(worker)
            elif version.free:
                self._send_past_suspects(version, queue, now)
                return
            else:
                worker = worker_to_prefetch(version)
                if worker is None:
                    return
                self._send(version, worker, queue.take(now), now)

    def _dispatch_sequences(self, version: Version, queue: SequenceQueue, now: float) -> None:
        """The same for sequences; new ones go to the worker that keeps the fewest."""
        for worker in sorted(version.free, key=lambda worker: queue.bound(worker.identity)):
            while worker.has_room and (due := queue.due(worker.identity)) is not None:
                if due > now:
                    self._wake(version, due)
                    break
                jobs = queue.take(worker.identity)
                if not jobs:
                    break
                self._send(version, worker, jobs, now)
            if not worker.has_room:
                version.free.remove(worker)

    def forsake(self, version: Version, worker: str, now: float) -> None:
        """A worker takes no more batches: the sequences that it keeps are over."""
        if version.sequences is not None:
            self._close(version, version.sequences.lose(worker), now)

    def _close(self, version: Version, left: list[Job], now: float) -> None:
        for job in left:
            error = SequenceClosedError(version.key[0], job.requested_version)
            self._fail(version, job, error, now)

    def _end_sequences(self, version: Version, answer: Answer, now: float) -> None:
        queue, spec = version.sequences, version.spec.sequences
        if queue is not None and spec is not None and answer.headers:
            ids = ended_sequences(answer.headers, spec.end_header)
            self._close(version, queue.end(ids), now)

    def _send_past_suspects(self, version: Version, queue: ModelQueue, now: float) -> None:
        """Send what is behind a request that waits for an idle worker."""
        while (worker := worker_beside_suspects(version)) is not None:
            jobs = queue.take(now, past_suspects=True)
            if not jobs:
                return
            self._send(version, worker, jobs, now)
            if not worker.has_room:
                version.free.remove(worker)

    def _send(self, version: Version, worker: Worker, jobs: list[Job], now: float) -> None:
        batch = Batch(next(self._batch_ids), jobs, now, now, now + version.spec.response_timeout)
        for job in jobs:
            job.move(JobState.RUNNING)
            job.taken_at = now
        if not worker.in_flight:
            worker.move(WorkerState.BUSY)
        worker.in_flight[batch.id] = batch
        if worker.alarm_at is None or batch.deadline < worker.alarm_at:
            self._watch(worker)
        version.running += len(jobs)
        self._agenda.command(Send(worker.identity, Work(batch.id, jobs)))

    def pass_on(self, worker: Worker, batch: Batch, index: int, piece: Answer, now: float) -> None:
        """A worker has a piece of an answer; the time for the next one begins."""
        if not batch.given_up:
            batch.deadline = now + worker.slot.version.spec.response_timeout
        job = batch.jobs[index]
        self._end_sequences(worker.slot.version, piece, now)
        job.streams = True
        if not job.is_settled:
            self._agenda.command(Stream(job, piece))

    def complete(self, worker: Worker, batch: Batch, result: Result, now: float) -> None:
        """A worker answered ``batch``: settle its jobs. The caller decides what it does next."""
        version = worker.slot.version
        had_room = worker.has_room
        del worker.in_flight[batch.id]
        took = now - batch.sent_at
        version.queue.answered(now, now - batch.begun_at, version.running, len(batch.jobs))
        version.handled(result.handler_seconds)
        version.paced(now)
        size = len(batch.jobs)
        version.running -= size
        worker.served += size
        if result.shortages or result.safe_batch != worker.safe_batch:
            memory_limits.learn(worker, result)
        for job, answer in zip(batch.jobs, result.answers, strict=True):
            if job.outcome is None:
                outcome = answered(job, answer, took, result.handler_seconds, size)
                size = 0
                to = JobState.FAILED if answer.is_error else JobState.DONE
                self._settle(version, job, to, outcome)
            if version.sequences is not None:
                version.sequences.finished(job, now)
                self._end_sequences(version, answer, now)
        if version.recorder is not None:
            for job in batch.jobs:
                if job.state is JobState.DONE and not (job.streams or job.alone):
                    version.recorder.offer(job.headers, job.parts)
        if not worker.in_flight:
            worker.move(WorkerState.READY)
        elif worker.concurrency == 1:
            # The next batch begins only now, and so does its time.
            following = worker.begun[0]
            following.begun_at = now
            following.deadline = now + version.spec.response_timeout
        if worker.has_room and not had_room and not worker.slot.retiring:
            version.free.append(worker)

    def give_up(self, worker: Worker, batch: Batch, now: float) -> None:
        """One of several batches in work ran into its deadline.

        It is answered, and its worker told to let go of it for the sake of the others.
        """
        message = too_slow(worker.slot.version.spec)
        for job in batch.jobs:
            if not job.is_settled:
                error = InferenceError(message, TIMED_OUT, "response")
                self._fail(worker.slot.version, job, error, now)
        batch.given_up = True
        batch.deadline = now + CANCEL_GRACE
        self._agenda.command(Send(worker.identity, Cancel(batch.id)))

    def lose(
        self, version: Version, batches: list[Batch], begun: int, exit: Exit, now: float
    ) -> None:
        """A worker is gone with ``batches``, of which it had begun the first ``begun``.

        The others return to the front as if nothing had happened. The jobs of those go back once
        and travel alone then: a poisonous input fails by itself and its companions succeed. A lone
        request that ran out of time is the culprit already; a second try would double its client's
        wait.
        """
        version.running -= sum(len(batch.jobs) for batch in batches)
        again: list[Job] = []
        is_timeout = exit.reason is ExitReason.RESPONSE_TIMEOUT
        for number, batch in enumerate(batches):
            was_begun = number < begun
            is_culprit = len(batch.jobs) == 1 and is_timeout and batch.deadline <= now
            for job in batch.jobs:
                if version.sequences is not None:
                    version.sequences.finished(job, now)
                if job.is_settled:
                    continue
                job.losses += was_begun
                is_spent = job.losses > version.spec.lost_retries or (was_begun and is_culprit)
                if version.sequences is not None or not version.has_active_slot:
                    # What the worker remembered of a sequence is gone with it.
                    is_spent = True
                if is_spent or job.streams:
                    self._fail(version, job, death(exit), now)
                else:
                    job.move(JobState.QUEUED)
                    again.append(job)
        if again and isinstance(version.queue, ModelQueue):
            version.queue.put_back(again)
        self.forsake(version, exit.identity, now)

    def take_back(self, worker: Worker, batch: Batch) -> None:
        """``batch`` never reached its worker: it returns to the front as if nothing happened."""
        version = worker.slot.version
        version.running -= len(batch.jobs)
        waiting = [job for job in batch.jobs if not job.is_settled]
        for job in waiting:
            job.move(JobState.QUEUED)
        if isinstance(version.queue, ModelQueue):
            version.queue.put_back(waiting)

    def refuse_waiting(self, version: Version, now: float) -> None:
        """Nobody will serve the queue any more: answer everyone in it."""
        error: FlambeauError
        for job in version.queue.waiting():
            if version.state is VersionState.FAILED:
                error = failed(version, now)
            elif version.state is VersionState.DRAINING:
                error = DrainingError(f'Model "{version.key[0]}" is being unregistered.')
            else:
                error = NoWorkerError(version.key[0], job.requested_version)
            self._fail(version, job, error, now)

    def _cancel(self, version: Version, job: Job) -> None:
        """Tell the worker that has ``job``, if one has it, that nobody waits for it any more."""
        if job.state is not JobState.RUNNING:
            return
        for slot in version.slots.values():
            worker = slot.worker
            if worker is None or worker.minor < CANCEL_SINCE:
                continue
            for batch in worker.in_flight.values():
                if job in batch.jobs:
                    message = Cancel(batch.id, batch.jobs.index(job))
                    self._agenda.command(Send(worker.identity, message))
                    return

    def _wake(self, version: Version, due: float) -> None:
        if version.wake_at is None or due < version.wake_at:
            version.wake_at = due
            self._agenda.alarm(due, lambda now: self._woken(version, due, now))

    def _woken(self, version: Version, due: float, now: float) -> None:
        if version.wake_at == due:
            version.wake_at = None
        self.dispatch(version, now)

    def _watch_deadlines(self, version: Version) -> None:
        at = version.deadlines.next_alarm()
        if at is not None:
            self._agenda.alarm(at, lambda now: self._expired(version, at, now))

    def _expired(self, version: Version, rang_at: float, now: float) -> None:
        for job, in_queue in version.deadlines.expired(rang_at, now):
            # Its other clock may have run out in the same moment.
            if not job.is_settled:
                self._cancel(version, job)
                self._fail(version, job, too_late(version, job, in_queue), now)
        self._watch_deadlines(version)

    def _fail(self, version: Version, job: Job, error: FlambeauError, now: float) -> None:
        waited = (job.taken_at or now) - job.offered_at
        outcome = Outcome(status=error.status, error=error, queued=waited)
        self._settle(version, job, JobState.FAILED, outcome)

    def _settle(self, version: Version, job: Job, to: JobState, outcome: Outcome) -> None:
        waiting = job.state is JobState.QUEUED
        job.settle(to, outcome)
        version.deadlines.settled(job)
        if waiting:
            version.queue.discard(job)
        if to is not JobState.CANCELLED:
            self._agenda.command(Resolve(job))
