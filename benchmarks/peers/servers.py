"""Starts the servers: each in a folder of its own, with one worker process and one thread."""

from __future__ import annotations

import json
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

from peers.commands import SERVERS, Place, Server
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
    """A server that has answered rightly. ``start_seconds`` counts from its start until then.

    ``management``: the URL of the model, where its workers can be scaled.
    """

    process: subprocess.Popen[bytes]
    target: Target
    start_seconds: float
    management: str | None = None

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def pids(self) -> list[int]:
        """The whole tree, and what has left it but not the session."""
        return sorted({*tree(self.process.pid), *in_session(self.process.pid)})

    def cpu(self) -> float:
        """Seconds that all its processes have used so far."""
        return sum(_of(cpu_seconds, [pid]) for pid in self.pids())

    def scale_up(self) -> float | None:
        """Seconds from one worker to two that are ready; None where that cannot be done."""
        if self.management is None:
            return None
        started = time.perf_counter()
        call("PUT", f"{self.management}?min_worker=2&max_worker=2&synchronous=true", b"")
        while self._ready_workers() < 2:
            if time.perf_counter() - started > _PATIENCE:
                raise BenchmarkError("the second worker did not become ready.")
            time.sleep(_POLL)
        return time.perf_counter() - started

    def _ready_workers(self) -> int:
        workers = json.loads(call("GET", f"{self.management}"))[0]["workers"]
        return sum(each["status"] == "READY" for each in workers)

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
    """Start a server and check its first answers; BenchmarkError if they are not right."""
    server = SERVERS[name]
    folder.mkdir()
    place = Place(name, folder, workload.name, blocks, tuple(_free_ports(6)))
    command = server.prepare(place)
    base = f"http://127.0.0.1:{place.ports[0]}"
    target = _write_requests(server, workload, f"{base}{server.path}", folder / "requests")
    log = folder / "output.log"
    model = f"http://127.0.0.1:{place.ports[1]}/models/peer"
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
            bodies = [each.read_bytes() for each in sorted(target.body.iterdir())]
            first = _first_answer(name, process, target, bodies[0], log)
            seconds = time.perf_counter() - started
            check(workload.name, workload.cases[0], first)
            for case, body in zip(workload.cases[1:], bodies[1:], strict=True):
                check(workload.name, case, call("POST", target.url, body, target.content_type))
            yield Running(process, target, seconds, model if server.scales else None)
        finally:
            _stop(process)


def _write_requests(server: Server, workload: Workload, url: str, folder: Path) -> Target:
    """All that is asked, in the server's words."""
    folder.mkdir()
    content_type = ""
    for number, case in enumerate(workload.cases):
        body, content_type = server.words(workload.name, case.body)
        (folder / f"{number}.body").write_bytes(body)
    return Target(url, folder, content_type)


def _first_answer(
    name: str, process: subprocess.Popen[bytes], target: Target, body: bytes, log: Path
) -> bytes:
    deadline = time.monotonic() + _PATIENCE
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
