"""Over HTTP: what an input that a batch cannot bear costs its companions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from real_server import Answer, RealServer, in_background, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIXED = "batching: fixed\n"
PICKY = '''
"""Fails a batch as one of its rows says, and writes down how large each batch was."""


class OutOfMemoryError(RuntimeError):
    """As torch's, by name."""


OutOfMemoryError.__module__ = "torch"


def handle(data, context):
    if data is None:
        return None
    orders = [row["body"] for row in data]
    with open(orders[0]["calls"], "a") as file:
        file.write(f"{len(data)}\\n")
    for order in orders:
        if "raise" in order:
            raise RuntimeError(order["raise"])
    if sum(order.get("weight", 0) for order in orders) > 8:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
    while any("hang" in order for order in orders):
        pass
    return [{"name": order["name"], "size": len(data)} for order in orders]
'''


def together(
    server: RealServer, name: str, count: int, special: dict[int, dict[str, object]], **all: object
) -> list[Answer]:
    """The answers to ``count`` requests that travel in one batch."""
    with in_background(count) as submit:
        asked = [
            submit(server.predict, name, name=n, **all, **special.get(n, {})) for n in range(count)
        ]
        return [each.result() for each in asked]


def own_answers(answers: list[Answer]) -> set[int]:
    """The requests that got an answer, which must be their own."""
    served = {n: answer for n, answer in enumerate(answers) if answer.status == 200}
    assert {n: answer.json["name"] for n, answer in served.items()} == {n: n for n in served}
    return set(served)


def picky(server: RealServer, model: Callable[..., str], size: int, config: str = "") -> str:
    url = server.store.folder(f"picky{len(config)}", {"handler.py": PICKY}, FIXED + config)
    return model(url, batch_size=size, max_batch_delay=20_000, response_timeout=60)


def calls(path: Path) -> list[int]:
    return [int(line) for line in lines(path)]


def test_of_32_clients_one_pays_for_its_input(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = picky(server, model, 32)
    poison = {7: {"raise": "a tensor of another shape"}}
    answers = together(server, name, 32, poison, calls=str(tmp_path / "calls"))
    assert own_answers(answers) == set(range(32)) - {7}
    assert (answers[7].status, answers[7].message) == (503, "Prediction failed")
    assert sorted(calls(tmp_path / "calls"), reverse=True) == [32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]
    assert server.describe(name)["isolateFailures"] is True


def test_a_model_may_have_its_batches_fail_whole(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = picky(server, model, 4, "isolateFailures: false\n")
    answers = together(server, name, 4, {2: {"raise": "x"}}, calls=str(tmp_path / "calls"))
    assert {answer.status for answer in answers} == {503}
    assert calls(tmp_path / "calls") == [4]
    assert server.describe(name)["isolateFailures"] is False


def test_a_batch_that_does_not_fit_into_memory_is_served_in_smaller_ones(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = picky(server, model, 32)
    answers = together(server, name, 32, {}, calls=str(tmp_path / "calls"), weight=1)
    assert own_answers(answers) == set(range(32))
    assert calls(tmp_path / "calls") == [32, 16, 8, 8, 8, 8]
    assert server.describe(name)["safeBatchSize"] == 8
    assert server.metric("flambeau_out_of_memory_total", model=name) == 2
    assert server.metric("flambeau_safe_batch_size", model=name) == 8
    assert "batches are of at most 8 now" in server.log()
    answers = together(server, name, 32, {}, calls=str(tmp_path / "later"), weight=1)
    assert own_answers(answers) == set(range(32))
    assert calls(tmp_path / "later") == [8] * 4


def test_one_that_never_fits_is_507_and_has_no_say_in_the_size(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = picky(server, model, 8)
    answers = together(server, name, 8, {3: {"weight": 9}}, calls=str(tmp_path / "calls"))
    assert own_answers(answers) == set(range(8)) - {3}
    assert (answers[3].status, answers[3].message) == (507, "Out of resources")
    assert sorted(calls(tmp_path / "calls"), reverse=True) == [8, 4, 4, 2, 2, 1, 1]
    assert "safeBatchSize" not in server.describe(name)


def test_a_cuda_error_costs_one_client_and_two_workers(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = picky(server, model, 8)
    poison = {5: {"raise": "CUDA error: device-side assert triggered"}}
    answers = together(server, name, 8, poison, calls=str(tmp_path / "calls"))
    assert own_answers(answers) == set(range(8)) - {5}
    assert (answers[5].status, answers[5].message) == (507, "Out of resources")
    assert sorted(calls(tmp_path / "calls")) == [1] * 8 + [8]
    wait_for(
        lambda: server.metric("flambeau_worker_exits_total", model=name, reason="cuda_error") == 2,
        10.0,
        "two workers to have ended",
    )
    (worker,) = server.workers(name)
    assert worker["lastExit"]["reason"] == "cuda_error"


def test_without_retries_a_cuda_error_is_the_answer_to_its_whole_batch(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = picky(server, model, 4, "retryLostBatch: 0\n")
    poison = {1: {"raise": "CUDA error: an illegal memory access was encountered"}}
    answers = together(server, name, 4, poison, calls=str(tmp_path / "calls"))
    assert {(each.status, each.message) for each in answers} == {(507, "Out of resources")}
    assert calls(tmp_path / "calls") == [4]


def test_one_that_hangs_costs_its_companions_two_response_timeouts_at_most(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    url = server.store.folder("hangs", {"handler.py": PICKY}, FIXED)
    name = model(url, batch_size=8, max_batch_delay=20_000, response_timeout=1)
    waits: dict[int, float] = {}

    def ask(n: int) -> Answer:
        order = {} if n else {"hang": 1}
        answer = server.predict(name, name=n, calls=str(tmp_path / "calls"), **order)
        waits[n] = time.monotonic() - started
        return answer

    with in_background(8) as submit:
        asked = [submit(ask, 0)]
        # In front of all others it does the most harm.
        wait_for(lambda: pending(server, name) == 1, 10.0, "the first request in the queue")
        started = time.monotonic()
        asked += [submit(ask, n) for n in range(1, 8)]
        answers = [each.result() for each in asked]
    assert own_answers(answers) == set(range(1, 8))
    assert (answers[0].status, answers[0].json["clock"]) == (504, "response")
    assert calls(tmp_path / "calls") == [8] + [1] * 8
    # The timeout and a new worker, twice.
    assert 1.9 < min(waits.values()) <= max(waits.values()) < 2.0 + 6.0, waits


def pending(server: RealServer, name: str) -> int:
    return int(server.describe(name)["jobQueueStatus"]["pendingRequests"])
