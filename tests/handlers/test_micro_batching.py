"""The stages of a handler side by side, each on another slice of the batch."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau.handlers.base import BaseHandler
from flambeau.handlers.micro_batching import HANDLER_METHODS, MicroBatching, _end
from flambeau.handlers.vision import VisionHandler
from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tens(BaseHandler):
    """Multiplies by ten, without the constructor of its base."""

    def __init__(self) -> None:
        self.slices: list[Any] = []

    def preprocess(self, data: Any) -> Any:
        self.slices.append(list(data))
        return [row["body"] for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        if "bad" in data:
            raise PredictionException("bad row", 422)
        if "memory" in data:
            raise MemoryError
        if "exit" in data:
            raise SystemExit(3)
        return [value * 10 for value in data]

    def postprocess(self, data: Any) -> Any:
        return data

    def describe_handle(self) -> Any:
        return "ten times"

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        return [f"because of {tensor_data}"]


def rows(*values: object) -> list[dict[str, object]]:
    return [{"body": value} for value in values]


def make_context(count: int = 1, **headers: str) -> Context:
    context = Context("m", ".", None, 8, None, "0.12.0", True, Metrics("m"), {})
    context.begin_batch([str(index) for index in range(count)], [headers] * count)
    return context


@pytest.fixture
def handler() -> Iterator[Any]:
    handler = Tens()
    handler.handle = MicroBatching(handler, micro_batch_size=2)  # type: ignore[method-assign]
    yield handler
    handler.handle.shutdown()
    assert not [each for each in threading.enumerate() if each.name.startswith("inference-")]


def test_the_batch_is_cut_and_put_together_in_order(handler: Any) -> None:
    context = make_context(5)
    assert handler.handle(rows(1, 2, 3, 4, 5), context) == [10, 20, 30, 40, 50]
    assert [len(each) for each in handler.slices] == [2, 2, 1]
    assert [sample.name for sample in context.metrics.drain()] == ["HandlerTime"]
    assert handler.context is context
    assert handler.handle.handle([]) == []


def test_threads_come_and_go_between_batches(handler: Any) -> None:
    assert handler.handle.parallelism == {}
    handler.handle.parallelism = {"inference": 4}
    handler.handle.micro_batch_size = 1
    counts = {stage: len(group) for stage, group in handler.handle.thread_groups.items()}
    assert counts == {"preprocess": 1, "inference": 4, "postprocess": 1}
    values = list(range(50))
    assert handler.handle.handle(rows(*values)) == [value * 10 for value in values]
    threads = [each.thread for each in handler.handle.thread_groups["inference"]]
    handler.handle.parallelism = {"inference": 2, "preprocess": 3}
    assert handler.handle.parallelism == {"inference": 2, "preprocess": 3}
    assert not any(thread.is_alive() for thread in threads)
    assert handler.handle.handle(rows(*values)) == [value * 10 for value in values]


@pytest.mark.parametrize("wrong", [{"thinking": 1}, {"inference": 0}, {"inference": "2"}])
def test_nonsense_is_refused(handler: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match="inference"):
        handler.handle.parallelism = wrong
    assert handler.handle.parallelism == {}


def test_a_failing_slice_costs_its_own_rows(handler: Any) -> None:
    found = handler.handle(rows(1, 2, "bad", 4, 5), make_context(5))
    assert [found[0], found[1], found[4]] == [10, 20, 50]
    assert [(each.message, each.error_code) for each in found[2:4]] == [("bad row", 422)] * 2
    assert handler.handle(rows(7), make_context()) == [70]


@pytest.mark.parametrize(("row", "error"), [("memory", MemoryError), ("exit", SystemExit)])
def test_what_concerns_the_worker_is_raised(
    handler: Any, row: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        handler.handle(rows(1, 2, 3, row), make_context(4))
    assert handler.handle(rows(7), make_context()) == [70]


def test_a_row_that_is_set_aside_takes_no_other_with_it() -> None:
    class Images(Tens, VisionHandler):
        preprocess = VisionHandler.preprocess
        device = torch.device("cpu")

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            return data * 10

        def postprocess(self, data: Any) -> Any:
            return data.flatten().tolist()

    handler = Images()
    batching = MicroBatching(handler, micro_batch_size=3)
    found = batching(rows([1], b"bad", [2], b"bad", {}), make_context(5))
    batching.shutdown()
    assert [found[0], found[2]] == [10.0, 20.0]
    assert [found[index].error_code for index in (1, 3, 4)] == [400] * 3


def test_a_stage_knows_its_slice(handler: Any) -> None:
    seen = []
    handler.postprocess = lambda data: seen.append(handler.handle.get_micro_batch_idx()) or data
    handler.handle(rows(1, 2, 3), make_context(3))
    assert seen == [0, 1]
    assert handler.handle.get_micro_batch_idx() is None


def test_calls_to_describe_and_explain_are_not_cut(handler: Any) -> None:
    assert handler.handle([{}], make_context(describe="True")) == ["ten times"]
    found = handler.handle(rows(1, 2, 3), make_context(3, explain="True"))
    assert found == ["because of [1, 2, 3]"]


def test_threads_end_with_the_handler() -> None:
    handler = Tens()
    handler.handle = MicroBatching(handler)  # type: ignore[method-assign]
    threads = [each[0].thread for each in handler.handle.thread_groups.values()]
    assert len(threads) == len(HANDLER_METHODS)
    assert all(thread.daemon for thread in threads)
    gone = weakref.ref(handler)
    del handler
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_ending_twice_is_ending_once(handler: Any) -> None:
    handler.handle.shutdown()
    _end(handler.handle.thread_groups, handler.handle.queues)
