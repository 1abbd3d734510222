"""Every test must end with what it began with: no process, thread or descriptor more.

A module as a whole is held to the same rule, for what its own fixtures start. The log of a real
server is shown when a test fails while it runs.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import real_server
import zmq

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTLING = 5.0
"""Seconds that processes, threads and sockets get to go away by themselves."""

_PR_SET_CHILD_SUBREAPER = 36
_KEPT_DESCRIPTORS = ("/dev/nvidia", "/dev/urandom")
"""What libraries open once per process and keep."""

# As in workers (frontend/launcher.py): it sends over threads and files of its own.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_failed = pytest.StashKey[bool]()


@dataclass(frozen=True)
class Holdings:
    """What this process has: descendants, threads of Python, and open descriptors."""

    processes: frozenset[psutil.Process]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> Holdings:
        return cls(
            frozenset(psutil.Process().children(recursive=True)),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
        )

    def gained_since(self, before: Holdings) -> list[str]:
        """What is here now and was not before, in words."""
        # A server that was there before may start and replace workers as it likes.
        processes = [
            _describe(each)
            for each in self.processes - before.processes
            if before.processes.isdisjoint(_ancestors(each))
        ]
        threads = [f"thread {each.name!r}" for each in self.threads - before.threads]
        descriptors = [
            f"descriptor {number}: {target}"
            for number, target in self.descriptors - before.descriptors
            if not target.startswith(_KEPT_DESCRIPTORS)
        ]
        return sorted([*filter(None, processes), *threads, *descriptors])


def _descriptors() -> Iterator[tuple[int, str]]:
    if not os.path.isdir("/proc/self/fd"):
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            # The descriptor by which the folder itself was read.
            continue


def _ancestors(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.parents())
    except psutil.NoSuchProcess:
        return []


def _describe(process: psutil.Process) -> str | None:
    """The process in words, None when it has ended; whoever was orphaned is buried here."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"process {process.pid}: {' '.join(process.cmdline())}"
        os.waitpid(process.pid, os.WNOHANG)
    except (psutil.NoSuchProcess, ChildProcessError):
        pass
    return None


def _check(before: Holdings) -> None:
    """Fail if something is left after a short while."""
    left = Holdings.now().gained_since(before)
    deadline = time.monotonic() + SETTLING
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
        left = Holdings.now().gained_since(before)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _prepared_process() -> None:
    """What happens once per process happens before the first look.

    Processes whose parents died before them become our children, so that the checks see them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # zmq keeps a thread and sockets for messages that are sent without a copy, libuv a pipe.
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://once")
        two.connect("inproc://once")
        one.send(bytes(1 << 17), copy=False)
        two.recv()
    if importlib.util.find_spec("uvloop") is not None:
        importlib.import_module("uvloop").new_event_loop().close()


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing_behind(
    request: pytest.FixtureRequest, _prepared_process: None
) -> Iterator[None]:
    before, failed_before = Holdings.now(), request.session.testsfailed
    yield
    # The traceback of a failure keeps alive whatever its frames hold.
    if request.session.testsfailed == failed_before:
        _check(before)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    before = Holdings.now()
    yield
    if not request.node.stash.get(_failed, False):
        _check(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report: pytest.TestReport = yield
    if report.failed:
        item.stash[_failed] = True
        for server in real_server.RUNNING:
            report.sections.append((f"log of the server, pid {server.pid}", server.log()))
    return report
