"""Each way to end has a name of its own, and everybody who asks is told the same, at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from real_server import COMMAND, RealServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LETHAL = """
import ctypes, os, sys

def handle(data, context):
    if data is None:
        return None
    how = data[0].get("body")
    if isinstance(how, (bytes, bytearray)):
        how = how.decode()
    print(f"about to end by {how}", file=sys.stderr, flush=True)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    if how == "cuda":
        raise RuntimeError("CUDA error: device-side assert triggered")
    if how == "abort":
        os.abort()
    if how == "junk":
        frame = sys._getframe()
        while "link" not in frame.f_locals:
            frame = frame.f_back
        frame.f_locals["link"]._socket.send(b"junk")
    if how == "forever":
        while True:
            pass
    return ["alive"] * len(data)
"""
# What is asked of the worker, and what must be said of its end.
AT_WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "kill": ("signal", {"signal": "SIGKILL", "exitCode": -9}),
    "terminate": ("signal", {"signal": "SIGTERM", "exitCode": -15}),
    "segfault": ("signal", {"signal": "SIGSEGV", "exitCode": -11}),
    "abort": ("signal", {"signal": "SIGABRT", "exitCode": -6}),
    "exit": ("exit_code", {"exitCode": 3}),
    "sys.exit": ("exit_code", {"exitCode": 4}),
    "cuda": ("cuda_error", {}),
    "junk": ("protocol_violation", {}),
    "forever": ("response_timeout", {"signal": "SIGKILL"}),
}
AT_LOAD = {
    "import_error": "import no_such_package_anywhere",
    "out_of_memory": "raise MemoryError",
    "boot_failure": "raise ValueError('broken on purpose')",
    "exit_code": "import os\nos._exit(3)",
    "signal": "import ctypes\nctypes.string_at(0)",
}


@pytest.fixture(scope="module")
def lethal(server: RealServer) -> str:
    files, config = {"handler.py": LETHAL}, "retryLostBatch: 0\nresponseTimeout: 1\n"
    return server.store.folder("lethal", files, config)


def last_exit(server: RealServer, model: str) -> dict[str, Any]:
    return dict(server.workers(model)[0].get("lastExit", {}))


def flambeau_status(server: RealServer, *words: str) -> str:
    command = [*COMMAND, "status", *words, f"--run-dir={server.run_dir}"]
    return subprocess.run(command, env=server.environ, capture_output=True, text=True).stdout


def end(server: RealServer, model: str, how: str) -> None:
    if how in ("kill", "terminate"):
        number = signal.SIGKILL if how == "kill" else signal.SIGTERM
        os.kill(server.workers(model)[0]["pid"], number)
    else:
        server.request("POST", f"/predictions/{model}", how)


def test_every_death_is_named_for_all_who_ask(
    server: RealServer, model: Callable[..., str], lethal: str
) -> None:
    names = {how: model(lethal) for how in AT_WORK}
    for how, (reason, facts) in AT_WORK.items():
        name = names[how]
        end(server, name, how)
        facts = {"reason": reason, **facts}

        def told(name: str = name, facts: dict[str, Any] = facts) -> dict[str, Any] | None:
            exit = last_exit(server, name)
            return exit if facts.items() <= exit.items() else None

        exit = wait_for(told, 2.0, f"{how} to be described") or {}
        assert 0.0 < exit["secondsAlive"] < 60.0
        assert exit["secondsAgo"] < 2.0
        assert exit["requestsServed"] == (how == "cuda")
        wait_for(
            lambda name=name, reason=reason: (
                server.metric("flambeau_worker_exits_total", model=name, reason=reason) == 1
            ),
            2.0,
            f"{how} to be counted",
        )
        assert f"ended: {reason}: " in server.log()
        assert server.describe(name)["exits"] == {reason: 1}
        assert server.describe(name)["lastExit"]["reason"] == reason
        if how not in ("kill", "terminate"):
            assert f"about to end by {how}" in "\n".join(last_exit(server, name)["tail"])
    text = flambeau_status(server)
    for how, (reason, facts) in AT_WORK.items():
        detail = facts.get("exitCode") if reason == "exit_code" else facts.get("signal")
        label = f"{reason} {detail}" if reason in ("signal", "exit_code") else reason
        line = next(each for each in text.splitlines() if each.startswith(f"{names[how]} "))
        assert f"{label}, " in line, (how, line)
    assert "  | about to end by segfault" in flambeau_status(server, names["segfault"])


def test_every_failure_to_load_is_named(server: RealServer) -> None:
    for reason, source in AT_LOAD.items():
        url = server.store.folder(f"fails-{reason}", {"handler.py": source})
        assert server.register(url, 0, model_name=reason).status == 200
        assert server.scale(reason, 1).status in (500, 507)
        assert last_exit(server, reason)["reason"] == reason
        assert server.manage("DELETE", f"/models/{reason}").status == 200


def test_a_worker_that_is_stopped_is_not_ready_until_it_goes_on(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    (pid,) = server.ready_pids(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not server.ready_pids(name), 5.0, "the worker not to be ready")
        (worker,) = server.workers(name)
        assert (worker["state"], worker["process"], worker["pid"]) == (
            "unresponsive",
            "stopped",
            pid,
        )
        assert server.describe(name)["status"] == "DEGRADED"
        assert server.request("GET", f"/v2/models/{name}/ready").status == 503
        assert server.request("GET", "/readyz").status == 503
        assert server.metric("flambeau_workers", model=name, state="unresponsive") == 1
        assert f"pid {pid}, does not answer: its process is stopped." in flambeau_status(server)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: server.ready_pids(name) == {pid}, 5.0, "the worker to be ready again")
    assert server.request("GET", "/readyz").status == 200
    assert server.predict(name).json["pid"] == pid


def test_a_frontend_that_was_stopped_suspects_nobody(
    server: RealServer, model: Callable[..., str]
) -> None:
    name = model()
    (pid,) = server.ready_pids(name)
    wait_for(lambda: server.metric("flambeau_workers", model=name, state="ready"), 5.0, "a worker")
    server.signal(signal.SIGSTOP)
    time.sleep(2.5)
    server.signal(signal.SIGCONT)
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        assert server.ready_pids(name) == {pid}
        time.sleep(0.05)
    assert "does not answer" not in server.log().partition(f"{name}/")[2]


GROUPS = Path("/sys/fs/cgroup/memory")
HUNGRY = """
def handle(data, context):
    if data is None:
        return None
    eaten = []
    while True:
        eaten.append(bytearray(b"x") * (16 << 20))
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group (version 1) that has little memory, which only root makes."""
    group = GROUPS / f"flambeau-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(400 << 20))
    except OSError as error:
        pytest.skip(f"no control group of one's own here: {error.strerror}")
    try:
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().split(), 10.0, "an empty group")
        group.rmdir()


def test_a_worker_that_the_kernel_kills_for_want_of_memory_is_said_to_be(
    new_server: Callable[..., RealServer], small_group: Path
) -> None:
    server = new_server()
    server.store.folder("hungry", {"handler.py": HUNGRY}, "retryLostBatch: 0\n")
    server.start()
    # Workers are started in the group of the server.
    (small_group / "cgroup.procs").write_text(str(server.pid))
    server.serve("hungry")
    server.serve("obedient")
    victim = psutil.Process(server.workers("hungry")[0]["pid"])
    assert server.request("POST", "/predictions/hungry", "eat").status == 507
    assert not victim.is_running()
    exit = last_exit(server, "hungry")
    assert (exit["reason"], exit["signal"]) == ("oom_kill", "SIGKILL"), exit
    assert "its control group counts an OOM kill" in exit["message"]
    assert "ended: oom_kill: The kernel killed the process" in server.log()
    assert server.metric("flambeau_worker_exits_total", model="hungry", reason="oom_kill") == 1
    assert "oom_kill, " in flambeau_status(server)
    # Somebody else's SIGKILL a moment later is none.
    os.kill(server.workers("obedient")[0]["pid"], signal.SIGKILL)
    other = wait_for(lambda: last_exit(server, "obedient"), 2.0, "the other's end")
    assert other["reason"] == "signal"
    assert "had killed a process of its control group" in other["message"]
    server.stop()
