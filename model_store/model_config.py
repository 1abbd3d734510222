"""model-config.yaml as a typed object: every key that the server knows, checked and bounded.

The file is written by whoever made the archive. It is parsed without running anything, and a value
that cannot work refuses the model instead of being replaced by a default nobody asked for.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from .strict_yaml import load_yaml, refusal, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# Top-level keys that TorchServe's handlers read from the same file: never a misspelt server key.
HANDLER_KEYS = frozenset({"handler", "pt2", "micro_batching", "pippy", "deepspeed", "dali"})

MAX_WARM_UPS = 100
"""Requests that a worker is tried with, at most."""
_WARM_UP_KINDS = {
    "file": "application/octet-stream",
    "json": "application/json",
    "data": "text/plain",
}
# The server keeps TorchServe's limits, which are those of a 32-bit integer.
_MAX_INT = 2**31 - 1

_DURATION = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,6})?) ?(ms|s)")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a key's value may be: in words, and as a function that raises ValueError."""

    allowed: str
    read: Callable[[object], object]


def _whole_number(
    minimum: int, maximum: int | None = None, *, zero_is_unset: bool = False
) -> _Rule:
    def read(value: object) -> int | None:
        # bool is an int to Python, but `batchSize: yes` is a mistake.
        if type(value) is not int or not minimum <= value <= (maximum or _MAX_INT):
            raise ValueError
        return None if zero_is_unset and value == 0 else value

    words = f"a whole number of at least {minimum}"
    return _Rule(words if maximum is None else f"a whole number from {minimum} to {maximum}", read)


def _milliseconds() -> _Rule:
    def read(value: object) -> float:
        given = f"{value}ms" if type(value) is int else value
        matched = _DURATION.fullmatch(given) if isinstance(given, str) else None
        found = float(matched[1]) * (1000 if matched[2] == "s" else 1) if matched else 0.0
        if not 1 <= found <= _MAX_INT:
            raise ValueError
        return found

    return _Rule("milliseconds, at least 1, such as 50, 50ms or 1.5s", read)


def _one_of(*names: str) -> _Rule:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return _Rule(" or ".join(repr(name) for name in names), read)


def _instance_of(kind: type, words: str) -> _Rule:
    def read(value: object) -> object:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return _Rule(words, read)


def _device_ids() -> _Rule:
    def read(value: object) -> tuple[int, ...] | None:
        if not isinstance(value, list):
            raise ValueError
        if not all(type(each) is int and 0 <= each <= _MAX_INT for each in value):
            raise ValueError
        return tuple(value) or None

    return _Rule("a list of GPU numbers such as [0, 1]", read)


def _parallel_type() -> _Rule:
    named = _one_of("pp", "tp", "pptp", "custom")
    return _Rule(named.allowed, lambda value: None if value == "" else named.read(value))


def _one_node() -> _Rule:
    def read(value: object) -> int:
        if type(value) is not int or value != 1:
            raise ValueError
        return value

    return _Rule("1: the processes of a worker run on one host", read)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A request of ``warmUp``: the body is that of ``file``, or else ``json`` or ``data``."""

    file: str | None
    json: str | None
    data: str | None
    content_type: str
    times: int


def _warm_up() -> _Rule:
    def read(value: object) -> tuple[WarmUp, ...]:
        if not isinstance(value, list) or len(value) > MAX_WARM_UPS:
            raise ValueError
        return tuple(map(_warm_up_entry, value))

    allowed = (
        f"a list of at most {MAX_WARM_UPS} requests such as {{file: cat.jpg}}, {{json: {{x: 1}}}} "
        "or {data: some text}, each with contentType and times if wanted"
    )
    return _Rule(allowed, read)


def _warm_up_entry(entry: object) -> WarmUp:
    if not isinstance(entry, dict) or not set(entry) <= {*_WARM_UP_KINDS, "contentType", "times"}:
        raise ValueError
    kinds = [kind for kind in _WARM_UP_KINDS if kind in entry]
    if len(kinds) != 1:
        raise ValueError
    (kind,) = kinds
    times, content_type = entry.get("times", 1), entry.get("contentType", _WARM_UP_KINDS[kind])
    if type(times) is not int or not 1 <= times <= 100:
        raise ValueError
    given = entry[kind]
    if kind == "json":
        given = json.dumps(given)
    path = PurePosixPath(given) if kind == "file" and isinstance(given, str) else None
    leads_out = path is not None and (path.is_absolute() or ".." in path.parts)
    if not isinstance(given, str) or not isinstance(content_type, str) or leads_out:
        raise ValueError
    texts = {each: given if each == kind else None for each in _WARM_UP_KINDS}
    return WarmUp(**texts, content_type=content_type, times=times)


_TRUE_OR_FALSE = _instance_of(bool, "true or false")
_TEXT = _instance_of(str, "a text")
_MAPPING = _instance_of(dict, "a mapping of keys to values")


def _key(name: str, rule: _Rule) -> Any:
    return field(default=None, metadata={"key": name, "rule": rule})


@dataclass(frozen=True, slots=True)
class TorchrunConfig:
    """The ``torchrun`` block of model-config.yaml; None where the file says nothing."""

    nnodes: int | None = _key("nnodes", _one_node())
    nproc_per_node: int | None = _key("nproc-per-node", _whole_number(1))
    rdzv_backend: str | None = _key("rdzv-backend", _TEXT)
    rdzv_endpoint: str | None = _key("rdzv-endpoint", _TEXT)
    rdzv_conf: str | None = _key("rdzv-conf", _TEXT)
    monitor_interval: int | None = _key("monitor-interval", _whole_number(0))
    node_rank: int | None = _key("node-rank", _whole_number(0))
    omp_number_threads: int | None = _key("OMP_NUMBER_THREADS", _whole_number(1))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The server's keys of model-config.yaml, in the file's units; None: the file says nothing."""

    min_workers: int | None = _key("minWorkers", _whole_number(1))
    max_workers: int | None = _key("maxWorkers", _whole_number(0, zero_is_unset=True))
    batch_size: int | None = _key("batchSize", _whole_number(1))
    max_batch_delay: int | None = _key("maxBatchDelay", _whole_number(0))  # ms
    response_timeout: int | None = _key("responseTimeout", _whole_number(1))  # s
    startup_timeout: int | None = _key("startupTimeout", _whole_number(1))  # s
    device_type: str | None = _key("deviceType", _one_of("cpu", "gpu"))
    device_ids: tuple[int, ...] | None = _key("deviceIds", _device_ids())
    job_queue_size: int | None = _key("jobQueueSize", _whole_number(0, zero_is_unset=True))
    queue_discipline: str | None = _key(
        "queueDiscipline", _one_of("fifo", "lifo_on_overload", "priority", "deadline")
    )
    share_weight: int | None = _key("shareWeight", _whole_number(1, 1000))
    client_timeout_in_mills: int | None = _key("clientTimeoutInMills", _whole_number(0))
    queue_timeout: int | None = _key("queueTimeout", _whole_number(0))  # s
    max_retry_timeout_in_sec: int | None = _key("maxRetryTimeoutInSec", _whole_number(0))
    batching: str | None = _key("batching", _one_of("adaptive", "fixed"))
    latency_target: float | None = _key("latencyTarget", _milliseconds())
    retry_lost_batch: int | None = _key("retryLostBatch", _whole_number(0, 10))
    isolate_failures: bool | None = _key("isolateFailures", _TRUE_OR_FALSE)
    max_requests_per_worker: int | None = _key("maxRequestsPerWorker", _whole_number(0))
    max_worker_memory: int | None = _key("maxWorkerMemory", _whole_number(0))  # MB
    max_worker_age: int | None = _key("maxWorkerAge", _whole_number(0))  # s
    target_queue_delay: int | None = _key("targetQueueDelay", _whole_number(1))  # ms
    scale_down_after: int | None = _key("scaleDownAfter", _whole_number(1))  # s
    idle_timeout: int | None = _key("idleTimeout", _whole_number(0))  # s
    cold_start: str | None = _key("coldStart", _one_of("wait", "reject"))
    parallel_type: str | None = _key("parallelType", _parallel_type())
    parallel_level: int | None = _key("parallelLevel", _whole_number(0))
    torchrun: TorchrunConfig | None = field(
        default=None, metadata={"key": "torchrun", "rule": _MAPPING}
    )
    use_job_ticket: bool | None = _key("useJobTicket", _TRUE_OR_FALSE)
    continuous_batching: bool | None = _key("continuousBatching", _TRUE_OR_FALSE)
    sequence_batching: bool | None = _key("sequenceBatching", _TRUE_OR_FALSE)
    sequence_max_idle_msec: int | None = _key("sequenceMaxIdleMSec", _whole_number(0))
    sequence_timeout_msec: int | None = _key("sequenceTimeoutMSec", _whole_number(0))
    max_sequence_job_queue_size: int | None = _key("maxSequenceJobQueueSize", _whole_number(1))
    max_num_sequence: int | None = _key("maxNumSequence", _whole_number(1))
    async_communication: bool | None = _key("asyncCommunication", _TRUE_OR_FALSE)
    max_concurrency: int | None = _key("maxConcurrency", _whole_number(1, 10_000))
    use_venv: bool | None = _key("useVenv", _TRUE_OR_FALSE)
    warm_up: tuple[WarmUp, ...] | None = _key("warmUp", _warm_up())
    record_requests: int | None = _key("recordRequests", _whole_number(0, MAX_WARM_UPS))


def parse_model_config(text: str, file_name: str) -> tuple[ModelConfig, tuple[str, ...]]:
    """The server's keys of a model-config.yaml, and warnings about what looks like a mistake.

    A key without a value counts as absent; keys that the server does not know are the handler's.
    Raises InvalidModelError naming file, key, value and what is allowed.
    """
    values, warnings = load_yaml(text, file_name)
    config = _read_keys(ModelConfig, values, file_name)
    warnings += _misspelt(ModelConfig, values, file_name)
    torchrun = values.get("torchrun")
    if isinstance(torchrun, dict):
        where = f"{file_name}: torchrun"
        config = replace(config, torchrun=_read_keys(TorchrunConfig, torchrun, where))
        warnings += _unsupported(torchrun, where)
    if config.sequence_batching and not config.sequence_max_idle_msec:
        # TorchServe accepts that, and then none of the model's requests.
        allowed = "the milliseconds after which a sequence is closed, with sequenceBatching: true"
        raise refusal(file_name, "sequenceMaxIdleMSec", config.sequence_max_idle_msec, allowed)
    if config.latency_target and config.batching == "fixed":
        raise refusal(file_name, "batching", "fixed", "'adaptive', or no latencyTarget")
    warnings += _without_effect(config, file_name)
    return _paired(config, file_name), tuple(warnings)


def _read_keys(cls: type[_T], values: Mapping[object, object], where: str) -> _T:
    found: dict[str, object] = {}
    for spec in fields(cls):  # type: ignore[arg-type]
        key, rule = spec.metadata["key"], spec.metadata["rule"]
        value = values.get(key)
        if value is None:
            continue
        try:
            found[spec.name] = rule.read(value)
        except ValueError as error:
            raise refusal(where, key, value, rule.allowed) from error
    return cls(**found)


def _paired(config: ModelConfig, file_name: str) -> ModelConfig:
    """Without ``maxWorkers``, as many workers as ``minWorkers`` are all there may be."""
    if config.min_workers is None:
        return config
    if config.max_workers is None:
        return replace(config, max_workers=config.min_workers)
    if config.min_workers > config.max_workers:
        raise refusal(
            file_name,
            "minWorkers",
            config.min_workers,
            f"at most maxWorkers, which is {config.max_workers}",
        )
    return config


def _misspelt(cls: type, values: Iterable[object], where: str) -> list[str]:
    known = [spec.metadata["key"] for spec in fields(cls)]
    warnings = []
    for key in values:
        if isinstance(key, str) and key not in known and key not in HANDLER_KEYS:
            nearest = _nearest(key, known)
            if nearest is not None:
                warnings.append(
                    f"{where}: the server does not know the key {shown(key)} and leaves it "
                    f"to the handler; did you mean {nearest!r}?"
                )
    return warnings


def _unsupported(values: Iterable[object], where: str) -> list[str]:
    known = [spec.metadata["key"] for spec in fields(TorchrunConfig)]
    warnings = []
    for key in values:
        if key not in known:
            nearest = _nearest(key, known) if isinstance(key, str) else None
            hint = "" if nearest is None else f"; did you mean {nearest!r}?"
            warnings.append(f"{where}: unsupported parameter {shown(key)} is ignored{hint}")
    return warnings


def _without_effect(config: ModelConfig, file_name: str) -> list[str]:
    """Keys that do nothing, since another one is there or missing."""
    warnings = _unparallel(config, file_name)
    if config.latency_target and (config.sequence_batching or config.continuous_batching):
        other = "sequenceBatching" if config.sequence_batching else "continuousBatching"
        warnings.append(f"{file_name}: latencyTarget has no effect with {other}")
    return warnings


def _unparallel(config: ModelConfig, file_name: str) -> list[str]:
    """Keys for several processes or GPUs that do nothing, since another key is missing."""
    level = None if config.torchrun is None else (config.torchrun.nproc_per_node or 1)
    if config.parallel_type is not None:
        if not (level or config.parallel_level):
            return [f"{file_name}: parallelType has no effect without parallelLevel or torchrun"]
        if level and config.parallel_level and level != config.parallel_level:
            return [
                f"{file_name}: parallelLevel {config.parallel_level} is not used; torchrun's "
                f"nproc-per-node, which is {level}, counts"
            ]
        at_once = config.continuous_batching or config.async_communication
        if at_once and config.parallel_type in ("tp", "pptp"):
            key = "continuousBatching" if config.continuous_batching else "asyncCommunication"
            return [
                f"{file_name}: with parallelType {config.parallel_type!r} a worker has one request "
                f"or batch in work at a time, in spite of {key}"
            ]
    elif level or config.parallel_level:
        key = "parallelLevel" if level is None else "torchrun"
        return [
            f"{file_name}: {key} has no effect without parallelType; give 'tp', 'pp', 'pptp' or "
            "'custom'"
        ]
    return []


def _nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that differs from ``key`` by case, separators or a slip of the finger."""

    def plain(name: str) -> str:
        return name.replace("_", "").replace("-", "").lower()

    if len(key) > 64:
        return None
    by_plain = {plain(name): name for name in known}
    close = difflib.get_close_matches(plain(key), by_plain, n=1, cutoff=0.8)
    return by_plain[close[0]] if close else None
