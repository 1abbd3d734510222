"""Starts the servers: each in a folder of its own, with one worker process and one thread."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from load import Target
from processes import BenchmarkError, cpu_seconds, in_session, memory_mb, tree
from served import call, last_lines

from peers.commands import SERVERS, Place
from peers.workloads import Workload, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PATIENCE = 60.0
_STOP_PATIENCE = 6.0
_POLL = 0.01
T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """A server that has answered rightly. ``start_seconds`` counts from its start until then."""

    process: subprocess.Popen[bytes]
    target: Target
    start_seconds: float

    def pids(self) -> list[int]:
        """The whole tree, and what has left it but not the session."""
        return sorted({*tree(self.process.pid), *in_session(self.process.pid)})

    def cpu(self) -> float:
        """Seconds that all its processes have used so far."""
        return sum(_of(cpu_seconds, [pid]) for pid in self.pids())

    def pss_mb(self) -> float:
        """Memory of all its processes; what they share is shared out among them."""
        return sum(_of(lambda pid: memory_mb(pid)[1], pid) for pid in self.pids())


def _of(look: Callable[[T], float], at: T) -> float:
    try:
        return look(at)
    except OSError:  # it has ended meanwhile
        return 0.0


@contextmanager
def serving(name: str, workload: Workload, blocks: int, folder: Path) -> Iterator[Running]:
    """Start a server and check its first answer; BenchmarkError if it does not come or is wrong."""
    server = SERVERS[name]
    folder.mkdir()
    place = Place(name, folder, workload.name, blocks, tuple(_free_ports(6)))
    command = server.prepare(place)
    body, content_type = server.words(workload)
    (folder / "request.body").write_bytes(body)
    log = folder / "output.log"
    target = Target(
        f"http://127.0.0.1:{place.ports[0]}{server.path}", folder / "request.body", content_type
    )
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=place.environ(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            check(workload, _first_answer(name, process, target, log))
            yield Running(process, target, time.perf_counter() - started)
        finally:
            _stop(process)


def _first_answer(name: str, process: subprocess.Popen[bytes], target: Target, log: Path) -> bytes:
    deadline = time.monotonic() + _PATIENCE
    body = target.body.read_bytes()
    while True:
        try:
            return call("POST", target.url, body, target.content_type)
        except BenchmarkError as exc:
            is_too_long = "was answered 413" in str(exc)  # which no wait will change
            if is_too_long or process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{name} does not serve: {exc}\n{last_lines(log)}") from exc
        time.sleep(_POLL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the tree's root, then SIGKILL to what is left of tree and session.

    TorchServe's launcher, for one, passes no signal on, and some leave workers behind.
    """
    pids = {*tree(process.pid), *in_session(process.pid)}
    try:
        process.terminate()
        process.wait(_STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second Ctrl-C comes by here as well
        for pid in pids | {*in_session(process.pid)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has ended meanwhile
                continue
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
