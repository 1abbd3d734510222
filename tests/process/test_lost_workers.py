"""Workers that die, hang or run out of memory: who pays for it, and what is told of it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from real_server import Answer, RealServer, in_background, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BATCH_OF_EIGHT = {"batch_size": 8, "max_batch_delay": 20_000}


@pytest.fixture(scope="module")
def fixed(server: RealServer) -> str:
    """The obedient model with batches that wait until they are full; its url."""
    return server.store.folder("fixed", config="batching: fixed\n")


def the_worker(server: RealServer, model: str) -> dict[str, Any]:
    (worker,) = server.workers(model)
    return worker


def ready_pid(server: RealServer, model: str) -> int:
    """The pid of the one worker, once it is ready."""
    (pid,) = wait_for(lambda: server.ready_pids(model), 10.0, f"a ready worker of {model}")
    return int(pid)


def last_exit(server: RealServer, model: str) -> dict[str, Any]:
    return dict(the_worker(server, model)["lastExit"])


def pids_of(answers: list[Answer]) -> set[int]:
    assert [answer for answer in answers if answer.status != 200] == []
    return {answer.json["pid"] for answer in answers}


def test_nobody_of_a_batch_of_eight_loses_the_answer_when_the_worker_is_killed(
    server: RealServer, model: Callable[..., str], fixed: str, tmp_path: Path
) -> None:
    name = model(fixed, **BATCH_OF_EIGHT)
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    killed = ready_pid(server, name)
    with in_background(8) as submit:
        orders = [{"name": n, "seen": str(seen), "gate": str(gate)} for n in range(8)]
        asked = [submit(server.predict, name, **order) for order in orders]
        wait_for(lambda: len(lines(seen)) == 8, 10.0, "a batch of eight at the worker")
        assert {line.split()[1] for line in lines(seen)} == {"8"}
        os.kill(killed, signal.SIGKILL)
        gate.touch()
        answers = [each.result() for each in asked]
    assert len(pids_of(answers)) == 1
    assert killed not in pids_of(answers)
    again = [line.split() for line in lines(seen)[8:]]
    assert {number for number, _, _ in again} == {str(n) for n in range(8)}
    assert [size for _, size, _ in again] == ["1"] * 8, "each is tried again once, by itself"


@pytest.mark.parametrize("death", [{"exit": 3}, {"signal": int(signal.SIGSEGV)}])
def test_a_poisonous_input_costs_only_its_own_client(
    server: RealServer, model: Callable[..., str], fixed: str, death: dict[str, int]
) -> None:
    name = model(fixed, **BATCH_OF_EIGHT)
    with in_background(8) as submit:
        asked = [submit(server.predict, name, **(death if n == 3 else {})) for n in range(8)]
        answers = [each.result() for each in asked]
    poisoned = answers.pop(3)
    assert (poisoned.status, poisoned.message) == (500, "Worker died.")
    assert {answer.json["size"] for answer in answers} == {1}
    assert pids_of(answers)


def test_without_retries_the_whole_batch_is_lost_as_under_torchserve(
    server: RealServer, model: Callable[..., str]
) -> None:
    url = server.store.folder("once", config="batching: fixed\nretryLostBatch: 0\n")
    name = model(url, **BATCH_OF_EIGHT)
    with in_background(8) as submit:
        asked = [submit(server.predict, name, **({"exit": 3} if n == 3 else {})) for n in range(8)]
        answers = [each.result() for each in asked]
    assert {(answer.status, answer.message) for answer in answers} == {(500, "Worker died.")}
    assert server.metric("flambeau_worker_exits_total", model=name, reason="exit_code") == 1


def test_a_request_that_kills_its_worker_twice_is_answered_and_the_next_is_served(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    started = time.monotonic()
    answer = server.predict(name, exit=3)
    assert (answer.status, answer.message) == (500, "Worker died.")
    assert answer.json["type"] == "InternalServerException"
    assert server.predict(name).status == 200
    assert time.monotonic() - started < 10.0
    assert server.metric("flambeau_worker_exits_total", model=name, reason="exit_code") == 2


def test_a_request_whose_worker_is_killed_for_want_of_memory_is_507(
    server: RealServer, model: Callable[..., str]
) -> None:
    """Whoever does it: a process that ends by SIGKILL mostly was killed by the kernel."""
    name = model()
    answer = server.predict(name, signal=int(signal.SIGKILL))
    assert (answer.status, answer.message) == (507, "Worker died.")
    exit = last_exit(server, name)
    assert (exit["reason"], exit["exitCode"]) in {("signal", -9), ("oom_kill", -9)}
    assert server.predict(name).status == 200


HUNGRY = """
import resource
import sys


def handle(data, context):
    if data is None:
        return None
    print("hungry handler at work", file=sys.stderr)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        eaten = bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return [len(eaten)] * len(data)
"""


def test_a_handler_that_runs_into_a_memory_limit_is_507_and_its_worker_lives_on(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model(server.store.folder("hungry", {"handler.py": HUNGRY}))
    pid = ready_pid(server, name)
    for _ in range(2):
        answer = server.predict(name)
        assert (answer.status, answer.message) == (507, "Out of resources")
    assert ready_pid(server, name) == pid
    assert "lastExit" not in the_worker(server, name)


TALKATIVE = """
import os
import sys


def handle(data, context):
    if data is None:
        return None
    for number in range(200):
        print(f"last words, line {number}", file=sys.stderr)
    print("this goes to stdout")
    os.kill(os.getpid(), int(data[0]["body"]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_why_a_worker_ended_is_described_counted_and_logged_with_its_last_words(
    server: RealServer, model: Callable[..., str], number: signal.Signals
) -> None:
    name = model(server.store.folder("talkative", {"handler.py": TALKATIVE}))
    server.request("POST", f"/predictions/{name}", str(int(number)))
    exit = last_exit(server, name)
    assert (exit["reason"], exit["exitCode"]) == ("signal", -number)
    assert number.name in exit["message"]
    # The last 50 lines of stderr, at most; an aborting interpreter adds nothing of its own.
    assert exit["tail"] == [f"last words, line {line}" for line in range(150, 200)]
    assert server.metric("flambeau_worker_exits_total", model=name, reason="signal") == 2
    assert f"signal: The process was ended by {number.name}" in server.log()
    assert "last words, line 199" in server.log()


def test_a_killed_worker_shows_within_two_seconds_and_is_replaced(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    before = the_worker(server, name)
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: the_worker(server, name).get("lastExit"), 2.0, "the exit to be described")
    after_pid = ready_pid(server, name)
    after = the_worker(server, name)
    assert after_pid != before["pid"]
    assert (after["id"], after["restarts"]) == (before["id"], 1)
    assert server.describe(name)["status"] == "READY"
    assert server.request("GET", "/ping").json == {"status": "Healthy"}


def test_a_worker_that_hangs_is_killed_when_the_response_timeout_has_passed(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model(response_timeout=1)
    before, started = ready_pid(server, name), time.monotonic()
    answer = server.predict(name, gate=str(tmp_path / "never"))
    told = "Worker died. The handler took longer than 1 s (responseTimeout)."
    assert (answer.status, answer.message) == (504, told)
    assert answer.json["clock"] == "response"
    assert 0.9 < time.monotonic() - started < 3.0
    assert server.predict(name).json["pid"] != before
    exit = last_exit(server, name)
    assert exit["reason"] == "response_timeout"
    assert "1 s (responseTimeout)" in exit["message"]
    assert server.metric("flambeau_worker_exits_total", model=name, reason="response_timeout") == 1


@pytest.mark.parametrize("order", [{"spin": 1}, {"hold_gil": 60}], ids=["loop", "C code"])
def test_a_worker_that_hangs_without_letting_go_is_killed_too(
    server: RealServer, model: Callable[..., str], order: dict[str, int]
) -> None:
    name = model(response_timeout=1)
    answer = server.predict(name, **order)
    assert (answer.status, answer.json["clock"]) == (504, "response")
    assert server.predict(name).status == 200


def test_those_who_wait_behind_a_worker_that_hangs_are_served_later(
    server: RealServer, model: Callable[..., str], tmp_path: Path
) -> None:
    name = model(response_timeout=1)
    seen = tmp_path / "seen"
    with in_background(5) as submit:
        stuck = submit(server.predict, name, seen=str(seen), gate=str(tmp_path / "never"))
        wait_for(lambda: lines(seen), 5.0, "the worker to be stuck")
        behind = [submit(server.predict, name) for _ in range(4)]
        assert stuck.result().status == 504
        assert pids_of([each.result() for each in behind])


def test_another_model_is_not_disturbed_by_one_that_dies_again_and_again(
    server: RealServer, model: Callable[..., str]
) -> None:
    calm, wild = model(), model()
    pid = ready_pid(server, calm)
    with in_background(2) as submit:
        deaths = submit(lambda: [server.predict(wild, exit=3).status for _ in range(2)])
        answers = []
        while not deaths.done():
            answers.append(server.predict(calm, timeout=2.0))
        assert deaths.result() == [500, 500]
    assert pids_of(answers) == {pid}


def test_requests_wait_for_a_worker_that_is_being_replaced(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    os.kill(ready_pid(server, name), signal.SIGKILL)
    with in_background(8) as submit:
        answers = [each.result() for each in [submit(server.predict, name) for _ in range(8)]]
    assert len(pids_of(answers)) == 1


WITH_CHILD = """
import os
import subprocess


def handle(data, context):
    if data is None:
        return None
    child = subprocess.Popen(["sleep", "600"])
    order = data[0]["body"]
    with open(order["note"], "w") as file:
        file.write(f"{child.pid}\\n")
    if "exit" in order:
        os._exit(order["exit"])
    while True:
        pass
"""


@pytest.mark.parametrize("order", [{}, {"exit": 3}], ids=["killed", "exits"])
def test_what_a_handler_has_started_ends_with_its_worker(
    server: RealServer, model: Callable[..., str], tmp_path: Path, order: dict[str, int]
) -> None:
    url = server.store.folder("parent", {"handler.py": WITH_CHILD}, "retryLostBatch: 0\n")
    name = model(url, response_timeout=1)
    answer = server.predict(name, note=str(tmp_path / "pid"), **order)
    assert answer.status == (500 if order else 504)
    (pid,) = map(int, lines(tmp_path / "pid"))
    try:
        wait_for(lambda: has_ended(pid), 2.0, f"the end of process {pid}, child of a worker")
    finally:
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
