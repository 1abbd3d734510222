"""Clients that hang up: what waits for nobody never reaches a worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from real_server import Connection, RealServer, in_background, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def send(server: RealServer, model: str, **order: object) -> Connection:
    """A request on its way; whoever closes the connection hangs up."""
    connection = server.connect()
    connection.request(
        "POST",
        f"/predictions/{model}",
        json.dumps(order),
        {"Content-Type": "application/json"},
    )
    return connection


def pending(server: RealServer, model: str) -> int:
    return int(server.describe(model)["jobQueueStatus"]["pendingRequests"])


def test_a_queued_request_whose_client_left_never_reaches_a_worker(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model()
    seen, gate = str(tmp_path / "seen"), tmp_path / "gate"
    with in_background(2) as submit:
        first = submit(server.predict, name, name="first", seen=seen, gate=str(gate))
        wait_for(lambda: lines(tmp_path / "seen"), 5.0, "the worker to be busy")
        leaver = send(server, name, name="leaver", seen=seen)
        wait_for(lambda: pending(server, name) == 1, 5.0, "one request to wait")
        last = submit(server.predict, name, name="last", seen=seen)
        wait_for(lambda: pending(server, name) == 2, 5.0, "two requests to wait")
        leaver.close()
        wait_for(lambda: pending(server, name) == 1, 5.0, "the leaver's request to be gone")
        gate.touch()
        assert first.result().status == last.result().status == 200
    assert [line.split()[0] for line in lines(tmp_path / "seen")] == ["first", "last"]


def test_a_client_that_leaves_while_its_request_runs_disturbs_nobody(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model()
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    leaver = send(server, name, name="leaver", seen=str(seen), gate=str(gate))
    wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
    leaver.close()
    with in_background(1) as submit:
        next_one = submit(server.predict, name)
        wait_for(lambda: pending(server, name) == 1, 5.0, "one request to wait")
        gate.touch()
        assert next_one.result().status == 200
    assert server.describe(name)["workers"][0]["restarts"] == 0


def test_a_client_that_leaves_a_full_batch_takes_nothing_from_its_companions(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    url = server.store.folder("fixed", config="batching: fixed\n")
    name = model(url, batch_size=4, max_batch_delay=20_000)
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    order = {"seen": str(seen), "gate": str(gate)}
    with in_background(3) as submit:
        companions = [submit(server.predict, name, **order) for _ in range(3)]
        leaver = send(server, name, **order)
        wait_for(lambda: len(lines(seen)) == 4, 10.0, "a batch of four at the worker")
        leaver.close()
        gate.touch()
        answers = [each.result() for each in companions]
    assert [(answer.status, answer.json["size"]) for answer in answers] == [(200, 4)] * 3


def test_a_hundred_clients_that_leave_cost_no_capacity(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    url = server.store.folder("small-queue", config="jobQueueSize: 25\n")
    name = model(url)
    gate = tmp_path / "gate"
    with in_background(26) as submit:
        busy = submit(server.predict, name, gate=str(gate), seen=str(tmp_path / "seen"))
        wait_for(lambda: lines(tmp_path / "seen"), 5.0, "the worker to be busy")
        for _ in range(4):
            leavers = [send(server, name) for _ in range(25)]
            wait_for(lambda: pending(server, name) == 25, 5.0, "the queue to be full")
            refused = server.predict(name)
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            for leaver in leavers:
                leaver.close()
            wait_for(lambda: pending(server, name) == 0, 5.0, "the queue to be empty")
        status = server.describe(name)["jobQueueStatus"]
        assert status == {"remainingCapacity": 25, "pendingRequests": 0}
        waiting = [submit(server.predict, name) for _ in range(25)]
        wait_for(lambda: pending(server, name) == 25, 5.0, "the queue to be full again")
        gate.touch()
        assert [each.result().status for each in (busy, *waiting)] == [200] * 26


def test_a_request_that_outlives_the_clients_timeout_is_answered_504(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    url = server.store.folder("impatient", config="clientTimeoutInMills: 300\n")
    name = model(url)
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(2) as submit:
        running = submit(server.predict, name, seen=str(seen), gate=str(gate))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        waiting = submit(server.predict, name, seen=str(seen))
        for answer in (running.result(), waiting.result()):
            assert answer.status == 504
            assert "clientTimeoutInMills" in answer.message
        gate.touch()
    assert server.predict(name).status == 200
    assert len(lines(seen)) == 1, "the one that waited never reached the worker"
