"""A worker's life: say hello, load the model, answer batches until told to stop.

Exit codes: 0 after Stop, 1 when the model could not be loaded or the frontend made no sense,
EXIT_CUDA_ERROR when the GPU context is beyond use.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import FlambeauError
from . import compat
from .compat.names import TORCHSERVE_VERSION
from .context import Context
from .continuous import ContinuousBatches
from .coroutines import event_loop, is_async, one_by_one
from .envelopes import wrap
from .errors import WarmUpError
from .isolation import Isolation
from .link import Inbox, Link, die_with_parent
from .loader import EntryPoint, load_built_in, load_entry_point, without_paths
from .log_lines import RequestLines
from .messages import Bye, Hello, Load, Loaded, LoadFailed, Stop, Work
from .metrics import Metrics
from .model_files import read_manifest, read_model_config
from .protocol import EXIT_CUDA_ERROR, PROTOCOL_VERSION, ProtocolError
from .rows import Rows
from .service import Service
from .warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("flambeau.worker")

CREDITS = 8
"""Batches that may be here at a time, where only one is in work: the others save it the wait."""
_FAREWELL = 5.0
_DECODE = "TS_DECODE_INPUT_REQUEST"


def main(*, is_copy: bool = False) -> int:
    """Run one worker; the process's exit code. ``is_copy``: the template has made it."""
    arguments = _arguments()
    _log_to_standard_streams()
    die_with_parent(arguments.parent_fd, is_child=not is_copy)
    link = Link(arguments.endpoint, arguments.identity)
    try:
        return _serve(link)
    except ProtocolError as error:
        logger.error("The frontend sent nonsense: %s", error)
        return 1
    finally:
        link.close()


def _serve(link: Link) -> int:
    link.send(Hello(*PROTOCOL_VERSION, os.getpid()))
    load = link.receive()
    if isinstance(load, Stop):
        return 0
    if not isinstance(load, Load):
        raise ProtocolError(f"expected Load, got {type(load).__name__}")
    link.is_silent = load.rank > 0
    started = time.perf_counter()
    try:
        serving = _load(load, link)
    except Exception as error:
        logger.exception("Loading model %s failed", load.model_name)
        link.send(_load_failure(error, Path(load.model_dir)))
        # Stay until the frontend has read the reason and ends this process.
        link.receive(_FAREWELL)
        return 1
    _tidy_memory()
    seconds = time.perf_counter() - started
    link.send(Loaded(serving.credits, seconds, *serving.schemas, serving.drain_samples()))
    return serving.run()


def _tidy_memory() -> None:
    # The model and its libraries stay: the collector need not look through them time and again.
    gc.collect()
    gc.freeze()
    # Loading frees as much as a model is large, and glibc would keep it.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Serving(NamedTuple):
    """How this worker works on batches: it holds up to ``credits``; ``run`` gives the exit code.

    ``schemas`` are what the handler says of its input and of its output: JSON Schema, as text.
    ``drain_samples`` gives what it has reported since the last call.
    """

    credits: int
    schemas: tuple[str | None, str | None]
    drain_samples: Callable[[], list[list[Any]]]
    run: Callable[[], int]


def _one_by_one(link: Link, inbox: Inbox, service: Service, retries_lost: bool = False) -> int:
    while True:
        message = inbox.take()
        if isinstance(message, Work):
            result = service.run(message)
            if result.is_spoilt and retries_lost and len(result.answers) > 1:
                # Lost with this worker, they are tried alone: only the culprit fails.
                return EXIT_CUDA_ERROR
            link.answer(result)
            if result.is_spoilt:
                return EXIT_CUDA_ERROR
        elif isinstance(message, Stop):
            link.send(Bye())
            return 0
        else:
            raise ProtocolError(f"unexpected {type(message).__name__}")


def _load(load: Load, link: Link) -> _Serving:
    model_dir = Path(load.model_dir)
    # Handlers open files of their archive by relative name.
    os.chdir(model_dir)
    if load.archive_code:
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(model_dir), inherited]))
    manifest = read_manifest(model_dir)
    metrics = Metrics(load.model_name, load.metrics)
    # TorchServe's id for what is reported while a model is loaded.
    metrics.set_request_ids(str(uuid.uuid4()))
    context = Context(
        load.model_name,
        load.model_dir,
        manifest,
        load.batch_size,
        load.gpu_id,
        TORCHSERVE_VERSION,
        load.limit_max_image_pixels,
        metrics,
        read_model_config(model_dir, manifest),
    )
    if load.asynchronous:
        # What a handler makes for the event loop belongs to the one that will run.
        event_loop()
    # A handler may ask for bytes by setting this while it is imported or initialised.
    os.environ[_DECODE] = str(load.decode_input_request).lower()
    return _serving(load, link, context, _entry_point(load, model_dir, context))


def _serving(load: Load, link: Link, context: Context, entry_point: EntryPoint) -> _Serving:
    schemas = (context.input_schema, context.output_schema)
    credits = max(CREDITS, load.concurrency)
    rows = Rows(
        decode_input=os.environ.get(_DECODE) == "true",
        name_content_types=load.name_content_types,
    )
    if load.asynchronous and not load.envelope:
        from .asynchronous import AsyncBatches

        if not is_async(entry_point):
            logger.warning(
                "asyncCommunication is on, and handle is not 'async def': it gets one batch at a "
                "time. Write 'async def handle', or leave asyncCommunication out."
            )
            credits = 1
        _warm_up(load, entry_point, context, rows)
        batches = AsyncBatches(
            entry_point,
            context,
            rows,
            link,
            event_loop(),
            retries_lost=load.retries_lost,
            isolates=load.isolate_failures,
        )
        return _Serving(credits, schemas, context.drain_samples, batches.run)
    if load.asynchronous:
        logger.warning("With a service_envelope an async handler gets one batch at a time.")
        credits = 1
    if load.envelope:
        # What clients send is the envelope's business then.
        schemas = (None, None)
    if is_async(entry_point):
        entry_point = one_by_one(entry_point)
    folder = Path(load.model_dir) if load.archive_code else None
    entry_point = wrap(load.envelope, entry_point, folder)
    isolation = Isolation(load.batch_size, load.response_timeout, is_on=load.isolate_failures)
    _warm_up(load, entry_point, context, rows, isolation)
    if load.continuous:
        rounds = ContinuousBatches(entry_point, context, rows, link)
        return _Serving(credits, schemas, context.drain_samples, rounds.run)
    inbox = Inbox(link)
    emit = None if link.is_silent else link.send
    service = Service(
        entry_point,
        context,
        rows,
        emit=emit,
        is_cancelled=inbox.is_cancelled,
        isolation=isolation,
    )
    answer = partial(_one_by_one, link, inbox, service, load.retries_lost)
    return _Serving(credits, schemas, context.drain_samples, answer)


def _warm_up(
    load: Load,
    entry_point: EntryPoint,
    context: Context,
    rows: Rows,
    isolation: Isolation | None = None,
) -> None:
    """What does not fit into memory together is learnt here, before clients ask."""
    if not load.warm_up:
        return
    if load.continuous:
        logger.warning("A model with continuousBatching is not warmed up.")
        return
    if is_async(entry_point):
        entry_point = one_by_one(entry_point)
    service = Service(entry_point, context, rows, isolation=isolation)
    warm_up(service, load.warm_up, load.batch_size)
    context.drain_samples()


def _entry_point(load: Load, model_dir: Path, context: Context) -> EntryPoint:
    if load.archive_code:
        compat.install(model_dir)
        return load_entry_point(load.handler, model_dir, context)
    return load_built_in(load.handler, model_dir, context)


def _load_failure(error: Exception, model_dir: Path) -> LoadFailed:
    """TorchServe's codes: 507 when memory ran out, else 500."""
    if isinstance(error, WarmUpError):
        return LoadFailed(500, "warm_up", error.message)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "CUDA out of memory" in str(cause):
            return LoadFailed(507, "out_of_memory", "System out of memory.")
        if isinstance(cause, ImportError):
            return LoadFailed(500, "import_error", _reason(error, model_dir))
        cause = cause.__cause__
    return LoadFailed(500, "boot_failure", _reason(error, model_dir))


def _reason(error: Exception, model_dir: Path) -> str:
    if isinstance(error, FlambeauError):
        return error.message
    text = without_paths(str(error).strip(), model_dir)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flambeau.worker", description=__doc__)
    parser.add_argument("--endpoint", required=True, help="the frontend's socket")
    parser.add_argument("--identity", required=True, help="this worker's name on the wire")
    parser.add_argument("--parent-fd", required=True, type=int, help="read end of the death pipe")
    return parser.parse_args()


def _log_to_standard_streams() -> None:
    """INFO to stdout, WARNING and above to stderr, bare messages: the frontend adds the rest."""
    # Files of our own: a handler may close Python's.
    out, err = (logging.StreamHandler(open(fd, "w", closefd=False)) for fd in (1, 2))  # noqa: SIM115
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err.setLevel(logging.WARNING)
    for stream in (out, err):
        stream.setFormatter(RequestLines())
    logging.basicConfig(level=logging.INFO, handlers=[out, err])
