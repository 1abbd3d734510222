"""What the management API says of a version: TorchServe's fields in its order, then ours.

Nothing here is stored: every answer is derived from the fleet's state at that moment.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import without_folders
from .memory_limits import safe_batch
from .worker_memory import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model_store.store import StoredModel
    from .autoscaler import ScalingEvent
    from .exits import Exit
    from .precedence import Registration
    from .roster import Slot
    from .version_spec import VersionSpec
    from .versions import Version


@dataclass(frozen=True, slots=True)
class Record:
    """A registered version, as the registry knows it.

    ``of_workflow``: it is a node of a workflow, and comes and goes with that.
    """

    spec: VersionSpec
    stored: StoredModel
    runtime: str
    loaded_at_startup: bool
    asked: Registration
    of_workflow: bool = False

    @property
    def is_function(self) -> bool:
        """Its code is in a workflow's archive: it has no URL, and nothing of its own to release."""
        return not self.stored.url


def describe_version(
    record: Record,
    version: Version,
    now: float,
    gpu_usage: Callable[[int], str],
    pids_of_ranks: Callable[[str], list[int]],
) -> dict[str, object]:
    """One element of ``GET /models/{model}``. ``now`` is a reading of the engine's clock."""
    spec = record.spec
    config = record.stored.config
    level = (config.parallel_level or 0) if spec.parallel is None else spec.parallel.level
    on_gpu = any(slot.device is not None for slot in version.slots.values())
    fields: dict[str, object] = {
        "modelName": spec.key[0],
        "modelVersion": spec.key[1],
        "modelUrl": record.stored.url or None,
        "runtime": record.runtime,
        "minWorkers": version.min_workers,
        "maxWorkers": version.max_workers,
        "batchSize": spec.batch_size,
        "maxBatchDelay": round(spec.max_batch_delay * 1000),
        "responseTimeout": round(spec.response_timeout),
        "startupTimeout": round(spec.startup_timeout),
        "maxRetryTimeoutInSec": round(spec.max_retry_timeout),
        "clientTimeoutInMills": round(spec.client_timeout * 1000),
        "parallelType": config.parallel_type or "",
        "parallelLevel": level,
        "deviceType": "gpu" if on_gpu else "cpu",
        "deviceIds": list(spec.device_ids) or None,
        "continuousBatching": spec.continuous,
        "useJobTicket": spec.job_ticket,
        "useVenv": bool(config.use_venv) and record.runtime == "python",
        "stateful": spec.sequences is not None,
        "sequenceMaxIdleMSec": config.sequence_max_idle_msec or 0,
        "sequenceTimeoutMSec": config.sequence_timeout_msec or 0,
        "maxNumSequence": spec.sequences.sequences if spec.sequences else 0,
        "maxSequenceJobQueueSize": spec.sequences.waiting if spec.sequences else 0,
        "loadedAtStartup": record.loaded_at_startup,
        "workers": [
            _worker(slot, now, gpu_usage, pids_of_ranks) for slot in version.slots.values()
        ],
        "jobQueueStatus": {
            "remainingCapacity": version.queue.remaining,
            "pendingRequests": len(version.queue),
        },
        "status": version.state.value.upper(),
        "failure": None if version.failure is None else _exit(version.failure, now),
        "retryInSec": None if version.failure is None else _seconds_until(version.retry_at, now),
        "exits": dict(version.exits) or None,
        "lastExit": None if version.last_exit is None else _exit(version.last_exit, now),
        "batching": "adaptive" if spec.adaptive_batching else "fixed",
        "latencyTarget": round(spec.latency_target * 1000, 3) or None,
        "retryLostBatch": spec.lost_retries,
        "isolateFailures": spec.isolate_failures,
        "safeBatchSize": safe_batch(version),
        "queueDiscipline": None if spec.sequences else spec.queue_discipline,
        "shareWeight": spec.share_weight,
        "asyncCommunication": spec.asynchronous,
        "concurrency": spec.concurrency,
        "targetQueueDelay": round(spec.target_delay * 1000) if version.is_elastic else None,
        "scaleDownAfter": round(spec.scale_down_after) if version.is_elastic else None,
        "idleTimeout": round(spec.idle_timeout) or None,
        "scalingEvents": [_scaling(event, now) for event in version.scalings] or None,
        "recordRequests": spec.recorded or None,
        "recordedRequests": None if version.recorder is None else len(version.recorder.samples),
        "maxRequestsPerWorker": spec.max_requests or None,
        "maxWorkerMemory": (spec.max_memory >> 20) or None,
        "maxWorkerAge": round(spec.max_age) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def summarise(record: Record, version: Version | None, is_default: bool) -> dict[str, object]:
    """A version as TorchServe's snapshots have it."""
    spec = record.spec
    fields: dict[str, object] = {
        "defaultVersion": is_default,
        "marName": record.stored.url.rstrip("/").rpartition("/")[2],
        "minWorkers": 0 if version is None else version.min_workers,
        "maxWorkers": 0 if version is None else version.max_workers,
        "batchSize": spec.batch_size,
        "maxBatchDelay": round(spec.max_batch_delay * 1000),
        "responseTimeout": round(spec.response_timeout),
        "startupTimeout": round(spec.startup_timeout),
        "runtimeType": record.runtime,
    }
    if spec.parallel is not None:
        fields["parallelLevel"] = spec.parallel.level
    return fields


def worker_status(slot: Slot) -> str:
    """TorchServe's word for a worker's state: READY, or UNLOADING for everything else."""
    return "READY" if slot.is_ready else "UNLOADING"


def _worker(
    slot: Slot,
    now: float,
    gpu_usage: Callable[[int], str],
    pids_of_ranks: Callable[[str], list[int]],
) -> dict[str, object]:
    worker = slot.worker
    pid = worker.pid if worker is not None else None
    ranks = [] if worker is None else pids_of_ranks(worker.identity)
    pids = ranks or ([] if pid is None else [pid])
    fields: dict[str, object] = {
        "id": str(slot.number),
        "startTime": _wall_clock(slot.started_at, now),
        "status": worker_status(slot),
        "memoryUsage": sum(map(resident_bytes, pids)),
        "pid": -1 if pid is None else pid,
        "gpu": slot.device is not None,
        "gpuUsage": "N/A" if slot.device is None else gpu_usage(slot.device),
        "state": slot.shown_state,
        "restarts": slot.restarts,
    }
    if slot.standby:
        fields["standby"] = True
    if any(map(_is_stopped, pids)):
        fields["process"] = "stopped"
    if slot.device is not None:
        fields["gpuId"] = slot.device
    if ranks:
        fields["ranks"] = ranks
    if slot.restart_at is not None:
        fields["restartInSec"] = _seconds_until(slot.restart_at, now)
    if slot.last_exit is not None:
        fields["lastExit"] = _exit(slot.last_exit, now)
    return fields


def _scaling(event: ScalingEvent, now: float) -> dict[str, object]:
    return {
        "time": _wall_clock(event.at, now),
        "from": event.before,
        "to": event.after,
        "reason": event.reason,
    }


def _exit(exit: Exit, now: float) -> dict[str, object]:
    fields: dict[str, object] = {
        "reason": exit.reason.value,
        "message": exit.message,
        "time": _wall_clock(exit.at, now),
        "secondsAgo": round(now - exit.at, 1),
        "tail": [without_folders(line) for line in exit.tail],
    }
    known: dict[str, object] = {
        "exitCode": exit.code,
        "signal": exit.signal,
        "memoryAtExit": exit.memory,
        "secondsAlive": None if exit.lived is None else round(exit.lived, 1),
        "requestsServed": exit.served,
    }
    return fields | {name: value for name, value in known.items() if value is not None}


def _seconds_until(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, at - now), 1)


def _wall_clock(at: float, now: float) -> str:
    """A reading of the engine's clock as local time, in TorchServe's form."""
    seconds = time.time() - (now - at)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _is_stopped(pid: int) -> bool:
    """By SIGSTOP, or by a debugger: it does nothing, whatever it is thought to do."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
