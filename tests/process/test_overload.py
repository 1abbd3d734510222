"""More requests than a real server can answer, and clients that leave all at once."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import TYPE_CHECKING

import grpc
import grpc_client  # noqa: F401 - lets gRPC start its thread before tests count threads
from real_server import RealServer, in_background, lines, wait_for

from flambeau.frontend.grpc.messages import INFERENCE, message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COUNTING = '''
"""Writes a line for each request and answers when the gate is open."""

import time
from pathlib import Path


def handle(data, context):
    if data is None:
        return None
    with open(SEEN, "a") as file:
        file.write("request\\n" * len(data))
    while not Path(GATE).exists():
        time.sleep(0.01)
    return ["done"] * len(data)
'''
SLOW = '''
"""Takes 5 ms and says what it was asked."""

import time


def handle(data, context):
    if data is None:
        return None
    time.sleep(0.005)
    return [row["body"] for row in data]
'''
REASONS = {"queue_full", "deadline_unreachable"}


def counting_model(server: RealServer, folder: Path) -> tuple[Path, Path]:
    """A model that counts what reaches it: the files with the count, and the gate."""
    seen, gate = folder / "seen", folder / "gate"
    source = f"SEEN, GATE = {str(seen)!r}, {str(gate)!r}\n{COUNTING}"
    server.store.folder("counting", {"handler.py": source}, "batchSize: 4\nmaxBatchDelay: 0\n")
    server.serve("counting", model_name="counting")
    return seen, gate


def pending(server: RealServer) -> int:
    return int(server.describe("counting")["jobQueueStatus"]["pendingRequests"])


def check_that_nobody_was_served(server: RealServer, seen: Path, gate: Path) -> None:
    """Of a hundred that left, only the batch that had begun reached the worker."""
    wait_for(lambda: pending(server) == 0, 10.0, "the queue to be empty")
    gate.touch()
    assert server.predict("counting").status == 200
    assert len(lines(seen)) == 2, "the one in work, and the one that asked last"


def test_of_a_hundred_clients_that_leave_none_reaches_the_worker(
    server: RealServer, tmp_path: Path
) -> None:
    seen, gate = counting_model(server, tmp_path)
    clients = [server.connect()]
    clients[0].request("POST", "/predictions/counting", b"x")
    wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
    for _ in range(100):
        clients.append(server.connect())
        clients[-1].request("POST", "/predictions/counting", b"x")
    wait_for(lambda: pending(server) == 100, 10.0, "a hundred requests to wait")
    for client in clients:
        client.close()
    check_that_nobody_was_served(server, seen, gate)
    server.manage("DELETE", "/models/counting")


def test_so_it_is_with_grpc(new_server: Callable[..., RealServer], tmp_path: Path) -> None:
    ports = {"grpc_inference_port": 0, "grpc_management_port": 0}
    server = new_server(enable_grpc="true", **ports).start()
    seen, gate = counting_model(server, tmp_path)
    request = message(f"{INFERENCE}.PredictionsRequest")(
        model_name="counting", input={"body": b"x"}
    )
    with grpc.insecure_channel(server.addresses["grpc_inference"].partition("//")[2]) as channel:
        predict = channel.unary_unary(
            f"/{INFERENCE}.InferenceAPIsService/Predictions",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message(f"{INFERENCE}.PredictionResponse").FromString,
        )
        calls = [predict.future(request)]
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        calls += [predict.future(request) for _ in range(100)]
        wait_for(lambda: pending(server) == 100, 10.0, "a hundred requests to wait")
        for call in calls:
            call.cancel()
        check_that_nobody_was_served(server, seen, gate)


def test_under_overload_each_answer_is_right_or_an_honest_refusal(server: RealServer) -> None:
    server.store.folder("slow", {"handler.py": SLOW}, "jobQueueSize: 8\n")
    server.serve("slow", model_name="slow")
    until = time.monotonic() + 2.0
    counts = {"right": 0, "refused": 0}
    lock = threading.Lock()

    def ask(number: int) -> None:
        chance = random.Random(number)
        with server.connect() as connection:
            while time.monotonic() < until:
                text = f"{number} {chance.random()}"
                # A deadline of 30 ms cannot be met where the queue is full.
                limit = {"X-Request-Timeout-Ms": "30"} if chance.random() < 0.3 else {}
                answer = connection.ask("POST", "/predictions/slow", text.encode(), limit)
                if answer.status == 200:
                    assert answer.body == text.encode()
                elif answer.status == 504 and limit:
                    continue
                else:
                    assert answer.status == 503, answer
                    assert json.loads(answer.body)["reason"] in REASONS
                    assert int(answer.headers["retry-after"]) >= 1
                with lock:
                    counts["right" if answer.status == 200 else "refused"] += 1

    with in_background(16) as submit:
        for each in [submit(ask, number) for number in range(16)]:
            each.result()
    assert counts["right"] > 20
    assert counts["refused"] > 20
    assert server.metric("flambeau_queue_oldest_seconds", model="slow") == 0.0
    server.manage("DELETE", "/models/slow")
