"""Models that work on several requests at once, through a whole server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from real_server import Connection, RealServer, in_background, lines, wait_for

if TYPE_CHECKING:
    from pathlib import Path

ASYNC = '''
"""Requests that wait for each other; ``initialize`` learns the loop that will run."""

import asyncio
import os
import time

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


class Handler:
    def __init__(self):
        self.here = 0

    def initialize(self, context):
        self.loop = asyncio.get_event_loop()
        context.mine = {"a": 1}

    async def handle(self, data, context):
        order = data[0]["body"]
        order = order if isinstance(order, dict) else {}
        if "meet" in order:
            self.here += 1
            while self.here < order["meet"]:
                await asyncio.sleep(0.005)
            return [f"met {self.here} {self.loop is asyncio.get_running_loop()}"]
        if "stream" in order:
            for number in range(order["stream"]):
                piece = [f"c{number} "]
                send_intermediate_predict_response(piece, context.request_ids, "ok", 200, context)
                await asyncio.sleep(0.01)
            return ["end"]
        if "wait" in order:
            try:
                with open(order["wait"], "a") as file:
                    file.write("begun\\n")
                await asyncio.Event().wait()
            finally:
                with open(order["wait"], "a") as file:
                    file.write("cancelled\\n")
        if "block" in order:
            time.sleep(order["block"])
        if "refuse" in order:
            raise PredictionException("nope", 422)
        if "header" in order:
            context.set_response_header(0, "x-mine", "1")
            context.set_response_status(201, "Made", 0)
        return [{"mine": context.mine, "id": context.get_request_id(0), "pid": os.getpid()}]
'''
CONTINUOUS = '''
"""Answers in as many pieces as the body says; its state is kept by request id."""

import time
from pathlib import Path


class Handler:
    def initialize(self, context):
        context.cache = {}

    def handle(self, data, context):
        criteria, answers = [], []
        for row, fields in enumerate(data):
            id = context.get_request_id(row)
            if fields:
                context.cache[id] = {"count": 0, **fields["body"]}
            state = context.cache[id]
            if "rounds" in state:
                with open(state["rounds"], "a") as file:
                    file.write(f"{state['name']} {len(data)}\\n")
            state["count"] += 1
            if state.get("fail_at") == state["count"]:
                raise ValueError("no")
            if "until" in state:
                time.sleep(0.002)
                is_last = Path(state["until"]).exists()
            else:
                is_last = state["count"] >= state["steps"]
            answers.append(f"p{state['count']} ")
            if state.get("header") and fields:
                context.set_response_header(row, "x-mine", "1")
                context.set_response_content_type(row, "text/plain")
                context.set_response_status(201, "Odd", row)
            is_whole = state.get("whole")
            criteria.append(lambda answer, last=is_last, whole=is_whole: None if whole else last)
        context.stopping_criteria = criteria
        return answers
'''


@pytest.fixture(scope="module")
def served(server: RealServer) -> RealServer:
    workers = "minWorkers: 1\nmaxWorkers: 1\n"
    config = f"{workers}asyncCommunication: true\nresponseTimeout: 2\n"
    server.serve(server.store.folder("async", {"handler.py": ASYNC}, config))
    config = f"{workers}continuousBatching: true\nbatchSize: 4\nmaxBatchDelay: 100\n"
    server.serve(server.store.folder("rounds", {"handler.py": CONTINUOUS}, config))
    return server


def ask(server: RealServer, model: str, **order: object) -> Any:
    return server.predict(model, **order)


def send(server: RealServer, model: str, **order: object) -> Connection:
    """A request whose answer nobody reads yet."""
    connection = server.connect()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/predictions/{model}", json.dumps(order), headers)
    return connection


def restarts(server: RealServer, model: str) -> int:
    return int(server.describe(model)["workers"][0]["restarts"])


def test_async_requests_are_in_work_at_once_at_one_worker(served: RealServer) -> None:
    """Each waits until all three are there. TorchServe 0.12 gave ``met 3 True`` three times."""
    with in_background(3) as submit:
        waiting = [submit(ask, served, "async", meet=3) for _ in range(3)]
        answers = [each.result() for each in waiting]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"met 3 True")] * 3


def test_an_async_answer_is_what_torchserve_gives(served: RealServer) -> None:
    plain = ask(served, "async")
    assert plain.status == 200
    assert "content-type" not in plain.headers
    assert plain.json["mine"] == {"a": 1}
    assert plain.json["id"] == plain.headers["x-request-id"]
    made = ask(served, "async", header=1)
    assert (made.status, made.reason, made.headers["x-mine"]) == (201, "Made", "1")
    assert ask(served, "async", refuse=1).message == "nope"
    streamed = ask(served, "async", stream=2)
    assert streamed.body == b"c0 c1 end"
    assert streamed.headers["ts_stream_next"] == "true"
    assert streamed.headers["transfer-encoding"] == "chunked"
    described = served.describe("async")
    assert (described["asyncCommunication"], described["concurrency"]) == (True, 100)


def test_an_async_request_whose_client_left_is_cancelled(
    served: RealServer, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    leaver = send(served, "async", wait=str(seen))
    wait_for(lambda: lines(seen) == ["begun"], 5.0, "the request to be in work")
    leaver.close()
    wait_for(lambda: lines(seen) == ["begun", "cancelled"], 5.0, "its task to be cancelled")
    assert ask(served, "async").status == 200
    assert restarts(served, "async") == 0


def test_an_async_request_that_takes_too_long_harms_no_other(
    served: RealServer, tmp_path: Path
) -> None:
    seen, pid = tmp_path / "seen", ask(served, "async").json["pid"]
    answer = ask(served, "async", wait=str(seen))
    assert answer.status == 504
    assert answer.json["clock"] == "response"
    assert answer.message == "The handler took longer than 2 s (responseTimeout)."
    wait_for(lambda: lines(seen) == ["begun", "cancelled"], 5.0, "its task to be cancelled")
    assert ask(served, "async").json["pid"] == pid


def test_pieces_of_continuous_batching_are_what_torchserve_gives(served: RealServer) -> None:
    """All of it as TorchServe 0.12 answers, but for the last: there the client waits for ever."""
    streamed = ask(served, "rounds", steps=3)
    assert (streamed.status, streamed.reason, streamed.body) == (200, "", b"p1 p2 p3 ")
    assert streamed.headers["ts_stream_next"] == "true"
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert "content-type" not in streamed.headers
    headed = ask(served, "rounds", steps=2, header=1)
    assert (headed.status, headed.reason, headed.body) == (201, "Odd", b"p1 p2 ")
    assert (headed.headers["x-mine"], headed.headers["content-type"]) == ("1", "text/plain")
    whole = ask(served, "rounds", steps=2, whole=1)
    assert (whole.status, whole.body, whole.headers["content-length"]) == (200, b"p1 ", "3")
    assert "ts_stream_next" not in whole.headers
    failed = ask(served, "rounds", steps=3, fail_at=1)
    assert (failed.status, failed.message) == (503, "Prediction failed")
    assert ask(served, "rounds", steps=1).body == b"p1 "
    assert served.describe("rounds")["continuousBatching"] is True


def test_requests_join_and_leave_a_running_batch(served: RealServer, tmp_path: Path) -> None:
    gate, rounds = tmp_path / "gate", tmp_path / "rounds"
    with in_background(2) as submit:
        long = submit(ask, served, "rounds", until=str(gate), rounds=str(rounds), name="long")
        wait_for(lambda: lines(rounds), 5.0, "the first to run")
        assert ask(served, "rounds", steps=3).body == b"p1 p2 p3 "
        assert {"long 1", "long 2"} <= set(lines(rounds))
        leaver = send(served, "rounds", until=str(gate), rounds=str(rounds), name="leaver")
        wait_for(lambda: "leaver 2" in lines(rounds), 5.0, "another to run beside it")
        leaver.close()
        wait_for(lambda: lines(rounds)[-1] == "long 1", 5.0, "the leaver to be gone")
        gate.touch()
        answer = long.result()
    pieces = answer.body.decode().split()
    assert pieces == [f"p{number}" for number in range(1, len(pieces) + 1)]
    assert restarts(served, "rounds") == 0


def test_two_clients_with_one_request_id_keep_their_own_state(served: RealServer) -> None:
    def count(steps: int) -> Any:
        headers = {"Content-Type": "application/json", "X-Request-Id": "same"}
        body = json.dumps({"steps": steps})
        return served.request("POST", "/predictions/rounds", body, headers)

    with in_background(3) as submit:
        asked = [submit(count, steps) for steps in (40, 30, 20)]
        answers = [each.result() for each in asked]
    for steps, answer in zip((40, 30, 20), answers, strict=True):
        assert answer.headers["x-request-id"] == "same"
        assert answer.body.decode().split() == [f"p{n}" for n in range(1, steps + 1)]
