"""``MicroBatching``: the stages of a handler side by side, each on another slice of the batch.

While one slice is in ``inference``, the next can be in ``preprocess`` and the one before in
``postprocess``. A handler puts it in the place of its ``handle``::

    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self, micro_batch_size=4)
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .rows import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

HANDLER_METHODS = ["preprocess", "inference", "postprocess"]
"""The stages, in their order."""


@dataclass
class WorkerThread:
    """A thread of a stage; ``event`` tells it to end."""

    event: threading.Event
    thread: threading.Thread


@dataclass
class _Failure:
    """Takes the place of a slice that a stage could not do."""

    error: BaseException


def execute_call(
    in_queue: queue.Queue[Any],
    out_queue: queue.Queue[Any],
    handle: Callable[[Any], Any],
    thread_local_data: Any,
    event: threading.Event,
) -> None:
    """Hand on, with its number, what ``handle`` makes of each slice, until ``event`` is set.

    An exception goes on in the slice's place. None in ``in_queue`` wakes a thread that waits.
    """
    while not event.is_set():
        item = in_queue.get()
        if item is None:
            continue
        index, data = item
        thread_local_data.micro_batch_idx = index
        if not isinstance(data, _Failure):
            try:
                data = handle(data)
            except BaseException as error:
                data = _Failure(error)
        out_queue.put((index, data))


class MicroBatching:
    """Answers batches for ``parent_handler``, cut into slices of ``micro_batch_size`` rows.

    ``parallelism`` says how many threads a stage has, one if it does not say. The stages are called
    as they are at that time, so a handler need not be complete yet. They must not rely on the other
    slices of the batch; row numbers in them count from the slice's first
    (``get_micro_batch_idx``).

    A row that ``preprocess`` sets aside, as VisionHandler does with what is no image, is answered
    by itself; any other exception in a stage is the answer of each row in its slice. What concerns
    the worker as a whole (SystemExit, running out of memory, CUDA) is raised. TorchServe hangs.
    """

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: int = 1,
        parallelism: Mapping[str, int] | None = None,
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism: dict[str, int] = {}
        self.thread_groups: dict[str, list[WorkerThread]] = {each: [] for each in HANDLER_METHODS}
        self.queues = _connected_queues()
        self.thread_local_data = threading.local()
        self._finalizer = weakref.finalize(self, _end, self.thread_groups, self.queues)
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads by stage, for the stages that were named."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        """Change the number of threads of the stages that are named, between two batches.

        Raises ValueError for what is no stage and for less than one thread.
        """
        for stage, count in parallelism.items():
            if stage not in HANDLER_METHODS:
                raise ValueError(f"{stage!r} is not one of {', '.join(HANDLER_METHODS)}")
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{stage} needs a number of threads from 1 on, not {count!r}")
        self._parallelism.update(parallelism)
        for stage in HANDLER_METHODS:
            self._set_threads(stage, self._parallelism.get(stage, 1))

    def get_micro_batch_idx(self) -> int | None:
        """In a stage: the number of its slice in the batch, from 0 on."""
        return getattr(self.thread_local_data, "micro_batch_idx", None)

    def shutdown(self) -> None:
        """End all threads, after the slices that they are at."""
        threads = [each.thread for group in self.thread_groups.values() for each in group]
        _end(self.thread_groups, self.queues)
        for thread in threads:
            thread.join()

    def handle(self, data: Any) -> list[Any]:
        """The answers to the rows of ``data``, in order."""
        size = self.micro_batch_size
        slices = [Batch(data[start : start + size]) for start in range(0, len(data), size)]
        for numbered in enumerate(slices):
            self.queues["preprocess_in"].put(numbered)
        # All of them, so that nothing is left for the next batch.
        done = dict(self.queues["postprocess_out"].get() for _ in slices)
        answers: list[Any] = []
        for index, rows in enumerate(slices):
            answers += _answers(rows, done[index])
        return answers

    def __call__(self, data: Any, context: Any) -> Any:
        """Answer a batch, as ``BaseHandler.handle`` does; calls to describe and explain are not
        cut into slices.
        """
        started = time.perf_counter()
        handler = self.handler
        handler.context = context
        if handler._is_describe():
            output: Any = [handler.describe_handle()]
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        milliseconds = round((time.perf_counter() - started) * 1000, 2)
        context.metrics.add_time("HandlerTime", milliseconds, None, "ms")
        return output

    def _set_threads(self, stage: str, count: int) -> None:
        group = self.thread_groups[stage]
        if len(group) > count:
            ending = list(group)
            _end({stage: group}, self.queues)
            for each in ending:
                each.thread.join()
        while len(group) < count:
            event = threading.Event()
            arguments = (
                self.queues[f"{stage}_in"],
                self.queues[f"{stage}_out"],
                _weakly(self.handler, stage),
                self.thread_local_data,
                event,
            )
            # Daemons: a worker that ends does not wait for them.
            name = f"{stage}-{len(group)}"
            thread = threading.Thread(target=execute_call, args=arguments, name=name, daemon=True)
            thread.start()
            group.append(WorkerThread(event, thread))


def _connected_queues() -> dict[str, queue.Queue[Any]]:
    """What one stage puts out is what the next takes in."""
    between: list[queue.Queue[Any]] = [queue.Queue() for _ in range(len(HANDLER_METHODS) + 1)]
    queues = {}
    for stage, before, after in zip(HANDLER_METHODS, between, between[1:], strict=False):
        queues[f"{stage}_in"], queues[f"{stage}_out"] = before, after
    return queues


def _weakly(handler: Any, stage: str) -> Callable[[Any], Any]:
    """The stage's method. A thread must not keep the handler, which would keep the thread."""
    found = weakref.ref(handler)
    return lambda data: getattr(found(), stage)(data)


def _end(groups: dict[str, list[WorkerThread]], queues: dict[str, queue.Queue[Any]]) -> None:
    for stage, group in groups.items():
        for each in group:
            each.event.set()
        for _ in group:
            queues[f"{stage}_in"].put(None)
        group.clear()


def _answers(rows: Batch, done: Any) -> Any:
    """Those of one slice; raises what must not be the answer of some rows only."""
    if not isinstance(done, _Failure):
        return rows.completed(done)
    error = done.error
    if not isinstance(error, Exception) or isinstance(error, MemoryError) or "CUDA" in str(error):
        raise error
    if rows.is_refused:
        return rows.completed([None] * len(rows))
    logger.error("A slice of %d failed", len(rows), exc_info=error)
    return [error] * len(rows)
