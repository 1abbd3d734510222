"""How a server ends: drained, hurried or killed. Nothing is left, and nobody waits in vain."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from real_server import RealServer, in_background, is_gone, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., RealServer]

SLOW_TO_LOAD = "import time\ntime.sleep(60)\n"


def is_draining(server: RealServer) -> bool:
    return "flambeau is draining" in server.log()


def test_sigterm_answers_what_was_accepted_and_refuses_what_comes(
    new_server: Make, tmp_path: Path
) -> None:
    server = new_server().start()
    server.serve("obedient")
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(6) as submit:
        running = submit(server.predict, "obedient", seen=str(seen), gate=str(gate))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        queued = [submit(server.predict, "obedient") for _ in range(5)]
        wait_for(
            lambda: server.describe("obedient")["jobQueueStatus"]["pendingRequests"] == 5,
            5.0,
            "five requests to wait",
        )
        server.signal(signal.SIGTERM)
        wait_for(lambda: is_draining(server), 5.0, "the server to drain")
        refused = server.predict("obedient")
        assert (refused.status, refused.json["type"]) == (503, "ServiceUnavailableException")
        assert refused.message == "The server is shutting down and takes no new requests."
        assert int(refused.headers["retry-after"]) >= 1
        assert server.request("GET", "/ping").json == {"status": "Unhealthy"}
        assert not server.has_ended()
        gate.touch()
        assert [each.result().status for each in (running, *queued)] == [200] * 6
    assert server.wait() == 0
    assert "flambeau has stopped" in server.log()
    assert [path.name for path in server.run_dir.iterdir() if path.suffix == ".sock"] == []
    assert list((server.run_dir / "servers").iterdir()) == []


def start_with(hangup: signal.Handlers, server: RealServer) -> RealServer:
    """Whatever the tests themselves do when their terminal hangs up."""
    before = signal.signal(signal.SIGHUP, hangup)
    try:
        return server.start()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_hangs_up_ends_the_server_as_sigterm_does(new_server: Make) -> None:
    server = start_with(signal.SIG_DFL, new_server())
    server.signal(signal.SIGHUP)
    assert server.wait() == 0
    assert is_draining(server)


def test_under_nohup_it_does_not_end_with_the_terminal(new_server: Make) -> None:
    server = start_with(signal.SIG_IGN, new_server())
    server.signal(signal.SIGHUP)
    server.serve("obedient")
    assert not is_draining(server)


def test_sigint_stops_an_idle_server_at_once(new_server: Make) -> None:
    server = new_server("--models=obedient", default_workers_per_model=2).start()
    started = time.monotonic()
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert time.monotonic() - started < 2.0


def test_a_second_sigterm_skips_the_wait(new_server: Make, tmp_path: Path) -> None:
    server = new_server().start()
    server.serve("obedient")
    seen = tmp_path / "seen"
    with in_background(1) as submit:
        stuck = submit(server.predict, "obedient", seen=str(seen), gate=str(tmp_path / "never"))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        server.signal(signal.SIGTERM)
        wait_for(lambda: is_draining(server), 5.0, "the server to drain")
        server.signal(signal.SIGTERM)
        try:
            assert server.wait(3.0) == 0
        finally:
            server.kill()
        assert stuck.result().status in (500, 503, 504)


def test_a_drain_ends_when_its_time_is_over(new_server: Make, tmp_path: Path) -> None:
    server = new_server(drain_timeout=1).start()
    server.serve("obedient")
    seen = tmp_path / "seen"
    with in_background(3) as submit:
        order = {"seen": str(seen), "gate": str(tmp_path / "never")}
        asked = [submit(server.predict, "obedient", **order)]
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        asked += [submit(server.predict, "obedient", **order) for _ in range(2)]
        wait_for(
            lambda: server.describe("obedient")["jobQueueStatus"]["pendingRequests"] == 2,
            5.0,
            "two requests to wait",
        )
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert {each.result().status for each in asked} <= {500, 503, 504}
        assert server.wait() == 0
        assert 0.9 < time.monotonic() - started < 5.0


def test_a_server_that_is_told_to_stop_while_a_model_loads_does_not_wait_for_it(
    new_server: Make,
) -> None:
    server = new_server(drain_timeout=60).start()
    url = server.store.folder("slow", {"handler.py": SLOW_TO_LOAD})
    assert server.register(url, synchronous="false").status == 202
    wait_for(lambda: server.processes()[1:], 5.0, "the worker to start")
    server.signal(signal.SIGTERM)
    assert server.wait(5.0) == 0


def test_a_registration_that_the_end_of_the_server_cuts_short_is_told_so(
    new_server: Make,
) -> None:
    server = new_server(drain_timeout=1).start()
    url = server.store.folder("slow", {"handler.py": SLOW_TO_LOAD})
    with in_background(1) as submit:
        registering = submit(server.register, url)
        wait_for(lambda: server.processes()[1:], 5.0, "the worker to start")
        server.signal(signal.SIGTERM)
        assert server.wait(5.0) == 0
        refused = registering.result()
    assert refused.status == 503, refused


def test_a_registration_while_the_server_drains_is_refused(
    new_server: Make, tmp_path: Path
) -> None:
    server = new_server().start()
    server.serve("obedient")
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(1) as submit:
        running = submit(server.predict, "obedient", seen=str(seen), gate=str(gate))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        server.signal(signal.SIGTERM)
        wait_for(lambda: is_draining(server), 5.0, "the server to drain")
        late = server.register("obedient", model_name="late")
        gate.touch()
        assert running.result().status == 200
    try:
        assert server.wait(5.0) == 0
    finally:
        server.kill()
    assert late.status == 503, late


def test_requests_are_served_in_the_delay_before_stopping_and_a_second_signal_skips_it(
    new_server: Make,
) -> None:
    server = new_server(pre_stop_delay=60).start()
    server.serve("obedient")
    server.signal(signal.SIGTERM)
    wait_for(lambda: is_draining(server), 5.0, "the server to drain")
    assert server.request("GET", "/readyz").json["reason"] == "draining"
    answer = server.predict("obedient")
    # A connection that is kept would be a client's way back to this server.
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert not server.has_ended()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize(
    "order",
    [
        None,
        {"gate": "/no/such/gate"},
        {"spin": 1},
        {"hold_gil": 60},
    ],
    ids=["idle", "waiting", "busy loop", "C code that holds the GIL"],
)
def test_no_worker_outlives_a_killed_frontend(
    new_server: Make, tmp_path: Path, order: dict[str, object] | None
) -> None:
    server = new_server().start()
    server.serve("obedient", 2)
    seen = tmp_path / "seen"
    processes = server.processes()
    assert len(processes) == 3
    connections = []
    if order is not None:
        connections = [server.connect() for _ in range(2)]
        for connection in connections:
            text = json.dumps({"seen": str(seen), **order})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/predictions/obedient", text, headers)
        wait_for(lambda: len(lines(seen)) == 2, 5.0, "both workers to be busy")
    started = time.monotonic()
    server.crash()
    try:
        wait_for(lambda: all(map(is_gone, processes)), 2.0, "the end of every process")
    finally:
        for connection in connections:
            connection.close()
        for process in processes[1:]:
            if not is_gone(process):
                process.kill()
    assert time.monotonic() - started < 2.0


def test_no_worker_that_is_loading_outlives_a_killed_frontend(new_server: Make) -> None:
    server = new_server().start()
    url = server.store.folder("slow", {"handler.py": SLOW_TO_LOAD})
    assert server.register(url, synchronous="false").status == 202
    wait_for(
        lambda: server.metric("flambeau_workers", model="slow", state="loading"), 5.0, "loading"
    )
    processes = server.processes()
    assert len(processes) == 2
    server.crash()
    wait_for(lambda: all(map(is_gone, processes)), 2.0, "the end of every process")


def test_a_server_starts_again_where_one_was_killed(new_server: Make) -> None:
    server = new_server("--models=obedient.mar", default_workers_per_model=1)
    server.store.mar("obedient")
    server.start()
    server.crash()
    server.start()
    assert server.predict("obedient").status == 200


def test_every_socket_is_local(new_server: Make) -> None:
    """Listening on a network is only for who asks for it."""
    server = new_server("--models=obedient", default_workers_per_model=2).start()
    found = []
    for process in server.processes():
        for socket in process.net_connections(kind="all"):
            is_unix = socket.family.name == "AF_UNIX"
            is_loopback = not is_unix and socket.laddr.ip in ("127.0.0.1", "::1")
            assert is_unix or is_loopback, (process.cmdline(), socket)
            found.append(socket.status)
    assert found.count(psutil.CONN_LISTEN) == 3


def test_nobody_else_may_enter_the_run_directory(server: RealServer) -> None:
    assert server.run_dir.stat().st_mode & 0o777 == 0o700
    assert server.cache.stat().st_mode & 0o777 == 0o700


def test_ports_that_are_taken_are_one_clear_line(new_server: Make, server: RealServer) -> None:
    address = server.addresses["inference"]
    second = new_server(f"--inference-address={address}")
    with pytest.raises(AssertionError, match="did not start") as failure:
        second.start()
    port = address.rpartition(":")[2]
    assert f"Port {port} on 127.0.0.1 is in use" in str(failure.value)
    assert "Traceback" not in second.log()
