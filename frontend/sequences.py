"""Sequences: requests that belong together go to one worker, in order, which keeps their state.

The rules are TorchServe's (stateful sequence batching). A sequence is open from its first request
until it has been idle too long, is too old, or an answer's header says that it is over. It is
bound to the worker that gets its first request; a batch holds one request of each sequence at most.
What the worker remembers is gone with the worker: its sequences are closed then, since going on
with another would give answers that are wrong without a sign. Pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arrivals import NOW
from .errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .jobs import Job


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """How many sequences may be open, and how many requests of each may wait. Times in seconds.

    ``lifetime`` 0 is no limit. ``overlapping``: a request of a sequence need not wait for the
    answer to the one before it (continuous batching). The headers say which sequence a request
    belongs to, that it begins one, and which ones an answer ends.
    """

    sequences: int
    waiting: int
    idle: float
    lifetime: float = 0.0
    overlapping: bool = False
    id_header: str = "ts_request_sequence_id"
    start_header: str = "ts_request_sequence_start"
    end_header: str = "ts_request_sequence_end"


@dataclass(slots=True, eq=False)
class Sequence:
    """An open sequence. ``worker`` is who keeps its state, None before its first batch."""

    id: str
    opened_at: float
    active_at: float
    worker: str | None = None
    waiting: deque[Job] = field(default_factory=deque)
    in_flight: int = 0

    @property
    def is_busy(self) -> bool:
        return bool(self.in_flight or self.waiting)

    def forget_settled(self) -> None:
        """Drop the requests whose clients have left."""
        self.waiting = deque(job for job in self.waiting if not job.is_settled)


class SequenceQueue:
    """What ModelQueue is to other models: it says who goes next, to which worker."""

    def __init__(
        self, limits: SequenceSpec, batch_size: int, max_batch_delay: float, *, adaptive: bool
    ) -> None:
        self.capacity = limits.sequences * limits.waiting
        self.batch_size = batch_size
        self.max_batch_delay = 0.0 if adaptive else max_batch_delay
        self._limits = limits
        self._open: dict[str, Sequence] = {}
        self._ready: dict[str | None, dict[Sequence, None]] = {}
        """By worker: sequences with a request that may leave now, the longest ready first."""
        self._bound: Counter[str] = Counter()
        self._alone: deque[Job] = deque()
        """Calls for a description: they belong to no sequence and share no batch."""
        self._waiting = 0
        self._in_work: dict[Job, Sequence] = {}
        """Requests that were taken; their sequence may be closed, and another of that name open."""

    def __len__(self) -> int:
        return self._waiting

    @property
    def remaining(self) -> int:
        """How many more requests may wait."""
        return max(0, self.capacity - self._waiting)

    @property
    def open_sequences(self) -> int:
        """How many there are at the moment."""
        return len(self._open)

    def bound(self, worker: str) -> int:
        """How many sequences ``worker`` keeps."""
        return self._bound[worker]

    displaces = False

    @property
    def refuses_all(self) -> bool:
        """Whoever comes now is refused: not known before it is known of which sequence it is."""
        return False

    def oldest_wait(self, now: float) -> float:
        """Seconds for which the one has waited that has waited longest; 0 where nobody does."""
        return max((now - job.offered_at for job in self.waiting()), default=0.0)

    def yields_to(self, job: Job) -> None:
        """Nobody gives way to another sequence."""

    def offer(self, job: Job, now: float) -> bool:
        """Queue a request of its ``sequence``, which may begin with it; False if it may not."""
        if job.sequence is None:
            self._alone.append(job)
            self._waiting += 1
            return True
        sequence = self._open.get(job.sequence)
        if sequence is not None:
            sequence.forget_settled()
        if sequence is not None and self._has_expired(sequence, now):
            if sequence.is_busy:
                return False
            self._close(sequence)
            sequence = None
        if sequence is None:
            sequence = self._begin(job.sequence, now)
            if sequence is None:
                return False
        if len(sequence.waiting) >= self._limits.waiting:
            return False
        sequence.active_at = now
        sequence.waiting.append(job)
        self._waiting += 1
        self._make_ready(sequence)
        return True

    def due(self, worker: str) -> float | None:
        """When ``worker`` should get its next batch; None if there is nothing for it."""
        if self._alone:
            return NOW
        ready = self._first(worker, self.batch_size)
        if not ready:
            return None
        if len(ready) >= self.batch_size or self.max_batch_delay <= 0:
            return NOW
        return min(each.waiting[0].offered_at for each in ready) + self.max_batch_delay

    def take(self, worker: str) -> list[Job]:
        """The next batch for ``worker``: of each of its sequences, and of new ones, one request."""
        while self._alone:
            job = self._alone.popleft()
            if not job.is_settled:
                self._waiting -= 1
                return [job]
        batch = []
        for sequence in self._first(worker, self.batch_size):
            del self._ready[sequence.worker][sequence]
            if sequence.worker is None:
                sequence.worker = worker
                self._bound[worker] += 1
            job = sequence.waiting.popleft()
            batch.append(job)
            self._waiting -= 1
            self._in_work[job] = sequence
            sequence.in_flight += 1
            self._make_ready(sequence)
        return batch

    def finished(self, job: Job, now: float) -> None:
        """A request that was taken is done with, whatever came of it."""
        sequence = self._in_work.pop(job, None)
        if sequence is not None and self._is_open(sequence):
            sequence.in_flight -= 1
            sequence.active_at = now
            self._make_ready(sequence)

    def head(self) -> None:
        """No request is first of all: each worker has its own."""

    def end(self, ids: Iterable[str]) -> list[Job]:
        """Close sequences; the requests of theirs that still wait and will not be served."""
        closed = [self._open[each] for each in ids if each in self._open]
        left = [job for each in closed for job in each.waiting if not job.is_settled]
        for sequence in closed:
            self._close(sequence)
        return left

    def lose(self, worker: str) -> list[Job]:
        """Close the sequences of a worker that is no more; requests that will not be served."""
        return self.end([each.id for each in self._open.values() if each.worker == worker])

    def discard(self, job: Job) -> None:
        """``job``, which waits, was settled from outside; it will be skipped."""
        self._waiting -= 1

    def answered(self, now: float, seconds: float, running: int, size: int) -> None:
        """Nothing is learned from answers: a batch leaves when it may."""

    def waiting(self) -> list[Job]:
        """The requests that wait."""
        jobs = [*self._alone, *(job for each in self._open.values() for job in each.waiting)]
        return [job for job in jobs if not job.is_settled]

    def _is_open(self, sequence: Sequence) -> bool:
        return self._open.get(sequence.id) is sequence

    def _begin(self, name: str, now: float) -> Sequence | None:
        if len(self._open) >= self._limits.sequences:
            for each in [each for each in self._open.values() if self._has_expired(each, now)]:
                if not each.is_busy:
                    self._close(each)
        if len(self._open) >= self._limits.sequences:
            return None
        sequence = self._open[name] = Sequence(name, now, now)
        return sequence

    def _has_expired(self, sequence: Sequence, now: float) -> bool:
        limits = self._limits
        if limits.lifetime and now - sequence.opened_at >= limits.lifetime:
            return True
        return not sequence.is_busy and now - sequence.active_at >= limits.idle

    def _close(self, sequence: Sequence) -> None:
        del self._open[sequence.id]
        self._ready.get(sequence.worker, {}).pop(sequence, None)
        if sequence.worker is not None:
            self._bound[sequence.worker] -= 1
            if not self._bound[sequence.worker]:
                del self._bound[sequence.worker]
                self._ready.pop(sequence.worker, None)

    def _make_ready(self, sequence: Sequence) -> None:
        """Note whether a request of the sequence may leave now."""
        if sequence.waiting and (self._limits.overlapping or not sequence.in_flight):
            self._ready.setdefault(sequence.worker, {})[sequence] = None

    def _first(self, worker: str, count: int) -> list[Sequence]:
        """Up to ``count`` sequences that ``worker`` may serve now, its own first."""
        found: list[Sequence] = []
        for owner in (worker, None):
            for sequence in list(self._ready.get(owner, ())):
                if len(found) == count:
                    return found
                sequence.forget_settled()
                if sequence.waiting:
                    found.append(sequence)
                else:
                    del self._ready[owner][sequence]
        return found


def name_sequence(headers: dict[str, str], spec: SequenceSpec, new_id: Callable[[], str]) -> str:
    """The id of the sequence that a request with ``headers`` belongs to.

    A client may spell the header's name as it likes; handlers look for the configured spelling,
    which is put into ``headers``. A request that names no sequence begins one of its own. Raises
    BadRequestError for an id that no answer could end.
    """
    named = headers.get(spec.id_header)
    if named is None:
        wanted = spec.id_header.lower()
        named = next((text for name, text in headers.items() if name.lower() == wanted), None)
    if named and ";" in named:
        raise BadRequestError(
            f"The id of a sequence ({spec.id_header}) must not hold a semicolon: answers separate "
            "ids by it."
        )
    if not named:
        named = f"ts-seq-{new_id()}"
        headers[spec.start_header] = "true"
    headers[spec.id_header] = named
    return named


def ended_sequences(headers: Iterable[tuple[str, str]], end_header: str) -> list[str]:
    """The ids that an answer's headers declare to be over, separated by semicolons."""
    wanted = end_header.lower()
    return [
        each.strip()
        for name, text in headers
        if name.lower() == wanted
        for each in text.split(";")
        if each.strip()
    ]
