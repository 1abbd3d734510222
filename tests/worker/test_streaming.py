"""Handlers that give their answers away piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flambeau.worker.context import Context
from flambeau.worker.coroutines import event_loop
from flambeau.worker.link import Inbox
from flambeau.worker.messages import Cancel, Chunk, Part, Request, Result, Stop, Work
from flambeau.worker.rows import Rows
from flambeau.worker.service import Service
from flambeau.worker.streaming import send_intermediate_predict_response

if TYPE_CHECKING:
    from collections.abc import Callable


def run(handler: Callable[..., Any], rows: int = 1) -> tuple[list[tuple[int, bytes]], Result]:
    """The pieces, and the result after them."""
    chunks: list[Chunk] = []
    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    requests = [Request(f"r{row}", {}, [Part("body", "", b"x")]) for row in range(rows)]
    result = Service(handler, context, Rows(), emit=chunks.append).run(Work(7, requests))
    assert all(chunk.batch_id == 7 for chunk in chunks)
    return [(chunk.index, bytes(chunk.piece.body)) for chunk in chunks], result


def send(ret, context):
    send_intermediate_predict_response(ret, context.request_ids, "ok", 200, context)


def test_each_row_gets_its_own_pieces():
    def handler(data, context):
        for step in range(2):
            send([f"{row}.{step}" for row in range(len(data))], context)
        return ["last"] * len(data)

    chunks, result = run(handler, 2)
    assert chunks == [(0, b"0.0"), (1, b"1.0"), (0, b"0.1"), (1, b"1.1")]
    assert [answer.body for answer in result.answers] == [b"last"] * 2


def test_a_piece_carries_status_and_headers_of_the_context():
    pieces: list[Chunk] = []

    def handler(data, context):
        context.set_response_header(0, "x-mine", "1")
        context.set_response_status(201, "Made", 0)
        send([{"a": 1}], context)
        return [b""]

    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    Service(handler, context, Rows(), emit=pieces.append).run(Work(1, [Request("r", {}, [])]))
    piece = pieces[0].piece
    assert (piece.status, piece.reason, piece.headers) == (201, "Made", [("x-mine", "1")])
    assert piece.body == b'{\n  "a": 1\n}'


def test_a_process_whose_answers_do_not_count_sends_no_pieces():
    def handler(data, context):
        send([object()], context)
        return ["done"]

    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    result = Service(handler, context, Rows(), emit=None).run(Work(1, [Request("r", {}, [])]))
    assert result.answers[0].body == b"done"


def test_outside_a_batch_there_is_nobody_to_send_to():
    with pytest.raises(RuntimeError, match="no request"):
        send_intermediate_predict_response(["x"], {0: "r"}, "ok", 200)


def test_a_generator_is_sent_as_it_yields():
    def words(*given):
        yield from given

    chunks, result = run(lambda data, context: [words("a", "b"), "plain", words("c")], 3)
    assert chunks == [(0, b"a"), (2, b"c"), (0, b"b")]
    assert [answer.body for answer in result.answers] == [b"", b"plain", b""]


def test_a_generator_that_fails_fails_alone():
    def bad():
        yield "begun"
        raise ValueError("no more")

    chunks, result = run(lambda data, context: [bad(), "fine"], 2)
    assert chunks == [(0, b"begun")]
    failed, fine = result.answers
    assert (failed.is_error, failed.status, failed.body) == (True, 503, b"Prediction failed")
    assert (fine.is_error, fine.body) == (False, b"fine")


def test_an_async_generator_is_sent_as_it_yields():
    async def words(*given):
        for word in given:
            yield word

    try:
        chunks, result = run(lambda data, context: [words("a", "b"), "plain"], 2)
    finally:
        event_loop().close()
    assert chunks == [(0, b"a"), (0, b"b")]
    assert [answer.body for answer in result.answers] == [b"", b"plain"]


class Line:
    """A link on which the frontend says one thing after the other, one each time it is asked."""

    def __init__(self, *messages):
        self.messages = list(messages)

    def receive(self, timeout=None):
        return self.messages.pop(0) if self.messages else None

    def is_readable(self, timeout=0.0):
        return bool(self.messages)


def cancelling(*messages):
    """A service whose inbox holds these, and the pieces that it sends."""
    chunks = []
    inbox = Inbox(Line(*messages))
    context = Context("m", "/models/m", None, 8, None, "0.12.0")

    def make(handler):
        return Service(
            handler, context, Rows(), emit=chunks.append, is_cancelled=inbox.is_cancelled
        )

    return make, chunks, inbox


def test_a_generator_whose_client_left_is_closed():
    closed = []

    def endless():
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    make, chunks, _ = cancelling(Cancel(7, 0))
    service = make(lambda data, context: [endless(), iter_once()])
    result = service.run(Work(7, [Request("a", {}, []), Request("b", {}, [])]))
    assert [chunk.index for chunk in chunks] == [1]
    assert not closed, "it had not begun"
    assert not any(answer.is_error for answer in result.answers)


def iter_once():
    yield "once"


def test_a_handler_can_ask_whether_its_client_left():
    later = Work(8, [Request("next", {}, [])])
    make, _, inbox = cancelling(later, Cancel(7, 1), Cancel(6), Stop())
    seen = []

    def handler(data, context):
        seen.extend(context.is_cancelled(row) for row in range(2))
        return ["x"] * len(data)

    service = make(handler)
    service.run(Work(7, [Request("a", {}, []), Request("b", {}, [])]))
    assert seen == [False, True]
    assert inbox.take() == later
    assert inbox.take() == Stop()


def test_what_was_said_of_earlier_batches_is_forgotten():
    _, _, inbox = cancelling(Cancel(7), Work(8, []), Cancel(9, 0), Work(9, []))
    assert inbox.take() == Work(8, [])
    assert not inbox._cancelled
    assert inbox.take() == Work(9, [])
    assert inbox.is_cancelled(9, 0)
    assert not inbox.is_cancelled(9, 1)


def test_without_a_frontend_that_says_so_nobody_leaves():
    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    assert not context.is_cancelled()
    answers = Service(lambda data, context: [context.is_cancelled()], context, Rows()).run(
        Work(1, [Request("r", {}, [])])
    )
    assert answers.answers[0].body == b"false"
