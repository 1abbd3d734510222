"""Workflows of real workers: two models and two functions."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from real_server import in_background, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from real_server import Answer, RealServer

MEETING = """
import time
from pathlib import Path

from flambeau.worker.errors import PredictionException


def handle(data, context):
    if data is None:
        return None
    return [answer(bytes(row["body"]).decode(), context) for row in data]


def answer(text, context):
    if text.startswith("meet "):
        # Each branch waits for the other.
        folder = Path(text[5:])
        (folder / context.model_name).touch()
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.005)
    if text.startswith("wait "):
        Path(text[5:] + "-" + context.model_name).touch()
        while not Path(text[5:]).exists():
            time.sleep(0.005)
    if text == "fail":
        raise PredictionException("not this one", 422)
    return context.model_name + ":" + text
"""
FUNCTIONS = """
import json


def pre(data, context):
    if data is None:
        return None
    return [bytes(row["body"]) for row in data]


def agg(data, context):
    if data is None:
        return None
    parts = {name: bytes(value).decode() for name, value in data[0].items()}
    return [json.dumps({"parts": parts, "manifest": context.manifest, "rows": len(data)})]
"""
SPEC = {
    "models": {"m1": {"url": "one.mar"}, "m2": {"url": "two.mar", "retry-attempts": 0}},
    "dag": {"pre": ["m1", "m2"], "m1": ["agg"], "m2": ["agg"]},
}


@pytest.fixture(scope="module")
def served(server: RealServer) -> RealServer:
    serve(server)
    return server


def serve(server: RealServer) -> None:
    for name in ("one", "two"):
        server.store.mar(name, {"handler.py": MEETING})
    server.store.war("w", SPEC, FUNCTIONS)
    answer = server.manage("POST", "/workflows", url="w.war")
    assert answer.status == 200, answer


def ask(server: RealServer, body: str) -> Answer:
    return server.request("POST", "/wfpredict/w", body, {"Content-Type": "application/x"})


def test_a_request_goes_through_models_and_functions(served: RealServer) -> None:
    answer = ask(served, "x")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == {
        "parts": {"m1": "w__m1:x", "m2": "w__m2:x"},
        "manifest": None,
        "rows": 1,
    }
    assert [each["modelName"] for each in served.manage("GET", "/models").json["models"]] == [
        "w__m1",
        "w__m2",
    ]
    assert served.describe("w__agg").get("modelUrl") is None
    assert served.metric("ts_inference_requests_total", model_name="w__m1") == 1


def test_branches_run_at_the_same_time(served: RealServer) -> None:
    folder = served.base / "meeting"
    folder.mkdir()
    assert ask(served, f"meet {folder}").status == 200


def test_the_code_of_a_failed_node_is_the_workflows(served: RealServer) -> None:
    answer = ask(served, "fail")
    assert answer.status == 422
    assert answer.message in {f"Error executing {node}: not this one" for node in ("m1", "m2")}


def test_what_is_unregistered_is_gone_whole(served: RealServer) -> None:
    before = sorted(served.cache.iterdir()), len(served.processes())
    served.store.war("u", {"dag": {"pre": ["agg"]}}, FUNCTIONS)
    assert served.manage("POST", "/workflows", url="u.war").status == 200
    assert served.manage("DELETE", "/workflows/u").json == {"status": 'Workflow "u" unregistered'}
    assert served.manage("GET", "/models/u__pre").status == 404
    assert (sorted(served.cache.iterdir()), len(served.processes())) == before


def test_a_workflow_that_cannot_start_leaves_nothing(served: RealServer) -> None:
    served.store.war("v", {**SPEC, "dag": {"pre": ["m1"], "m1": ["missing"]}}, FUNCTIONS)
    answer = served.manage("POST", "/workflows", url="v.war")
    assert answer.status == 500
    assert "Failed to start workers for model v__missing version: 1.0: " in answer.message
    assert "no function 'missing'" in answer.message
    names = [each["modelName"] for each in served.manage("GET", "/models").json["models"]]
    assert names == ["w__m1", "w__m2"]
    assert served.manage("GET", "/models/v__pre").status == 404


def test_a_stopping_server_finishes_what_is_on_its_way(
    new_server: Callable[..., RealServer],
) -> None:
    served = new_server("--snapshots").start()
    serve(served)
    gate = served.base / "gate"
    with in_background(1) as submit:
        answer = submit(ask, served, f"wait {gate}")
        wait_for((served.base / "gate-w__m1").exists, 10, "the first branch")
        wait_for((served.base / "gate-w__m2").exists, 10, "the second branch")
        served.signal(signal.SIGTERM)
        wait_for(lambda: "is draining" in served.log(), 10, "the drain")
        gate.touch()
        assert answer.result(20).status == 200
    assert served.wait() == 0
    latest = max((served.base / "logs" / "config").iterdir())
    assert '"modelCount": 0' in latest.read_text().replace("\\", "")
