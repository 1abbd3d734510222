"""Rounds of continuous batching: who is in them, what the handler sees, what clients get."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from fake_link import FakeLink, work

from flambeau.worker.context import Context
from flambeau.worker.continuous import ContinuousBatches
from flambeau.worker.errors import PredictionException
from flambeau.worker.messages import Bye, Cancel, Chunk, Loaded, Stop
from flambeau.worker.metrics import Metrics
from flambeau.worker.protocol import EXIT_CUDA_ERROR, ProtocolError
from flambeau.worker.rows import Rows
from flambeau.worker.streaming import send_intermediate_predict_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def link() -> Iterator[FakeLink]:
    link = FakeLink()
    yield link
    link.close()


def context() -> Context:
    return Context("m", "/models/m", None, 4, None, "0.12.0", metrics=Metrics("m"))


class Counter:
    """Answers a request with as many pieces as its body says; ``rounds`` is what it was given.

    ``events`` are things that happen in a round, by its number.
    """

    def __init__(self, events: dict[int, Callable[[], object]] | None = None) -> None:
        self.rounds: list[list[dict[str, Any]]] = []
        self.ids: list[list[str]] = []
        self.left: dict[str, int] = {}
        self.events = events or {}

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[str]:
        self.rounds.append(data)
        ids = dict(context.request_ids or {})
        self.ids.append(list(ids.values()))
        assert list(ids) == list(range(len(data)))
        self.events.get(len(self.rounds), lambda: None)()
        answers, criteria = [], []
        for row, part in enumerate(data):
            if part:
                assert ids[row] not in self.left, "the state of another request"
                self.left[ids[row]] = int(part["body"])
            self.left[ids[row]] -= 1
            answers.append(f"{self.left[ids[row]]}")
            criteria.append(lambda answer: answer == "0")
        context.stopping_criteria = criteria
        return answers


def serve(link: FakeLink, handle: Callable[..., Any]) -> int:
    return ContinuousBatches(handle, context(), Rows(), link).run()  # type: ignore[arg-type]


def test_a_request_gets_pieces_until_its_criterion_says_so(link: FakeLink) -> None:
    counter = Counter()
    link.push(work(1, b"3"))
    assert serve(link, counter.handle) == 0
    assert link.pieces(1) == [b"2", b"1", b"0"]
    assert counter.rounds == [[{"body": "3"}], [{}], [{}]]
    assert isinstance(link.said[-1], Bye)


def test_requests_join_and_leave_between_rounds(link: FakeLink) -> None:
    counter = Counter({2: lambda: link.push(work(2, b"1"), work(3, b"2"))})
    link.push(work(1, b"4"))
    serve(link, counter.handle)
    assert counter.rounds == [
        [{"body": "4"}],
        [{}],
        [{}, {"body": "1"}, {"body": "2"}],
        [{}, {}],
    ]
    assert counter.ids[2:] == [["r1.0", "r2.0", "r3.0"], ["r1.0", "r3.0"]]
    assert [link.pieces(batch) for batch in (1, 2, 3)] == [
        [b"3", b"2", b"1", b"0"],
        [b"0"],
        [b"1", b"0"],
    ]


def test_a_first_piece_that_is_the_last_is_the_answer(link: FakeLink) -> None:
    link.push(work(1, b"1"))
    serve(link, Counter().handle)
    assert link.pieces(1) == [b"0"]
    assert link.result(1).answers[0].headers == [("ts_stream_next", "false")]


def test_a_criterion_of_none_and_no_criteria_make_it_the_whole_answer(link: FakeLink) -> None:
    def handle(data: list[Any], context: Context) -> list[str]:
        context.stopping_criteria = {0: lambda answer: None} if data[0]["body"] == "none" else None
        return ["whole"]

    link.push(work(1, b"none"))
    serve(link, handle)
    link.push(work(2, b"unset"))
    serve(link, handle)
    for batch in (1, 2):
        (answer,) = link.result(batch).answers
        assert (answer.body, answer.headers) == (b"whole", [])


def test_headers_are_there_in_every_round_and_those_of_the_answer_are_the_rounds(
    link: FakeLink,
) -> None:
    seen = []

    def handle(data: list[Any], context: Context) -> list[str]:
        seen.append(context.get_all_request_header(0))
        if data[0]:
            context.set_response_header(0, "x-mine", "1")
            context.set_response_status(201, "Made", 0)
        context.stopping_criteria = [lambda answer: not data[0]]
        return ["x"]

    link.push(work(1, b"go"))
    serve(link, handle)
    assert seen == [{"body": {"content-type": "text/plain"}, "x-batch": "1"}] * 2
    (chunk,) = [message for message in link.said if isinstance(message, Chunk)]
    piece = chunk.piece
    assert (piece.status, piece.reason, piece.headers) == (201, "Made", [("x-mine", "1")])


def test_a_client_that_left_is_in_no_further_round(link: FakeLink) -> None:
    counter = Counter({2: lambda: link.push(Cancel(1, 0))})
    link.push(work(1, b"9"), work(2, b"3"))
    serve(link, counter.handle)
    assert counter.ids == [["r1.0", "r2.0"], ["r1.0", "r2.0"], ["r2.0"]]
    assert link.order() == [1, 2]
    assert link.pieces(2) == [b"2", b"1", b"0"]


def test_a_handler_can_ask_whose_client_left(link: FakeLink) -> None:
    seen = []

    def handle(data: list[Any], context: Context) -> list[str]:
        link.push(Cancel(2), work(3, b"x"))
        seen.append([context.is_cancelled(row) for row in range(len(data))])
        if len(seen) > 1:
            link._waiting.clear()
        context.stopping_criteria = [lambda answer: True] * len(data)
        return ["x"] * len(data)

    link.push(work(1, b"x"), work(2, b"x"))
    serve(link, handle)
    assert seen == [[False, True], [False]]


def test_one_id_of_two_clients_is_two_ids_for_the_handler(link: FakeLink) -> None:
    """``Counter`` keeps its state by request id, and never forgets one."""
    counter = Counter({1: lambda: link.push(work(2, b"2", ids=("same",)))})
    link.push(work(1, b"3", ids=("same",)))
    serve(link, counter.handle)
    link.push(work(3, b"1", ids=("same",)))
    assert link.pieces(1) == [b"2", b"1", b"0"]
    assert link.pieces(2) == [b"1", b"0"]
    first, both, again = counter.ids
    assert first == ["same"]
    assert both == again == ["same", both[1]]
    assert re.fullmatch(r"same\.[0-9a-f-]{36}", both[1])


def test_an_id_is_new_to_the_handler_even_when_its_first_bearer_is_gone(link: FakeLink) -> None:
    counter = Counter({2: lambda: link.push(work(2, b"1", ids=("same",)))})
    link.push(work(1, b"2", ids=("same",)))
    serve(link, counter.handle)
    (name,) = counter.ids[-1]
    assert name.startswith("same.")


@pytest.mark.parametrize(
    ("returned", "status", "message"),
    [
        (ValueError("no"), 503, "Prediction failed"),
        (PredictionException("not this", 422), 422, "not this"),
        (MemoryError(), 507, "Out of resources"),
        (None, 503, "Invalid model predict output"),
        (["one"], 503, "number of batch response mismatched"),
    ],
)
def test_a_round_that_fails_fails_every_running_request(
    link: FakeLink, returned: Any, status: int, message: str
) -> None:
    def handle(data: list[Any], context: Context) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    link.push(work(1, b"x"), work(2, b"x"))
    assert serve(link, handle) == 0
    for batch in (1, 2):
        (answer,) = link.result(batch).answers
        assert (answer.status, bytes(answer.body).decode()) == (status, message)
        assert answer.is_error


def test_a_gpu_that_cannot_be_used_any_more_ends_the_worker(link: FakeLink) -> None:
    def handle(data: list[Any], context: Context) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    link.push(work(1, b"x"))
    assert serve(link, handle) == EXIT_CUDA_ERROR
    assert link.result(1).answers[0].status == 507


def test_one_row_can_fail_by_itself(link: FakeLink) -> None:
    def handle(data: list[Any], context: Context) -> Any:
        criteria: list[Any] = [lambda item: True, lambda item: False, lambda item: 1 / 0]
        context.stopping_criteria = [*criteria, lambda item: False][: len(data)]
        return ["fine", ValueError("mine"), "x", {1, 2}][: len(data)]

    link.push(*(work(batch, b"x") for batch in (1, 2, 3, 4)))
    serve(link, handle)
    results = [link.result(batch).answers[0] for batch in (1, 2, 3, 4)]
    assert [answer.status for answer in results] == [200, 503, 503, 503]


def test_pieces_may_be_sent_in_the_middle_of_a_round(link: FakeLink) -> None:
    def handle(data: list[Any], context: Context) -> Any:
        pieces = [f"early {row}" for row in range(len(data))]
        send_intermediate_predict_response(pieces, context.request_ids, "ok", 200, context)
        context.stopping_criteria = None
        return ["last"] * len(data)

    link.push(work(1, b"x"), work(2, b"x"))
    serve(link, handle)
    assert link.pieces(2) == [b"early 1", b"last"]


def test_what_runs_is_finished_when_the_worker_is_told_to_stop(link: FakeLink) -> None:
    counter = Counter()
    link.push(work(1, b"3"), Stop())
    assert serve(link, counter.handle) == 0
    assert link.pieces(1) == [b"2", b"1", b"0"]


def test_a_call_for_a_description_has_a_round_of_its_own(link: FakeLink) -> None:
    sizes = []

    def handle(data: list[Any], context: Context) -> Any:
        sizes.append(len(data))
        if context.get_request_header(0, "describe") == "True":
            return ["mine"]
        is_last = len(sizes) > 3
        context.stopping_criteria = [lambda item: is_last] * len(data)
        return ["x"] * len(data)

    description = work(2, b"")
    description.requests[0].headers["describe"] = "True"
    link.push(work(1, b"x"), description, work(3, b"x"))
    serve(link, handle)
    assert sizes == [1, 2, 2, 2]
    assert link.pieces(2) == [b"mine"]
    assert link.pieces(3) == [b"x"] * 3


def test_metrics_of_all_rounds_arrive(link: FakeLink) -> None:
    def handle(data: list[Any], context: Context) -> Any:
        context.metrics.add_counter("Rounds", 1)
        context.stopping_criteria = [lambda item, first=bool(data[0]): not first]
        return ["x"]

    link.push(work(1, b"x"))
    serve(link, handle)
    assert [sample[0] for sample in link.result(1).samples] == ["Rounds", "Rounds"]


@pytest.mark.parametrize("message", [work(1, b"x", b"y"), Loaded()])
def test_what_makes_no_sense_ends_the_worker(link: FakeLink, message: Any) -> None:
    link.push(message)
    with pytest.raises(ProtocolError):
        serve(link, Counter().handle)
