"""A server in the place of another one: clients notice nothing, and what fails changes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from real_server import COMMAND, RealServer, Store, in_background, is_gone, lines, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., RealServer]

CHANGES = Path(__file__).parents[2] / "benchmarks" / "changes.py"
GATED = """
import time
from pathlib import Path

def handle(data, context):
    if data is None:
        while not Path({gate!r}).exists():
            time.sleep(0.01)
        return None
    return ["ready"] * len(data)
"""

PRE = """
def pre(data, context):
    return None if data is None else [b"{}" for _ in data]
"""


@pytest.fixture
def successor(new_server: Make) -> Callable[..., RealServer]:
    """Makes a server, not started yet, that is to take the place of another one."""

    def make(before: RealServer, *flags: str, **settings: object) -> RealServer:
        server = new_server("--replace", *flags, **settings)
        os.rmdir(server.run_dir)
        server.run_dir, server.store = before.run_dir, before.store
        return server

    return make


def left_in(run_dir: Path) -> set[str]:
    """What servers have left in their run directory, logs and empty folders aside."""
    return {path.name for path in run_dir.rglob("*") if path.is_socket() or path.suffix == ".json"}


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("scenario", "requests"), [("restart", 1500), ("scale", 800)], ids=["restart", "scale"]
)
def test_no_request_fails_while_the_server_changes(scenario: str, requests: int) -> None:
    command = [sys.executable, str(CHANGES), scenario, f"--requests={requests}"]
    done = subprocess.run(
        [*command, "--connections=8"], capture_output=True, text=True, timeout=140, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "requests, 0 of them failed" in done.stdout
    assert done.stdout.count("right answers") == len(done.stdout.splitlines()) - 2, done.stdout


def test_the_successor_serves_what_clients_have_registered(
    new_server: Make, successor: Callable[..., RealServer]
) -> None:
    old = new_server("--models=obedient", default_workers_per_model=1).start()
    old.store.folder("second", modelName="named", modelVersion="2.0")
    old.store.folder("third", modelName="named", modelVersion="3.0")
    old.serve("second", 2)
    old.serve("third", 0, batch_size=3, max_batch_delay=7)
    assert old.manage("PUT", "/models/named/3.0/set-default").status == 200
    old.scale("obedient", 1, max_worker=3)
    assert old.manage("DELETE", "/models/obedient/1.0").status == 200
    old.serve("obedient", model_name="other")
    old.scale("named/2.0", 1)
    with old.connect() as kept, old.connect() as idle:
        assert kept.ask("GET", "/ping").headers["connection"] == "keep-alive"
        idle.connect()
        new = successor(old, "--models=obedient", default_workers_per_model=1).start()
        assert new.addresses == old.addresses
        # Those who are connected already are served where they are.
        assert not old.has_ended()
        for connection in (kept, idle):
            answer = connection.ask("POST", "/predictions/other", b"{}")
            assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert old.wait() == 0
    models = new.manage("GET", "/models").json["models"]
    assert [each["modelName"] for each in models] == ["named", "other"]
    (default,) = new.manage("GET", "/models/named").json
    assert (default["modelVersion"], default["batchSize"], default["maxBatchDelay"]) == (
        "3.0",
        3,
        7,
    )
    assert len(new.ready_pids("named/2.0")) == 1
    assert new.predict("other").status == 200
    assert left_in(new.run_dir) == {
        f"{new.pid}.sock",
        f"{new.pid}.handover.sock",
        f"{urlsplit(new.addresses['management']).port}.json",
    }


def test_workflows_and_fetched_archives_are_carried_over(
    new_server: Make, successor: Callable[..., RealServer], tmp_path: Path
) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    url = (elsewhere.root / elsewhere.mar("fetched")).as_uri()
    settings = {"allowed_urls": f"{elsewhere.root.as_uri()}/.*"}
    old = new_server(**settings).start()
    old.serve(url)
    old.store.folder("node")
    models = {"min-workers": 1, "max-workers": 1, "m": {"url": "node"}}
    old.store.war("flow", {"models": models, "dag": {"pre": ["m"]}}, PRE)
    assert old.manage("POST", "/workflows", url="flow.war", workflow_name="w").status == 200
    old.scale("w__m", 2)
    new = successor(old, **settings).start()
    assert old.wait() == 0
    assert new.describe("fetched")["modelUrl"] == url
    assert len(new.ready_pids("w__m")) == 2
    assert new.request("POST", "/wfpredict/w", b"x").status == 200
    assert new.predict("fetched").status == 200
    assert new.manage("DELETE", "/models/fetched").status == 200
    # As after any removal of a model that was fetched.
    assert not (new.store.root / "fetched.mar").exists()


def test_the_configuration_may_name_more_models_and_fewer(
    new_server: Make, successor: Callable[..., RealServer]
) -> None:
    old = new_server("--models=obedient,a=first", default_workers_per_model=1)
    for name in ("first", "second", "by_hand"):
        old.store.folder(name)
    old.start()
    old.serve("by_hand")
    new = successor(old, "--models=obedient,b=second", default_workers_per_model=2).start()
    models = new.manage("GET", "/models").json["models"]
    assert [each["modelName"] for each in models] == ["b", "by_hand", "obedient"]
    # Nobody has said how many workers: that is for the new configuration to say.
    assert len(new.ready_pids("obedient")) == 2
    assert old.wait() == 0


def test_work_in_progress_is_finished_by_the_old_server(
    new_server: Make, successor: Callable[..., RealServer], tmp_path: Path
) -> None:
    old = new_server(job_queue_size=2).start()
    old.serve("obedient")
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    with in_background(3) as submit, old.connect() as upload:
        running = submit(old.predict, "obedient", seen=str(seen), gate=str(gate))
        wait_for(lambda: lines(seen), 5.0, "the worker to be busy")
        body = json.dumps({"answer": "x" * 100_000}).encode()
        assert upload.ask("GET", "/ping").status == 200
        upload.putrequest("POST", "/predictions/obedient")
        upload.putheader("Content-Type", "application/json")
        upload.putheader("Content-Length", str(len(body)))
        upload.endheaders(body[:1000])
        # Once this is answered the upload has begun: its model was asked for room.
        assert old.request("GET", "/ping").status == 200
        queued = [submit(old.predict, "obedient") for _ in range(2)]
        wait_for(
            lambda: old.describe("obedient")["jobQueueStatus"]["pendingRequests"] == 2,
            5.0,
            "two requests to wait",
        )
        # The queue is full: this server refuses, and its successor need not know.
        assert old.predict("obedient").status == 503
        new = successor(old).start()
        assert new.predict("obedient").status == 200
        assert not running.done()
        gate.touch()
        assert [each.result().status for each in (running, *queued)] == [200] * 3
        assert not old.has_ended()
        upload.send(body[1000:])
        answer = upload.getresponse()
        assert (answer.status, len(answer.read())) == (200, 100_000)
    assert old.wait() == 0


def test_a_connection_that_nobody_uses_is_closed_after_the_drain_timeout(
    new_server: Make, successor: Callable[..., RealServer]
) -> None:
    old = new_server(drain_timeout=1).start()
    with old.connect() as idle:
        idle.connect()
        successor(old).start()
        assert old.wait() == 0
        assert idle.sock.recv(1) == b""


def test_a_model_that_cannot_be_loaded_leaves_the_old_server_where_it_is(
    new_server: Make, successor: Callable[..., RealServer]
) -> None:
    old = new_server().start()
    old.serve(old.store.mar("once"))
    (old.store.root / "once.mar").unlink()
    with pytest.raises(AssertionError, match="did not start") as failure:
        successor(old).start()
    assert "Not everything can be served: once.mar" in str(failure.value)
    assert old.predict("once").status == 200
    assert old.register("obedient").status == 200
    assert left_in(old.run_dir) == {
        f"{old.pid}.sock",
        f"{old.pid}.handover.sock",
        f"{urlsplit(old.addresses['management']).port}.json",
    }


def test_a_configuration_that_cannot_work_leaves_the_old_server_where_it_is(
    new_server: Make, successor: Callable[..., RealServer]
) -> None:
    old = new_server().start()
    old.serve("obedient")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        new = successor(old, f"--metrics-address=http://127.0.0.1:{port}")
        with pytest.raises(AssertionError, match=f"Port {port} on 127.0.0.1 is in use"):
            new.start()
    with pytest.raises(AssertionError, match="did not start"):
        successor(old, job_queue_size="many").start()
    assert old.predict("obedient").status == 200
    assert old.manage("DELETE", "/models/obedient").status == 200


def test_a_successor_that_is_killed_or_not_alone_changes_nothing(
    new_server: Make, successor: Callable[..., RealServer], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    old = new_server().start()
    old.serve(old.store.folder("gated", {"handler.py": GATED.format(gate=str(gate))}))
    gate.unlink()
    first, second = successor(old), successor(old)
    with in_background(1) as submit:
        starting = submit(first.start)
        wait_for(lambda: "is to take the place" in old.log(), 10.0, "the first to begin")
        with pytest.raises(AssertionError, match="it is being replaced already"):
            second.start()
        wait_for(lambda: len(first.processes()) > 1, 10.0, "its worker")
        processes = first.processes()
        first.signal(signal.SIGKILL)
        with pytest.raises(AssertionError):
            starting.result()
    wait_for(lambda: all(map(is_gone, processes)), 5.0, "the end of its workers")
    wait_for(lambda: "its successor is gone" in old.log(), 5.0, "the old one to notice")
    gate.touch()
    assert old.predict("gated").body == b"ready"
    # What is changed while a successor loads would be lost to it.
    gate.unlink()
    third = successor(old)
    with in_background(1) as submit:
        starting = submit(third.start)
        wait_for(lambda: len(third.processes()) > 1, 10.0, "its worker")
        assert old.register("obedient").status == 200
        gate.touch()
        with pytest.raises(AssertionError, match="were changed while the new server loaded"):
            starting.result()
    assert old.predict("obedient").status == 200
    successor(old).start()
    assert old.wait() == 0


def test_an_old_server_that_is_told_to_stop_has_no_successor(
    new_server: Make, successor: Callable[..., RealServer], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    old = new_server().start()
    old.serve(old.store.folder("gated", {"handler.py": GATED.format(gate=str(gate))}))
    gate.unlink()
    new = successor(old)
    with in_background(1) as submit:
        starting = submit(new.start)
        wait_for(lambda: len(new.processes()) > 1, 10.0, "its worker")
        old.signal(signal.SIGTERM)
        assert old.wait() == 0
        gate.touch()
        with pytest.raises(AssertionError, match="it was told to stop meanwhile"):
            starting.result()


def test_unix_sockets_grpc_and_tokens_go_on(
    new_server: Make, successor: Callable[..., RealServer], tmp_path: Path
) -> None:
    pytest.importorskip("grpc")
    path = tmp_path / "http.sock"
    flags = (f"--inference-address=unix:{path}",)
    settings = {"enable_grpc": "true", "authorization": "tokens", "grpc_inference_port": 0}
    settings["grpc_management_port"] = 0
    old = new_server(*flags, **settings).start()
    keys = json.loads((old.base / "key_file.json").read_text())
    new = successor(old, *flags, **settings)
    new.base = old.base
    new.start()
    assert old.wait() == 0
    assert json.loads((old.base / "key_file.json").read_text()) == keys
    headers = {"Authorization": f"Bearer {keys['management']['key']}"}
    assert new.request("GET", "/models", None, headers, "management").status == 200
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    new.signal(signal.SIGTERM)
    assert new.wait() == 0
    assert not path.exists()


def test_sockets_of_systemd_stay_open_from_one_server_to_the_next(new_server: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        first, second = (new_server(f"--inference-address={address}") for _ in range(2))
        for server in (first, second):
            launch = (
                "import os, sys; "
                f"os.dup2({listening.fileno()}, 3); os.set_inheritable(3, True); "
                "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
                "os.execv(sys.argv[1], sys.argv[1:])"
            )
            server.prefix = [sys.executable, "-c", launch]
            server.inherited = (listening.fileno(),)
        first.start()
        first.serve("obedient")
        with first.connect() as kept:
            assert kept.ask("GET", "/ping").status == 200
            first.signal(signal.SIGTERM)
            answer = kept.ask("POST", "/predictions/obedient", b"{}")
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert first.wait() == 0
        # Nobody is refused in between: this one waits for the next server.
        with socket.create_connection(listening.getsockname()) as early:
            early.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            second.start()
            assert early.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_server_in_the_foreground_is_for_its_supervisor_to_replace(server: RealServer) -> None:
    done = subprocess.run(
        [*COMMAND, "restart", f"--run-dir={server.run_dir}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "flambeau start --replace" in done.stderr
