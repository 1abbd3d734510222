"""What a version is meant to be: everything that queueing and workers need to know. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .disciplines import FIFO

if TYPE_CHECKING:
    from .lifecycle import VersionKey
    from .ranks import Parallelism
    from .samples import Sample
    from .sequences import SequenceSpec


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """Everything that queueing and workers need to know of a version. Times are in seconds.

    With a ``latency_target`` (0: none) batches are such that requests are answered within it.
    A worker takes up to ``concurrency`` batches at once: ``asynchronous`` ones, or with
    ``continuous``, where each is one request, the rows of its rounds. ``client_timeout`` is for the
    whole of a request and ``queue_timeout`` for its wait; 0 means no limit. ``queue_size`` is per
    version; with ``job_ticket`` nobody waits at all. ``queue_discipline`` is who of those that wait
    goes next, and ``overload_status`` what those get for whom there is no room. ``share_weight`` is
    the version's claim to a device that it shares with others. ``lost_retries`` is how often a
    request of a lost batch is tried again. With ``isolate_failures`` a batch that the handler fails
    is divided. ``python`` is the interpreter of the version's own environment, None for that of all
    workers. ``parallel`` is there where a worker has several GPUs. A worker is renewed after about
    ``max_requests`` requests or ``max_age`` seconds, and when it has more than ``max_memory`` bytes
    in memory; 0: never for that reason. A worker has to answer ``warm_up`` and ``trials``, requests
    to its predecessor, before it is ready; up to ``recorded`` requests are kept for those that come
    after it. Between its minimum and maximum the number of workers grows while requests wait longer
    than ``target_delay``, and shrinks after ``scale_down_after`` seconds of little work. After
    ``idle_timeout`` seconds without a request (0: never) there are none until one comes, which
    waits with ``cold_start``.
    """

    key: VersionKey
    model_dir: str
    handler: str
    batch_size: int = 1
    max_batch_delay: float = 0.1
    adaptive_batching: bool = True
    latency_target: float = 0.0
    response_timeout: float = 120.0
    startup_timeout: float = 120.0
    client_timeout: float = 0.0
    queue_timeout: float = 0.0
    job_ticket: bool = False
    queue_size: int = 100
    queue_discipline: str = FIFO
    overload_status: int = 503
    share_weight: int = 1
    max_retry_timeout: float = 300.0
    lost_retries: int = 1
    isolate_failures: bool = False
    device_type: str | None = None
    device_ids: tuple[int, ...] = ()
    concurrency: int = 1
    asynchronous: bool = False
    continuous: bool = False
    sequences: SequenceSpec | None = None
    python: str | None = None
    parallel: Parallelism | None = None
    max_requests: int = 0
    max_memory: int = 0
    max_age: float = 0.0
    warm_up: tuple[Sample, ...] = ()
    trials: tuple[Sample, ...] = ()
    recorded: int = 0
    target_delay: float = 0.1
    scale_down_after: float = 60.0
    idle_timeout: float = 0.0
    cold_start: bool = True

    def proven(self) -> VersionSpec:
        """The same once it has shown that it can take its predecessor's place."""
        return replace(self, trials=()) if self.trials else self

    @property
    def rows(self) -> int:
        """Requests in a batch, as the queue forms them."""
        return 1 if self.continuous else self.batch_size
