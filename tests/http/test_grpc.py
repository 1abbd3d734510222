"""The gRPC services, spoken to by a client of their own, in front of a fake engine."""

from __future__ import annotations

import json
import logging
import re
import threading

import grpc
import grpc_client  # noqa: F401 - lets gRPC start its thread before tests count threads
import pytest

from flambeau.frontend.errors import (
    ConfigError,
    ConflictError,
    DeadlineUnreachableError,
    InferenceError,
    NoFreeWorkerError,
    NoWorkerError,
    QueueFullError,
)
from flambeau.frontend.grpc.messages import INFERENCE, MANAGEMENT, message
from flambeau.frontend.grpc.server import start_grpc
from flambeau.frontend.jobs import Outcome
from flambeau.frontend.registry import Reply
from flambeau.frontend.streams import BodyStream


def test_ping_says_what_http_says(client):
    assert client.call("inference", "Ping").health == '{\n  "status": "Healthy"\n}'
    client.house.registry.healthy = False
    assert "Unhealthy" in client.call("inference", "Ping").health


def test_a_prediction(client):
    answer = client.call("inference", "Predictions", model_name="m", input={"data": b"hi"})
    assert answer.prediction == b"hi"
    key, job = client.house.engine.jobs[-1]
    assert key == ("m", "1.0")
    assert [(part.name, part.content_type, part.body) for part in job.parts] == [
        ("data", "", b"hi")
    ]
    client.call("inference", "Predictions", model_name="m", model_version="2.0")
    assert client.house.engine.jobs[-1][0] == ("m", "2.0")


def test_a_deadline_is_the_requests_own(client):
    client.call("inference", "Predictions", model_name="m", timeout=7.0)
    assert 5.0 < client.house.engine.job.time_limit < 7.5


def test_a_call_that_is_given_up_takes_its_request_back(client, wait_for):
    client.house.engine.held = True
    code, _ = client.refusal("inference", "Predictions", model_name="m", timeout=0.3)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: client.house.engine.abandoned, "the request to be taken back")


INTERNAL = grpc.StatusCode.INTERNAL
ARCHIVE = "org.pytorch.serve.archive.model"
HTTP = "org.pytorch.serve.http.InternalServerException"


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ({"model_name": "x"}, f"Model not found: x\n{ARCHIVE}.ModelNotFoundException"),
        (
            {"model_name": "m", "model_version": "9"},
            "Model version: 9 does not exist for model: m\n"
            f"{ARCHIVE}.ModelVersionNotFoundException",
        ),
        ({}, "Parameter model_name is required.\nBadRequestException.()"),
    ],
)
def test_what_is_wrong_before_a_worker_is_asked_is_internal(client, fields, details):
    assert client.refusal("inference", "Predictions", **fields) == (INTERNAL, details)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InferenceError("no", 503), grpc.StatusCode.UNAVAILABLE),
        (InferenceError("no", 507), INTERNAL),
        (InferenceError("no", 404), grpc.StatusCode.NOT_FOUND),
        (InferenceError("no", 400), grpc.StatusCode.INVALID_ARGUMENT),
        (InferenceError("no", 418), grpc.StatusCode.FAILED_PRECONDITION),
        (InferenceError("no", 504), grpc.StatusCode.DEADLINE_EXCEEDED),
        (InferenceError("no", 200), grpc.StatusCode.UNKNOWN),
    ],
)
def test_a_workers_error_has_its_statuss_code(client, error, code):
    client.house.engine.answer = lambda job: Outcome(status=error.status, error=error)
    assert client.refusal("inference", "Predictions", model_name="m") == (code, f"no\n{HTTP}")


def test_nobody_to_serve_is_internal_as_in_torchserve(client):
    error = NoWorkerError("m", None)
    client.house.engine.answer = lambda job: Outcome(status=503, error=error)
    code, details = client.refusal("inference", "Predictions", model_name="m")
    assert (code, details) == (INTERNAL, f"{error.message}\nInternalServerException.()")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFullError("m", None, 7, 100), grpc.StatusCode.UNAVAILABLE),
        (QueueFullError("m", None, 7, 100, 429), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (NoFreeWorkerError("m", None, 7), grpc.StatusCode.UNAVAILABLE),
        (DeadlineUnreachableError("m", 7, 100), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_who_is_refused_for_want_of_room_may_come_again(client, error, code):
    client.house.engine.answer = lambda job: Outcome(status=error.status, error=error)
    with pytest.raises(grpc.RpcError) as refused:
        client.call("inference", "Predictions", model_name="m")
    trailers = dict(refused.value.trailing_metadata())
    assert refused.value.code() is code
    assert trailers["grpc-retry-pushback-ms"] == "7000"
    assert trailers["server-timing"].startswith("total;dur=")


def test_a_call_says_where_its_time_went(client):
    client.call("inference", "Predictions", model_name="m")
    assert client.trailers["server-timing"].startswith("queue;dur=250.000, ")


def test_a_call_may_have_a_priority(client):
    client.house.engine.discipline = "priority"
    client.call("inference", "Predictions", model_name="m", metadata=(("x-request-priority", "1"),))
    assert client.house.engine.job.priority == 1


def streaming(*pieces: bytes, last: bytes = b"last"):
    def answer(job):
        stream = BodyStream()
        for piece in pieces:
            stream.put(piece)
        stream.finish(Outcome(body=last))
        return Outcome(stream=stream)

    return answer


def test_a_stream_of_pieces(client):
    client.house.engine.answer = streaming(b"a", b"b")
    answers = client.call("inference", "StreamPredictions", model_name="m")
    assert [answer.prediction for answer in answers] == [b"a", b"b", b"last"]


def test_a_model_that_does_not_stream_answers_once(client):
    answers = client.call("inference", "StreamPredictions", model_name="m", input={"d": b"x"})
    assert [answer.prediction for answer in answers] == [b"x"]


def test_a_unary_call_puts_the_pieces_together(client):
    client.house.engine.answer = streaming(b"a", b"b")
    assert client.call("inference", "Predictions", model_name="m").prediction == b"ablast"


def test_a_stream_of_requests(client):
    answers = client.call(
        "inference",
        "StreamPredictions2",
        {"model_name": "m", "sequence_id": "s", "input": {"d": b"1"}},
        {"model_name": "x", "sequence_id": "s"},
        {"model_name": "m", "input": {"d": b"2"}},
        {"model_name": "m", "sequence_id": "s", "input": {"d": b"3"}},
    )
    assert [answer.prediction for answer in answers] == [b"1", b"", b"", b"3"]
    assert answers[0].sequence_id == "s"
    assert (answers[1].status.code, answers[1].status.message.split("\n")[0]) == (
        13,
        "Model not found: x",
    )
    assert answers[2].status.message.startswith("Parameter sequenceId is required.")
    assert client.house.engine.job.headers == {"ts_request_sequence_id": "s"}


def test_management_describes_and_lists(client):
    described = json.loads(client.call("management", "DescribeModel", model_name="m").msg)
    assert described[0]["modelName"] == "m"
    client.call("management", "ListModels")
    client.call("management", "ListModels", limit=7, next_page_token=2)
    calls = [call for call in client.house.registry.calls if call[0] == "list"]
    assert calls == [("list", 100, 0), ("list", 7, 2)]


def test_management_registers(client):
    client.house.registry.reply = Reply(202, "Processing worker updates...")
    answer = client.call("management", "RegisterModel", url="m.mar", batch_size=4)
    assert answer.msg == "Processing worker updates..."
    asked = client.house.registry.calls[-1][1]
    assert (asked.url, asked.batch_size, asked.synchronous) == ("m.mar", 4, False)
    assert (asked.initial_workers, asked.max_batch_delay, asked.model_name) == (None, None, None)


def test_management_scales(client):
    client.call("management", "ScaleWorker", model_name="m", synchronous=True)
    assert client.house.registry.calls[-1] == ("scale", "m", None, 1, None, True, None)
    client.call("management", "ScaleWorker", model_name="m", model_version="2.0", min_worker=3)
    assert client.house.registry.calls[-1] == ("scale", "m", "2.0", 3, None, False, None)


@pytest.mark.parametrize(
    ("method", "fields", "finished"),
    [
        ("RegisterModel", {"url": "m.mar"}, "register"),
        ("ScaleWorker", {"model_name": "m"}, "scale"),
        ("UnregisterModel", {"model_name": "m"}, "unregister"),
    ],
)
def test_a_change_is_finished_though_its_client_has_left(
    client, wait_for, method, fields, finished
):
    registry = client.house.registry
    registry.gate = threading.Event()
    code, _ = client.refusal("management", method, **fields, timeout=0.3)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert registry.started.is_set()
    assert registry.finished == []
    registry.gate.set()
    wait_for(lambda: registry.finished == [finished], "the finished call")


def lines_of_the_access_log(caplog) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.name == "flambeau.access"]


def test_calls_are_in_the_access_log(make_client, caplog, wait_for):
    caplog.set_level(logging.INFO)
    client = make_client(access_log=True)
    client.call("inference", "Predictions", model_name="m")
    client.refusal("inference", "Predictions", model_name="x")
    client.house.engine.held = True
    client.refusal("inference", "Predictions", model_name="m", timeout=0.3)
    wait_for(lambda: len(lines_of_the_access_log(caplog)) == 3, "the line of each call")
    for line, code in zip(lines_of_the_access_log(caplog), (0, 13, 1), strict=True):
        wanted = rf'/127\.0\.0\.1:\d+ "gRPC \S+/Predictions HTTP/2\.0" {code} \d+'
        assert re.fullmatch(wanted, line)


def test_management_sets_the_default_and_unregisters(client):
    client.call("management", "SetDefault", model_name="m", model_version="2.0")
    client.call("management", "UnregisterModel", model_name="m")
    assert client.house.registry.calls[-2:] == [
        ("set_default", "m", "2.0"),
        ("unregister", "m", None),
    ]


def test_managements_refusals(client):
    assert client.refusal("management", "DescribeModel", model_name="x") == (
        grpc.StatusCode.NOT_FOUND,
        f"Model not found: x\n{ARCHIVE}.ModelNotFoundException",
    )
    for method in ("RegisterModel", "UnregisterModel"):
        code, details = client.refusal("management", method)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details == ("Parameter url is required.\norg.pytorch.serve.http.BadRequestException")
    client.house.registry.error = ConflictError("there already")
    refused = client.refusal("management", "RegisterModel", url="m.mar")
    assert refused == (grpc.StatusCode.UNKNOWN, "there already")


def test_the_model_api_may_be_off(make_client):
    client = make_client(enable_model_api=False)
    for method, fields in (("RegisterModel", {"url": "m"}), ("UnregisterModel", {})):
        code, details = client.refusal("management", method, **fields)
        assert (code, details) == (
            grpc.StatusCode.PERMISSION_DENIED,
            f"Model API disabled\n{ARCHIVE}.ModelException",
        )
    client.call("management", "ListModels")


def test_the_open_inference_protocols_probes(client):
    assert client.call("open", "ServerLive").live
    assert client.call("open", "ServerReady").ready
    assert client.call("open", "ServerMetadata").name == "flambeau"
    assert client.call("open", "ModelReady", name="m").ready
    assert list(client.call("open", "ModelMetadata", name="m").versions) == ["1.0", "2.0"]
    client.house.registry.loading = {"m/1.0": "loading"}
    assert not client.call("open", "ServerReady").ready
    assert not client.call("open", "ModelReady", name="m").ready


@pytest.mark.parametrize("life", ["starting", "draining"])
def test_a_server_that_starts_or_stops_says_of_it_what_http_says(client, life):
    setattr(client.house, life, True)
    assert not client.call("open", "ServerReady").ready
    assert client.call("open", "ModelReady", name="m").ready == (life == "starting")


def test_the_open_inference_protocol_is_off_by_default(make_client):
    client = make_client()
    assert client.refusal("open", "ServerLive")[0] is grpc.StatusCode.UNIMPLEMENTED


def inferring(client, outputs, **fields):
    answer = {"id": "7", "model_name": "m", "model_version": "1.0", "outputs": outputs}
    client.house.engine.answer = lambda job: Outcome(body=json.dumps(answer).encode())
    response = client.call("open", "ModelInfer", model_name="m", id="7", **fields)
    return json.loads(client.house.engine.job.parts[0].body), response


@pytest.mark.parametrize(
    "how",
    [
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [2],
                    "contents": {"fp32_contents": [1, 2.5]},
                },
                {
                    "name": "y",
                    "datatype": "BYTES",
                    "shape": [1],
                    "contents": {"bytes_contents": [b"abc"]},
                },
            ]
        },
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [2]},
                {"name": "y", "datatype": "BYTES", "shape": [1]},
            ],
            "raw_input_contents": [b"\0\0\x80?\0\0 @", b"\x03\0\0\0abc"],
        },
    ],
    ids=["contents", "raw"],
)
def test_tensors_are_json_to_the_handler(client, how):
    outputs = [
        {"name": "o", "datatype": "INT64", "shape": [2], "data": [1, 2]},
        {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["abc"]},
    ]
    seen, response = inferring(client, outputs, **how)
    assert seen == {
        "id": "7",
        "model_name": "m",
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.5]},
            {"name": "y", "shape": [1], "datatype": "BYTES", "data": ["YWJj"]},
        ],
    }
    assert (response.id, response.model_name) == ("7", "m")
    numbers, texts = response.outputs
    assert (numbers.name, list(numbers.shape)) == ("o", [2])
    assert list(numbers.contents.int64_contents) == [1, 2]
    assert list(texts.contents.bytes_contents) == [b'"abc"']


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": [{"name": "x", "datatype": "NOPE"}]},
        {"inputs": [{"name": "x", "datatype": "FP32"}], "raw_input_contents": [b"abc"]},
        {"inputs": [{"name": "x", "datatype": "BYTES"}], "raw_input_contents": [b"\xff\0\0\0a"]},
        {"inputs": [], "raw_input_contents": [b"abc"]},
    ],
)
def test_tensors_that_are_none_are_refused(client, fields):
    code, details = client.refusal("open", "ModelInfer", model_name="m", **fields)
    assert code is INTERNAL
    assert details.endswith("BadRequestException.()")


def test_an_answer_that_is_no_response_is_the_models_fault(client):
    code, details = client.refusal("open", "ModelInfer", model_name="m")
    assert code is INTERNAL
    assert "open inference protocol" in details


def test_a_request_that_is_too_long_is_refused(client):
    code, _ = client.refusal(
        "inference", "Predictions", model_name="m", input={"d": b"x" * 200_000}
    )
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_answer_that_is_too_long_is_an_error(make_client):
    client = make_client(max_response_size=3)
    code, details = client.refusal("inference", "Predictions", model_name="m", input={"d": b"four"})
    assert code is INTERNAL
    assert "of 4 bytes exceeds max_response_size=3" in details


def test_a_port_that_is_taken_is_named(client, make_house):
    taken = int(client.listeners.urls["grpc_inference"].rpartition(":")[2])
    house = make_house(enable_grpc="true", grpc_inference_port=taken, grpc_management_port=0)
    with pytest.raises(ConfigError, match="grpc_inference_port"):
        house.run(start_grpc(house.services()))


def test_the_compiled_definitions_are_those_of_the_files():
    """The names and numbers that TorchServe's clients have compiled in."""
    request = message(f"{INFERENCE}.PredictionsRequest")
    sent = request(model_name="m", model_version="1", input={"d": b"x"}, sequence_id="s")
    assert sent.SerializeToString() == (b'\n\x01m\x12\x011\x1a\x06\n\x01d\x12\x01x"\x01s')
    numbers = {
        field.name: field.number
        for field in message(f"{MANAGEMENT}.RegisterModelRequest").DESCRIPTOR.fields
    }
    assert numbers == {
        "batch_size": 1,
        "handler": 2,
        "initial_workers": 3,
        "max_batch_delay": 4,
        "model_name": 5,
        "response_timeout": 6,
        "runtime": 7,
        "synchronous": 8,
        "url": 9,
        "s3_sse_kms": 10,
        "startup_timeout": 11,
    }
