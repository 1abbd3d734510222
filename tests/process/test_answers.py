"""What handlers return, raise and receive, through a whole server."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from real_server import RealServer, in_background, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

FREE = '''
"""Runs what the request says: trust nobody with this."""

import math
import os
import sys

from flambeau.worker.errors import PredictionException


def handle(data, context):
    if data is None:
        return None
    source = data[0]["body"].decode() if data[0].get("body") else "return data"
    function = {"PredictionException": PredictionException, "math": math, "os": os, "sys": sys}
    lines = "".join(f"  {line}\\n" for line in source.splitlines())
    exec("def run(data, context):\\n" + lines, function)
    return function["run"](data, context)
'''
ECHO = """
def handle(data, context):
    if data is None:
        return None
    return [
        {
            "row": {name: show(value) for name, value in row.items()},
            "headers": context.get_all_request_header(index),
            "id": context.get_request_id(index),
            "size": len(data),
        }
        for index, row in enumerate(data)
    ]


def show(value):
    kind = type(value).__name__
    return [kind, value.decode("latin-1") if isinstance(value, bytearray) else value]
"""
MIRROR = "def handle(data, context):\n    return data and [row['body'] for row in data]\n"
ROWS = '''
"""Each row by itself: what it says is what becomes of it."""

from flambeau.worker.errors import PredictionException


def handle(data, context):
    if data is None:
        return None
    return [answer(row["body"], index, context) for index, row in enumerate(data)]


def answer(word, index, context):
    if word == "status":
        context.set_response_status(418, "I am a teapot", index)
        context.set_response_header(index, "x-tea", "green")
        context.set_response_content_type(index, "text/tea")
    return {
        "fine": {"fine": True},
        "exception": ValueError("this row only"),
        "refusal": PredictionException("not this one", 422),
        "memory": MemoryError(),
        "set": {1, 2},
        "status": "tea",
    }[word]
'''


@pytest.fixture(scope="module")
def served(server: RealServer) -> RealServer:
    server.serve(server.store.folder("free", {"handler.py": FREE}))
    server.serve(server.store.folder("echo", {"handler.py": ECHO}))
    server.serve(server.store.folder("mirror", {"handler.py": MIRROR}))
    config = "batchSize: 6\nmaxBatchDelay: 20000\nbatching: fixed\nminWorkers: 1\nmaxWorkers: 1\n"
    server.serve(server.store.folder("rows", {"handler.py": ROWS}, config))
    return server


def run(server: RealServer, source: str) -> Any:
    return server.request("POST", "/predictions/free", source)


def echo(server: RealServer, body: Any = None, method: str = "POST", **headers: str) -> Any:
    spelt = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = server.request(method, "/predictions/echo", body, spelt)
    assert answer.status == 200, answer
    return answer.json


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("return [b'bytes']", b"bytes"),
        ("return [bytearray(b'more')]", b"more"),
        ("return ['text \\u00e9']", "text é".encode()),
        ("return ['']", b""),
        ("return [{'a': [1, 2.5, None, True]}]", None),
        ("return [None]", b"null"),
        ("return [7]", b"7"),
        ("return [math.nan]", b"NaN"),
        ("return [(1, 2)]", None),
    ],
)
def test_an_answer_is_what_the_handler_returned(
    served: RealServer, source: str, body: bytes | None
) -> None:
    answer = run(served, source)
    assert answer.status == 200
    if body is None:
        assert answer.json in ({"a": [1, 2.5, None, True]}, [1, 2])
    else:
        assert answer.body == body
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("source", "status", "message"),
    [
        ("raise ValueError('secret /etc/passwd')", 503, "Prediction failed"),
        ("raise MemoryError", 507, "Out of resources"),
        ("raise RuntimeError('CUDA out of memory. Tried')", 507, "Out of resources"),
        ("raise PredictionException('Not today', 429)", 429, "Not today"),
        ("raise PredictionException('Just so')", 500, "Just so"),
        ("raise PredictionException('Too long', 413)", 507, "Too long"),
        ("return []", 503, "number of batch response mismatched"),
        ("return [1, 2]", 503, "number of batch response mismatched"),
        ("return None", 503, "Invalid model predict output"),
        ("return {'a': 1}", 503, "Invalid model predict output"),
        ("return (1,)", 503, "Invalid model predict output"),
        ("return 'text'", 503, "Invalid model predict output"),
        ("return iter([1])", 503, "Invalid model predict output"),
        ("return [{1, 2}]", 503, "Unsupported model output data type."),
        ("return [object()]", 503, "Unsupported model output data type."),
        ("return [{'a': b'bytes'}]", 503, "Unsupported model output data type."),
        ("a = []\na.append(a)\nreturn [a]", 503, "Unsupported model output data type."),
        ("return ['\\ud800']", 503, "Unsupported model output data type."),
        ("return [ValueError('row')]", 503, "Prediction failed"),
        ("return [PredictionException('No', 404)]", 404, "No"),
    ],
)
def test_a_handler_that_fails_is_answered_for_and_its_worker_lives_on(
    served: RealServer, source: str, status: int, message: str
) -> None:
    pids = served.ready_pids("free")
    answer = run(served, source)
    assert (answer.status, answer.message) == (status, message)
    assert answer.json["type"] == "InternalServerException"
    assert run(served, "return [os.getpid()]").json in pids
    assert served.ready_pids("free") == pids


def test_a_handler_that_leaves_costs_its_worker_and_no_more(served: RealServer) -> None:
    (before,) = served.ready_pids("free")
    answer = run(served, "sys.exit(0)")
    assert (answer.status, answer.message) == (500, "Worker died.")
    assert run(served, "return [os.getpid()]").json != before


def test_a_failure_is_logged_with_its_traceback_and_the_request_id(served: RealServer) -> None:
    answer = served.request(
        "POST",
        "/predictions/free",
        "raise ValueError('find me in the log')",
        {"x-request-id": "trace-this-one"},
    )
    assert answer.status == 503
    log = served.log()
    assert "ValueError: find me in the log" in log
    assert "Prediction failed for request trace-this-one" in log


def test_what_a_handler_logs_is_about_its_request(served: RealServer) -> None:
    served.request(
        "POST",
        "/predictions/free",
        "import logging; logging.getLogger('mine').info('seen\\ntwice'); return ['x']",
        {"x-request-id": "trace-that-one"},
    )
    wait_for(lambda: "twice [trace-that-one]" in served.log(), 10.0, "the line in the log")
    assert "seen [trace-that-one]" in served.log()


def test_one_row_of_a_batch_fails_by_itself(served: RealServer) -> None:
    words = ["fine", "exception", "refusal", "memory", "set", "status"]

    def ask(word: str) -> Any:
        return served.request("POST", "/predictions/rows", word, {"Content-Type": "text/plain"})

    with in_background(len(words)) as submit:
        asked = {word: submit(ask, word) for word in words}
        answers = {word: each.result() for word, each in asked.items()}
    assert answers["fine"].json == {"fine": True}
    assert (answers["exception"].status, answers["exception"].message) == (503, "Prediction failed")
    assert (answers["refusal"].status, answers["refusal"].message) == (422, "not this one")
    assert (answers["memory"].status, answers["memory"].message) == (507, "Out of resources")
    assert (answers["set"].status, answers["set"].message) == (
        503,
        "Unsupported model output data type.",
    )
    tea = answers["status"]
    assert (tea.status, tea.reason, tea.body) == (418, "I am a teapot", b"tea")
    assert (tea.headers["x-tea"], tea.headers["content-type"]) == ("green", "text/tea")
    assert served.metric("flambeau_batch_size_sum", model="rows") == 6


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH", "DELETE"])
def test_any_method_predicts(served: RealServer, method: str) -> None:
    row = echo(served, b"data", method)["row"]
    assert row == {"body": ["bytearray", "data"]}


def test_get_without_a_body_gives_an_empty_one(served: RealServer) -> None:
    answer = served.request("GET", "/predictions/echo")
    assert answer.json["row"] == {"body": ["bytearray", ""]}


def test_head_predicts_and_sends_no_body(served: RealServer) -> None:
    with served.connect() as connection:
        answer = connection.ask("HEAD", "/predictions/echo")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
        assert connection.ask("GET", "/predictions/echo").status == 200


def test_options_describes_the_model(served: RealServer) -> None:
    answer = served.request("OPTIONS", "/predictions/echo")
    assert answer.json["openapi"].startswith("3.")
    assert "/predictions/echo" in answer.json["paths"]


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        (None, b"\x00raw", ["bytearray", "\x00raw"]),
        ("application/json", b'{"a": [1]}', ["dict", {"a": [1]}]),
        ("application/json; charset=utf-8", b"[1]", ["list", [1]]),
        ("application/json", b"{broken", ["bytearray", "{broken"]),
        ("application/octet-stream", b"{}", ["bytearray", "{}"]),
        ("text/plain", "gr\u00fcn".encode(), ["str", "gr\u00fcn"]),
        ("text/plain", b"\xff", ["bytearray", "\u00ff"]),
        ("image/png", b"\x89PNG", ["bytearray", "\x89PNG"]),
    ],
)
def test_a_body_reaches_the_handler_by_its_content_type(
    served: RealServer, content_type: str | None, body: bytes, value: list[Any]
) -> None:
    headers = {} if content_type is None else {"Content_Type": content_type}
    assert echo(served, body, **headers)["row"] == {"body": value}


def test_a_multipart_form_gives_a_value_for_each_field(served: RealServer) -> None:
    parts = [
        'name="file"; filename="7.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG',
        'name="words"; filename="w.txt"\r\nContent-Type: text/plain\r\n\r\nsome words',
        'name="numbers"; filename="n"\r\nContent-Type: application/json\r\n\r\n{"n": 1}',
        'name="field"\r\n\r\nplain',
    ]
    body = "".join(f"--cut\r\nContent-Disposition: form-data; {part}\r\n" for part in parts)
    seen = echo(
        served,
        (body + "--cut--\r\n").encode("latin-1"),
        Content_Type="multipart/form-data; boundary=cut",
    )
    assert seen["row"] == {
        "file": ["bytearray", "\x89PNG"],
        "words": ["str", "some words"],
        "numbers": ["dict", {"n": 1}],
        "field": ["bytearray", "plain"],
    }
    assert seen["headers"]["file"] == {"content-type": "image/png"}


def test_a_form_gives_bytes_for_each_field(served: RealServer) -> None:
    seen = echo(served, b"a=1&b=two%20words", Content_Type="application/x-www-form-urlencoded")
    assert seen["row"] == {"a": ["bytearray", "1"], "b": ["bytearray", "two words"]}


def test_headers_reach_the_handler_as_the_client_spelt_them(served: RealServer) -> None:
    headers = echo(served, b"x", X_oDD_Case="1")["headers"]
    assert headers["X-oDD-Case"] == "1"
    assert headers["explain"] == "False"
    assert headers["url_path"] == ""


def test_the_clients_request_id_goes_all_the_way_and_back(served: RealServer) -> None:
    answer = served.request("POST", "/predictions/echo", b"x", {"X-Request-Id": "mine-42"})
    assert answer.json["id"] == "mine-42"
    assert answer.headers["x-request-id"] == "mine-42"


def test_a_request_without_an_id_gets_one(served: RealServer) -> None:
    first, second = (served.request("POST", "/predictions/echo", b"x") for _ in range(2))
    for answer in (first, second):
        assert answer.json["id"] == answer.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.json["id"])
    assert first.json["id"] != second.json["id"]


def test_an_id_that_could_forge_a_log_line_is_replaced(served: RealServer) -> None:
    answer = served.request("POST", "/predictions/echo", b"x", {"X-Request-Id": "a b\tc"})
    assert answer.json["id"] == answer.headers["x-request-id"] != "a b\tc"


def test_requests_are_served_one_after_another_on_one_connection(served: RealServer) -> None:
    with served.connect() as connection:
        for number in range(50):
            body = json.dumps({"number": number})
            answer = connection.ask(
                "POST", "/predictions/echo", body, {"Content-Type": "application/json"}
            )
            assert answer.json["row"] == {"body": ["dict", {"number": number}]}
            assert answer.headers["connection"] == "keep-alive"


def test_errors_leave_the_connection_open(served: RealServer) -> None:
    with served.connect() as connection:
        assert connection.ask("POST", "/predictions/nobody", b"x").status == 404
        socket = connection.sock
        assert connection.ask("POST", "/predictions/free", b"raise ValueError").status == 503
        assert connection.ask("POST", "/predictions/echo", b"x").status == 200
        assert connection.sock is socket


@pytest.mark.parametrize("size", [16 * 1024, 16 * 1024 + 1, 6_000_000])
def test_a_body_comes_back_unharmed_whatever_its_size(served: RealServer, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    answer = served.request("POST", "/predictions/mirror", body[:size])
    assert answer.status == 200
    assert answer.body == body[:size]


def test_a_body_of_twenty_megabytes_makes_the_round_trip(
    new_server: Callable[..., RealServer],
) -> None:
    server = new_server(max_request_size=20_000_000, max_response_size=20_000_000)
    server.store.folder("mirror", {"handler.py": MIRROR})
    server.start().serve("mirror")
    body = bytes(range(250)) * 80_000
    answer = server.request("POST", "/predictions/mirror", body)
    assert answer.body == body
    assert server.request("POST", "/predictions/mirror", body + b"x").status == 413


@pytest.mark.parametrize(
    "source",
    [
        "context.set_response_header(0, 'x-copied', chr(0xd800))\nreturn ['x']",
        "context.metrics.add_metric('n', 1, unit=object())\nreturn ['x']",
        "context.metrics.add_counter(chr(0xd800), 1)\nreturn ['x']",
        "context.request_processor = []\nreturn ['x']",
    ],
)
def test_what_cannot_be_sent_fails_the_request_and_not_the_worker(
    served: RealServer, source: str
) -> None:
    before = served.describe("free")["workers"]
    assert run(served, source).status in (200, 503)
    assert run(served, "return ['fine']").status == 200
    after = served.describe("free")["workers"]
    assert [each["pid"] for each in after] == [each["pid"] for each in before]


def test_labels_from_clients_never_break_the_metrics(served: RealServer) -> None:
    source = (
        "from flambeau.worker.metrics import Dimension\n"
        "context.metrics.add_counter('copied', 1, dimensions=[Dimension('who', chr(0xdc80))])\n"
        "return ['x']"
    )
    run(served, source)
    assert served.request("GET", "/metrics", listener="metrics").status == 200


def test_a_cuda_error_replaces_the_worker_after_its_answer(served: RealServer) -> None:
    answer = run(served, "raise RuntimeError('CUDA error: device-side assert triggered')")
    assert (answer.status, answer.message) == (507, "Out of resources")
    wait_for(
        lambda: "cuda_error" in str(served.describe("free")["workers"][0].get("lastExit")),
        5.0,
        "the worker to be replaced",
    )
    assert run(served, "return ['fine']").status == 200
