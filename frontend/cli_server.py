"""``flambeau start`` and ``flambeau stop``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_config import command_line, config_options, read_config, read_flags, show_warnings
from .config import check_run_dir, find_run_dir, parse_address, prepare_run_dir
from .errors import ConfigError
from .runstate import RunningServer, is_alive, read_states, remove_state, server_name

if TYPE_CHECKING:
    from .background import Ready
    from .config import Config
    from .runstate import Launch

_POLL = 0.05
_KILL_PATIENCE = 5.0
NOT_RUNNING = "flambeau is not currently running."


@click.command()
@config_options
@click.option(
    "--background", is_flag=True, help="Return when the server is ready; it keeps running."
)
@click.option(
    "--reload", is_flag=True, help="Give a model new workers when its files in the store change."
)
@click.option(
    "--replace",
    is_flag=True,
    help="Take the place of the server that runs, without losing a request; see flambeau restart.",
)
@click.option("--replace-pid", type=int, hidden=True)
@click.option("--launched", is_flag=True, hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
@click.pass_context
def start(
    ctx: click.Context,
    /,
    background: bool,
    reload: bool,
    replace: bool,
    replace_pid: int | None,
    launched: bool,
    ready_fd: int | None,
    **options: Any,
) -> None:
    """Serve the models of a model store.

    The server runs in the foreground until it is interrupted (then it finishes the requests that
    it has accepted), or with --background until `flambeau stop`.
    """
    flags = read_flags(**options)
    config = read_config(flags)
    if config.model_store is None:
        raise ConfigError(
            "Missing mandatory parameter --model-store: the folder that holds your archives."
        )
    prepare_run_dir(config)
    if replace and replace_pid is None:
        replace_pid = _to_replace(config)
    if replace_pid is None:
        refuse_second(config)
    if background:
        # In the foreground the server's log says them.
        show_warnings(config)
        _start_in_background(flags, config, reload, replace_pid)
        return
    from .serve import run

    launch: Launch | None = None
    if launched:
        launch = {"flags": flags, "reload": reload, "folder": str(Path.cwd())}
    ctx.exit(run(config, ready_fd, reload=reload, replaced=replace_pid, launch=launch))


@click.command(short_help="Stop the running server.")
@click.option("--port", type=int, metavar="PORT", help="Management port of the server to stop.")
@click.option("--pid", type=int, metavar="PID", help="Process id of the server to stop.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the server to finish its requests.",
)
@click.option("--force", is_flag=True, help="Kill the server when the timeout has passed.")
@click.option("--run-dir", metavar="DIR", help="The run directory that the server was given.")
def stop(
    port: int | None, pid: int | None, timeout: float, force: bool, run_dir: str | None
) -> None:
    """Stop the running server once it has finished the requests that it has accepted."""
    folder = locate_run_dir(run_dir)
    server = choose_server(folder, port, pid, "stop")
    if server is None:
        click.echo(NOT_RUNNING)
        return
    _stop(server, timeout, force)
    remove_state(folder, server)


def choose_server(
    folder: Path, port: int | None, pid: int | None, purpose: str
) -> RunningServer | None:
    """The running server that is meant, None if there is none; raises ClickException if several
    may be.
    """
    servers = [
        server
        for server in running_servers(folder)
        if port in (None, server.management_port) and pid in (None, server.pid)
    ]
    if len(servers) > 1:
        lines = [
            f"  --port {each.management_port}  (pid {each.pid})"
            if each.management_port
            else f"  --pid {each.pid}  ({each.addresses['management']})"
            for each in servers
        ]
        raise click.ClickException(
            "\n".join([f"Several servers are running; name the one to {purpose}:", *lines])
        )
    return servers[0] if servers else None


def locate_run_dir(given: str | None) -> Path:
    """The run directory that the flag, the environment or the configuration file names."""
    path = find_run_dir({"run_dir": given}, os.environ, Path.cwd())
    check_run_dir(path)
    return path


def running_servers(run_dir: Path) -> list[RunningServer]:
    """Servers on record that run; the records of the others are removed."""
    found = []
    for server in read_states(run_dir):
        if is_alive(server):
            found.append(server)
        else:
            remove_state(run_dir, server)
    return found


def refuse_second(config: Config) -> None:
    """Raise ConfigError if a server on record has the same management address."""
    name = server_name(parse_address(config.management_address))
    for server in running_servers(config.run_dir):
        if server.name == name:
            raise ConfigError(
                f"flambeau is already running on {server.addresses['management']} "
                f"(pid {server.pid}), please use flambeau stop to stop it."
            )


def _to_replace(config: Config) -> int | None:
    """The server with this management address, else the only one there is, else None."""
    name = server_name(parse_address(config.management_address))
    servers = running_servers(config.run_dir)
    if len(servers) > 1:
        servers = [server for server in servers if server.name == name]
    return servers[0].pid if servers else None


def _start_in_background(
    flags: dict[str, object], config: Config, reload: bool, replaced: int | None
) -> None:
    from .background import start_detached

    name = server_name(parse_address(config.management_address))
    log = config.log_file or config.run_dir / "logs" / f"{name}.log"
    command = [sys.executable, "-m", "flambeau.frontend.cli", "start", *command_line(flags)]
    command.append("--launched")
    if reload:
        command.append("--reload")
    if replaced is not None:
        command.append(f"--replace-pid={replaced}")
    if config.log_file is None:
        command.append(f"--log-file={log}")
    ready = start_detached(
        command,
        log,
        while_waiting=lambda: click.echo("Waiting for the models to load ...", err=True),
    )
    click.echo(f"flambeau is running (pid {ready.pid}).")
    show_running(ready)


def show_running(ready: Ready) -> None:
    """Print where a server can be asked, and what it does not serve."""
    for name, url in ready.addresses.items():
        click.echo(f"  {name:<10}  {url}")
    click.echo(f"  {'log':<10}  {ready.log}")
    for failure in ready.failed:
        click.echo(f"Warning: not served: {failure}", err=True)


def _stop(server: RunningServer, timeout: float, force: bool) -> None:
    _signal(server, signal.SIGTERM)
    if _wait_until_gone(server, timeout):
        click.echo("flambeau has stopped.")
        return
    if not force:
        raise click.ClickException(
            f"Stopping flambeau took too long: pid {server.pid} still finishes its requests. "
            "Wait for it, or use --force."
        )
    _signal(server, signal.SIGKILL)
    if not _wait_until_gone(server, _KILL_PATIENCE):
        raise click.ClickException(f"Process {server.pid} cannot be killed.")
    click.echo("flambeau was killed.")


def _signal(server: RunningServer, number: signal.Signals) -> None:
    try:
        if is_alive(server):
            os.kill(server.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise click.ClickException(f"Process {server.pid} belongs to another user.") from None


def _wait_until_gone(server: RunningServer, timeout: float) -> bool:
    began = time.monotonic()
    told = False
    while is_alive(server):
        waited = time.monotonic() - began
        if waited >= timeout:
            return False
        if waited >= 1 and not told:
            click.echo("Waiting for the server to finish its requests ...", err=True)
            told = True
        time.sleep(_POLL)
    return True
