"""The inference listener as a client sees it."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket

import pytest

from flambeau import FlambeauError
from flambeau.frontend.app import start_listeners
from flambeau.frontend.errors import ConfigError, InferenceError, QueueFullError
from flambeau.frontend.jobs import Outcome

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
JSON = {"Content-Type": "application/json"}
NO_CACHE = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


def envelope(status: int, kind: str, message: str, request_id: str, **more: str) -> bytes:
    fields = {"code": status, "type": kind, "message": message, "requestId": request_id, **more}
    return (json.dumps(fields, indent=2) + "\n").encode()


def assert_error(reply, status: int, kind: str, message: str, **more: str) -> None:
    request_id = reply.headers["x-request-id"]
    assert (reply.status, reply.body) == (
        status,
        envelope(status, kind, message, request_id, **more),
    )
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Connection"] == "keep-alive"
    assert request_id


def test_an_answer_is_exactly_the_handlers_body_with_torchserves_headers(house):
    raw = house.raw(
        b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi", b"hi"
    )
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 "
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert UUID4.fullmatch(headers.pop("x-request-id"))
    assert headers.pop("Server-Timing").startswith("queue;dur=250.000, batch;")
    assert headers == {**NO_CACHE, "Content-Length": "2", "Connection": "keep-alive"}
    assert body == b"hi"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_any_method_predicts(house, method):
    assert house.ask(method, "/predictions/m", b"hi").body == b"hi"


def test_head_predicts_and_sends_the_length_only(house):
    reply = house.ask("HEAD", "/predictions/m", b"four")
    assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "4", b"")


def test_a_204_has_neither_body_nor_length(house):
    house.engine.answer = lambda job: Outcome(status=204, body=b"")
    reply = house.ask("POST", "/predictions/m", b"x")
    assert reply.status == 204
    assert "Content-Length" not in reply.headers
    assert "Transfer-Encoding" not in reply.headers


def test_an_http_1_0_client_is_told_when_the_connection_closes(house):
    raw = house.raw(b"GET /ping HTTP/1.0\r\n\r\n")
    assert raw.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Connection: close\r\n" in raw


def test_pipelined_requests_are_answered_in_order(house):
    request = b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
    raw = house.raw(
        request + b"a" + request + b"b" + b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n", b"}\n"
    )
    assert [part.partition(b"\r\n\r\n")[2][:1] for part in raw.split(b"HTTP/1.1 200")[1:]] == [
        b"a",
        b"b",
        b"{",
    ]


def test_a_large_answer_of_any_buffer_type_arrives_whole(house):
    body = bytes(range(256)) * 20_000
    for made in (bytes, bytearray, memoryview):
        house.engine.answer = lambda job, made=made: Outcome(body=made(body))
        assert house.ask("POST", "/predictions/m", b"").body == body


def test_what_the_handler_sets_arrives_unless_it_is_the_servers(house):
    house.engine.answer = lambda job: Outcome(
        status=418,
        reason="Im teapot",
        headers=[
            ("content-type", "image/png"),
            ("X-Mine", "1"),
            ("Server", "mine"),
            ("X-Request-Id", "forged"),
            ("cache-control", "public"),
            ("Content-Length", "99"),
            ("Transfer-Encoding", "chunked"),
        ],
        body=b"png",
    )
    reply = house.ask("POST", "/predictions/m", b"x", {"x-request-id": "abc"})
    assert (reply.status, reply.reason, reply.body) == (418, "Im teapot", b"png")
    assert reply.headers["Content-Type"] == "image/png"
    assert reply.headers["X-Mine"] == "1"
    assert reply.headers["Server"] == "mine"
    assert reply.headers.get_all("x-request-id") == ["abc"]
    assert reply.headers.get_all("Cache-Control") == [NO_CACHE["Cache-Control"]]
    assert reply.headers.get_all("Content-Length") == ["3"]
    assert "Transfer-Encoding" not in reply.headers


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (Outcome(status=99), "status 99"),
        (Outcome(status=101), "status 101"),
        (Outcome(status=1000), "status 1000"),
        (Outcome(reason="a\r\nX: y"), "a status phrase with control characters"),
        (
            Outcome(headers=[("X-Bad", "a\r\nSet-Cookie: b")]),
            "a response header 'X-Bad' that HTTP does not allow",
        ),
        (
            Outcome(headers=[("X Bad", "a")]),
            "a response header 'X Bad' that HTTP does not allow",
        ),
    ],
)
def test_what_http_cannot_carry_is_an_error_of_the_handler(house, outcome, what):
    house.engine.answer = lambda job: outcome
    reply = house.ask("POST", "/predictions/m", b"x")
    assert_error(reply, 500, "InternalServerException", f"The model's handler set {what}.")


def test_the_worker_gets_body_headers_and_the_servers_own_additions(house):
    house.ask("POST", "/predictions/m", b"{}", {"Content-TYPE": "application/json; x=y"})
    key, job = house.engine.jobs[-1]
    assert (key, job.requested_version) == (("m", "1.0"), None)
    assert house.engine.inputs() == {"body": ("application/json", b"{}")}
    assert job.headers["Content-TYPE"] == "application/json; x=y"
    assert job.headers["Content-Length"] == "2"
    assert job.headers["url_path"] == ""
    assert job.headers["explain"] == "False"
    assert "content-length" not in job.headers


@pytest.mark.parametrize("path", ["/explanations/m", "/v1/models/m:explain"])
def test_a_call_to_explain_shares_no_batch(house, path):
    house.ask("POST", "/predictions/m", b"{}", {"explain": "True"})
    assert not house.engine.job.must_travel_alone
    house.ask("POST", path, b"{}")
    assert house.engine.job.headers["explain"] == "True"
    assert house.engine.job.must_travel_alone


def test_later_headers_of_the_same_spelling_win_and_bytes_are_latin_1(house):
    house.raw(
        b"GET /predictions/m HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nX-A: 3\xe9\r\n\r\n",
        b"\r\n\r\n",
    )
    headers = house.engine.job.headers
    assert (headers["X-A"], headers["x-a"], headers["content-length"]) == ("3é", "2", "0")


def test_bytes_that_are_no_text_do_not_reach_the_worker_as_lone_surrogates(house):
    house.raw(
        b"POST /m/predict?%FF=%FE HTTP/1.1\r\nHost: h\r\nContent-Type: a/\xff\r\n"
        b"Content-Length: 1\r\n\r\nx",
        until="\ufffd".encode(),
    )
    for part in house.engine.job.parts:
        assert (part.name + part.content_type).encode().decode()
    for name, value in house.engine.job.headers.items():
        assert (name + value).encode()


def test_a_large_form_is_split_like_a_small_one(make_house):
    house = make_house(max_request_size=1 << 20)
    form = {"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=utf-8"}
    house.ask("POST", "/predictions/m", b"a=" + b"%41" * 100_000, form)
    assert house.engine.inputs() == {"a": ("", b"A" * 100_000)}


def test_a_get_without_a_body_is_an_empty_input(house):
    house.ask("GET", "/predictions/m")
    assert house.engine.inputs() == {"body": ("", b"")}


def test_a_version_and_the_rest_of_the_path_are_passed_on(house):
    house.ask("POST", "/predictions/m/2.0/a/b%20c%2Fd/", b"x")
    key, job = house.engine.jobs[-1]
    assert (key, job.requested_version) == (("m", "2.0"), "2.0")
    assert job.headers["url_path"] == "a/b c/d"


def test_names_are_percent_decoded(house):
    house.registry.names = ("mö del",)
    assert house.ask("POST", "/predictions/m%C3%B6%20del", b"x").status == 200
    assert house.engine.jobs[-1][0] == ("mö del", "1.0")


def test_form_fields_become_inputs(house):
    house.ask(
        "POST",
        "/predictions/m",
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nabc\r\n--B--',
        {"Content-Type": "multipart/form-data; boundary=B"},
    )
    assert house.engine.inputs() == {"f": ("application/octet-stream", b"abc")}


def test_query_parameters_are_ignored_on_predictions_unless_there_is_no_body(house):
    house.ask("POST", "/predictions/m?x=1", b"hi")
    assert house.engine.inputs() == {"body": ("", b"hi")}
    house.ask("GET", "/predictions/m?x=1&y=a+b")
    assert house.engine.inputs() == {"x": ("", b"1"), "y": ("", b"a b")}
    house.ask("GET", "/predictions/m?")
    assert house.engine.inputs() == {"body": ("", b"")}


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/models/m/invoke?x=1", ("m", "1.0")),
        ("/m/predict?x=1", ("m", "1.0")),
        ("/m/2.0/predict?x=1", ("m", "2.0")),
        ("/invocations?x=1", ("m", "1.0")),
    ],
)
def test_legacy_routes_take_query_parameters_beside_the_body(house, target, key):
    house.ask("POST", target, b"{}", JSON)
    assert house.engine.jobs[-1][0] == key
    assert house.engine.inputs() == {"x": ("", b"1"), "body": ("application/json", b"{}")}
    assert "url_path" not in house.engine.job.headers
    assert "explain" not in house.engine.job.headers


def test_invocations_find_their_model(house):
    house.registry.names = ("a", "b")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    house.ask("POST", "/invocations?model_name=b", b"x")
    assert house.engine.jobs[-1][0] == ("b", "1.0")
    house.ask("POST", "/invocations", b"model_name=a&z=1", form)
    assert house.engine.jobs[-1][0] == ("a", "1.0")
    reply = house.ask("POST", "/invocations", b"x")
    assert_error(reply, 400, "BadRequestException", "Parameter model_name is required.")


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("/predictions/nope", "ModelNotFoundException", "Model not found: nope"),
        ("/predictions//1.0", "ModelNotFoundException", "Model not found: "),
        (
            "/predictions/m/9.9",
            "ModelVersionNotFoundException",
            "Model version: 9.9 does not exist for model: m",
        ),
        *[
            (
                target,
                "ResourceNotFoundException",
                "Requested resource is not found, please refer to API document.",
            )
            for target in ("/nope", "/predictions", "/predictions/", "/models", "/models/m", "/a/b",
                           "/api-description/x", "http://h/ping")
        ],
    ],
)  # fmt: skip
def test_what_does_not_exist_is_404(house, target, kind, message):
    assert_error(house.ask("POST", target, b"x"), 404, kind, message)
    assert house.engine.jobs == []


def test_the_root_allows_options_only(house):
    assert_error(
        house.ask("GET", "/"),
        405,
        "MethodNotAllowedException",
        "Requested method is not allowed, please refer to API document.",
    )


def test_a_malformed_escape_is_refused_as_torchserve_does(house):
    assert_error(
        house.ask("GET", "/predictions/%zz"),
        403,
        "IllegalArgumentException",
        "invalid hex byte 'zz' at index 14 of '/predictions/%zz'",
    )


@pytest.mark.parametrize("listener", ["inference", "management", "metrics"])
def test_bytes_that_are_not_http_are_refused_and_the_connection_closed(house, listener, caplog):
    raw = house.raw(b"\x16\x03\x01 nonsense\r\n\r\n", listener=listener)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b" 400 Bad Request\r\n" in head
    assert b"Connection: close" in head
    assert b"Server" not in head
    request_id = json.loads(body)["requestId"]
    assert f"x-request-id: {request_id}\r\n".encode() in head
    assert body == envelope(400, "BadRequestException", "Invalid HTTP message.", request_id)
    assert caplog.records == []


def test_a_broken_chunked_body_is_refused(house):
    raw = house.raw(
        b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    assert b" 400 Bad Request\r\n" in raw
    assert b"Invalid HTTP message." in raw
    assert house.engine.jobs == []


def test_ping_says_what_the_registry_says(house):
    reply = house.ask("GET", "/ping")
    assert (reply.status, reply.body) == (200, b'{\n  "status": "Healthy"\n}\n')
    assert reply.headers["Content-Type"] == "application/json"
    house.registry.healthy = False
    for target in ("/ping", "/ping/", "/ping/x/y"):
        reply = house.ask("DELETE", target)
        assert (reply.status, reply.body) == (500, b'{\n  "status": "Unhealthy"\n}\n')


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(house):
    limit = house.config.max_request_size
    assert house.ask("POST", "/predictions/m", b"x" * limit).status == 200
    reply = house.ask("POST", "/predictions/m", b"x" * (limit + 1))
    assert_error(
        reply,
        413,
        "PayloadTooLargeException",
        f"Request body exceeds the limit of {limit} bytes. "
        "Send less, or raise max_request_size in the server's configuration.",
    )
    assert len(house.engine.jobs) == 1


def test_a_chunked_body_is_accepted_up_to_the_limit(house):
    house.ask("POST", "/predictions/m", iter([b"ab", b"c"]))
    assert house.engine.inputs() == {"body": ("", b"abc")}
    assert house.engine.job.headers["content-length"] == "3"
    house.engine.jobs.clear()
    limit = house.config.max_request_size
    exact = (b"x" * 1000 for _ in range(limit // 1000))
    assert house.ask("POST", "/predictions/m", exact).status == 200
    assert len(house.engine.inputs()["body"][1]) == limit
    more = (b"x" * 1000 for _ in range(limit // 1000 + 1))
    assert house.ask("POST", "/predictions/m", more).status == 413
    assert len(house.engine.jobs) == 1


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(house):
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(
            b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_the_connection_stays_open_after_errors(house):
    connection = house.connect()
    too_large = b"x" * (house.config.max_request_size + 1)
    assert house.ask_on(connection, "POST", "/predictions/m", too_large).status == 413
    port = connection.sock.getsockname()
    assert house.ask_on(connection, "GET", "/nope").status == 404
    assert house.ask_on(connection, "POST", "/predictions/m", b"x").status == 200
    assert connection.sock.getsockname() == port
    connection.close()


def test_a_compressed_body_reaches_the_worker_as_it_was_sent(house):
    bomb = gzip.compress(bytes(house.config.max_request_size * 10))
    house.ask("POST", "/predictions/m", bomb, {"Content-Encoding": "gzip"})
    assert house.engine.inputs() == {"body": ("", bomb)}
    assert house.engine.job.headers["Content-Encoding"] == "gzip"


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(house):
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(
            b"PUT /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hi")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 \r\n")


def test_another_expectation_fails(house):
    reply = house.ask("POST", "/predictions/m", b"x", {"Expect": "miracle"})
    assert reply.status == 417
    assert house.engine.jobs == []


@pytest.mark.parametrize("given", ["abc", "a" * 128, "trace:1.2-3_4/5@host+=~"])
def test_a_clients_request_id_is_kept(house, given):
    reply = house.ask("POST", "/predictions/m", b"x", {"X-Request-ID": given})
    assert reply.headers["x-request-id"] == given
    assert house.engine.job.id == given
    assert house.engine.job.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "a,b", 'a"b', "a;b", "\xe9"])
def test_a_request_id_that_would_spoil_logs_is_replaced(house, given):
    reply = house.ask("POST", "/predictions/m", b"x", {"x-request-id": given})
    assert UUID4.fullmatch(reply.headers["x-request-id"])
    assert house.engine.job.id == reply.headers["x-request-id"]


def test_every_answer_has_its_own_request_id(house):
    targets = ["/predictions/m", "/predictions/nope", "/ping", "/nope"] * 2
    ids = [house.ask("POST", target, b"").headers["x-request-id"] for target in targets]
    assert len(set(ids)) == len(targets)


def test_an_error_outcome_is_rendered_with_its_own_status_and_text(house):
    house.engine.answer = lambda job: Outcome(error=InferenceError("Prediction failed", 503))
    reply = house.ask("POST", "/predictions/m", b"x", {"x-request-id": "abc"})
    assert_error(reply, 503, "InternalServerException", "Prediction failed")
    assert reply.headers["x-request-id"] == "abc"
    assert "Retry-After" not in reply.headers


def test_a_full_queue_answers_503_and_when_to_come_again(house):
    def refuse(job):
        raise QueueFullError("m", None, 7)

    house.engine.answer = refuse
    reply = house.ask("POST", "/predictions/m", b"x")
    assert_error(
        reply,
        503,
        "ServiceUnavailableException",
        'Model "m" has no worker to serve inference request. Please use scale workers API to add '
        "workers. If this is a sequence inference, please check if it is closed, or expired; or "
        "exceeds maxSequenceJobQueueSize",
        reason="queue_full",
    )
    assert reply.headers["Retry-After"] == "7"


def test_a_draining_server_refuses_predictions_but_answers_the_rest(house):
    house.draining = True
    for target in ("/predictions/m", "/invocations", "/m/predict"):
        reply = house.ask("POST", target, b"x")
        assert (reply.status, reply.json["type"]) == (503, "ServiceUnavailableException")
        assert reply.headers["Retry-After"] == "1"
    assert house.ask("GET", "/ping").json == {"status": "Unhealthy"}
    assert house.ask("OPTIONS", "/").status == 200
    assert house.engine.jobs == []


def test_a_bug_is_answered_without_its_details_which_are_logged(house, caplog):
    def break_down(job):
        raise RuntimeError("secret of /etc")

    house.engine.answer = break_down
    reply = house.ask("POST", "/predictions/m", b"x", {"x-request-id": "abc"})
    assert_error(
        reply,
        500,
        "InternalServerException",
        "Internal server error. The server's log tells more by the request id.",
    )
    assert "secret" not in reply.body.decode()
    (record,) = caplog.records
    assert "abc" in record.getMessage()
    assert "secret of /etc" in str(record.exc_info)


def test_a_client_that_leaves_has_its_job_abandoned(house, wait_for):
    house.engine.held = True
    client = socket.create_connection(house.listeners.addresses["inference"])
    client.sendall(b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
    wait_for(lambda: house.engine.jobs, "the job")
    client.close()
    wait_for(lambda: house.engine.abandoned, "the abandoned jobs")
    assert house.engine.abandoned == [house.engine.job]


def test_a_client_that_leaves_within_its_body_makes_no_job(house, wait_for, caplog):
    with socket.create_connection(house.listeners.addresses["inference"]) as client:
        client.sendall(b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx")
    assert house.ask("GET", "/ping").status == 200
    assert house.engine.jobs == []
    assert caplog.records == []


def test_closing_the_listeners_abandons_what_still_waits(make_house, wait_for, monkeypatch):
    monkeypatch.setattr("flambeau.frontend.app.CLOSE_TIMEOUT", 0.05)
    house = make_house()
    house.engine.held = True
    with socket.create_connection(house.listeners.addresses["inference"]) as client:
        client.sendall(b"GET /predictions/m HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_for(lambda: house.engine.jobs, "the job")
        house.run(house.listeners.close())
    assert house.engine.abandoned == [house.engine.job]


def test_after_stop_accepting_open_connections_are_still_served(house):
    connection = house.connect()
    assert house.ask_on(connection, "POST", "/predictions/m", b"1").body == b"1"
    house.run(house.listeners.stop_accepting())
    assert house.ask_on(connection, "POST", "/predictions/m", b"2").body == b"2"
    with pytest.raises(ConnectionRefusedError):
        house.ask("GET", "/ping")
    connection.close()


@pytest.mark.parametrize("name", ["inference", "management", "metrics"])
def test_a_taken_port_is_named_with_the_setting_and_nothing_stays_open(make_house, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            make_house(**{f"{name}_address": f"http://127.0.0.1:{port}"})
    assert caught.value.message == (
        f"Port {port} on 127.0.0.1 is in use; stop the other server or set {name}_address."
    )


def test_a_failed_start_closes_the_listeners_that_were_open(house, make_house):
    host, port = house.listeners.addresses["inference"]
    house.run(house.listeners.close())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bad = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FlambeauError):
            make_house(inference_address=f"http://{host}:{port}", metrics_address=bad)
    house.listeners = house.run(start_listeners(house.services()))
    make_house(inference_address=f"http://{host}:{port}")


def test_an_address_that_is_not_ours_is_refused(make_house):
    with pytest.raises(
        ConfigError, match=r"Cannot listen on 192\.0\.2\.1, port 1234 .*inference_a"
    ):
        make_house(inference_address="http://192.0.2.1:1234")


def test_the_access_log_has_one_line_per_request_in_torchserves_form(make_house, caplog):
    caplog.set_level(logging.INFO)
    house = make_house(access_log=True)
    caplog.clear()
    house.ask("POST", "/predictions/m?x=%20", b"1")
    house.ask("GET", "/nope")
    lines = [r.getMessage() for r in caplog.records if r.name == "flambeau.access"]
    assert [re.sub(r":\d+ ", ":PORT ", re.sub(r"\d+$", "MS", line)) for line in lines] == [
        '/127.0.0.1:PORT "POST /predictions/m?x=%20 HTTP/1.1" 200 MS',
        '/127.0.0.1:PORT "GET /nope HTTP/1.1" 404 MS',
    ]


def test_nothing_is_logged_per_request_by_default(house, caplog):
    caplog.set_level(logging.DEBUG, logger="flambeau")
    house.ask("POST", "/predictions/m", b"1")
    house.ask("GET", "/nope")
    assert caplog.records == []
