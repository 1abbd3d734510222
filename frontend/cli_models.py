"""``flambeau models``, which talks to the management API, and ``flambeau predict``."""

from __future__ import annotations

import functools
import json
import mimetypes
import sys
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

from .cli_client import KEY_HINT, AnswerError, Server, UnreachableError
from .cli_description import description
from .cli_server import locate_run_dir, running_servers
from .cli_status import cert_option, key_option
from .table import render_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_Command = TypeVar("_Command", bound="Callable[..., Any]")
_COUNT = click.IntRange(min=0)
_POSITIVE = click.IntRange(min=1)
_PIECE = 65536
_ADDRESSES = {"management": "http://127.0.0.1:8081", "inference": "http://127.0.0.1:8080"}
_DEFAULT = "the server that runs here"


def _management_options(command: _Command) -> _Command:
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    command = cert_option(key_option(command))
    command = click.option(
        "--cacert", metavar="FILE", help="Certificates that vouch for an https server."
    )(command)
    command = click.option(
        "--management",
        metavar="URL",
        envvar="FLAMBEAU_MANAGEMENT",
        show_envvar=True,
        help=f"Management address of the server.  [default: {_DEFAULT}]",
    )(command)

    @functools.wraps(command)
    def with_server(
        management: str | None,
        cacert: str | None,
        key: str | None,
        cert: str | None,
        **options: Any,
    ) -> None:
        command(server=find_server("management", management, cacert, key, cert), **options)

    return with_server  # type: ignore[return-value]


@click.group()
def models() -> None:
    """Register, scale and inspect the models of a running server."""


@models.command("list")
@_management_options
def list_models(server: Server, as_json: bool) -> None:
    """List the registered models."""
    found = list(server.models())
    if as_json:
        click.echo(json.dumps({"models": found}, indent=2))
    elif found:
        rows = [(model.get("modelName"), model.get("modelUrl")) for model in found]
        click.echo(render_table(("MODEL", "ARCHIVE"), rows))
    else:
        click.echo("No model is registered.")


@models.command()
@click.argument("url")
@click.option("--model-name", help="Name to register it under.  [default: the archive's]")
@click.option("--handler", help="Handler to use instead of the archive's.")
@click.option("--runtime", type=click.Choice(["python", "python3"]), help="Interpreter.")
@click.option("--batch-size", type=_POSITIVE, help="Most requests in one batch.")
@click.option("--max-batch-delay", type=_COUNT, metavar="MS", help="Longest wait for a batch.")
@click.option("--initial-workers", type=_COUNT, help="Workers to start.")
@click.option("--response-timeout", type=_POSITIVE, metavar="S", help="Time for one batch.")
@click.option("--startup-timeout", type=_POSITIVE, metavar="S", help="Time to load the model.")
@click.option("--async", "asynchronous", is_flag=True, help="Do not wait for the workers.")
@_management_options
def register(
    url: str, asynchronous: bool, server: Server, as_json: bool, **parameters: Any
) -> None:
    """Register the archive URL of the model store, and start its workers."""
    query = {"url": url, **parameters, "synchronous": not asynchronous}
    _reply(server.call("POST", "models", query=query, timeout=None), as_json)


@models.command()
@click.argument("name")
@click.argument("url")
@click.option("--initial-workers", type=_COUNT, help="Workers.  [default: as many as there are]")
@click.option("--keep-old", is_flag=True, help="Leave the old version registered.")
@click.option("--async", "asynchronous", is_flag=True, help="Do not wait for the end.")
@_management_options
def replace(
    name: str, url: str, asynchronous: bool, server: Server, as_json: bool, **parameters: Any
) -> None:
    """Put the archive URL in the place of what serves as NAME, without a gap.

    The new workers are loaded and tried first. If that fails, the old ones go on serving.
    """
    parameters = {**parameters, "replace": True, "synchronous": not asynchronous}
    query = {"url": url, "model_name": name, **parameters}
    _reply(server.call("POST", "models", query=query, timeout=None), as_json)


@models.command()
@click.argument("name")
@click.option("--version", help="Version to scale.  [default: the default version]")
@click.option("--min-worker", type=_COUNT, required=True, help="Workers to have at least.")
@click.option("--max-worker", type=_COUNT, help="Workers to have at most.  [default: as many]")
@click.option("--timeout", type=_COUNT, metavar="S", help="Longest wait for the workers.")
@click.option("--async", "asynchronous", is_flag=True, help="Do not wait for the workers.")
@_management_options
def scale(
    name: str,
    version: str | None,
    asynchronous: bool,
    server: Server,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Set the number of workers of model NAME."""
    query = {**parameters, "synchronous": not asynchronous}
    reply = server.call("PUT", *_path(name, version), query=query, timeout=None)
    _reply(reply, as_json)


@models.command()
@click.argument("name")
@click.option("--version", help='A version, or "all".  [default: the default version]')
@_management_options
def describe(name: str, version: str | None, server: Server, as_json: bool) -> None:
    """Show the settings and workers of model NAME."""
    versions = server.call("GET", *_path(name, version))
    if as_json:
        click.echo(json.dumps(versions, indent=2))
    else:
        click.echo("\n\n".join(description(each) for each in versions))


@models.command()
@click.argument("name")
@click.option("--version", help="Version to remove.  [default: the default version]")
@_management_options
def unregister(name: str, version: str | None, server: Server, as_json: bool) -> None:
    """Remove model NAME once its requests are answered."""
    _reply(server.call("DELETE", *_path(name, version), timeout=None), as_json)


@models.command("set-default")
@click.argument("name")
@click.argument("version")
@_management_options
def set_default(name: str, version: str, server: Server, as_json: bool) -> None:
    """Make VERSION answer the requests for NAME that ask for no version."""
    _reply(server.call("PUT", *_path(name, version), "set-default"), as_json)


@click.command()
@click.argument("model")
@click.option("--version", help="Version to ask.  [default: the default version]")
@click.option("--input", "input_file", metavar="FILE", help="File to send; - is standard input.")
@click.option("--json", "json_text", metavar="TEXT", help="JSON to send.")
@click.option("--content-type", metavar="TYPE", help="Type of the input.  [default: guessed]")
@click.option(
    "--url",
    metavar="URL",
    help=f"Inference address of the server.  [default: {_DEFAULT}]",
)
@click.option("--cacert", metavar="FILE", help="Certificates that vouch for an https server.")
@key_option
@cert_option
@click.pass_context
def predict(
    ctx: click.Context,
    model: str,
    version: str | None,
    input_file: str | None,
    json_text: str | None,
    content_type: str | None,
    url: str | None,
    cacert: str | None,
    key: str | None,
    cert: str | None,
) -> None:
    """Send an input to MODEL and print the answer.

    If the answer is an error, its status goes to standard error and the exit code is 1.
    """
    if (input_file is None) == (json_text is None):
        raise click.UsageError("Give the input: either --input FILE or --json TEXT.")
    body, guess = read_input(str(input_file)) if json_text is None else _checked_json(json_text)
    path = "/".join(quote(part, safe="") for part in ("predictions", model, version) if part)
    with find_server("inference", url, cacert, key, cert).send(
        "POST", f"/{path}", body=body, content_type=content_type or guess
    ) as response:
        _print_body(response)
        if response.status >= 400:
            hint = KEY_HINT if response.status == 401 else ""
            click.echo(f"HTTP {response.status} {response.reason}".rstrip() + hint, err=True)
            ctx.exit(1)


def find_server(
    listener: str, url: str | None, cacert: str | None, key: str | None, cert: str | None
) -> Server:
    """The one at ``url``; without that, the only one on record that runs here.

    Raises UnreachableError where several run.
    """
    if url is not None:
        return Server(url, cacert, key=key, cert=cert)
    running = running_servers(locate_run_dir(None))
    if len(running) > 1:
        addresses = ", ".join(each.addresses[listener] for each in running)
        flag = "--url" if listener == "inference" else "--management"
        raise UnreachableError(f"Several servers run here: {addresses}. Name one with {flag}.")
    if not running:
        return Server(_ADDRESSES[listener], cacert, key=key, cert=cert)
    pinned = None if cacert else running[0].certificate
    return Server(running[0].addresses[listener], cacert, pinned, key, cert)


def _path(name: str, version: str | None) -> Sequence[str]:
    if not name or "/" in name or (version is not None and (not version or "/" in version)):
        # The server would take it for another route.
        raise click.UsageError("NAME is the name of one model; give its version with --version.")
    return ("models", name) if version is None else ("models", name, version)


def _reply(reply: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(reply, indent=2))
    elif isinstance(reply, dict) and "status" in reply:
        click.echo(reply["status"])
    else:
        raise AnswerError(f"The server's answer is not understood: {reply}")


def _checked_json(text: str) -> tuple[bytes, str | None]:
    try:
        json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--json is not JSON: {error}") from None
    return text.encode(), "application/json"


def read_input(name: str) -> tuple[bytes, str | None]:
    """The bytes of a file, of standard input for ``-``, and the type that its name tells of."""
    if name == "-":
        return sys.stdin.buffer.read(), None
    try:
        return Path(name).read_bytes(), mimetypes.guess_type(name)[0]
    except OSError as error:
        raise click.ClickException(f"{name} cannot be read: {error.strerror}") from None


def _print_body(response: Any) -> None:
    """Each piece as it comes, so that a stream is seen while it lasts."""
    output = sys.stdout.buffer
    last = b"\n"
    for piece in _pieces(response):
        output.write(piece)
        output.flush()
        last = piece[-1:]
    if last != b"\n" and output.isatty():
        output.write(b"\n")


def _pieces(response: Any) -> Iterator[bytes]:
    try:
        while piece := response.read1(_PIECE):
            yield piece
    except (ConnectionError, HTTPException) as error:
        raise UnreachableError(f"The answer broke off: {error!r}.") from None
