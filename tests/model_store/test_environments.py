"""Environments: made once for what goes into them, over the server's packages, whole or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from real_server import is_gone, wait_for
from wheels import OFFLINE, source_that_waits, wheel

from flambeau.model_store import environments as module
from flambeau.model_store.environments import PROOF, Environments, Stopped
from flambeau.model_store.errors import DependencyError, StorageError
from flambeau.model_store.installation import reason
from flambeau.worker.loader import ENVIRONMENT_PROOF

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flambeau.model_store.environments import Environment

ENVIRON = {**os.environ, **OFFLINE, "PIP_TARGET": "/nowhere", "PIP_USER": "1"}


class Bench:
    """Models in ``base``, and the environments of a server that are made for them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = base / "environments"
        self.output: list[str] = []
        self._opened: list[Environments] = []
        self.environments = self.open()

    def open(self, timeout: float = 60.0, most_bytes: int = 10**9) -> Environments:
        """Those of a server; closed with the bench."""
        opened = Environments(self.folder, sys.executable, ENVIRON, timeout, most_bytes)
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        for each in self._opened:
            each.close()

    def plan(self, model: str, files: Mapping[str, str | bytes]) -> Environment:
        for name, content in files.items():
            path = self.base / model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self.environments.plan(self.base / model, "requirements.txt")

    def make(self, environment: Environment, stop: threading.Event | None = None) -> None:
        stop = stop or threading.Event()
        self.environments.make(environment, "m", self.output.append, stop)

    def ask(self, environment: Environment, code: str) -> list[str]:
        """What a worker in the environment prints."""
        command = [environment.python, "-c", code]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split("\n")[:-1]

    def left(self) -> list[str]:
        return sorted(os.listdir(self.folder))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def wheels(*packages: tuple[str, bytes]) -> dict[str, str | bytes]:
    return {**dict(packages), "requirements.txt": "".join(f"./{name}\n" for name, _ in packages)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Environment]]:
    """One environment, with a package of its own and one that the server has otherwise."""
    bench = Bench(tmp_path_factory.mktemp("made"))
    # Modules of the archive with names of Python's own are not pip's.
    files = {"types.py": "raise SystemExit", "handler.py": "", "pip.py": "raise SystemExit"}
    packages = wheels(wheel("fl_only", "1.5", requires="numpy"), wheel("pytest", "0.1"))
    environment = bench.plan("a", {**files, **packages})
    bench.make(environment)
    yield bench, environment
    bench.close()


def test_packages_are_layered_on_the_servers(made: tuple[Bench, Environment]) -> None:
    bench, environment = made
    code = "import fl_only, pytest, numpy, sys; print(fl_only.VERSION, pytest.VERSION)"
    code += "; print(numpy.__file__); print(sys.prefix)"
    import numpy

    own, server, prefix = bench.ask(environment, code)
    assert own == "1.5 0.1"
    assert server == numpy.__file__
    assert prefix == str(Path(environment.python).parents[1])
    assert bench.environments.replaced(environment)[0].startswith("pytest 0.1 (")
    assert len(bench.environments.replaced(environment)) == 1


def test_commands_and_entry_points_work(made: tuple[Bench, Environment]) -> None:
    bench, environment = made
    command = Path(environment.python).with_name("fl_only")
    assert subprocess.run([command], capture_output=True, text=True, check=True).stdout == "1.5\n"
    code = "from importlib.metadata import version; print(version('fl_only'), version('pytest'))"
    assert bench.ask(environment, code) == ["1.5 0.1"]


def test_pip_is_heard_and_leaves_nothing_but_the_environment(
    made: tuple[Bench, Environment],
) -> None:
    bench, environment = made
    assert any(line.startswith("Successfully installed fl") for line in bench.output)
    assert any("Requirement already satisfied: numpy" in line for line in bench.output)
    assert bench.left() == [environment.key, f"{environment.key}.lock"]
    assert not (bench.folder / environment.key / "tmp").exists()
    assert bench.folder.stat().st_mode & 0o777 == 0o700
    proof = json.loads((bench.folder / environment.key / PROOF).read_text())
    assert proof["requirements"] is True
    assert 1000 < proof["bytes"] < 10_000_000
    assert PROOF == ENVIRONMENT_PROOF


def test_the_next_server_finds_it_without_pip(made: tuple[Bench, Environment]) -> None:
    bench, environment = made
    other = bench.open()
    started = time.monotonic()
    assert other.plan(bench.base / "a", "requirements.txt") == environment
    assert other.find(environment)
    assert time.monotonic() - started < 0.2
    other.close()


def test_what_goes_in_tells_one_from_another(bench: Bench) -> None:
    files = wheels(wheel("fl_only", "1.0"))
    first = bench.plan("a", files)
    assert bench.plan("b", {**files, "handler.py": "x"}).key == first.key
    assert bench.plan("c", wheels(wheel("fl_only", "1.1"))).key != first.key
    assert bench.environments.plan(bench.base / "a", None).key != first.key
    assert not bench.environments.find(first)
    assert not bench.folder.exists() or bench.left() == []


def test_an_environment_without_packages_is_made_without_pip(bench: Bench) -> None:
    bench.plan("a", {"requirements.txt": ""})
    environment = bench.environments.plan(bench.base / "a", None)
    bench.make(environment)
    assert bench.output == []
    assert bench.ask(environment, "import msgpack; print('sees')") == ["sees"]


def test_a_failure_names_the_requirement_and_leaves_nothing(bench: Bench) -> None:
    files = {"requirements.txt": "./fl_only-1.0-py3-none-any.whl\nno-such-package==1.0\n"}
    environment = bench.plan("a", {**files, **dict([wheel("fl_only", "1.0")])})
    with pytest.raises(DependencyError) as caught:
        bench.make(environment)
    assert caught.value.message.startswith(
        "Custom pip package installation failed for model m: Could not find a version that "
        "satisfies the requirement no-such-package==1.0"
    )
    assert any("no-such-package" in line for line in caught.value.output)
    assert bench.left() == []


def test_what_takes_too_long_is_given_up(bench: Bench, tmp_path: Path) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    files = {"requirements.txt": "./waiting\n", **source_that_waits(started, gate)}
    environment = bench.plan("a", files)
    bench.environments = bench.open(timeout=0.5)
    with pytest.raises(DependencyError, match=r"longer than 0\.5 s \(dependency_timeout\)"):
        bench.make(environment)
    assert bench.left() == []


def test_many_who_want_the_same_have_it_made_once(bench: Bench, tmp_path: Path) -> None:
    """Two in one server, one in another; and one who does not want it any more."""
    started, gate = tmp_path / "started", tmp_path / "gate"
    files = {"requirements.txt": "./waiting\n", **source_that_waits(started, gate)}
    environment, other, stop = bench.plan("a", files), bench.open(), threading.Event()
    with ThreadPoolExecutor(4) as threads:
        try:
            first = threads.submit(bench.make, environment)
            wait_for(started.exists, 30.0, "the build to begin")
            waiting = [
                threads.submit(bench.make, environment),
                threads.submit(
                    other.make, environment, "m", bench.output.append, threading.Event()
                ),
            ]
            gives_up = threads.submit(bench.open().make, environment, "m", print, stop)
            stop.set()
            with pytest.raises(Stopped):
                gives_up.result(10)
            assert not any(each.done() for each in [first, *waiting])
        finally:
            gate.touch()
        for each in [first, *waiting]:
            each.result(30)
    assert sum("Successfully installed" in line for line in bench.output) == 1
    assert bench.ask(environment, "import waiting; print(waiting.VERSION)") == ["1.0"]


def test_an_installation_that_is_ended_takes_all_its_processes_along(
    bench: Bench, tmp_path: Path
) -> None:
    started, stop = tmp_path / "started", threading.Event()
    files = {"requirements.txt": "./waiting\n", **source_that_waits(started, tmp_path / "never")}
    environment = bench.plan("a", files)
    with ThreadPoolExecutor(1) as threads:
        making = threads.submit(bench.make, environment, stop)
        try:
            pid = int(wait_for(lambda: started.exists() and started.read_text(), 30.0, "a build"))
            build = psutil.Process(pid)
        finally:
            stop.set()
        with pytest.raises(Stopped):
            making.result(10)
    wait_for(lambda: is_gone(build), 5.0, "the build to end")
    assert bench.left() == []


SERVER_THAT_DIES = """
import os, sys, threading
from pathlib import Path
from flambeau.model_store.environments import Environments

environments = Environments(Path(sys.argv[1]), sys.executable, os.environ, 60.0, 10**9)
environment = environments.plan(Path(sys.argv[2]), "requirements.txt")
environments.make(environment, "m", print, threading.Event())
"""


def test_a_server_that_is_killed_leaves_no_process_and_nothing_that_is_used(
    bench: Bench, tmp_path: Path
) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    files = {"requirements.txt": "./waiting\n", **source_that_waits(started, gate)}
    environment = bench.plan("a", files)
    command = [sys.executable, "-c", SERVER_THAT_DIES, bench.folder, environment.model_dir]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRON) as server:
        try:
            pid = int(wait_for(lambda: started.exists() and started.read_text(), 30.0, "a build"))
            processes = [psutil.Process(pid), *psutil.Process(server.pid).children(recursive=True)]
        finally:
            server.kill()
    wait_for(lambda: all(map(is_gone, processes)), 5.0, "the processes of pip to end")
    assert (bench.folder / environment.key).is_dir()
    next_server = bench.open()
    assert bench.left() == []
    assert not next_server.find(environment)


def test_those_that_nobody_uses_make_room_the_oldest_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_quickly(command: list[str], *_: object) -> int:
        Path(json.loads(command[-1])["folder"], "package").write_bytes(bytes(1000))
        return 0

    monkeypatch.setattr(module, "run", make_quickly)
    plans = [bench.plan(name, {"requirements.txt": f"# {name}\n"}) for name in ("a", "b", "c")]
    for each in plans:
        bench.make(each)
    for age, each in enumerate(reversed(plans[1:])):
        bench.environments.release(each)
        os.utime(bench.folder / each.key / PROOF, (age, age))
    assert len(bench.left()) == 6
    tight = bench.open(most_bytes=2500)
    assert tight.find(plans[1])
    tight.release(plans[1])
    assert {name for name in bench.left() if "." not in name} == {plans[0].key, plans[1].key}
    # The first is in use by the other server: it stays, however little room there is.
    none = bench.open(most_bytes=0)
    none.release(plans[2])
    assert {name for name in bench.left() if "." not in name} == {plans[0].key}


def test_another_interpreter_is_asked_what_it_is(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    environments = Environments(tmp_path / "environments", str(python), ENVIRON, 60.0, 0)
    assert len(environments.plan(tmp_path, None).key) == 64
    broken = Environments(tmp_path / "environments", str(tmp_path / "none"), ENVIRON, 60.0, 0)
    with pytest.raises(StorageError, match="workers_python"):
        broken.plan(tmp_path, None)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Collecting x", "ERROR: no x", "  error: why"], "no x; why"),
        (["Collecting x", "the last word", ""], "the last word"),
        ([], "pip said nothing"),
        (["ERROR: /srv/cache/x.whl is no wheel"], "x.whl is no wheel"),
        (
            ["ERROR: no x==9 (from versions: 1.0, 1.1, 1.2rc1, 2.0, 3.0)"],
            "no x==9 (from versions: ..., 1.2rc1, 2.0, 3.0)",
        ),
        (["ERROR: no x==9 (from versions: none)"], "no x==9 (from versions: none)"),
        (["ERROR: no x==9 (from versions: 1, 2)"], "no x==9 (from versions: 1, 2)"),
    ],
)
def test_the_reason_is_what_pip_calls_an_error(lines: list[str], words: str) -> None:
    assert reason(lines) == words
