"""What holds for a version: the register call beats the archive, which beats the configuration.

TorchServe documents this order and follows it for the batch settings only; here it holds for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..model_store.model_config import TorchrunConfig
from .config import VersionSettings
from .latency_target import LARGEST_BATCH
from .ranks import Parallelism
from .sequences import SequenceSpec
from .version_spec import VersionSpec

if TYPE_CHECKING:
    from ..model_store.model_config import ModelConfig
    from ..model_store.store import StoredModel
    from .config import Config
    from .lifecycle import VersionKey

_T = TypeVar("_T")

MAX_CONCURRENCY = 100
"""Batches that a worker with ``asyncCommunication`` has in work at once, where nobody says."""


@dataclass(frozen=True, slots=True)
class Registration:
    """``POST /models``. None: not said. Times as the API has them: ms for the delay, else s.

    ``of_workflow`` says that the version is a node of a workflow. A function of a workflow has its
    code in the workflow's archive, which is ``borrowed``: who registers it has it and keeps it.
    ``replace``: it takes the place of the model's default version, which goes unless ``keep_old``.
    """

    url: str
    model_name: str | None = None
    handler: str | None = None
    runtime: str | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    synchronous: bool = True
    sha256: str | None = None
    s3_sse_kms: bool = False
    of_workflow: bool = False
    borrowed: StoredModel | None = None
    replace: bool = False
    keep_old: bool = False


def make_spec(
    key: VersionKey,
    handler: str,
    asked: Registration,
    stored: StoredModel,
    config: Config,
    python: str | None = None,
) -> VersionSpec:
    """The settings of a version, times in seconds; ``python`` is its own interpreter, if any."""
    archive, block = stored.config, _block(key, config)
    has_batches = not (archive.continuous_batching or archive.sequence_batching)
    target = (archive.latency_target or 0.0) if has_batches else 0.0
    size = LARGEST_BATCH if target else 1
    batch_size = _first(asked.batch_size, archive.batch_size, block.batch_size, size)
    delay = _first(asked.max_batch_delay, archive.max_batch_delay, block.max_batch_delay, 100)
    parallel = _parallelism(archive, block)
    return VersionSpec(
        key=key,
        model_dir=str(stored.model_dir),
        handler=handler,
        batch_size=batch_size,
        max_batch_delay=delay / 1000,
        adaptive_batching=bool(target) or (archive.batching or config.batching) == "adaptive",
        latency_target=target / 1000,
        response_timeout=_first(
            asked.response_timeout,
            archive.response_timeout,
            block.response_timeout,
            config.default_response_timeout,
        ),
        startup_timeout=_first(
            asked.startup_timeout,
            archive.startup_timeout,
            block.startup_timeout,
            config.default_startup_timeout,
        ),
        client_timeout=(archive.client_timeout_in_mills or 0) / 1000,
        queue_timeout=_first(archive.queue_timeout, config.default_queue_timeout),
        job_ticket=bool(archive.use_job_ticket),
        queue_size=_first(archive.job_queue_size, config.job_queue_size),
        queue_discipline=_first(archive.queue_discipline, config.queue_discipline),
        overload_status=int(config.overload_status),
        share_weight=_first(archive.share_weight, 1),
        max_retry_timeout=_first(archive.max_retry_timeout_in_sec, 300),
        lost_retries=_first(archive.retry_lost_batch, config.retry_lost_batch),
        isolate_failures=_isolates(archive, config, parallel),
        device_type=archive.device_type,
        device_ids=tuple(archive.device_ids or ()),
        concurrency=_concurrency(archive, batch_size),
        asynchronous=bool(archive.async_communication) and not archive.continuous_batching,
        continuous=bool(archive.continuous_batching),
        sequences=_sequences(archive, config),
        python=python,
        parallel=parallel,
        max_requests=_first(archive.max_requests_per_worker, config.max_requests_per_worker),
        max_memory=_first(archive.max_worker_memory, config.max_worker_memory) << 20,
        target_delay=_first(archive.target_queue_delay, config.target_queue_delay) / 1000,
        scale_down_after=float(_first(archive.scale_down_after, config.scale_down_after)),
        idle_timeout=float(_first(archive.idle_timeout, config.idle_timeout)),
        cold_start=(archive.cold_start or config.cold_start) == "wait",
        recorded=_first(archive.record_requests, config.record_requests),
        max_age=float(_first(archive.max_worker_age, config.max_worker_age)),
    )


def _concurrency(archive: ModelConfig, batch_size: int) -> int:
    """Batches that a worker has in work at once; a continuous one has a request in each."""
    if archive.continuous_batching:
        # As in TorchServe: requests of a sequence meet the one that is running.
        return 2 * batch_size if archive.sequence_batching else batch_size
    return _first(archive.max_concurrency, MAX_CONCURRENCY) if archive.async_communication else 1


def _isolates(archive: ModelConfig, config: Config, parallel: Parallelism | None) -> bool:
    """Whether a batch may be given to the handler again, in parts.

    Not where a worker keeps the state of sequences or of rounds, and where ranks have to agree on
    what they do next.
    """
    wanted: bool = _first(archive.isolate_failures, config.isolate_failures)
    if archive.continuous_batching or archive.sequence_batching:
        return False
    return wanted and not (parallel is not None and parallel.has_ranks)


def _sequences(archive: ModelConfig, config: Config) -> SequenceSpec | None:
    if not archive.sequence_batching:
        return None
    return SequenceSpec(
        sequences=_first(archive.max_num_sequence, 1),
        waiting=_first(archive.max_sequence_job_queue_size, 1),
        idle=(archive.sequence_max_idle_msec or 0) / 1000,
        lifetime=(archive.sequence_timeout_msec or 0) / 1000,
        overlapping=bool(archive.continuous_batching),
        id_header=config.ts_header_key_sequence_id,
        start_header=config.ts_header_key_sequence_start,
        end_header=config.ts_header_key_sequence_end,
    )


def initial_workers(
    key: VersionKey, asked: Registration, archive: ModelConfig, config: Config, default: int
) -> tuple[int, int]:
    """How many workers to start with, at least and at most; ``default`` where nobody says."""
    if asked.initial_workers is not None:
        return asked.initial_workers, asked.initial_workers
    if archive.min_workers is not None:
        return archive.min_workers, _first(archive.max_workers, archive.min_workers)
    block = _block(key, config)
    minimum = _first(block.min_workers, default)
    return minimum, max(minimum, _first(block.max_workers, minimum))


def _parallelism(archive: ModelConfig, block: VersionSettings) -> Parallelism | None:
    """How a worker is spread; without ``parallelType``, or over nothing, it is one process."""
    torchrun = archive.torchrun or TorchrunConfig()
    default = 0 if archive.torchrun is None else 1
    level = _first(torchrun.nproc_per_node, archive.parallel_level, block.parallel_level, default)
    if archive.parallel_type is None or level == 0:
        return None
    return Parallelism(archive.parallel_type, level, torchrun.omp_number_threads)


def _block(key: VersionKey, config: Config) -> VersionSettings:
    """What the ``models={...}`` block of the configuration says of a version."""
    return config.models.get(key[0], {}).get(key[1], VersionSettings())


def _first(*candidates: _T | None) -> _T:
    """The first that is not None."""
    for candidate in candidates:
        if candidate is not None:
            return candidate
    raise ValueError("no candidate has a value")
