# ruff: noqa: RUF009 - key() makes a dataclass field
"""Keys of the configuration: what is served, by how many workers, in what time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from .config_key import directory, key
from .disciplines import DISCIPLINES, FIFO
from .run_dir import default_run_dir, home
from .settings import (
    BOOLEAN,
    ENVELOPE,
    HEADER_NAME,
    LOAD_MODELS,
    MODELS,
    PATH,
    PATTERN,
    SNAPSHOT,
    TEXT,
    choice,
    integer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .version_settings import VersionSettings


def _default_model_cache_dir(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if cache.startswith("/") else home(environ) / ".cache"
    return root / "flambeau" / "models"


def _default_snapshot_dir(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("LOG_LOCATION") or "logs", "config")


@dataclass(frozen=True, kw_only=True)
class ModelsKeys:
    """What is served, by how many workers, in what time."""

    model_store: Path | None = key(
        PATH,
        None,
        "Folder that holds the model archives.",
        shown="none",
        flag="--model-store",
    )
    load_models: tuple[tuple[str | None, str], ...] = key(
        LOAD_MODELS,
        (),
        "Archives of the model store to serve from the start: all, none, or ARCHIVE and "
        "NAME=ARCHIVE separated by commas.",
        shown="none",
        flag="--models",
    )
    models: Mapping[str, Mapping[str, VersionSettings]] = key(
        MODELS,
        MappingProxyType({}),
        "Workers, batching and timeouts of models by name and version, as JSON.",
        shown="{}",
    )
    default_workers_per_model: int = key(
        integer(0),
        0,
        "Workers of a model that does not say how many; 0 gives a model that is loaded at start "
        "one per GPU, or per CPU core where there is none.",
    )
    default_response_timeout: int = key(
        integer(1), 120, "Seconds that a worker may take to answer a batch before it is killed."
    )
    default_startup_timeout: int = key(
        integer(1), 120, "Seconds that a worker may take to load its model."
    )
    default_queue_timeout: int = key(
        integer(0),
        0,
        "Seconds that a request may wait for a worker before it is answered 504; 0: no limit.",
    )
    unregister_model_timeout: int = key(
        integer(1), 120, "Seconds that the removal of a model may take."
    )
    job_queue_size: int = key(
        integer(1), 100, "Requests that may wait for one model version; more get 503."
    )
    queue_discipline: str = key(
        choice(*DISCIPLINES),
        FIFO,
        "Who of those that wait goes next: the first come (fifo); the newest while the queue is "
        "overloaded (lifo_on_overload); the most urgent by X-Request-Priority (priority); the "
        "one whose time is over first (deadline).",
    )
    overload_status: str = key(
        choice("503", "429"),
        "503",
        "Status for requests that do not fit into the queue; TorchServe's is 503.",
    )
    gpu_batches: int = key(
        integer(0),
        0,
        "Most batches in work at once on one GPU; models that share it take turns by their "
        "shareWeight. 0: no limit.",
    )
    cpu_batches: int = key(
        integer(0),
        0,
        "The same for all workers on the CPU together.",
    )
    batching: str = key(
        choice("adaptive", "fixed"),
        "adaptive",
        "adaptive: an idle worker waits for a fuller batch only while more requests are likely; "
        "fixed: it always waits maxBatchDelay, as TorchServe does.",
    )
    retry_lost_batch: int = key(
        integer(0, 10),
        1,
        "How often a request is tried again, alone, after the worker died that had it; 0 fails "
        "the whole batch, as TorchServe does.",
    )
    isolate_failures: bool = key(
        BOOLEAN,
        True,
        "Divide a batch that its handler fails or that does not fit into memory, so that other "
        "requests get their answers; false fails the whole batch, as TorchServe does.",
    )
    max_requests_per_worker: int = key(
        integer(0), 0, "Requests after which a worker is replaced by a new one; 0: never."
    )
    max_worker_memory: int = key(
        integer(0), 0, "Megabytes of memory above which a worker is replaced by a new one; 0: none."
    )
    max_worker_age: int = key(
        integer(0), 0, "Seconds after which a worker is replaced by a new one; 0: never."
    )
    record_requests: int = key(
        integer(0, 100),
        0,
        "Requests of each version that are kept in memory, to warm up workers that are started "
        "later; 0: none.",
    )
    target_queue_delay: int = key(
        integer(1),
        100,
        "Milliseconds that requests may wait before a version with room below its maxWorkers gets "
        "more workers.",
    )
    scale_down_after: int = key(
        integer(1),
        60,
        "Seconds of little work after which a version above its minWorkers gets fewer workers.",
    )
    idle_timeout: int = key(
        integer(0),
        0,
        "Seconds without a request after which a version has no workers until one comes; 0: never.",
    )
    cold_start: str = key(
        choice("wait", "reject"),
        "wait",
        "What becomes of requests for a version that has no workers because of idle_timeout.",
    )
    exit_on_model_failure: bool = key(
        BOOLEAN,
        False,
        "End the server, with exit code 3, when a model that it serves from the start cannot be "
        "loaded or is given up later, so that what has started the server starts it anew.",
    )
    number_of_gpu: int | None = key(
        integer(0), None, "Use at most this many GPUs.", shown="all that are visible"
    )
    default_service_handler: str | None = key(
        TEXT, None, "Handler of archives that name none.", shown="none"
    )
    service_envelope: str | None = key(
        ENVELOPE,
        None,
        "Protocol of the bodies of all requests, which handlers then need not know.",
        shown="none",
    )
    decode_input_request: bool = key(
        BOOLEAN, True, "Give handlers text and JSON bodies decoded, rather than as bytes."
    )
    limit_max_image_pixels: bool = key(
        BOOLEAN, True, "Let image handlers refuse images of suspiciously many pixels."
    )
    blacklist_env_vars: str = key(
        PATTERN,
        "",
        "Environment variables whose whole name matches this are hidden from workers.",
        shown="none",
    )
    workers_python: str = key(
        TEXT,
        sys.executable,
        "Python interpreter of the workers.",
        alias="python",
        shown="the one that runs flambeau",
    )
    ts_header_key_sequence_id: str = key(
        HEADER_NAME,
        "ts_request_sequence_id",
        "Header by which a request says to which sequence it belongs.",
    )
    ts_header_key_sequence_start: str = key(
        HEADER_NAME,
        "ts_request_sequence_start",
        "Header by which a request says that it begins a sequence.",
    )
    ts_header_key_sequence_end: str = key(
        HEADER_NAME,
        "ts_request_sequence_end",
        "Header by which an answer says which sequences are over.",
    )
    preload: str = key(
        TEXT,
        "torch,flambeau.handlers.vision",
        "Modules that workers after the first share, imported once: they start in milliseconds. "
        "none: each worker imports its own.",
    )
    install_py_dep_per_model: bool = key(
        BOOLEAN,
        False,
        "Install the requirements that an archive names, for its workers, before they start.",
    )
    dependency_timeout: int = key(
        integer(1), 1800, "Seconds that the installation of a model's requirements may take."
    )
    dependency_cache_mb: int = key(
        integer(0),
        20_000,
        "Megabytes on disk that environments of models may take together; where they take more, "
        "those that no model uses are removed, the longest unused first.",
    )
    initial_worker_port: int = key(
        integer(1),
        9000,
        "Number of the first worker; they have no ports, but are counted as TorchServe's are.",
    )
    initial_distribution_port: int = key(
        integer(1, 65535),
        29500,
        "First port of this host that is tried for the processes of a worker that has several, to "
        "find each other.",
    )
    drain_timeout: int = key(
        integer(0), 30, "Seconds that a stopping server gives to requests it has accepted."
    )
    pre_stop_delay: int = key(
        integer(0),
        0,
        "Seconds that a stopping server reports not to be ready while it still serves.",
    )
    run_dir: Path = directory(
        default_run_dir,
        "Private folder for sockets, logs and the state of running servers.",
        default="$XDG_RUNTIME_DIR/flambeau, else flambeau-<uid> among the temporary files",
        flag="--run-dir",
    )
    model_cache_dir: Path = directory(
        _default_model_cache_dir,
        "Folder for unpacked archives.",
        default="$XDG_CACHE_HOME/flambeau/models, else ~/.cache/flambeau/models",
    )
    snapshots: bool = key(
        BOOLEAN,
        False,
        "Write down after each change what is registered, and start from the last such file when "
        "no configuration file is named.",
        flag="--snapshots/--no-snapshots",
    )
    snapshot_dir: Path = directory(
        _default_snapshot_dir,
        "Folder for snapshots.",
        default="$LOG_LOCATION/config, else logs/config in the current folder",
    )
    model_snapshot: Mapping[str, Mapping[str, VersionSettings]] | None = key(
        SNAPSHOT,
        None,
        "The models of a snapshot, which are served from the start in place of load_models.",
        shown="none",
        file_only=True,
    )
    workflow_store: Path | None = key(
        PATH,
        None,
        "Folder that holds the workflow archives.",
        shown="model_store",
        flag="--workflow-store",
    )
