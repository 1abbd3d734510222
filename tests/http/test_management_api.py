"""The management listener as a client sees it."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.frontend.errors import BadRequestError, ConflictError, UnknownModelError
from flambeau.frontend.http.parameters import (
    LIST,
    REGISTER,
    SCALE,
    Parameter,
    read_parameters,
)
from flambeau.frontend.registry import Registration, Reply

JSON = "application/json"
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
NOT_FOUND = "Requested resource is not found, please refer to API document."


def assert_refused(reply, status: int, kind: str, message: str) -> None:
    request_id = reply.headers["x-request-id"]
    assert request_id
    assert (reply.status, reply.json) == (
        status,
        {"code": status, "type": kind, "message": message, "requestId": request_id},
    )


def test_registering_passes_every_parameter_on(house):
    house.registry.reply = Reply(202, "Processing worker updates...")
    reply = house.manage(
        "POST",
        "/models?url=a%20b.mar&model_name=n&handler=h%3Af&runtime=python3&batch_size=4"
        "&max_batch_delay=50&initial_workers=2&response_timeout=7&startup_timeout=8"
        "&synchronous=FALSE&s3_sse_kms=true&unknown=1",
    )
    assert (reply.status, reply.body) == (
        202,
        b'{\n  "status": "Processing worker updates..."\n}\n',
    )
    assert house.registry.calls == [
        (
            "register",
            Registration("a b.mar", "n", "h:f", "python3", 4, 50, 2, 7, 8, False, None, True),
        )
    ]


def test_registering_needs_the_url_only(house):
    house.manage("POST", "/models?url=a.mar")
    assert house.registry.calls == [("register", Registration("a.mar"))]


def test_torchserves_words_for_absent_are_absent(house):
    house.manage(
        "POST",
        "/models?url=a.mar&batch_size=-1&max_batch_delay=-100&response_timeout=-1"
        "&startup_timeout=-1&model_name=&handler=&runtime=",
    )
    assert house.registry.calls == [("register", Registration("a.mar"))]


def test_an_empty_url_is_the_registrys_to_judge(house):
    house.manage("POST", "/models?url=")
    assert house.registry.calls == [("register", Registration(""))]


def test_a_json_body_takes_the_place_of_the_query(house):
    body = {"url": "a.mar", "batch_size": "8", "initial_workers": 1.0, "synchronous": False}
    house.manage("POST", "/models?url=b.mar&model_name=b", json.dumps(body), Content_Type=JSON)
    assert house.registry.calls == [
        ("register", Registration("a.mar", batch_size=8, initial_workers=1, synchronous=False))
    ]


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", JSON])
def test_null_in_a_json_body_is_absent(house, content_type):
    body = '{"url": "a.mar", "batch_size": null, "synchronous": null}'
    house.manage("POST", "/models", body, Content_Type=content_type)
    assert house.registry.calls == [("register", Registration("a.mar"))]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "Parameter url is required."),
        ("url=a%0Ab", "Parameter url has characters that cannot be printed."),
        ("url=a&runtime=foo", "Invalid RuntimeType value: foo"),
        ("url=a&batch_size=abc", "Parameter batch_size must be a whole number, got 'abc'."),
        ("url=a&batch_size=0", "Parameter batch_size must be at least 1, got 0."),
        ("url=a&batch_size=1_0", "Parameter batch_size must be a whole number, got '1_0'."),
        ("url=a&batch_size=1.5", "Parameter batch_size must be a whole number, got '1.5'."),
        (
            "url=a&batch_size=2147483648",
            "Parameter batch_size must be at most 2147483647, got 2147483648.",
        ),
        (
            "url=a&batch_size=" + "9" * 5000,
            "Parameter batch_size must be a whole number, got '" + "9" * 59 + "....",
        ),
        ("url=a&max_batch_delay=-1", "Parameter max_batch_delay must be at least 0, got -1."),
        ("url=a&initial_workers=-1", "Parameter initial_workers must be at least 0, got -1."),
        ("url=a&response_timeout=0", "Parameter response_timeout must be at least 1, got 0."),
        ("url=a&startup_timeout=x", "Parameter startup_timeout must be a whole number, got 'x'."),
        ("url=a&synchronous=yes", "Parameter synchronous must be true or false, got 'yes'."),
    ],
)
def test_a_malformed_registration_names_the_parameter(house, query, message):
    reply = house.manage("POST", f"/models?{query}")
    assert_refused(reply, 400, "BadRequestException", message)
    assert house.registry.calls == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "The request body is not valid JSON."),
        (b"\xff", "The request body is not valid JSON."),
        ("[" * 100_000, "The request body is not valid JSON."),
        ("[]", "The request body must be a JSON object."),
        ("{}", "Parameter url is required."),
        ('{"url": "\\ud800"}', "Parameter url has characters that cannot be printed."),
        ('{"url": 3}', "Parameter url must be a string, got 3."),
        (
            '{"url": "a", "batch_size": true}',
            "Parameter batch_size must be a whole number, got True.",
        ),
        (
            '{"url": "a", "batch_size": 1e400}',
            "Parameter batch_size must be a whole number, got inf.",
        ),
        (
            '{"url": "a", "batch_size": [1]}',
            "Parameter batch_size must be a whole number, got [1].",
        ),
        (
            '{"url": "a", "synchronous": 1}',
            "Parameter synchronous must be true or false, got 1.",
        ),
    ],
)
def test_a_malformed_json_body_is_refused(house, body, message):
    reply = house.manage("POST", "/models", body, Content_Type=JSON)
    assert_refused(reply, 400, "BadRequestException", message)
    assert house.registry.calls == []


def test_a_form_body_is_no_source_of_parameters(house):
    reply = house.manage(
        "POST", "/models", "url=a.mar", Content_Type="application/x-www-form-urlencoded"
    )
    assert_refused(reply, 400, "BadRequestException", "Parameter url is required.")


def test_a_json_body_beyond_the_limit_is_413(house):
    body = b" " * (house.config.max_request_size + 1)
    assert house.manage("POST", "/models", body, Content_Type=JSON).status == 413


def test_scaling_has_torchserves_defaults(house):
    house.manage("PUT", "/models/m")
    assert house.registry.calls == [("scale", "m", None, 1, None, False, None)]


def test_scaling_passes_every_parameter_on(house):
    house.manage("PUT", "/models/m/2.0?min_worker=2&max_worker=3&synchronous=true&timeout=9")
    house.manage("PUT", "/models/m?min_worker=0&model_version=2.0&number_gpu=1&timeout=-1")
    house.manage("PUT", "/models/m/2.0?model_version=1.0")
    assert house.registry.calls == [
        ("scale", "m", "2.0", 2, 3, True, 9),
        ("scale", "m", "2.0", 0, None, False, None),
        ("scale", "m", "2.0", 1, None, False, None),
    ]


def test_scaling_takes_a_json_body_and_the_query(house):
    house.manage("PUT", "/models/m?min_worker=2", b"{}", Content_Type=JSON)
    house.manage("PUT", "/models/m?min_worker=2", '{"max_worker": 4}', Content_Type=JSON)
    house.manage("PUT", "/models/m?min_worker=2", b"", Content_Type=JSON)
    assert [call[3:5] for call in house.registry.calls] == [(2, None), (2, 4), (2, None)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("min_worker=2&max_worker=1", "max_worker cannot be less than min_worker."),
        ("min_worker=abc", "Parameter min_worker must be a whole number, got 'abc'."),
        ("min_worker=-1", "Parameter min_worker must be at least 0, got -1."),
        ("max_worker=-1", "Parameter max_worker must be at least 0, got -1."),
        ("timeout=soon", "Parameter timeout must be a whole number, got 'soon'."),
        ("synchronous=1", "Parameter synchronous must be true or false, got '1'."),
    ],
)
def test_a_malformed_scaling_names_the_parameter(house, query, message):
    reply = house.manage("PUT", f"/models/m?{query}")
    assert_refused(reply, 400, "BadRequestException", message)
    assert house.registry.calls == []


def test_the_first_of_equal_parameters_counts(house):
    house.manage("PUT", "/models/m?min_worker=3&min_worker=5")
    assert house.registry.calls[0][3] == 3


def test_descriptions_are_the_registrys_without_empty_fields(house):
    reply = house.manage("GET", "/models/m")
    assert reply.body == (b'[\n  {\n    "modelName": "m",\n    "modelVersion": "1.0"\n  }\n]\n')
    assert reply.headers["Content-Type"] == JSON
    house.manage("GET", "/models/m/2.0")
    house.manage("GET", "/models/m/all")
    assert [call[2] for call in house.registry.calls] == [None, "2.0", "all"]
    assert_refused(
        house.manage("GET", "/models/x"), 404, "ModelNotFoundException", "Model not found: x"
    )


def test_text_beyond_ascii_is_written_as_it_is(house):
    house.registry.names = ("mö",)
    assert '"modelName": "mö"' in house.manage("GET", "/models/m%C3%B6").body.decode()


@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [
        ("", 100, 0),
        ("?limit=3&next_page_token=7", 3, 7),
        ("?limit=0", 0, 0),
        ("?limit=101", 100, 0),
        ("?limit=-1", 100, 0),
        ("?next_page_token=-5", 100, 0),
    ],
)
def test_listing_is_paged_as_in_torchserve(house, query, limit, offset):
    reply = house.manage("GET", f"/models{query}")
    assert reply.json == {"models": [{"modelName": "m", "modelUrl": "m.mar"}]}
    assert house.registry.calls == [("list", limit, offset)]


@pytest.mark.parametrize("name", ["limit", "next_page_token"])
def test_a_malformed_page_is_refused(house, name):
    assert_refused(
        house.manage("GET", f"/models?{name}=abc"),
        400,
        "BadRequestException",
        f"Parameter {name} must be a whole number, got 'abc'.",
    )


def test_unregistering_takes_a_version_or_none(house):
    house.manage("DELETE", "/models/m")
    house.manage("DELETE", "/models/m/2.0")
    assert house.registry.calls == [("unregister", "m", None), ("unregister", "m", "2.0")]


def test_the_default_version_is_set(house):
    reply = house.manage("PUT", "/models/m/2.0/set-default")
    assert reply.json == {"status": "done"}
    assert house.registry.calls == [("set_default", "m", "2.0")]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/models"),
        ("DELETE", "/models"),
        ("POST", "/models/m"),
        ("PATCH", "/models/m/1.0"),
        ("GET", "/models/m/1.0/set-default"),
        ("GET", "/"),
    ],
)
def test_a_wrong_method_is_405(house, method, target):
    reply = house.manage(method, target)
    assert_refused(reply, 405, "MethodNotAllowedException", NOT_ALLOWED)


@pytest.mark.parametrize(
    "target", ["/ping", "/metrics", "/predictions/m", "/models/m/1/set-default/x", "/models/m/1/x"]
)
def test_unknown_paths_are_404(house, target):
    reply = house.manage("GET", target)
    assert_refused(reply, 404, "ResourceNotFoundException", NOT_FOUND)


def test_errors_of_the_registry_are_rendered(house):
    house.registry.error = ConflictError("Model version 1.0 is already registered for model m")
    assert_refused(
        house.manage("POST", "/models?url=a.mar"),
        409,
        "ConflictStatusException",
        "Model version 1.0 is already registered for model m",
    )


def leave(house, wait_for, request: bytes) -> None:
    """Ask, and hang up while the registry is at work."""
    house.registry.gate = threading.Event()
    client = socket.create_connection(house.listeners.addresses["management"])
    client.sendall(request)
    assert house.registry.started.wait(10)
    client.close()
    assert house.manage("GET", "/models/m").status == 200
    assert house.registry.finished == []
    house.registry.gate.set()
    wait_for(lambda: house.registry.finished, "the finished calls")


def test_a_call_is_finished_though_its_client_has_left(house, wait_for, caplog):
    leave(house, wait_for, b"POST /models?url=a HTTP/1.1\r\nHost: h\r\n\r\n")
    assert house.registry.finished == ["register"]
    assert caplog.records == []


def test_the_failure_of_a_call_whose_client_has_left_is_logged(house, wait_for, caplog):
    house.registry.error = UnknownModelError("m")
    leave(house, wait_for, b"DELETE /models/m HTTP/1.1\r\nHost: h\r\n\r\n")
    wait_for(lambda: caplog.messages, "the log")
    assert caplog.messages == ["a management call whose client had left failed: Model not found: m"]


def test_closing_the_listeners_does_not_wait_for_ever(make_house, monkeypatch, wait_for):
    monkeypatch.setattr("flambeau.frontend.app.CLOSE_TIMEOUT", 0.05)
    house = make_house()
    house.registry.gate = threading.Event()
    with socket.create_connection(house.listeners.addresses["management"]) as client:
        client.sendall(b"POST /models?url=a HTTP/1.1\r\nHost: h\r\n\r\n")
        assert house.registry.started.wait(10)
        house.run(house.listeners.close())
    assert house.registry.finished == []
    house.registry.gate.set()


def test_a_slow_registration_does_not_hold_up_others(house):
    house.registry.gate = threading.Event()
    slow = threading.Thread(target=house.manage, args=("POST", "/models?url=a"))
    slow.start()
    assert house.registry.started.wait(10)
    assert house.manage("GET", "/models").status == 200
    assert house.ask("POST", "/predictions/m", b"x").status == 200
    house.registry.gate.set()
    slow.join(10)
    assert house.registry.finished == ["register"]


@settings(deadline=None)
@given(
    table=st.sampled_from([REGISTER, SCALE, LIST]),
    given_=st.dictionaries(
        st.sampled_from([parameter.name for parameter in REGISTER + SCALE + LIST]),
        st.none() | st.text() | st.booleans() | st.integers() | st.floats() | st.lists(st.none()),
    ),
)
def test_any_parameters_are_read_or_refused_by_name(table, given_):
    try:
        values = read_parameters(table, given_)
    except BadRequestError as error:
        assert error.message.startswith(("Parameter ", "Invalid RuntimeType"))  # noqa: PT017
    else:
        assert list(values) == [parameter.name for parameter in table]


def test_parameters_that_are_not_in_the_table_are_ignored():
    table = (Parameter("a", lambda name, given: given, 1),)
    assert read_parameters(table, {"b": 2}) == {"a": 1}
