"""What a handler sees as its context."""

from __future__ import annotations

import http

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.worker.context import Context, RequestProcessor
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics


def make_context(**changes: object) -> Context:
    context = Context("digits", "/models/digits", {"model": {}}, 4, None, "0.12.0")
    for name, value in changes.items():
        setattr(context, name, value)
    return context


@pytest.fixture
def context() -> Context:
    context = make_context()
    context.begin_batch(["a", "b"], [{"X-Kind": "one", "body": {"content-type": "x/y"}}, {}])
    return context


def test_system_properties_are_exactly_those_of_torchserve() -> None:
    context = Context("m", "/dir", None, 8, 1, "0.12.0", False, None, {"handler": {}})
    assert context.system_properties == {
        "model_dir": "/dir",
        "gpu_id": 1,
        "batch_size": 8,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": False,
    }
    assert context._system_properties is context.system_properties
    assert context.model_yaml_config == {"handler": {}}


def test_while_loading_there_is_no_request() -> None:
    context = make_context()
    context.set_response_status(500)
    context.set_all_response_status(500)
    assert (context.request_ids, context.request_processor) == (None, None)
    assert context.get_request_id() is None
    with pytest.raises(RuntimeError, match="still being loaded"):
        context.get_request_header(0, "X-Kind")


def test_a_batch_gives_ids_and_headers_in_the_clients_spelling(context: Context) -> None:
    assert context.request_ids == {0: "a", 1: "b"}
    assert context.get_request_id() == "a"
    assert context.get_request_id(1) == "b"
    assert context.get_request_id(2) is None
    assert context.get_request_header(0, "X-Kind") == "one"
    assert context.get_request_header(0, "x-kind") is None
    assert context.get_request_header(0, "body") == {"content-type": "x/y"}
    assert context.get_all_request_header(1) == {}


def test_the_toolkits_way_through_the_request_processor_works(context: Context) -> None:
    assert context.request_processor is not None
    assert context.request_processor is context._request_processor
    assert context.request_processor[0].get_request_properties()["X-Kind"] == "one"
    context.request_processor[0].report_status(418, reason_phrase="teapot")
    assert context.get_response_status(0) == (418, "teapot")
    context.request_processor[0].add_response_property("a", "b")
    assert context.request_processor[0].get_response_header("a") == "b"


def test_a_new_batch_forgets_the_answers_of_the_last(context: Context) -> None:
    context.set_response_header(0, "a", "b")
    context.set_response_status(404)
    context.begin_batch(["c"], [{}])
    assert context.get_response_headers(0) == {}
    assert context.get_response_status(0) == (200, None)


def test_status_and_content_type_belong_to_one_row(context: Context) -> None:
    context.set_response_status(code=507, phrase="full", idx=1)
    context.set_response_content_type(1, "text/plain")
    assert context.get_response_status(0) == (200, None)
    assert context.get_response_status(1) == (507, "full")
    assert context.get_response_content_type(0) is None
    assert context.get_response_content_type(1) == "text/plain"
    context.set_all_response_status(code=http.HTTPStatus.ACCEPTED)
    assert [context.get_response_status(row) for row in (0, 1)] == [(202, "")] * 2


def test_a_header_value_that_is_no_text_becomes_text(context: Context) -> None:
    context.set_response_header(0, "count", 3)
    assert context.get_response_headers(0) == {"count": "3"}


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_can_break_out_of_its_line(name: str, value: str) -> None:
    row = RequestProcessor({})
    try:
        row.add_response_property(name, value)
    except ValueError as error:
        assert repr(name) in str(error)  # noqa: PT017
    for text in [*row.get_response_headers(), *row.get_response_headers().values()]:
        assert not set(text) & set("\r\n\0")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a\r\nb", "x"),
        ("a", "x\nSet-Cookie: y"),
        ("a", "x\0"),
        ("", "x"),
        ("a:b", "x"),
        ("a", "\r"),
    ],
)
def test_a_header_that_would_split_the_answer_is_refused(
    context: Context, name: str, value: str
) -> None:
    with pytest.raises(ValueError, match="header"):
        context.set_response_header(0, name, value)
    assert context.get_response_headers(0) == {}


@pytest.mark.parametrize("code", [0, 99, 100, 1000, -1, 200.5, "200", None, True])
def test_a_status_that_no_client_understands_is_refused(context: Context, code: object) -> None:
    with pytest.raises(ValueError, match="status"):
        context.set_response_status(code)  # type: ignore[arg-type]
    assert context.get_response_status(0) == (200, None)


def test_a_phrase_with_a_line_break_is_refused(context: Context) -> None:
    with pytest.raises(ValueError, match="phrase"):
        context.set_response_status(500, "a\r\nb")


def test_the_sequence_id_comes_from_the_header_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TS_REQUEST_SEQUENCE_ID", "X-Seq")
    context = make_context()
    context.begin_batch(["a"], [{"X-Seq": "7", "ts_request_sequence_id": "8"}])
    assert context.get_sequence_id(0) == "7"
    assert context.header_key_sequence_start == "ts_request_sequence_start"


def test_contexts_are_equal_by_type_and_attributes() -> None:
    class Other(Context):
        pass

    assert make_context() == make_context()
    assert make_context(cache={}) != make_context()
    assert Other("digits", "/models/digits", {"model": {}}, 4, None, "0.12.0") != make_context()


def test_what_a_handler_hangs_on_the_context_stays(context: Context) -> None:
    context.cache = {"a": 1}  # type: ignore[attr-defined]
    context.begin_batch(["c"], [{}])
    assert context.cache == {"a": 1}  # type: ignore[attr-defined]


def test_metrics_learn_the_request_ids() -> None:
    context = make_context(metrics=Metrics("digits"))
    context.begin_batch(["a"], [{}])
    assert context.metrics.request_ids == {0: "a"}


def test_a_prediction_exception_says_message_and_code() -> None:
    error = PredictionException("no such word", 404)
    assert (error.message, error.error_code, str(error)) == (
        "no such word",
        404,
        "no such word : 404",
    )
    assert PredictionException("x").error_code == 500
