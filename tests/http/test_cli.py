"""The command flambeau: its groups, start, stop and config, without a real server."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from flambeau import __version__
from flambeau.frontend.background import Ready, StartError, start_detached
from flambeau.frontend.cli import main
from flambeau.frontend.runstate import Launch, read_states, write_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flambeau.frontend.config import Config


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs each test in an empty folder, without variables that set something."""
    for name in list(os.environ):
        if name.startswith(("TS_", "FLAMBEAU_", "XDG_")):
            monkeypatch.delenv(name)
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("FLAMBEAU_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, int | None]]:
    """What a stand-in for the server was run with."""
    calls: list[tuple[Config, int | None]] = []

    def run(config: Config, ready_fd: int | None = None, **_: object) -> int:
        calls.append((config, ready_fd))
        return 7

    module = ModuleType("flambeau.frontend.serve")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def flambeau(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_the_version_is_printed() -> None:
    assert flambeau("--version").output == f"flambeau {__version__}\n"


def test_the_version_comes_without_heavy_imports() -> None:
    spy = (
        "import sys; from flambeau.frontend.cli import main\n"
        "main(['--version'], standalone_mode=False)\n"
        "heavy = {'aiohttp', 'zmq', 'torch', 'asyncio', 'yaml', 'msgpack'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (f"flambeau {__version__}\n", "", 0)


def test_the_module_is_the_command_too() -> None:
    command = [sys.executable, "-m", "flambeau.frontend.cli", "--version"]
    assert subprocess.check_output(command, text=True) == f"flambeau {__version__}\n"


def test_client_commands_do_not_import_the_server_either() -> None:
    spy = (
        "import sys; from flambeau.frontend import cli_models, cli_server, cli_config, cli_status\n"
        "heavy = {'aiohttp', 'zmq', 'torch', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_help_lists_every_command() -> None:
    result = flambeau("--help")
    assert result.exit_code == 0
    for name in ("start", "stop", "status", "archive", "models", "predict", "config"):
        assert re.search(rf"^  {name} +\S", result.output, re.MULTILINE), name


def test_an_unknown_command_is_wrong_usage() -> None:
    result = flambeau("serve")
    assert result.exit_code == 2
    assert "No such command 'serve'" in result.output


def test_start_runs_the_server_and_returns_its_exit_code(
    served: list[tuple[Config, int | None]], tmp_path: Path
) -> None:
    result = flambeau(
        *(
            "start",
            "--model-store",
            "store",
            "--models",
            "a=a.mar,b.mar",
            "--models",
            "c.mar d.mar",
        ),
        *("--management-address", "http://127.0.0.1:9", "--access-log", "--log-level", "debug"),
    )
    assert (result.exit_code, result.output) == (7, "")
    ((config, ready_fd),) = served
    assert ready_fd is None
    assert config.model_store == tmp_path / "store"
    assert config.load_models == (
        ("a", "a.mar"),
        (None, "b.mar"),
        (None, "c.mar"),
        (None, "d.mar"),
    )
    assert config.management_address == "http://127.0.0.1:9"
    assert config.access_log
    assert config.log_level == "DEBUG"
    assert config.run_dir.stat().st_mode & 0o777 == 0o700


def test_several_models_may_follow_one_flag(served: list[tuple[Config, int | None]]) -> None:
    result = flambeau("start", "--models", "a=a.mar", "b.mar", "--model-store", "store")
    assert result.exit_code == 7
    assert served[0][0].load_models == (("a", "a.mar"), (None, "b.mar"))


def test_stray_arguments_are_wrong_usage(served: list[tuple[Config, int | None]]) -> None:
    result = flambeau("start", "b.mar", "--model-store", "store")
    assert result.exit_code == 2
    assert "unexpected extra argument (b.mar)" in result.output
    assert not served


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["start"], "Error: Missing mandatory parameter --model-store"),
        (["start", "--model-store", "x"], "Error: --model-store directory not found: "),
        (["start", "--ts-config", "x"], "Error: --ts-config file not found: x"),
        (["start", "--config", "x"], "Error: --ts-config file not found: x"),
        (["config", "explain", "--log-level", "x"], "Error: log_level=x (flag --log-level): must"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_clear_line(
    args: list[str], message: str, served: list[tuple[Config, int | None]]
) -> None:
    result = flambeau(*args)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not served


def test_start_in_background_starts_the_same_server_again(
    served: list[tuple[Config, int | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []

    def fake(command: list[str], log: Path, while_waiting: object) -> Ready:
        commands.append(command)
        process: Any = None
        return Ready(42, {"management": "http://127.0.0.1:9"}, log, process)

    monkeypatch.setattr("flambeau.frontend.background.start_detached", fake)
    Path("c.properties").write_text("job_queue_size=5\nallow_open_listeners=true")
    flags = ["--model-store=store", "--models", "a=a.mar", "b.mar", "--no-access-log"]
    flags += ["--ts-config", "c.properties", "--management-address", "http://127.0.0.1:9"]
    flags += ["--metrics-address", "http://10.0.0.1:1", "--allow-open-listeners"]
    result = flambeau("start", "--background", *flags)
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: metrics_address=http://10.0.0.1:1: ")
    assert result.stdout.splitlines() == [
        "flambeau is running (pid 42).",
        "  management  http://127.0.0.1:9",
        f"  log         {tmp_path / 'run' / 'logs' / '9.log'}",
    ]
    ((executable, *words),) = commands
    assert (executable, words[:2]) == (sys.executable, ["-m", "flambeau.frontend.cli"])
    assert flambeau(*words[2:], "--ready-fd", "5").exit_code == 7
    assert flambeau("start", *flags).exit_code == 7
    (child, ready_fd), (foreground, _) = served
    assert ready_fd == 5
    assert child.log_file == tmp_path / "run" / "logs" / "9.log"
    sources = {key: where for key, where in child.sources.items() if key != "log_file"}
    assert dataclasses.replace(child, log_file=None, sources=sources) == foreground


SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from flambeau.frontend.runstate import write_state
port, stubborn = int(sys.argv[1]), sys.argv[2] == "stubborn"
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(0))
here = {name: f"http://127.0.0.1:{port}" for name in ("inference", "management", "metrics")}
write_state(Path("run"), here)
print("up", flush=True)
while True:
    time.sleep(60)
"""


@contextmanager
def running(port: int, kind: str = "obedient") -> Iterator[subprocess.Popen[str]]:
    """A process on record as a server."""
    Path("run").mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-c", SERVER, str(port), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("args", [[], ["--port", "1"], ["--force"]])
def test_stop_without_a_server_says_so_and_is_content(args: list[str]) -> None:
    result = flambeau("stop", *args)
    assert (result.exit_code, result.output) == (0, "flambeau is not currently running.\n")


def test_stop_ends_the_server() -> None:
    with running(9) as process:
        result = flambeau("stop")
        assert (result.exit_code, result.output) == (0, "flambeau has stopped.\n")
        assert process.wait(5) == 0
    assert read_states(Path("run")) == []


def test_stop_asks_which_of_several_servers() -> None:
    with running(8) as first, running(9) as second:
        result = flambeau("stop")
        assert result.exit_code == 1
        assert f"--port 8  (pid {first.pid})" in result.output
        assert f"--port 9  (pid {second.pid})" in result.output
        assert flambeau("stop", "--port", "8").exit_code == 0
        assert first.wait(5) == 0
        assert second.poll() is None


def test_a_server_that_does_not_end_in_time_is_left_alone_or_killed() -> None:
    with running(9, "stubborn") as process:
        result = flambeau("stop", "--timeout", "0.2")
        assert result.exit_code == 1
        assert "Stopping flambeau took too long" in result.output
        assert process.poll() is None
        result = flambeau("stop", "--timeout", "1.3", "--force")
        assert result.exit_code == 0
        assert result.stderr == "Waiting for the server to finish its requests ...\n"
        assert result.stdout == "flambeau was killed.\n"
        assert process.wait(5) == -signal.SIGKILL


def test_the_record_of_a_dead_server_is_forgotten() -> None:
    with running(9, "stubborn"):
        pass
    assert len(read_states(Path("run"))) == 1
    assert flambeau("stop").output == "flambeau is not currently running.\n"
    assert read_states(Path("run")) == []


def test_a_second_server_on_the_same_management_port_is_refused(
    served: list[tuple[Config, int | None]],
) -> None:
    with running(9) as process:
        args = ("start", "--model-store", "store", "--management-address")
        result = flambeau(*args, "http://127.0.0.1:9")
        assert result.exit_code == 1
        assert f"flambeau is already running on http://127.0.0.1:9 (pid {process.pid})" in (
            result.output
        )
        assert not served
        assert flambeau(*args, "http://127.0.0.1:10").exit_code == 7


def test_a_run_directory_that_is_not_ours_is_refused() -> None:
    Path("run").symlink_to("store")
    for args in (["stop"], ["status"], ["start", "--model-store", "store"]):
        result = flambeau(*args)
        assert result.exit_code == 1
        assert "is a symbolic link" in result.output


def test_config_explain_tells_where_values_come_from() -> None:
    Path("config.properties").write_text("job_queue_size=5\nvmargs=-Xmx1g\n")
    result = flambeau("config", "explain", "--log-level", "error")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert rows["KEY"] == ["VALUE", "SOURCE"]
    assert rows["log_level"] == ["ERROR", "flag", "--log-level"]
    assert rows["job_queue_size"] == ["5", f"{Path.cwd() / 'config.properties'}:1"]
    assert rows["run_dir"][1:] == ["environment", "FLAMBEAU_RUN_DIR"]
    assert rows["batching"] == ["adaptive", "default"]
    assert "vmargs has no effect" in result.stderr


def test_config_explain_speaks_json() -> None:
    Path("config.properties").write_text("job_queue_size=5\nvmargs=-Xmx1g\n")
    result = flambeau("config", "explain", "--json")
    answer = json.loads(result.stdout)
    rows = {row["key"]: (row["value"], row["source"]) for row in answer["settings"]}
    assert rows["job_queue_size"][0] == 5
    assert rows["access_log"] == (False, "default")
    assert len(answer["warnings"]) == 1


def test_config_keys_lists_what_may_be_set() -> None:
    keys = {key["key"]: key for key in json.loads(flambeau("config", "keys", "--json").stdout)}
    assert keys["batching"]["allowed"] == "adaptive or fixed"
    assert keys["log_level"]["variables"] == ["FLAMBEAU_LOG_LEVEL", "TS_LOG_LEVEL"]
    assert "batching\n" in flambeau("config", "keys").output


def detached(tmp_path: Path, script: str, **more: Any) -> Ready:
    preface = "import json, os, sys, time; fd = int(sys.argv[-1])\n"
    return start_detached([sys.executable, "-c", preface + script], tmp_path / "log", **more)


def test_a_detached_server_is_ready_when_it_says_so(tmp_path: Path) -> None:
    waits: list[bool] = []
    ready = detached(
        tmp_path,
        "print('starting', flush=True); time.sleep(1.2)\n"
        "where = {'management': ['::1', 9], 'metrics': 'http://h:1'}\n"
        "word = json.dumps({'pid': os.getpid(), 'addresses': where}).encode()\n"
        "os.write(fd, word[:9]); os.write(fd, word[9:] + b'\\n'); time.sleep(60)",
        while_waiting=lambda: waits.append(True),
    )
    try:
        assert ready.pid == ready.process.pid
        assert ready.addresses == {"management": "http://[::1]:9", "metrics": "http://h:1"}
        assert os.getsid(ready.pid) == ready.pid
        assert ready.log.read_text() == "starting\n"
        assert waits == [True]
    finally:
        ready.process.kill()
        ready.process.wait(5)


def test_a_detached_server_that_dies_shows_the_end_of_its_own_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old trouble\n")
    with pytest.raises(StartError) as caught:
        detached(tmp_path, "print(*range(99), sep='\\n'); sys.exit('no such port')")
    lines = caught.value.message.splitlines()
    assert lines[0] == "flambeau did not start: it ended with exit code 1"
    assert len(lines) == 22
    assert "  no such port" in lines
    assert "old trouble" not in caught.value.message


def test_a_detached_server_may_say_why_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="flambeau did not start: the port is taken\n"):
        detached(tmp_path, 'os.write(fd, b\'{"error": "the port is taken"}\\n\'); sys.exit(3)')


def test_an_interrupted_wait_stops_the_server(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while log.read_text() != "up\n":
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        raise KeyboardInterrupt

    script = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('stopped', flush=True), os._exit(0)))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        detached(tmp_path, script, while_waiting=interrupt)
    assert log.read_text() == "up\nstopped\n"


def test_restart_starts_the_next_server_as_the_running_one_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[list[str], Path, dict[str, Any]]] = []

    def fake(command: list[str], log: Path, **more: Any) -> Ready:
        calls.append((command, log, more))
        process: Any = None
        return Ready(43, {"management": "http://127.0.0.1:9"}, log, process)

    monkeypatch.setattr("flambeau.frontend.background.start_detached", fake)
    monkeypatch.setenv("FLAMBEAU_JOB_QUEUE_SIZE", "7")
    Path("elsewhere").mkdir()
    flags = {"model_store": "store", "log_file": "run/9.log", "config": "c.properties"}
    launch: Launch = {"flags": flags, "reload": True, "folder": str(tmp_path / "elsewhere")}
    names = ("inference", "management", "metrics")
    Path("run").mkdir(mode=0o700)
    write_state(Path("run"), dict.fromkeys(names, "http://127.0.0.1:9"), launch=launch)
    result = flambeau("restart", "--config", "new.properties", "--access-log")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:2] == [
        f"flambeau is running (pid 43), in the place of pid {os.getpid()},",
        "which finishes its requests and ends.",
    ]
    ((command, log, more),) = calls
    assert command[:4] == [sys.executable, "-m", "flambeau.frontend.cli", "start"]
    assert set(command[4:]) == {
        "--model-store=store",
        "--log-file=run/9.log",
        # What is given here is meant from here, and beats what was given then.
        f"--config={tmp_path / 'new.properties'}",
        "--access-log",
        "--launched",
        "--reload",
        f"--replace-pid={os.getpid()}",
    }
    assert log == tmp_path / "elsewhere" / "run" / "9.log"
    assert more["folder"] == tmp_path / "elsewhere"
    assert more["environ"]["FLAMBEAU_JOB_QUEUE_SIZE"] == "7"


def test_restart_needs_a_server_that_was_started_in_the_background() -> None:
    result = flambeau("restart")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not currently running; start it with flambeau start --background" in result.stderr
    with running(9) as process:
        result = flambeau("restart")
        assert result.exit_code == 1
        assert f"pid {process.pid}" in result.stderr
        assert "flambeau start --replace" in result.stderr


def test_a_restart_that_fails_says_who_goes_on_serving(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake(*_: object, **__: object) -> Ready:
        raise StartError("flambeau did not start: the dog ate it")

    monkeypatch.setattr("flambeau.frontend.background.start_detached", fake)
    launch: Launch = {"flags": {"log_file": "x.log"}, "reload": False, "folder": str(tmp_path)}
    names = ("inference", "management", "metrics")
    Path("run").mkdir(mode=0o700)
    write_state(Path("run"), dict.fromkeys(names, "http://127.0.0.1:9"), launch=launch)
    result = flambeau("restart")
    assert result.exit_code == 1
    assert f"(pid {os.getpid()}) is not replaced and goes on serving" in result.stderr
    assert "the dog ate it" in result.stderr


def test_start_replace_takes_the_place_of_the_server_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one with its management address, or the only one; without one it just starts."""
    replaced: list[int | None] = []

    def run(config: Config, ready_fd: int | None, **more: Any) -> int:
        replaced.append(more["replaced"])
        return 7

    module = ModuleType("flambeau.frontend.serve")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    start = ["start", "--model-store=store", "--management-address=http://127.0.0.1:9"]
    assert flambeau(*start, "--replace").exit_code == 7
    assert replaced[-1] is None
    with running(8) as other:
        assert flambeau(*start, "--replace").exit_code == 7
        assert replaced[-1] == other.pid
        with running(9) as same:
            assert flambeau(*start, "--replace").exit_code == 7
            assert replaced[-1] == same.pid
            assert flambeau(*start).exit_code == 1
