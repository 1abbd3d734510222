"""Requirements of archives: installed before workers start, seen while it goes on, found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import pytest
from real_server import in_background, is_gone, wait_for
from wheels import OFFLINE, source_that_waits, wheel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from real_server import RealServer

HANDLER = """
import subprocess
import sys

import fl_only


def handle(data, context):
    if data is None:
        return None
    said = subprocess.run(["fl_only"], capture_output=True, text=True, check=True).stdout
    return [{"version": fl_only.VERSION, "said": said, "prefix": sys.prefix} for _ in data]
"""
PLAIN = "def handle(data, context):\n    return data and [str(len(data))]\n"


@pytest.fixture
def server(new_server: Callable[..., RealServer]) -> RealServer:
    server = new_server(install_py_dep_per_model="true")
    server.environ.update(OFFLINE)
    return server.start()


def archive(server: RealServer, name: str, handler: str = HANDLER, **model: object) -> str:
    package, content = wheel("fl_only", "1.5")
    files = {"handler.py": handler, package: content, "requirements.txt": f"./{package}\n"}
    return server.store.mar(name, files, **{"requirementsFile": "requirements.txt", **model})


def waiting_archive(server: RealServer, started: Path, gate: Path) -> str:
    files = {"handler.py": PLAIN, "requirements.txt": "./waiting\n"}
    files.update(source_that_waits(started, gate))  # type: ignore[arg-type]
    return server.store.mar("waits", files, requirementsFile="requirements.txt")


def test_requirements_are_there_before_the_workers_and_shared_by_versions(
    server: RealServer,
) -> None:
    server.serve(archive(server, "m"), 2)
    answer = server.predict("m").json
    assert (answer["version"], answer["said"]) == ("1.5", "1.5\n")
    assert answer["prefix"].startswith(str(server.cache / "environments"))
    assert "deps: Successfully installed fl" in server.log()
    described = server.describe("m")
    assert (described["status"], described["useVenv"]) == ("READY", False)
    assert "stage" not in described
    assert any("Successfully installed" in line for line in described["dependencies"]["output"])

    server.serve(archive(server, "m2", modelName="m", modelVersion="2.0"))
    assert server.predict("m/2.0").json["prefix"] == answer["prefix"]
    second = server.describe("m/2.0")["dependencies"]
    assert (second["environment"], "output" in second) == (answer["prefix"][-64:][:12], False)

    for each in ("m/2.0", "m"):
        assert server.manage("DELETE", f"/models/{each}").status == 200
    server.stop()
    server.environ["PIP_CONFIG_FILE"] = "/nowhere"
    (server.base / "server.log").unlink()
    server.run_dir.mkdir()
    server.start().serve("m.mar")
    assert server.predict("m").json == answer
    assert "deps:" not in server.log()


def test_a_venv_that_is_asked_for_is_made_without_requirements_too(server: RealServer) -> None:
    code = "import sys\ndef handle(data, context):\n    return data and [sys.prefix]\n"
    server.serve(server.store.mar("venv", {"handler.py": code}, "useVenv: true\n"))
    assert str(server.cache / "environments") in server.predict("venv").body.decode()
    assert server.describe("venv")["useVenv"] is True


def test_a_failure_names_the_requirement_and_leaves_nothing(server: RealServer) -> None:
    files = {"handler.py": PLAIN, "requirements.txt": "no-such-package==1.0\n"}
    url = server.store.mar("bad", files, requirementsFile="requirements.txt")
    answer = server.register(url)
    assert (answer.status, answer.json["type"]) == (400, "ModelException")
    assert answer.message.startswith("Custom pip package installation failed for model bad: ")
    assert "no-such-package==1.0" in answer.message
    assert server.manage("GET", "/models/bad").status == 404

    assert server.register(url, synchronous="false").status == 202
    failed = wait_for(
        lambda: (seen := server.describe("bad"))["status"] == "FAILED" and seen, 30.0, "a failure"
    )
    assert failed["failure"]["reason"] == "dependencies"
    assert "no-such-package==1.0" in failed["failure"]["message"]
    assert "no-such-package==1.0" in server.predict("bad").message
    # It is tried again, and says the same again.
    again = server.scale("bad", 1)
    assert (again.status, again.message) == (400, failed["failure"]["message"])

    files = {"handler.py": PLAIN, "requirements.txt": "numpy\n-r /etc/passwd\n"}
    url = server.store.mar("reads", files, requirementsFile="requirements.txt")
    answer = server.register(url)
    assert (answer.status, answer.json["type"]) == (400, "InvalidModelException")
    assert answer.message.startswith("requirements.txt: line 2: it leads out of the archive")


def test_an_installation_is_seen_and_blocks_nobody(server: RealServer, tmp_path: Path) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    url = waiting_archive(server, started, gate)
    assert server.register(url, 2, synchronous="false").status == 202

    def stage() -> dict[str, Any] | None:
        seen = server.describe("waits")
        return seen if "Processing ./waiting" in str(seen.get("dependencies")) else None

    described = wait_for(stage, 30.0, "pip to be described") or {}
    assert (described["status"], described["stage"]) == ("LOADING", "deps")
    assert (described["minWorkers"], described["workers"]) == (2, [])
    server.serve("obedient")
    assert server.predict("obedient").status == 200
    refused = server.predict("waits")
    assert (refused.status, refused.json["reason"]) == (503, "installing")
    assert server.request("GET", "/ping").status == 200
    assert server.request("GET", "/readyz").status == 503
    with in_background(1) as submit:
        wait_for(started.exists, 30.0, "the build to begin")
        scaled = submit(server.scale, "waits", 1)
        gate.touch()
        assert scaled.result().status == 200
    assert len(server.ready_pids("waits")) == 1
    assert server.predict("waits").status == 200


@pytest.mark.parametrize("end", ["unregister", "stop", "crash"])
def test_pip_ends_with_whom_it_works_for(server: RealServer, tmp_path: Path, end: str) -> None:
    started = tmp_path / "started"
    url = waiting_archive(server, started, tmp_path / "never")
    assert server.register(url, synchronous="false").status == 202
    pid = int(wait_for(lambda: started.exists() and started.read_text(), 30.0, "a build"))
    processes = [psutil.Process(pid), *server.processes()[1:]]
    if end == "unregister":
        assert server.manage("DELETE", "/models/waits").status == 200
    elif end == "stop":
        server.stop()
    else:
        server.crash()
    wait_for(lambda: all(map(is_gone, processes)), 5.0, "pip to end")
    if end == "crash":
        server.start()
    assert list((server.cache / "environments").iterdir()) == []
    # The name is free, and a way out is open.
    if end == "unregister":
        server.serve("obedient", model_name="waits")


def test_requirements_that_are_not_installed_are_named(
    new_server: Callable[..., RealServer],
) -> None:
    server = new_server().start()
    answer = server.register(archive(server, "m"))
    assert answer.status == 500
    assert "'fl_only'" in answer.message
    assert "set install_py_dep_per_model=true" in answer.message
    assert not (server.cache / "environments").exists()
