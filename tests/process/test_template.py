"""Workers that are copies of a template: as others are, only there sooner."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from real_server import RealServer, is_gone, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOKS = """
import os, random, sys, threading

def handle(data, context):
    if data is None:
        return None
    import colorsys, plistlib
    return [{
        "pid": os.getpid(),
        "parent": os.getppid(),
        "leader": os.getsid(0) == os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "cwd": os.getcwd(),
        "ahead": "colorsys" in before,
        "plistlib": getattr(plistlib, "MINE", False),
        "random": random.random(),
    } for _ in data]

before = set(sys.modules)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    base = tmp_path_factory.mktemp("template")
    server = RealServer(base, (), {"preload": "colorsys,plistlib"})
    server.store.folder("looks", {"handler.py": LOOKS})
    server.store.folder("obedient")
    mine = {"handler.py": LOOKS, "plistlib.py": "MINE = True"}
    server.store.folder("own_module", mine)
    try:
        yield server.start()
    finally:
        server.stop()


def look(server: RealServer, model: str) -> dict[str, Any]:
    answer = server.predict(model)
    assert answer.status == 200, answer
    return dict(answer.json)


def template(server: RealServer) -> psutil.Process:
    """The template, once it has imported its modules."""
    is_ready = "the template of the workers is ready"
    wait_for(lambda: is_ready in server.log(), 20.0, "the template")

    def find() -> list[psutil.Process]:
        children = psutil.Process(server.pid).children()
        return [each for each in children if "flambeau.worker.template" in each.cmdline()]

    return wait_for(find, 20.0, "the template")[0]


@pytest.fixture
def copied(server: RealServer, request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Registers a model whose one worker is a copy: its name."""
    names: list[str] = []
    server.serve("obedient", model_name="first")
    ancestor = template(server)

    def register(url: str) -> str:
        name = f"{url}{len(names)}.{request.node.name[:60].partition('[')[0]}"
        names.append(name)
        server.serve(url, model_name=name)
        (pid,) = server.ready_pids(name)
        assert psutil.Process(pid).ppid() == ancestor.pid
        return name

    yield register
    for name in (*names, "first"):
        assert server.manage("DELETE", f"/models/{name}").status == 200


def test_a_copy_has_what_a_worker_has(server: RealServer, copied: Callable[[str], str]) -> None:
    seen = look(server, copied("looks"))
    assert seen["parent"] == template(server).pid
    assert seen["leader"]
    assert seen["ahead"]
    assert seen["threads"].isdigit()
    assert seen["cwd"].endswith("looks")
    assert seen["random"] != look(server, copied("looks"))["random"]


def test_an_archive_with_a_module_of_its_own_gets_that(
    server: RealServer, copied: Callable[[str], str]
) -> None:
    seen = look(server, copied("own_module"))
    assert (seen["plistlib"], seen["ahead"]) == (True, False)


@pytest.mark.parametrize(
    ("order", "reason", "code"),
    [({"exit": 3}, "exit_code", 3), ({"signal": signal.SIGSEGV}, "signal", -signal.SIGSEGV)],
)
def test_how_a_copy_ends_is_told_and_it_is_replaced(
    server: RealServer, copied: Callable[[str], str], order: dict[str, Any], reason: str, code: int
) -> None:
    name = copied("obedient")
    assert server.predict(name, **order).status == 500

    def replaced() -> list[dict[str, Any]]:
        return [each for each in server.workers(name) if each["status"] == "READY"]

    (worker,) = wait_for(replaced, 20.0, "a new worker")
    assert (worker["lastExit"]["reason"], worker["lastExit"]["exitCode"]) == (reason, code)


def test_what_a_copy_says_is_in_the_log(server: RealServer, copied: Callable[[str], str]) -> None:
    server.predict(copied("obedient"), say="said by a copy")
    wait_for(lambda: "said by a copy" in server.log(), 10.0, "the line in the log")


def test_workers_outlive_their_template_and_the_next_ones_get_another(
    server: RealServer, copied: Callable[[str], str]
) -> None:
    name = copied("looks")
    before = look(server, name)
    old = template(server)
    old.kill()
    wait_for(lambda: is_gone(old), 10.0, "the end of the template")
    assert look(server, name)["pid"] == before["pid"]
    server.scale(name, 2)
    assert template(server).pid != old.pid
    assert len(server.ready_pids(name)) == 2
    worker = psutil.Process(before["pid"])
    worker.kill()
    wait_for(lambda: before["pid"] not in server.ready_pids(name), 10.0, "its loss to be noticed")
    wait_for(lambda: len(server.ready_pids(name)) == 2, 20.0, "its replacement")


def test_copies_end_with_the_server_however_that_ends(new_server: Callable[..., Any]) -> None:
    server = new_server(preload="colorsys")
    server.start()
    server.serve("obedient")
    template(server)
    server.scale("obedient", 3)
    processes = server.processes()
    server.crash()
    wait_for(lambda: all(map(is_gone, processes[1:])), 10.0, f"the end of {processes[1:]}")


def test_without_the_modules_workers_start_as_they_always_did(
    new_server: Callable[..., Any],
) -> None:
    server = new_server(preload="no_module_of_that_name")
    server.start()
    server.serve("obedient")
    wait_for(lambda: "the template of the workers has ended" in server.log(), 20.0, "the warning")
    assert server.scale("obedient", 2).status == 200
    assert server.scale("obedient", 3).status == 200
    assert server.log().count("the template of the workers has ended") == 1


def test_nobody_waits_for_a_template_that_is_not_ready(
    new_server: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "never_done.py").write_text("import time\nwhile True: time.sleep(1)\n")
    server = new_server(preload="never_done")
    server.environ["PYTHONPATH"] = str(tmp_path)
    server.start()
    server.serve("obedient")
    assert server.scale("obedient", 2).status == 200
    assert len(server.ready_pids("obedient")) == 2
