"""Requests that cannot be served get the right status and text, and the server serves on."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from real_server import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_server import RealServer

LIMIT = 6553500
NO_WORKER = (
    "has no worker to serve inference request. Please use scale workers API to add workers. If this"
    " is a sequence inference, please check if it is closed, or expired; or exceeds"
    " maxSequenceJobQueueSize"
)


@pytest.fixture(scope="module")
def echo(server: RealServer) -> str:
    server.serve("obedient", model_name="echo")
    return "echo"


def envelope(answer: Answer) -> tuple[int, str, str]:
    return answer.status, answer.json["type"], answer.message


def test_an_unknown_model_is_404(server: RealServer) -> None:
    expected = (404, "ModelNotFoundException", "Model not found: nobody")
    assert envelope(server.predict("nobody")) == expected
    assert envelope(server.manage("GET", "/models/nobody")) == expected
    assert envelope(server.manage("PUT", "/models/nobody", min_worker=1)) == expected
    assert envelope(server.manage("DELETE", "/models/nobody")) == expected


def test_an_unknown_version_is_404(server: RealServer, echo: str) -> None:
    expected = (
        404,
        "ModelVersionNotFoundException",
        "Model version: 9.9 does not exist for model: echo",
    )
    assert envelope(server.predict("echo/9.9")) == expected
    assert envelope(server.manage("GET", "/models/echo/9.9")) == expected
    assert envelope(server.manage("PUT", "/models/echo/9.9", min_worker=1)) == expected
    assert envelope(server.manage("DELETE", "/models/echo/9.9")) == expected
    assert envelope(server.manage("PUT", "/models/echo/9.9/set-default")) == (
        404,
        "ModelVersionNotFoundException",
        "Model version 9.9 does not exist for model echo",
    )


def test_a_model_without_worker_is_503(server: RealServer) -> None:
    answer = server.register("obedient", 0, model_name="idle")
    assert answer.json == {
        "status": 'Model "idle" Version: 1.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model."
    }
    unavailable = (503, "ServiceUnavailableException")
    assert envelope(server.predict("idle")) == (*unavailable, f'Model "idle" {NO_WORKER}')
    # The stray quote is TorchServe's.
    named = f'Model "idle" Version 1.0" {NO_WORKER}'
    assert envelope(server.predict("idle/1.0")) == (*unavailable, named)
    assert server.request("GET", "/ping").json == {"status": "Healthy"}


@pytest.mark.parametrize(
    ("listener", "method", "path"),
    [
        ("management", "PATCH", "/models"),
        ("management", "DELETE", "/models"),
        ("management", "POST", "/models/echo"),
        ("management", "PATCH", "/models/echo/1.0"),
        ("management", "GET", "/models/echo/1.0/set-default"),
        ("management", "GET", "/"),
        ("inference", "GET", "/"),
    ],
)
def test_a_wrong_method_is_405(
    server: RealServer, echo: str, listener: str, method: str, path: str
) -> None:
    assert envelope(server.request(method, path, listener=listener)) == (
        405,
        "MethodNotAllowedException",
        "Requested method is not allowed, please refer to API document.",
    )


@pytest.mark.parametrize(
    ("listener", "path"),
    [("inference", "/models"), ("management", "/predictions/echo"), ("metrics", "/ping")],
)
def test_a_path_of_another_listener_is_404(
    server: RealServer, echo: str, listener: str, path: str
) -> None:
    assert envelope(server.request("GET", path, listener=listener)) == (
        404,
        "ResourceNotFoundException",
        "Requested resource is not found, please refer to API document.",
    )


def test_a_body_that_announces_too_much_is_413_and_the_connection_ends_cleanly(
    server: RealServer, echo: str
) -> None:
    with server.connect() as connection:
        connection.putrequest("POST", f"/predictions/{echo}")
        connection.putheader("Content-Length", str(LIMIT + 1))
        connection.endheaders()
        # Not a byte of the body is sent: the announcement is enough.
        answer = Answer.read(connection.getresponse())
    assert envelope(answer)[:2] == (413, "PayloadTooLargeException")
    assert f"{LIMIT} bytes" in answer.message
    assert "max_request_size" in answer.message
    assert server.predict(echo).status == 200


def test_a_body_that_is_sent_in_full_although_too_large_is_413(
    server: RealServer, echo: str
) -> None:
    with server.connect() as connection:
        answer = connection.ask("POST", f"/predictions/{echo}", b"x" * (LIMIT + 1))
        assert answer.status == 413
        # Whether the server keeps the connection or closes it: the client can go on.
        assert connection.ask("POST", f"/predictions/{echo}", b"{}").status == 200


def test_chunks_that_exceed_the_limit_are_413(server: RealServer, echo: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(LIMIT // 100_000 + 2):
            yield b"x" * 100_000

    with server.connect() as connection:
        connection.request("POST", f"/predictions/{echo}", chunks(), encode_chunked=True)
        assert Answer.read(connection.getresponse()).status == 413
        assert connection.ask("POST", f"/predictions/{echo}", b"{}").status == 200


def test_a_body_of_exactly_the_limit_is_served(server: RealServer, echo: str) -> None:
    assert server.request("POST", f"/predictions/{echo}", b"x" * LIMIT).status == 200


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("batch_size", "many"),
        ("batch_size", "0"),
        ("max_batch_delay", "1.5"),
        ("initial_workers", "-2"),
        ("initial_workers", "99999999999"),
        ("response_timeout", "0"),
        ("startup_timeout", "soon"),
        ("synchronous", "perhaps"),
    ],
)
def test_a_malformed_parameter_of_a_registration_is_400_and_named(
    server: RealServer, parameter: str, value: str
) -> None:
    given = {"url": "obedient", "model_name": "wrong", parameter: value}
    by_query = server.manage("POST", "/models", **given)
    assert envelope(by_query)[:2] == (400, "BadRequestException")
    assert f"Parameter {parameter} " in by_query.message
    by_body = server.request(
        "POST",
        "/models",
        json.dumps(given),
        {"Content-Type": "application/json"},
        listener="management",
    )
    assert (by_body.status, by_body.message) == (400, by_query.message)
    assert server.manage("GET", "/models/wrong").status == 404


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("min_worker", "two"),
        ("min_worker", "-1"),
        ("max_worker", "-1"),
        ("timeout", "x"),
        ("synchronous", "1"),
    ],
)
def test_a_malformed_parameter_of_a_scaling_is_400_and_named(
    server: RealServer, echo: str, parameter: str, value: str
) -> None:
    answer = server.manage("PUT", f"/models/{echo}", **{parameter: value})
    assert answer.status == 400
    assert f"Parameter {parameter} " in answer.message
    assert len(server.workers(echo)) == 1


def test_fewer_workers_at_most_than_at_least_is_400(server: RealServer, echo: str) -> None:
    answer = server.manage("PUT", f"/models/{echo}", min_worker=2, max_worker=1)
    assert (answer.status, answer.message) == (
        400,
        "max_worker cannot be less than min_worker.",
    )


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        (None, 400, "Parameter url is required."),
        ("", 404, "empty url"),
        ("absent.mar", 404, "Model not found at: absent.mar"),
        ("../obedient", 404, "Relative path is not allowed in url: ../obedient"),
        (
            "http://127.0.0.1:1/x.mar",
            404,
            "Given URL http://127.0.0.1:1/x.mar does not match any allowed URL(s)",
        ),
        ("file:///etc", 404, "Given URL file:///etc does not match any allowed URL(s)"),
        ("/etc", 404, "Model not found at: /etc"),
    ],
)
def test_a_url_outside_the_store_is_refused(
    server: RealServer, url: str | None, status: int, message: str
) -> None:
    answer = server.manage("POST", "/models", **({} if url is None else {"url": url}))
    assert (answer.status, answer.message) == (status, message)


def test_what_is_registered_already_is_409_and_goes_on_serving(
    server: RealServer, echo: str
) -> None:
    pids = server.ready_pids(echo)
    assert envelope(server.register("obedient", model_name=echo)) == (
        409,
        "ConflictStatusException",
        "Model version 1.0 is already registered for model echo",
    )
    assert server.ready_pids(echo) == pids
    assert server.predict(echo).status == 200


def test_what_is_not_http_is_400(server: RealServer) -> None:
    address = urlsplit(server.addresses["inference"])
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        received = b""
        while piece := raw.recv(4096):
            received += piece
    assert received.partition(b"\r\n")[0].endswith(b" 400 Bad Request")
    assert b"Invalid HTTP message." in received


def test_a_client_that_says_nothing_or_half_a_request_disturbs_nobody(
    server: RealServer, echo: str
) -> None:
    address = urlsplit(server.addresses["inference"])
    head = f"POST /predictions/{echo} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
    with (
        socket.create_connection((address.hostname, address.port)),
        socket.create_connection((address.hostname, address.port)) as half,
    ):
        half.sendall(head.encode())
        assert server.predict(echo).status == 200
    assert server.predict(echo).status == 200
