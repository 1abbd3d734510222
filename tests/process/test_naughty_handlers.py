"""Handlers that do what no handler should: who asked is told, and other models do not notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from real_server import RealServer, in_background, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NAUGHTY = """
import builtins, json, os, signal, sys, threading, time

def talk():
    for _ in range(200_000):
        print("x" * 99)

DEEDS = {
    "nothing": lambda: None,
    "prints much": talk,
    "prints one long line": lambda: sys.stdout.write("y" * (20 << 20)),
    "changes directory": lambda: os.chdir("/"),
    "forks": os.fork,
    "ignores signals": lambda: [
        signal.signal(each, signal.SIG_IGN)
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    ],
    "leaves a thread": lambda: threading.Thread(target=time.sleep, args=(600,)).start(),
    "closes its output": lambda: (sys.stdout.close(), sys.stderr.close()),
    "takes json away": lambda: setattr(json, "loads", None),
    "closes its sockets": lambda: os.closerange(3, 4096),
    "closes everything": lambda: os.closerange(0, 4096),
    "leaves": lambda: sys.exit("enough"),
    "is interrupted": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
}

def handle(data, context):
    if data is None:
        return None
    for row in data:
        DEEDS[row["body"]]()
    return [str(os.getpid()) for _ in data]
"""
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture(scope="module")
def naughty(server: RealServer) -> Iterator[RealServer]:
    server.store.folder("naughty", {"handler.py": NAUGHTY})
    server.serve("naughty")
    server.serve("obedient")
    yield server
    for name in ("naughty", "obedient"):
        assert server.manage("DELETE", f"/models/{name}").status == 200


def do(server: RealServer, deed: str) -> tuple[int, bytes]:
    answer = server.request("POST", "/predictions/naughty", deed, TEXT, timeout=60.0)
    return answer.status, answer.body


def is_served(server: RealServer) -> bool:
    status, body = do(server, "nothing")
    return status == 200 and body.isdigit()


@pytest.mark.parametrize(
    "deed",
    [
        "prints one long line",
        "changes directory",
        "forks",
        "ignores signals",
        "leaves a thread",
        "closes its output",
        "takes json away",
    ],
)
def test_what_a_worker_survives_is_answered(naughty: RealServer, deed: str) -> None:
    assert do(naughty, deed)[0] == 200
    assert is_served(naughty)
    assert naughty.predict("obedient").status == 200


@pytest.mark.parametrize(
    "deed", ["closes its sockets", "closes everything", "leaves", "is interrupted"]
)
def test_what_a_worker_does_not_survive_is_told_and_it_is_replaced(
    naughty: RealServer, deed: str
) -> None:
    (before,) = naughty.ready_pids("naughty")
    status, body = do(naughty, deed)
    assert status == 500
    assert b"Worker died." in body
    assert naughty.predict("obedient").status == 200
    assert is_served(naughty)
    assert before not in naughty.ready_pids("naughty")
    (worker,) = naughty.workers("naughty")
    assert worker["lastExit"]["message"]


def test_a_forked_copy_of_a_worker_does_not_stay(naughty: RealServer) -> None:
    (pid,) = naughty.ready_pids("naughty")
    worker = psutil.Process(pid)
    assert do(naughty, "forks")[0] == 200

    def copies() -> list[psutil.Process]:
        return [each for each in worker.children() if each.status() != psutil.STATUS_ZOMBIE]

    wait_for(lambda: not copies(), 10.0, f"the end of {copies()}")
    assert is_served(naughty)


def test_others_are_served_while_one_prints_without_end(naughty: RealServer) -> None:
    server = psutil.Process(naughty.pid)
    before = server.memory_info().rss
    with in_background(1) as submit:
        talking = submit(do, naughty, "prints much")
        seen = 0
        while not talking.done():
            assert naughty.predict("obedient").status == 200
            seen += 1
        assert talking.result()[0] == 200
    assert seen
    assert server.memory_info().rss - before < 50 << 20
