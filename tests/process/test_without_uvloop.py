"""uvloop is an extra: without it the server does the same on Python's own event loop."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest
from real_server import RealServer, in_background, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITH_CHILD = """
import os
import subprocess


def handle(data, context):
    if data is None:
        return
    child = subprocess.Popen(["sleep", "600"])
    with open(data[0]["body"]["note"], "w") as file:
        file.write(f"{child.pid}\\n")
    os._exit(3)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    base = tmp_path_factory.mktemp("plain")
    (base / "uvloop.py").write_text("raise ImportError('uvloop is not installed')\n")
    server = RealServer(base, (), {})
    server.environ["PYTHONPATH"] = str(base)
    server.store.folder("obedient")
    server.store.folder("with-child", {"handler.py": WITH_CHILD}, "retryLostBatch: 0\n")
    try:
        server.start().serve("obedient")
        yield server
    finally:
        server.stop()


def test_it_serves_many_clients(plain: RealServer) -> None:
    with in_background(8) as submit:
        asked = [submit(plain.predict, "obedient", answer=number) for number in range(80)]
        assert [each.result().json for each in asked] == list(range(80))


def test_a_killed_worker_is_replaced(plain: RealServer) -> None:
    (killed,) = plain.ready_pids("obedient")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: plain.ready_pids("obedient") - {killed}, 5.0, "another worker")
    assert plain.predict("obedient").json["pid"] != killed


def test_the_end_of_a_worker_is_seen_although_its_child_lives_on(
    plain: RealServer, tmp_path: Path
) -> None:
    """The child holds the worker's output open, which must not matter."""
    note = tmp_path / "child"
    plain.serve("with-child", response_timeout=60)
    try:
        answer = plain.predict("with-child", timeout=3.0, note=str(note))
        assert (answer.status, answer.message) == (500, "Worker died.")
    finally:
        for pid in map(int, lines(note)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
