"""``flambeau handler``: try a handler out while it is being written."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..model_store.store import default_model_name
from .cli_config import read_config
from .cli_models import read_input
from .jobs import Part
from .precedence import Registration

if TYPE_CHECKING:
    from .jobs import Outcome
    from .rehearsal import Input

_BATCH_DELAY = 100
"""Milliseconds in which all inputs are there, so that they make one batch."""


@click.group(short_help="Try a handler out.")
def handler() -> None:
    """Try a handler out while it is being written."""


@handler.command(short_help="Run a handler on inputs, without a server.")
@click.argument("handler")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE",
    help="Body of a request, - for standard input; several make one batch.  [default: none]",
)
@click.option("--content-type", metavar="TYPE", help="Type of the inputs.  [default: guessed]")
@click.option("--explain", is_flag=True, help="Ask for explanations instead of predictions.")
@click.pass_context
def run(
    ctx: click.Context,
    handler: str,
    inputs: tuple[str, ...],
    content_type: str | None,
    explain: bool,
) -> None:
    """Load HANDLER in a worker, ask it for the inputs, and print the answers.

    HANDLER is a file such as my_handler.py or my_handler.py:Name, a folder with MAR-INF, or an
    archive. What it prints and logs goes to standard error. Exit codes: 0 all inputs were answered,
    1 the handler could not be loaded, or an answer is an error.
    """
    place, _, name = handler.partition(":")
    path = Path(place).absolute()
    if not path.exists():
        raise click.UsageError(f"There is no file or folder {place}.")
    requests = [_request(each, content_type, explain) for each in inputs] or [({}, [])]
    model = default_model_name(path.name)
    registration = Registration(
        path.name,
        model_name=model,
        handler=f"{path.name}:{name}" if name else None,
        batch_size=len(requests),
        max_batch_delay=_BATCH_DELAY,
        initial_workers=1,
    )
    _log_to_stderr()
    with tempfile.TemporaryDirectory(prefix="flambeau-") as run_dir:
        flags: dict[str, object] = {
            "model_store": str(path.parent),
            "run_dir": run_dir,
            "batching": "fixed",
            "preload": "none",
        }
        failed = asyncio.run(_rehearse(flags, registration, model, requests))
    ctx.exit(1 if failed else 0)


async def _rehearse(
    flags: dict[str, object], registration: Registration, model: str, requests: list[Input]
) -> int:
    """How many of the requests failed."""
    # Other commands are not to wait for the import of the server.
    from .rehearsal import rehearse

    failed = 0
    async with aclosing(rehearse(read_config(flags), registration, model, requests)) as outcomes:
        async for outcome in outcomes:
            failed += not await _print(outcome)
    return failed


async def _print(outcome: Outcome) -> bool:
    """Print an answer as it comes; whether it is one."""
    if outcome.error is not None:
        click.echo(f"HTTP {outcome.status}: {outcome.error.message}", err=True)
        return False
    output = sys.stdout.buffer
    last = bytes(outcome.body)
    output.write(last)
    if outcome.stream is not None:
        async for piece in outcome.stream:
            last = bytes(piece)
            output.write(last)
            output.flush()
    if not last.endswith(b"\n"):
        output.write(b"\n")
    output.flush()
    if outcome.status >= 400:
        click.echo(f"HTTP {outcome.status} {outcome.reason or ''}".rstrip(), err=True)
    return outcome.status < 400


def _request(name: str, content_type: str | None, explain: bool) -> Input:
    body, guess = read_input(name)
    part = Part("body", content_type or guess or "", body)
    return {"explain": str(explain), "url_path": ""}, [part]


def _log_to_stderr() -> None:
    """The handler's own lines, and what goes wrong."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("flambeau.model").setLevel(logging.INFO)
