"""Async handlers: many batches in work at once, each with a context of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from fake_link import FakeLink, work

from flambeau.worker.asynchronous import AsyncBatches
from flambeau.worker.context import Context
from flambeau.worker.coroutines import event_loop
from flambeau.worker.errors import PredictionException
from flambeau.worker.log_lines import RequestLines
from flambeau.worker.messages import Bye, Cancel, Chunk, Stop
from flambeau.worker.metrics import Metrics
from flambeau.worker.protocol import EXIT_CUDA_ERROR, ProtocolError
from flambeau.worker.rows import Rows
from flambeau.worker.streaming import send_intermediate_predict_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


class Bench:
    """A handler between a fake link and an event loop; ``until`` many answers it is stopped."""

    def __init__(self, link: FakeLink) -> None:
        self.link = link
        self.context = Context("m", "/models/m", None, 4, None, "0.12.0", metrics=Metrics("m"))

    def serve(self, handle: Callable[..., Any], *batches: Any, **how: Any) -> int:
        batches = batches or (work(1, b"x"),)
        self.link.push(*batches, Stop())
        link: Any = self.link
        return AsyncBatches(handle, self.context, Rows(), link, event_loop(), **how).run()

    def body(self, batch_id: int = 1, row: int = 0) -> bytes:
        return bytes(self.link.result(batch_id).answers[row].body)


@pytest.fixture
def bench() -> Iterator[Bench]:
    link = FakeLink()
    yield Bench(link)
    link.close()
    event_loop().close()


def test_batches_are_in_work_at_once_and_answered_as_they_are_done(bench: Bench) -> None:
    """Each waits for the one after it: one at a time, or in order, would never end."""
    done = {number: asyncio.Event() for number in range(1, 5)}
    done[4].set()

    async def handle(data: list[Any], context: Context) -> list[str]:
        number = int(data[0]["body"])
        await done[number + 1].wait()
        done[number].set()
        return [f"{number}"]

    assert bench.serve(handle, *(work(n, str(n).encode()) for n in (1, 2, 3))) == 0
    assert bench.link.order() == [3, 2, 1]
    assert [bench.body(n) for n in (1, 2, 3)] == [b"1", b"2", b"3"]
    assert isinstance(bench.link.said[-1], Bye)


def test_each_batch_has_a_context_of_its_own(bench: Bench) -> None:
    bench.context.shared = {"from": "initialize"}  # type: ignore[attr-defined]
    arrived: list[int] = []
    both_here = asyncio.Event()

    async def handle(data: list[Any], context: Any) -> list[Any]:
        batch = int(context.get_request_header(0, "x-batch"))
        context.mine = batch
        context.set_response_header(0, "x-mine", str(batch))
        context.set_response_status(200 + batch, "Odd", 0)
        arrived.append(batch)
        if len(arrived) == 2:
            both_here.set()
        await both_here.wait()
        assert context.mine == batch
        return [[context.get_request_id(0), context.shared["from"]]]

    bench.serve(handle, work(1, b"x"), work(2, b"x"))
    for batch in (1, 2):
        (answer,) = bench.link.result(batch).answers
        assert (answer.status, answer.headers) == (200 + batch, [("x-mine", str(batch))])
        assert f"r{batch}.0".encode() in answer.body
        assert b"initialize" in answer.body
    assert not hasattr(bench.context, "mine")


@pytest.mark.parametrize(
    ("problem", "status", "message"),
    [
        (ValueError("no"), 503, "Prediction failed"),
        (PredictionException("not this", 422), 422, "not this"),
        (MemoryError(), 507, "Out of resources"),
        (asyncio.CancelledError(), 503, "Prediction failed"),
    ],
)
def test_an_error_is_that_of_its_batch(
    bench: Bench, problem: BaseException, status: int, message: str
) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        if data[0]["body"] == "bad":
            raise problem
        return ["fine"] * len(data)

    assert bench.serve(handle, work(1, b"bad", b"companion"), work(2, b"good")) == 0
    answers = bench.link.result(1).answers
    assert [(each.status, bytes(each.body).decode()) for each in answers] == [(status, message)] * 2
    assert bench.body(2) == b"fine"


@pytest.mark.parametrize(
    ("returned", "message"),
    [("text", b"Invalid model predict output"), ([], b"number of batch response mismatched")],
)
def test_what_is_returned_must_fit_the_batch(bench: Bench, returned: Any, message: bytes) -> None:
    async def handle(data: list[Any], context: Context) -> Any:
        return returned

    bench.serve(handle)
    assert bench.body() == message


def test_a_function_that_returns_a_coroutine_and_one_that_does_not_work_too(bench: Bench) -> None:
    async def later(data: list[Any]) -> list[str]:
        return ["later"]

    def handle(data: list[Any], context: Context) -> Any:
        return later(data) if data[0]["body"] == "later" else ["now"]

    bench.serve(handle, work(1, b"later"), work(2, b"now"))
    assert (bench.body(1), bench.body(2)) == (b"later", b"now")


def test_pieces_reach_the_request_that_they_are_for(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        for step in range(2):
            piece = f"{data[0]['body']}{step}"
            send_intermediate_predict_response([piece], context.request_ids, "ok", 200, context)
            await asyncio.sleep(0)
        return ["end"]

    bench.serve(handle, work(1, b"a"), work(2, b"b"))
    assert bench.link.pieces(1) == [b"a0", b"a1", b"end"]
    assert bench.link.pieces(2) == [b"b0", b"b1", b"end"]
    first_end = bench.link.order()[0]
    chunks = [message.batch_id for message in bench.link.said if isinstance(message, Chunk)]
    assert chunks == [1, 2, 1, 2], f"batch {first_end} was answered first"


def test_pieces_may_come_from_a_thread(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        def work_hard() -> None:
            send_intermediate_predict_response(["p"], context.request_ids, "ok", 200, context)

        await asyncio.to_thread(work_hard)
        return ["end"]

    bench.serve(handle)
    assert bench.link.pieces(1) == [b"p", b"end"]


async def letters(text: str) -> AsyncIterator[str]:
    for letter in text:
        await asyncio.sleep(0)
        yield letter


async def broken() -> AsyncIterator[str]:
    yield "begun"
    raise ValueError("no more")


def test_generators_are_sent_as_they_yield(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[Any]:
        return [letters("ab"), "plain", (each for each in "cd"), broken()]

    bench.serve(handle, work(1, b"", b"", b"", b""))
    chunks = [m for m in bench.link.said if isinstance(m, Chunk)]
    by_row = [[bytes(m.piece.body) for m in chunks if m.index == row] for row in range(4)]
    assert by_row == [[b"a", b"b"], [], [b"c", b"d"], [b"begun"]]
    answers = bench.link.result(1).answers
    assert [answer.status for answer in answers] == [200, 200, 200, 503]
    assert [bytes(answer.body) for answer in answers[:3]] == [b"", b"plain", b""]


def test_a_batch_that_nobody_waits_for_is_cancelled(bench: Bench) -> None:
    ended: list[str] = []

    async def handle(data: list[Any], context: Context) -> list[str]:
        bench.link.push(Cancel(1, 0), Cancel(1, 1))
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(context.get_request_id(0) or "")
        return []

    assert bench.serve(handle, work(1, b"x", b"y")) == 0
    assert ended == ["r1.0"]
    assert [answer.is_error for answer in bench.link.result(1).answers] == [True, True]


def test_a_batch_goes_on_as_long_as_somebody_waits_for_it(bench: Bench) -> None:
    seen: list[bool] = []

    async def handle(data: list[Any], context: Context) -> list[Any]:
        bench.link.push(Cancel(1, 1), Cancel(99))
        while not context.is_cancelled(1):  # noqa: ASYNC110 - nothing else tells it
            await asyncio.sleep(0)
        seen.append(context.is_cancelled())
        return ["x", letters("never sent")]

    bench.serve(handle, work(1, b"x", b"y"))
    assert seen == [False]
    assert bench.body() == b"x"
    assert not [m for m in bench.link.said if isinstance(m, Chunk)]


def test_a_batch_may_be_cancelled_before_it_began(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        raise AssertionError("it was cancelled")

    bench.serve(handle, work(1, b"x"), Cancel(1))
    assert bench.link.result(1).answers[0].is_error


def test_a_stream_of_a_client_that_left_is_closed(bench: Bench) -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
                bench.link.push(Cancel(1, 0))
                await asyncio.sleep(0)
        finally:
            closed.append("yes")

    async def handle(data: list[Any], context: Context) -> list[Any]:
        return [endless(), "plain"]

    bench.serve(handle, work(1, b"x", b"y"))
    assert closed == ["yes"]
    assert bench.body(1, 1) == b"plain"


def test_log_lines_carry_the_request_of_their_task(bench: Bench) -> None:
    lines: list[str] = []

    async def handle(data: list[Any], context: Context) -> list[str]:
        await asyncio.sleep(0)
        record = logging.LogRecord("x", logging.INFO, "", 0, "hello", (), None)
        lines.append(RequestLines().format(record))
        return ["x"]

    bench.serve(handle, work(1, b"x"), work(2, b"x"))
    assert lines == ["hello\x1fr1.0", "hello\x1fr2.0"]


def test_metrics_arrive_with_some_result(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        context.metrics.add_counter("Seen", 1)
        return ["x"]

    bench.serve(handle, work(1, b"x"), work(2, b"x"))
    assert bench.context.metrics.request_ids is None
    samples = [*bench.link.result(1).samples, *bench.link.result(2).samples]
    assert [sample[0] for sample in samples] == ["Seen", "Seen"]


def test_a_gpu_that_cannot_be_used_any_more_ends_the_worker(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        if data[0]["body"] == "bad":
            raise RuntimeError("CUDA error: device-side assert triggered")
        await asyncio.Event().wait()
        return []

    assert bench.serve(handle, work(1, b"waits"), work(2, b"bad")) == EXIT_CUDA_ERROR
    assert bench.link.result(2).answers[0].status == 507
    assert bench.link.result(2).is_spoilt
    assert 1 not in bench.link.order(), "the frontend tries it again"


@pytest.mark.parametrize("retries_lost", [True, False])
def test_companions_of_the_culprit_are_tried_again_where_lost_requests_are(
    bench: Bench, retries_lost: bool
) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    batch = work(1, b"bad", b"fine")
    assert bench.serve(handle, batch, retries_lost=retries_lost) == EXIT_CUDA_ERROR
    assert bench.link.order() == ([] if retries_lost else [1])


def test_tasks_of_the_handlers_own_run_between_batches_and_end_with_the_worker(
    bench: Bench,
) -> None:
    ended: list[str] = []
    loop = event_loop()

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("background")

    task = loop.create_task(background())

    async def handle(data: list[Any], context: Context) -> list[bool]:
        return [asyncio.get_running_loop() is loop]

    bench.serve(handle)
    assert bench.body() == b"true"
    assert task.cancelled()
    assert ended == ["background"]


def test_an_exit_of_the_handler_ends_the_worker(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        bench.serve(handle)


def test_what_makes_no_sense_ends_the_worker(bench: Bench) -> None:
    async def handle(data: list[Any], context: Context) -> list[str]:
        return ["x"]

    with pytest.raises(ProtocolError):
        bench.serve(handle, Bye())


def poisonous(calls: list[list[str]]) -> Callable[..., Any]:
    async def handle(data: list[Any], context: Any) -> list[str]:
        calls.append([row["body"] for row in data])
        await asyncio.sleep(0)
        if any(row["body"] == "bad" for row in data):
            raise PredictionException("no such thing", 422)
        for index, row in enumerate(data):
            context.set_response_header(index, "x-of", row["body"])
        return [row["body"].upper() for row in data]

    return handle


def test_one_bad_input_costs_one_client(bench: Bench) -> None:
    calls: list[list[str]] = []
    bench.serve(poisonous(calls), work(1, b"a", b"bad", b"b"), isolates=True)
    assert calls == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    answers = bench.link.result(1).answers
    assert [(each.status, bytes(each.body)) for each in answers] == [
        (200, b"A"),
        (422, b"no such thing"),
        (200, b"B"),
    ]
    assert [dict(each.headers).get("x-of") for each in answers] == ["a", None, "b"]


def test_where_every_input_fails_batches_are_not_divided_for_a_while(bench: Bench) -> None:
    calls: list[list[str]] = []
    waits = asyncio.Event()
    handle = poisonous(calls)

    async def one_after_the_other(data: list[Any], context: Any) -> list[str]:
        if len(data) == 2 and data[0]["body"] == "late":
            await waits.wait()
            for _ in range(10):
                await asyncio.sleep(0)
            data = [{"body": "bad"}] * 2
        try:
            return await handle(data, context)
        finally:
            if len(calls) == 3:
                waits.set()

    batches = work(1, b"bad", b"bad"), work(2, b"late", b"late")
    bench.serve(one_after_the_other, *batches, isolates=True)
    assert [len(call) for call in calls] == [2, 1, 1, 2]


def test_a_batch_is_not_divided_where_its_author_does_not_want_that(bench: Bench) -> None:
    calls: list[list[str]] = []
    bench.serve(poisonous(calls), work(1, b"a", b"bad"))
    assert [each.status for each in bench.link.result(1).answers] == [422, 422]
    assert len(calls) == 1
