"""``flambeau restart``: another process in the place of the server, without a request lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_config import command_line, config_options, read_flags
from .cli_server import choose_server, locate_run_dir, show_running
from .config import SETTINGS
from .settings import PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .runstate import Launch, RunningServer

_OURS = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables that say which installation of flambeau is meant: the one of this command."""


@click.command(short_help="Replace the running server without losing a request.")
@config_options
@click.option("--port", type=int, metavar="PORT", help="Management port of the server to replace.")
@click.option("--pid", type=int, metavar="PID", help="Process id of the server to replace.")
def restart(port: int | None, pid: int | None, **options: Any) -> None:
    """Put a new process in the place of a background server, without losing a request.

    It is started with the flags and in the folder of the running one; flags that are given here
    beat those. It loads what is registered now, and takes over when all of that is loaded. If it
    cannot, the running server goes on as if nothing had happened, and the exit code is 1.
    """
    flags = read_flags(**options)
    run_dir = flags.get("run_dir")
    folder = locate_run_dir(None if run_dir is None else str(run_dir))
    server = choose_server(folder, port, pid, "replace")
    if server is None:
        raise click.ClickException(
            "flambeau is not currently running; start it with flambeau start --background."
        )
    if server.launch is None:
        raise click.ClickException(
            f"The server (pid {server.pid}) was not started by flambeau start --background, so "
            "whoever started it must start the next one: flambeau start --replace."
        )
    _replace(server, server.launch, {**server.launch["flags"], **_absolute(flags)})


def _replace(server: RunningServer, launch: Launch, flags: dict[str, Any]) -> None:
    from .background import StartError, start_detached

    command = [sys.executable, "-m", "flambeau.frontend.cli", "start", *command_line(flags)]
    command += ["--launched", f"--replace-pid={server.pid}"]
    if launch["reload"]:
        command.append("--reload")
    try:
        ready = start_detached(
            command,
            Path(launch["folder"], flags["log_file"]),
            while_waiting=lambda: click.echo("Waiting for the models to load ...", err=True),
            environ=_environ(server.pid),
            folder=Path(launch["folder"]),
        )
    except StartError as error:
        raise click.ClickException(
            f"The server (pid {server.pid}) is not replaced and goes on serving.\n{error.message}"
        ) from None
    click.echo(f"flambeau is running (pid {ready.pid}), in the place of pid {server.pid},")
    click.echo("which finishes its requests and ends.")
    show_running(ready)


def _environ(pid: int) -> dict[str, str]:
    """The environment of the running server; the variables of this command's that set keys, and
    those that say where flambeau is, are this command's.
    """
    ours = {
        name: text
        for name, text in os.environ.items()
        if name in _OURS or name.startswith(("FLAMBEAU_", "TS_"))
    }
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    entries = [os.fsdecode(word).partition("=") for word in words if b"=" in word]
    theirs = {name: text for name, _, text in entries if name not in _OURS}
    return {**theirs, **ours}


def _absolute(flags: Mapping[str, object]) -> dict[str, object]:
    """Paths are meant from here, not from the folder of the server."""
    return {
        key: str(Path.cwd() / str(value))
        if key == "config" or SETTINGS[key].kind is PATH
        else value
        for key, value in flags.items()
    }
