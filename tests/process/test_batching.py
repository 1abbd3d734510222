"""Batches: when they are formed, how large they get, and that no answer goes astray."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from real_server import RealServer, in_background, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLOW = """
import time


def handle(data, context):
    if data is None:
        return None
    time.sleep(0.005)
    return [{"size": len(data), "body": row["body"]} for row in data]
"""


def test_many_clients_travel_together_and_each_gets_its_own_answer(
    server: RealServer, model: Callable[..., str]
) -> None:
    url = server.store.folder("slow", {"handler.py": SLOW})
    name = model(url, batch_size=8)

    def client(number: int) -> list[int]:
        sizes = []
        with server.connect() as connection:
            for turn in range(15):
                text = f"client {number} turn {turn}"
                answer = connection.ask(
                    "POST", f"/predictions/{name}", text, {"Content-Type": "text/plain"}
                )
                assert answer.json["body"] == text
                sizes.append(answer.json["size"])
        return sizes

    with ThreadPoolExecutor(32) as pool:
        sizes = [size for each in pool.map(client, range(32)) for size in each]
    assert len(sizes) == 32 * 15
    assert max(sizes) <= 8
    # Most requests travel in large batches: with 32 clients the queue is never short.
    assert sum(size >= 6 for size in sizes) > len(sizes) / 2, sizes


def test_a_lone_client_does_not_wait_for_companions(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model(batch_size=8, max_batch_delay=5000)
    started = time.monotonic()
    answers = [server.predict(name) for _ in range(20)]
    assert {answer.json["size"] for answer in answers} == {1}
    assert time.monotonic() - started < 5.0


def test_fixed_batching_waits_the_whole_delay(
    server: RealServer, model: Callable[..., str]
) -> None:
    url = server.store.folder("fixed", config="batching: fixed\n")
    name = model(url, batch_size=8, max_batch_delay=400)
    started = time.monotonic()
    assert server.predict(name).json["size"] == 1
    assert 0.4 <= time.monotonic() - started < 2.0
    assert server.describe(name)["batching"] == "fixed"


def test_a_latency_target_chooses_the_size_of_batches_by_itself(
    server: RealServer, model: Callable[..., str]
) -> None:
    url = server.store.folder("target", config="latencyTarget: 50ms\n")
    name = model(url)
    described = server.describe(name)
    assert (described["latencyTarget"], described["batchSize"]) == (50, 64)
    assert described["batching"] == "adaptive"
    with in_background(20) as submit:
        answers = [each.result() for each in [submit(server.predict, name) for _ in range(60)]]
    assert {answer.status for answer in answers} == {200}
    smaller = model(url, batch_size=4)
    assert server.describe(smaller)["batchSize"] == 4


def test_fixed_batching_sends_a_full_batch_at_once(
    server: RealServer, model: Callable[..., str]
) -> None:
    url = server.store.folder("fixed", config="batching: fixed\n")
    name = model(url, batch_size=3, max_batch_delay=20_000)
    started = time.monotonic()
    with in_background(3) as submit:
        answers = [each.result() for each in [submit(server.predict, name) for _ in range(3)]]
    assert [answer.json["size"] for answer in answers] == [3, 3, 3]
    assert time.monotonic() - started < 5.0


def test_the_server_can_make_fixed_batching_the_rule(
    new_server: Callable[..., RealServer],
) -> None:
    server = new_server(batching="fixed").start()
    server.serve("obedient", batch_size=4, max_batch_delay=300)
    started = time.monotonic()
    assert server.predict("obedient").status == 200
    assert time.monotonic() - started >= 0.3


def test_two_workers_work_at_the_same_time(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model(workers=2)
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(2) as submit:
        order = {"seen": str(seen), "gate": str(gate)}
        asked = [submit(server.predict, name, **order) for _ in range(2)]
        wait_for(lambda: len(lines(seen)) == 2, 5.0, "both workers to be busy")
        gate.touch()
        pids = {each.result().json["pid"] for each in asked}
    assert pids == server.ready_pids(name)


def test_metrics_tell_requests_batches_and_times(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    statuses = [server.predict(name).status for _ in range(5)]
    assert statuses == [200] * 5
    for metric, value in {
        "flambeau_requests_total": 5,
        "flambeau_batch_size_sum": 5,
        "flambeau_queue_seconds_count": 5,
        "flambeau_handler_seconds_count": 5,
        "flambeau_request_seconds_count": 5,
    }.items():
        assert server.metric(metric, model=name) == value, metric
    assert server.metric("flambeau_workers", model=name, state="ready") == 1
    assert server.metric("ts_inference_requests_total", model_name=name) == 5
    total = server.metric("flambeau_request_seconds_sum", model=name)
    assert 0 < server.metric("flambeau_handler_seconds_sum", model=name) < total < 5.0
