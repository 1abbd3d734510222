"""``flambeau status``: which servers run here and how their models are."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import FlambeauError
from .cli_client import READ_TIMEOUT, Server
from .cli_server import NOT_RUNNING, locate_run_dir, running_servers
from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .runstate import RunningServer

_Command = TypeVar("_Command", bound="Callable[..., Any]")
MODEL_COLUMNS = ("MODEL", "VERSION", "STATE", "WORKERS", "QUEUE", "RESTARTS", "LAST EXIT")
_LONGEST_REASON = 60


def key_option(command: _Command) -> _Command:
    """Adds ``--key``, the key that the server asks for."""
    return click.option(
        "--key",
        metavar="KEY",
        envvar="FLAMBEAU_API_KEY",
        show_envvar=True,
        help="Key for a server that asks for one. Other users of this machine can see it here; "
        "the variable they cannot.",
    )(command)


def cert_option(command: _Command) -> _Command:
    """Adds ``--cert``, the certificate for a server that asks for one."""
    return click.option(
        "--cert",
        metavar="FILE",
        envvar="FLAMBEAU_CLIENT_CERTIFICATE",
        show_envvar=True,
        help="Certificate and private key (PEM) for a server with client_ca_file.",
    )(command)


@click.command(short_help="Show the running servers and their models.")
@key_option
@cert_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--run-dir", metavar="DIR", help="The run directory that the server was given.")
@click.pass_context
def status(
    ctx: click.Context, key: str | None, cert: str | None, as_json: bool, run_dir: str | None
) -> None:
    """Show the running servers, their health and their models; exit code 1 if there is none."""
    running = running_servers(locate_run_dir(run_dir))
    reports = [_report(server, key, cert) for server in running]
    if as_json:
        click.echo(json.dumps({"servers": reports}, indent=2))
    else:
        click.echo("\n\n".join(_text(report) for report in reports) or NOT_RUNNING)
    ctx.exit(0 if reports else 1)


def model_row(version: Mapping[str, Any]) -> tuple[object, ...]:
    """One line of the table of models, from the management API's description of a version."""
    workers = version.get("workers", [])
    ready = sum(worker.get("status") == "READY" for worker in workers)
    return (
        version.get("modelName"),
        version.get("modelVersion"),
        version.get("status") or ("READY" if ready else "UNLOADING"),
        f"{ready}/{len(workers)}",
        version.get("jobQueueStatus", {}).get("pendingRequests"),
        sum(worker.get("restarts", 0) for worker in workers),
        _last_exit(version),
    )


def _report(server: RunningServer, key: str | None, cert: str | None) -> dict[str, Any]:
    """What is known of a server; ``error`` says why some of it is not."""
    report: dict[str, Any] = {
        "pid": server.pid,
        "startedAt": server.started_at,
        "addresses": dict(server.addresses),
        "log": server.log,
        "health": None,
        "models": [],
    }
    try:
        inference, management = (
            Server(server.addresses[name], pinned=server.certificate, key=key, cert=cert)
            for name in ("inference", "management")
        )
        report["health"] = _health(inference)
        for model in list(management.models()):
            report["models"] += management.call("GET", "models", model["modelName"], "all")
    except FlambeauError as error:
        report["error"] = error.message
    return report


def _health(inference: Server) -> str | None:
    with inference.send("GET", "/ping", timeout=READ_TIMEOUT) as response:
        try:
            answer = json.loads(response.read())
        except (OSError, ValueError):
            return None
    if isinstance(answer, dict) and "status" in answer:
        return str(answer["status"])
    # It asks for a token, and the one at hand is for the other API; this probe asks for none.
    with inference.send("GET", "/readyz", timeout=READ_TIMEOUT) as response:
        return "Healthy" if response.status == 200 else "Unhealthy"


def _text(report: Mapping[str, Any]) -> str:
    minutes, seconds = divmod(round(time.time() - report["startedAt"]), 60)
    health = report["health"] or "state unknown"
    lines = [f"flambeau, pid {report['pid']}, up {minutes} min {seconds} s: {health}"]
    lines += [f"  {name:<10}  {url}" for name, url in report["addresses"].items()]
    if report["log"]:
        lines.append(f"  {'log':<10}  {report['log']}")
    if "error" in report:
        lines.append(f"  {report['error']}")
    elif not report["models"]:
        lines.append("No model is registered.")
    if report["models"]:
        lines += ["", render_table(MODEL_COLUMNS, map(model_row, report["models"]))]
    return "\n".join(lines)


def _last_exit(version: Mapping[str, Any]) -> str | None:
    """Why the version failed, else why its latest worker ended."""
    exits = [worker["lastExit"] for worker in version.get("workers", []) if "lastExit" in worker]
    exits.sort(key=lambda each: str(each.get("time", "")))
    exit = version.get("failure") or (exits[-1] if exits else None)
    if exit is None:
        return None
    words = (str(exit.get(part) or "").split("\n")[0] for part in ("reason", "message"))
    text = ": ".join(word for word in words if word)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
