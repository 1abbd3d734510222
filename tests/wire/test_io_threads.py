"""Who carries the bytes does not push aside who works with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from flambeau.worker.io_threads import batching

pytestmark = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER,
    reason="needs Linux, and its usual scheduling",
)


def threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def policies_of_a_sockets_threads() -> set[int]:
    before = threads()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with batching():
            socket = context.socket(zmq.DEALER)
        started = threads() - before
        assert started
        policies = {os.sched_getscheduler(thread) for thread in started}
        socket.close()
    finally:
        context.term()
    return policies


def test_every_thread_of_a_socket_is_batch_work_from_its_start() -> None:
    # In a process of its own: in this one a library may have had the policy written down before,
    # and the C library then gives that to new threads.
    lines = "import test_io_threads as tests", "print(tests.policies_of_a_sockets_threads())"
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(lines)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.stdout == f"{{{os.SCHED_BATCH}}}\n", done.stderr


def test_a_thread_that_made_a_socket_is_itself_again() -> None:
    policies_of_a_sockets_threads()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_whoever_fails_inside_is_no_batch_work_either() -> None:
    with pytest.raises(KeyError), batching():
        raise KeyError
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_the_system_forbids_it_all_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert policies_of_a_sockets_threads() == {os.SCHED_OTHER}


def test_where_the_system_has_no_such_thing_all_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "SCHED_BATCH")
    with batching():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_who_has_been_given_another_policy_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: os.SCHED_RR)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *arguments: asked.append(arguments))
    with batching():
        pass
    assert not asked
