"""Calls that are given up over gRPC cost no capacity: TorchServe lost a worker by each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import grpc_client  # noqa: F401 - lets gRPC start its thread before tests count threads
from real_server import RealServer, lines, wait_for

from flambeau.frontend.grpc.messages import INFERENCE, message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GATED = """
import time
from pathlib import Path

def handle(data, context):
    if data is None:
        return None
    with open({seen!r}, "a") as file:
        file.write("one\\n")
    while not Path({gate!r}).exists():
        time.sleep(0.005)
    return ["done"] * len(data)
"""


def test_a_hundred_calls_that_are_given_up_cost_no_capacity(
    new_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = new_server(enable_grpc="true", grpc_inference_port=0, grpc_management_port=0)
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    source = GATED.format(seen=str(seen), gate=str(gate))
    server.store.folder("gated", {"handler.py": source})
    server.start()
    server.serve("gated", 2)
    before = server.ready_pids("gated")
    request, response = (
        message(f"{INFERENCE}.Prediction{end}") for end in ("sRequest", "Response")
    )
    address = urlsplit(server.addresses["grpc_inference"])
    with grpc.insecure_channel(f"{address.hostname}:{address.port}") as channel:
        ask: Any = channel.unary_unary(
            f"/{INFERENCE}.InferenceAPIsService/Predictions",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        asked = request(model_name="gated", input={"data": b"x"})
        calls = [ask.future(asked, timeout=60) for _ in range(100)]
        wait_for(lambda: len(lines(seen)) == 2, 10.0, "both workers to be busy")
        wait_for(lambda: queue(server)["pendingRequests"] == 98, 10.0, "the others to wait")
        for call in calls:
            call.cancel()
        wait_for(lambda: queue(server)["pendingRequests"] == 0, 10.0, "the queue to be empty")
        gate.touch()
        answers = [ask(asked, timeout=20).prediction for _ in range(4)]
    assert len(answers) == 4
    assert len(lines(seen)) == 6, "those that waited never reached a worker"
    assert server.ready_pids("gated") == before
    assert [worker["restarts"] for worker in server.workers("gated")] == [0, 0]
    assert queue(server)["remainingCapacity"] == 100


def queue(server: RealServer) -> dict[str, int]:
    return dict(server.describe("gated")["jobQueueStatus"])
