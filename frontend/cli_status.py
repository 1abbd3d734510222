"""``flambeau status``: which servers run here and how their models are."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import FlambeauError
from .cli_client import READ_TIMEOUT, Server
from .cli_description import MODEL_COLUMNS, description, model_row, trouble
from .cli_server import NOT_RUNNING, locate_run_dir, running_servers
from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .runstate import RunningServer

_Command = TypeVar("_Command", bound="Callable[..., Any]")


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
@click.argument("model", required=False)
@key_option
@cert_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--run-dir", metavar="DIR", help="The run directory that the server was given.")
@click.pass_context
def status(
    ctx: click.Context,
    model: str | None,
    key: str | None,
    cert: str | None,
    as_json: bool,
    run_dir: str | None,
) -> None:
    """Show the running servers, their health and their models; exit code 1 if there is none.

    With MODEL: all about that one, with the last words of its workers that ended.
    """
    running = running_servers(locate_run_dir(run_dir))
    reports = [_report(server, key, cert, model) for server in running]
    if as_json:
        click.echo(json.dumps({"servers": reports}, indent=2))
    else:
        texts = (_text(report, is_whole=model is not None) for report in reports)
        click.echo("\n\n".join(texts) or NOT_RUNNING)
    found = any(report["models"] for report in reports) if model is not None else bool(reports)
    ctx.exit(0 if found else 1)


def _report(
    server: RunningServer, key: str | None, cert: str | None, model: str | None
) -> dict[str, Any]:
    """What is known of a server and of its models, or of one; ``error`` says why some is not."""
    report: dict[str, Any] = {
        "pid": server.pid,
        "startedAt": server.started_at,
        "addresses": dict(server.addresses),
        "log": server.log,
        "health": None,
        "ready": None,
        "models": [],
    }
    try:
        inference, management = (
            Server(server.addresses[name], pinned=server.certificate, key=key, cert=cert)
            for name in ("inference", "management")
        )
        report["health"], report["ready"] = _health(inference), _readiness(inference)
        names = [each["modelName"] for each in management.models()] if model is None else [model]
        for name in names:
            report["models"] += management.call("GET", "models", name, "all")
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
    return "Healthy" if _readiness(inference) else "Unhealthy"


def _readiness(inference: Server) -> bool | None:
    """Whether each model can be asked right now: /ping calls what may recover healthy for long."""
    with inference.send("GET", "/readyz", timeout=READ_TIMEOUT) as response:
        return {200: True, 503: False}.get(response.status)


def _text(report: Mapping[str, Any], *, is_whole: bool) -> str:
    minutes, seconds = divmod(round(time.time() - report["startedAt"]), 60)
    health = report["health"] or "state unknown"
    health += ", not ready" if report["ready"] is False else ""
    lines = [f"flambeau, pid {report['pid']}, up {minutes} min {seconds} s: {health}"]
    lines += [f"  {name:<10}  {url}" for name, url in report["addresses"].items()]
    if report["log"]:
        lines.append(f"  {'log':<10}  {report['log']}")
    models = report["models"]
    if "error" in report:
        lines.append(f"  {report['error']}")
    elif not models:
        lines.append("No model is registered.")
    if is_whole:
        return "\n\n".join(["\n".join(lines), *map(description, models)])
    if models:
        lines += ["", render_table(MODEL_COLUMNS, map(model_row, models))]
        lines += [f"\n{text}" for text in map(trouble, models) if text is not None]
    return "\n".join(lines)
