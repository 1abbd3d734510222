"""What a handler gets for a batch, and what the clients get for what it does with it."""

from __future__ import annotations

import io
import json
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.messages import Answer, Part, Request, Result, Work
from flambeau.worker.metrics import Metrics
from flambeau.worker.protocol import decode, encode
from flambeau.worker.rows import Rows, decode_part, serialise
from flambeau.worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[list[dict[str, Any]], Context], Any]

PREDICTION_FAILED = (503, "Prediction failed")
OUT_OF_RESOURCES = (507, "Out of resources")
UNSUPPORTED = (503, "Unsupported model output data type.")


def request(name: str = "r", *parts: Part, **headers: str) -> Request:
    return Request(name, headers, list(parts) or [Part("body", "", b"x")])


def run(handler: Handler, *requests: Request, metrics: Metrics | None = None, **how: Any) -> Result:
    """One batch through a service; the result must survive the wire."""
    context = Context("m", "/models/m", None, 8, None, "0.12.0", metrics=metrics)
    work = Work(7, requests or (request(),))
    result = Service(handler, context, Rows(**how)).run(work)
    assert len(result.answers) == len(work.requests)
    arrived = decode(encode(result))
    assert isinstance(arrived, Result)
    assert arrived.answers == result.answers
    assert json.dumps(arrived.samples) == json.dumps(result.samples)
    return result


def row_of(*parts: Part, **how: Any) -> dict[str, Any]:
    """What a handler sees of a request with these parts."""
    seen: list[dict[str, Any]] = []

    def handler(data: list[dict[str, Any]], context: Context) -> list[str]:
        seen.extend(data)
        return ["ok"] * len(data)

    run(handler, request("r", *parts), **how)
    return seen[0]


def answers(returned: object, count: int = 1) -> list[Answer]:
    """The answers to a batch of ``count`` for which the handler returns this."""
    requests = [request(f"r{number}") for number in range(count)]
    return run(lambda data, context: returned, *requests).answers


def error(answer: Answer) -> tuple[int, str]:
    assert answer.is_error
    return answer.status, bytes(answer.body).decode()


def raising(problem: BaseException) -> Handler:
    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        raise problem

    return handler


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("", b"raw", bytearray(b"raw")),
        ("", b"", bytearray(b"")),
        ("application/octet-stream", b'{"a": 1}', bytearray(b'{"a": 1}')),
        ("image/png", b"\x89PNG", bytearray(b"\x89PNG")),
        ("application/json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("application/json", b'"text"', "text"),
        ("application/json", b"7", 7),
        ("application/json", b"{broken", bytearray(b"{broken")),
        ("application/json", b"", bytearray(b"")),
        ("application/json", b"\xff", bytearray(b"\xff")),
        ("application/json", b"[" * 100_000, bytearray(b"[" * 100_000)),
        ("application/json", b"1" * 5000, bytearray(b"1" * 5000)),
        ("application/JSON", b"7", bytearray(b"7")),
        ("application/json ", b"7", bytearray(b"7")),
        ("application/vnd.api+json", b"7", bytearray(b"7")),
        ("text/plain", b"gr\xc3\xbcn", "grün"),
        ("text/csv", b"a,b", "a,b"),
        ("text", b"x", "x"),
        ("text/plain", b"\xff", bytearray(b"\xff")),
    ],
)
def test_a_part_reaches_the_handler_by_its_content_type(
    content_type: str, body: bytes, value: object
) -> None:
    row = row_of(Part("body", content_type, body))
    assert row == {"body": value}
    assert type(row["body"]) is type(value)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "image/png"])
def test_without_decoding_everything_is_bytes(content_type: str) -> None:
    row = row_of(Part("body", content_type, b'{"a": 1}'), decode_input=False)
    assert row == {"body": bytearray(b'{"a": 1}')}
    assert type(row["body"]) is bytearray


@pytest.mark.parametrize("body", [b"view", bytearray(b"view"), memoryview(b"view")])
def test_raw_bodies_are_a_bytearray_of_the_handlers_own(body: Any) -> None:
    row = row_of(Part("body", "", body))
    assert type(row["body"]) is bytearray
    assert row["body"] == b"view"
    row["body"][:] = b"mine"
    assert bytes(body) == b"view"


def test_what_does_not_decode_is_forwarded_with_a_warning(caplog: Any) -> None:
    row_of(Part("body", "application/json", b"{"))
    assert "Failed application/json decoding" in caplog.text


@given(st.binary(max_size=200), st.sampled_from(["application/json", "text/plain", "", "x/y"]))
def test_decoding_never_raises(body: bytes, content_type: str) -> None:
    value = decode_part(Part("body", content_type, body))
    if isinstance(value, bytearray):
        assert value == body


def test_a_row_has_a_value_for_each_part_and_the_last_of_equal_names_wins() -> None:
    row = row_of(Part("a", "", b"1"), Part("b", "text/plain", b"2"), Part("a", "", b"3"))
    assert row == {"a": bytearray(b"3"), "b": "2"}


def test_a_request_without_parts_is_an_empty_row() -> None:
    seen: list[Any] = []
    run(lambda data, context: [seen.append(row) for row in data], Request("r", {}, []))
    assert seen == [{}]


def test_headers_are_the_types_of_the_parts_and_what_the_client_sent() -> None:
    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        return [context.get_all_request_header(index) for index in range(len(data))]

    first = Request("a", {"X-oDD": "1", "explain": "False"}, [Part("body", "text/plain", b"")])
    second = Request("b", {"body": "a header"}, [Part("body", "x/y", b"")])
    seen = [json.loads(answer.body) for answer in run(handler, first, second).answers]
    assert seen == [
        {"body": {"content-type": "text/plain"}, "X-oDD": "1", "explain": "False"},
        {"body": "a header"},
    ]


def test_rows_and_ids_are_in_the_order_of_the_requests() -> None:
    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        return [f"{context.get_request_id(index)} {row['body']}" for index, row in enumerate(data)]

    requests = [request(f"id{n}", Part("body", "text/plain", b"%d" % n)) for n in range(5)]
    result = run(handler, *requests)
    assert result.batch_id == 7
    assert [answer.body for answer in result.answers] == [b"id%d %d" % (n, n) for n in range(5)]


@pytest.mark.parametrize(
    ("item", "body"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"more"), b"more"),
        ("gr\u00fcn", b"gr\xc3\xbcn"),
        ("", b""),
        ({"a": 1, 2: None}, b'{\n  "a": 1,\n  "2": null\n}'),
        (["gr\u00fcn"], b'[\n  "gr\\u00fcn"\n]'),
        ((1, True), b"[\n  1,\n  true\n]"),
        (None, b"null"),
        (7, b"7"),
        (0.5, b"0.5"),
        (math.nan, b"NaN"),
        (math.inf, b"Infinity"),
    ],
)
def test_an_answer_is_serialised_as_torchserve_does(item: object, body: bytes) -> None:
    (answer,) = answers([item])
    assert (answer.status, answer.reason, answer.headers) == (200, "", [])
    assert bytes(answer.body) == body
    assert not answer.is_error


def test_a_tensor_is_answered_as_torch_save_writes_it() -> None:
    import torch

    for tensor in (torch.arange(6).reshape(2, 3), torch.nn.Parameter(torch.ones(2))):
        (answer,) = answers([tensor])
        loaded = torch.load(io.BytesIO(answer.body), weights_only=True)
        assert torch.equal(loaded, tensor)


class Unruly(dict[str, int]):
    """Cannot even be looked at."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(a=1)
        self._problem = problem

    def items(self) -> Any:
        raise self._problem


def circle() -> list[Any]:
    item: list[Any] = []
    item.append(item)
    return item


def deep() -> list[Any]:
    item: list[Any] = []
    for _ in range(100_000):
        item = [item]
    return item


@pytest.mark.parametrize(
    "item",
    [
        {1, 2},
        object(),
        {"a": b"bytes"},
        {(1, 2): 3},
        1j,
        len,
        circle(),
        deep(),
        "\ud800",
        memoryview(b"x"),
        SystemExit(1),
        Unruly(KeyError("a")),
    ],
    ids=lambda item: type(item).__name__,
)
def test_an_item_that_cannot_be_serialised_fails_alone(item: object) -> None:
    before, bad, after = answers(["fine", item, {"fine": 2}], 3)
    assert error(bad) == UNSUPPORTED
    assert (bytes(before.body), before.is_error) == (b"fine", False)
    assert (json.loads(after.body), after.is_error) == ({"fine": 2}, False)


def test_memory_that_runs_out_while_an_item_is_serialised_is_507() -> None:
    assert error(answers([Unruly(MemoryError())])[0]) == OUT_OF_RESOURCES


def test_a_tensor_inside_an_object_cannot_be_serialised() -> None:
    import torch

    assert error(answers([{"scores": torch.ones(2)}])[0]) == UNSUPPORTED


@pytest.mark.parametrize(
    "returned",
    [None, {"a": 1}, ("a", "b"), "ab", b"ab", {1, 2}, iter(["a", "b"]), 7, (c for c in "ab")],
    ids=lambda returned: type(returned).__name__,
)
def test_what_is_no_list_fails_the_whole_batch(returned: object, caplog: Any) -> None:
    got = answers(returned, 2)
    assert [error(answer) for answer in got] == [(503, "Invalid model predict output")] * 2
    assert f"returned a {type(returned).__name__} instead of a list of 2" in caplog.text
    assert "r0, r1" in caplog.text


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_another_length_fails_the_whole_batch(count: int, caplog: Any) -> None:
    got = answers(["x"] * count, 2)
    assert [error(answer) for answer in got] == [(503, "number of batch response mismatched")] * 2
    assert f"expect: 2, got: {count}" in caplog.text


def test_a_list_may_be_a_subclass_of_list() -> None:
    class Answers(list[str]):
        pass

    assert [bytes(answer.body) for answer in answers(Answers("ab"), 2)] == [b"a", b"b"]


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


FAILURES: list[Any] = [
    (ValueError("secret: /etc/passwd"), PREDICTION_FAILED),
    (ValueError(), PREDICTION_FAILED),
    (KeyError("a"), PREDICTION_FAILED),
    (StopIteration(), PREDICTION_FAILED),
    (RecursionError("deep"), PREDICTION_FAILED),
    (MemoryError(), OUT_OF_RESOURCES),
    (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), OUT_OF_RESOURCES),
    (ValueError("a CUDA error of any class"), OUT_OF_RESOURCES),
    (PredictionException("Not today"), (500, "Not today")),
    (PredictionException("Too big", 413), (507, "Too big")),
    (PredictionException("I am a teapot", 418), (418, "I am a teapot")),
    (PredictionException("odd", 599), (599, "odd")),
    (PredictionException("mentions CUDA", 404), (404, "mentions CUDA")),
]
NONSENSE: list[Any] = [
    pytest.param(PredictionException("\ud800 lone surrogate", 404), id="surrogate"),
    pytest.param(PredictionException({"reason": "an object"}, 404), id="object"),  # type: ignore[arg-type]
    pytest.param(PredictionException("text as code", "404"), id="code as text"),  # type: ignore[arg-type]
    pytest.param(PredictionException("no code", None), id="no code"),  # type: ignore[arg-type]
    pytest.param(Speechless(), id="speechless"),
]


@pytest.mark.parametrize(("problem", "expected"), FAILURES, ids=repr)
def test_an_exception_fails_the_whole_batch(
    problem: Exception, expected: tuple[int, str], caplog: Any
) -> None:
    got = run(raising(problem), request("first"), request("second")).answers
    assert [error(answer) for answer in got] == [expected] * 2
    assert "Prediction failed for request first, second" in caplog.text
    assert type(problem).__name__ in caplog.text, "the traceback is for the log"


@pytest.mark.parametrize(("problem", "expected"), FAILURES, ids=repr)
def test_an_exception_that_is_an_item_fails_its_own_row(
    problem: Exception, expected: tuple[int, str], caplog: Any
) -> None:
    before, failed, after = answers(["a", problem, "c"], 3)
    assert error(failed) == expected
    assert (bytes(before.body), bytes(after.body)) == (b"a", b"c")
    assert "Prediction failed for request r1" in caplog.text


@pytest.mark.parametrize("problem", NONSENSE)
def test_an_exception_that_carries_nonsense_is_an_answer_all_the_same(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    # logging prints to stderr what it cannot format.
    monkeypatch.setattr(logging.getLogger("flambeau.worker"), "disabled", True)
    for (answer,) in (run(raising(problem)).answers, answers([problem])):
        assert answer.is_error
        assert type(answer.status) is int
        assert 400 <= answer.status <= 599


def test_a_prediction_exception_with_code_200_is_torchserves_literal_answer() -> None:
    (answer,) = run(raising(PredictionException("never seen", 200))).answers
    assert (answer.status, bytes(answer.body), answer.is_error) == (200, b"error", False)


@pytest.mark.parametrize("problem", [SystemExit(0), KeyboardInterrupt()], ids=repr)
def test_what_ends_a_process_ends_the_worker(problem: BaseException) -> None:
    with pytest.raises(type(problem)):
        run(raising(problem))


def test_each_row_has_its_own_status_and_headers() -> None:
    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        context.set_response_status(201, "Made", 1)
        context.set_response_header(1, "x-row", 1)
        context.set_response_content_type(0, "text/x")
        return ["zero", "one", "two"]

    zero, one, two = run(handler, request("a"), request("b"), request("c")).answers
    assert (zero.status, zero.reason, zero.headers) == (200, "", [("content-type", "text/x")])
    assert (one.status, one.reason, one.headers) == (201, "Made", [("x-row", "1")])
    assert (two.status, two.reason, two.headers) == (200, "", [])


def test_a_row_that_fails_gets_none_of_the_headers_that_were_meant_for_its_answer() -> None:
    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        context.set_all_response_status(201)
        context.set_response_header(0, "content-type", "image/png")
        return [ValueError("no picture"), "fine"]

    failed, fine = run(handler, request("a"), request("b")).answers
    assert error(failed) == PREDICTION_FAILED
    assert failed.headers == []
    assert fine.status == 201


def test_status_and_headers_are_forgotten_before_the_next_batch() -> None:
    context = Context("m", "/models/m", None, 8, None, "0.12.0")

    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        if data[0]["body"] == b"mark":
            context.set_response_status(500, "Marked", 0)
            context.set_response_header(0, "x-mark", "1")
        return data[0]["body"] and ["x"]

    service = Service(handler, context, Rows())
    marked = service.run(Work(1, [request("a", Part("body", "", b"mark"))])).answers[0]
    clean = service.run(Work(2, [request("b", Part("body", "", b"none"))])).answers[0]
    assert (marked.status, marked.headers) == (500, [("x-mark", "1")])
    assert (clean.status, clean.headers) == (200, [])


def test_the_time_in_the_handler_is_told() -> None:
    from time import perf_counter

    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        until = perf_counter() + 0.02
        while perf_counter() < until:
            pass
        return ["x"]

    assert 0.02 <= run(handler).handler_seconds < 1.0


def test_metrics_travel_with_the_batch_in_which_they_were_reported() -> None:
    metrics = Metrics("m")

    def handler(data: list[dict[str, Any]], context: Context) -> Any:
        context.metrics.add_counter("Seen", len(data))
        return ["x"] * len(data)

    first = run(handler, request("a"), request("b"), metrics=metrics)
    assert [sample[0] for sample in first.samples] == ["Seen"]
    second = run(lambda data, context: ["x"], metrics=metrics)
    assert second.samples == []


keys = st.text() | st.integers() | st.booleans() | st.none() | st.floats()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=10,
    ).filter(lambda item: not isinstance(item, str))
)
def test_an_object_is_serialised_exactly_as_the_json_module_indents_it(item: object) -> None:
    assert bytes(serialise(item)).decode() == json.dumps(item, indent=2)


@given(st.integers(1, 40), st.booleans())
def test_so_is_one_that_is_nested_deeply(depth: int, is_list: bool) -> None:
    item: object = "a\n\x85\u2028b"
    for _ in range(depth):
        item = [item, 1] if is_list else {"\n": item, "b": {}}
    assert bytes(serialise(item)).decode() == json.dumps(item, indent=2)


def test_one_that_contains_itself_has_no_bytes() -> None:
    with pytest.raises(ValueError, match="Circular"):
        serialise(circle())


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        ("text", "text/plain; charset=utf-8"),
        (b"bytes", "application/octet-stream"),
        (bytearray(b"bytes"), "application/octet-stream"),
        ({"a": 1}, "application/json"),
        ([1], "application/json"),
        (None, "application/json"),
    ],
)
def test_an_answers_content_type_is_named_where_that_is_asked_for(returned, named):
    def handle(data, context):
        return [returned]

    (answer,) = run(handle, name_content_types=True).answers
    assert answer.headers == [("Content-Type", named)]
    (answer,) = run(handle).answers
    assert answer.headers == []


def test_the_handlers_own_content_type_is_kept():
    def handle(data, context):
        context.set_response_header(0, "content-type", "image/png")
        return [b"bytes"]

    (answer,) = run(handle, name_content_types=True).answers
    assert answer.headers == [("content-type", "image/png")]
