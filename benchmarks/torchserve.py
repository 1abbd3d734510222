"""TorchServe itself, from an environment of its own, with the same echo handler."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from processes import HERE, BenchmarkError, children, in_session, running
from served import START_DEADLINE, call, last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS = ("torchserve", "torch-model-archiver")
_STOP_PATIENCE = 15.0
_POLL = 0.1


@contextmanager
def torchserve(commands: Path | None, folder: Path) -> Iterator[str | None]:
    """TorchServe with one worker for the echo model: the URL of its predictions, once it answers.

    ``commands`` is the folder with COMMANDS; None for no TorchServe and no URL. Everything it
    writes goes under ``folder``. Its processes are gone when the block ends.
    """
    if commands is None:
        yield None
        return
    commands = commands.absolute()  # the commands run in folders of their own
    for name in COMMANDS:
        if not (commands / name).is_file():
            raise BenchmarkError(f"{commands} lacks {name}: --torchserve wants the folder with it.")
    home = folder / "torchserve"
    for name in ("store", "tmp", "logs"):
        (home / name).mkdir(parents=True)
    environ = _environment(commands, home)
    _archive(commands, home, environ)
    inference = _configure(home / "config.properties")
    log = home / "output.log"
    with (
        log.open("wb") as output,
        running(_command(commands), environ, cwd=home, stdout=output, stderr=output) as launcher,
    ):
        try:
            url = f"{inference}/predictions/echo"
            _wait(url, launcher, log)
            yield url
        finally:
            _stop(launcher)


def _environment(commands: Path, home: Path) -> dict[str, str]:
    """As flambeau gets it: nothing of the caller's configuration, no GPU, one thread."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
    return {
        **inherited,
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "TEMP": str(home / "tmp"),
        "TMPDIR": str(home / "tmp"),
        "LOG_LOCATION": str(home / "logs"),
        "METRICS_LOCATION": str(home / "logs"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _archive(commands: Path, home: Path, environ: dict[str, str]) -> None:
    command = [commands / "torch-model-archiver", "--model-name", "echo", "--version", "1.0"]
    command += ["--handler", HERE / "echo_handler.py", "--export-path", home / "store"]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=home, env=environ
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")


def _configure(path: Path) -> str:
    """Write the configuration; the address of the inference API."""
    ports = _free_ports(6)
    addresses = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    values: dict[str, object] = {
        **dict(
            zip(
                ("inference_address", "management_address", "metrics_address"),
                addresses,
                strict=True,
            )
        ),
        "grpc_inference_port": ports[3],
        "grpc_management_port": ports[4],
        "initial_worker_port": ports[5],
        "default_workers_per_model": 1,
        "number_of_gpu": 0,
        # Its collector is a process every minute, which would disturb the others' windows.
        "disable_system_metrics": "true",
    }
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return addresses[0]


def _free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _command(commands: Path) -> list[object]:
    """Relative paths: of its own folder."""
    command: list[object] = [commands / "torchserve", "--start", "--foreground", "--ncs"]
    command += ["--model-store", "store", "--models", "echo=echo.mar"]
    return [*command, "--ts-config", "config.properties", "--disable-token-auth"]


def _wait(url: str, launcher: subprocess.Popen[bytes], log: Path) -> None:
    """Until the model answers; BenchmarkError with the end of the log if it does not."""
    deadline = time.monotonic() + START_DEADLINE
    while True:
        try:
            call("POST", url, b"{}", "application/json")
            return
        except BenchmarkError as exc:
            if launcher.poll() is not None:
                raise BenchmarkError(f"torchserve ended.\n{last_lines(log)}") from exc
            if time.monotonic() > deadline:
                raise BenchmarkError(f"torchserve: {exc}\n{last_lines(log)}") from exc
        time.sleep(_POLL)


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    """End the Java server, then whatever of its session is left, such as a lost worker.

    The launcher does not pass signals on, but it ends when the Java server does.
    """
    try:
        servers = children(launcher.pid)
        _signal(servers, signal.SIGTERM)
        if servers:
            launcher.wait(_STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second Ctrl-C comes by here as well
        _signal(in_session(launcher.pid), signal.SIGKILL)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it has ended meanwhile
            continue
