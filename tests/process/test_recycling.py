"""Workers that are renewed while they are asked: no answer is lost, and none stays for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from real_server import RealServer, wait_for
from steady_load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

LEAKING = '''
"""Keeps 4 MB of each request."""

import os

KEPT = []


def handle(data, context):
    if data is None:
        return None
    KEPT.extend(bytearray(os.urandom(1) * (4 << 20)) for _ in data)
    return ["ok"] * len(data)
'''


def recycled(server: RealServer, name: str) -> int:
    return int(server.metric("flambeau_worker_exits_total", model=name, reason="recycled"))


def test_workers_are_renewed_after_so_many_requests(server: RealServer) -> None:
    name = server.store.mar("counted", config="maxRequestsPerWorker: 60\nbatchSize: 4\n")
    server.serve(name, 2)
    first = server.ready_pids("counted")
    with Load(server, "counted", clients=8) as load:
        load.more(1000)
        wait_for(lambda: recycled(server, "counted") >= 4, 20.0, "four workers to be renewed")
    assert load.failed() == []
    described = server.describe("counted")
    assert described["maxRequestsPerWorker"] == 60
    assert not first & server.ready_pids("counted")
    assert all(worker["restarts"] == 0 for worker in described["workers"])
    (exit,) = {
        worker["lastExit"]["reason"] for worker in described["workers"] if "lastExit" in worker
    }
    assert exit == "recycled"
    assert "(maxRequestsPerWorker)" in server.log()


def test_a_worker_that_grows_is_renewed_before_it_fills_the_machine(
    server: RealServer, model: Callable[..., str]
) -> None:
    files = {"handler.py": LEAKING}
    server.store.mar("leaking", files, config="maxWorkerMemory: 200\n")
    name = model("leaking.mar")
    (pid,) = server.ready_pids(name)
    with Load(server, name, clients=1) as load:
        load.more(60)
        wait_for(lambda: pid not in server.ready_pids(name), 20.0, "another worker")
        load.more(10)
    assert load.failed() == []
    wait_for(lambda: "of maxWorkerMemory" in server.log(), 10.0, "the log to say why")
