"""``flambeau bench``: load on a server, and how it bears it."""

from __future__ import annotations

import functools
import json
import math
import re
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from .bench.measuring import Plan, measure
from .bench.report import Load, as_json, as_text
from .bench.requests import BenchError, Body, Requests, Target, parse_header, parse_method
from .bench.tally import Tally
from .cli_client import Server
from .cli_models import find_server, read_input
from .cli_status import cert_option, key_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Number(click.FloatRange):
    """Not ``nan``, which is neither below nor above anything."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


_POSITIVE = click.IntRange(min=1)
_SECONDS = _Number(min=0, min_open=True, max=1e6)
_DURATION = 10.0
_CONNECTIONS = 8
_MOST_CONNECTIONS = 1000
"""In an open loop, unless it is said."""
_STATUS = re.compile(r"[1-5](\d\d|xx)")


@click.command(short_help="Measure how a server bears load.")
@click.argument("target", metavar="URL|MODEL")
@click.option("--connections", "-c", type=_POSITIVE, metavar="N", help="Connections.  [default: 8]")
@click.option(
    "--rate",
    type=_Number(min=0, min_open=True, max=1e6),
    metavar="R",
    help="Requests per second, whether those before are answered or not.",
)
@click.option("--constant", is_flag=True, help="With --rate: evenly, not at random (Poisson).")
@click.option("--seed", type=int, help="With --rate: the same random times in each run.")
@click.option("--duration", "-d", type=_SECONDS, metavar="S", help="Seconds.  [default: 10]")
@click.option("--requests", "-n", "count", type=_POSITIVE, metavar="N", help="Requests to send.")
@click.option(
    "--warm-up",
    type=_Number(min=0, max=1e6),
    default=0.0,
    metavar="S",
    help="Seconds of load before, which do not count.",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    default=30.0,
    show_default=True,
    metavar="S",
    help="Time for an answer.",
)
@click.option("--method", "-X", metavar="M", help="Method.  [default: POST if there is a body]")
@click.option("--header", "-H", "headers", multiple=True, metavar="LINE", help="'Name: value'.")
@click.option(
    "--data",
    "data",
    multiple=True,
    metavar="TEXT|@FILE",
    help="What to send; @FOLDER for all of its files. Several are sent in turn.",
)
@click.option("--content-type", metavar="TYPE", help="Type of the data.  [default: guessed]")
@click.option("--no-keep-alive", is_flag=True, help="A new connection for each request.")
@click.option(
    "--expect",
    multiple=True,
    metavar="STATUS",
    help="Statuses that are no errors, such as 200 or 4xx.  [default: 2xx]",
)
@click.option("--allow-errors", is_flag=True, help="Exit code 0 whatever was answered.")
@click.option("--version", help="Version of MODEL.  [default: the default version]")
@click.option(
    "--url",
    metavar="URL",
    help="Inference address of the server that has MODEL.  [default: the server that runs here]",
)
@click.option("--cacert", metavar="FILE", help="Certificates that vouch for an https server.")
@click.option("--insecure", is_flag=True, help="Take any certificate of an https server.")
@key_option
@cert_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option(
    "--json-file",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the JSON there as well.",
)
@click.option("--quiet", "-q", is_flag=True, help="No line for each second.")
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    is_json: bool,
    json_file: str | None,
    quiet: bool,
    allow_errors: bool,
    expect: tuple[str, ...],
    **options: Any,
) -> None:
    """Send requests to URL, or to MODEL of the server that runs here, and measure the answers.

    Each of --connections sends its next request when its last is answered. With --rate, requests
    go out when they are due, and latency counts from then. A Unix socket is unix:/SOCKET:/PATH.
    Ctrl-C ends it early. The exit code is 1 if a request failed.
    """
    plan = _plan(goes_on=allow_errors, **options)
    is_expected = _expectation(expect)
    requests, context = _requests(**options)
    is_silent = quiet or not sys.stderr.isatty()
    tally = measure(
        plan,
        requests,
        context,
        functools.partial(Tally, is_expected),
        lambda line: None if is_silent else click.echo(line, err=True),
    )
    load = Load(str(requests.target), requests.method, plan.words())
    content = json.dumps(as_json(load, tally), indent=2)
    if json_file is not None:
        _write(json_file, content)
    click.echo(content if is_json else as_text(load, tally))
    ctx.exit(1 if tally.errors and not allow_errors else 0)


def _plan(
    *,
    connections: int | None,
    rate: float | None,
    constant: bool,
    seed: int | None,
    duration: float | None,
    count: int | None,
    warm_up: float,
    timeout: float,
    goes_on: bool,
    **_: Any,
) -> Plan:
    if rate is None and (constant or seed is not None):
        raise click.UsageError("--constant and --seed go with --rate.")
    if duration is not None and count is not None:
        raise click.UsageError("Give --duration or --requests, not both.")
    if connections is None:
        connections = _CONNECTIONS if rate is None else _MOST_CONNECTIONS
    if duration is None and count is None:
        duration = _DURATION
    return Plan(connections, rate, constant, seed, duration, count, warm_up, timeout, goes_on)


def _requests(
    *,
    target: str,
    method: str | None,
    headers: tuple[str, ...],
    data: tuple[str, ...],
    content_type: str | None,
    no_keep_alive: bool,
    version: str | None,
    url: str | None,
    cacert: str | None,
    insecure: bool,
    key: str | None,
    cert: str | None,
    **_: Any,
) -> tuple[Requests, ssl.SSLContext | None]:
    """What to send, and how an https server is known."""
    bodies = [body for text in data for body in _bodies(text, content_type)]
    if _is_url(target):
        if url is not None or version is not None:
            raise click.UsageError("--url and --version go with a MODEL.")
        place = Target.parse(target)
        server = Server(place.base, cacert, key=key, cert=cert)
        usual = "POST" if bodies else "GET"
    else:
        server = find_server("inference", url, cacert, key, cert)
        parts = ("predictions", target, version)
        place = Target(server.url, "/" + "/".join(quote(part, safe="") for part in parts if part))
        usual = "POST"
    context = server.context
    if insecure and context is not None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    place = Target(server.url, place.path)
    given = [parse_header(line) for line in headers]
    made = Requests(place, parse_method(method or usual), bodies, given, key, not no_keep_alive)
    return made, context


def _is_url(target: str) -> bool:
    return "://" in target or target.startswith("unix:")


def _bodies(text: str, content_type: str | None) -> Sequence[Body]:
    """Those that one --data names."""
    if not text.startswith("@"):
        return [Body(text.encode(), content_type or _type_of(text))]
    path = Path(text[1:])
    names = [text[1:]]
    if path.is_dir():
        names = sorted(str(each) for each in path.iterdir() if each.is_file())
        if not names:
            raise BenchError(f"{path} holds no file.")
    read = [read_input(name) for name in names]
    return [
        Body(content, content_type or guess or "application/octet-stream")
        for content, guess in read
    ]


def _type_of(text: str) -> str:
    try:
        json.loads(text)
    except ValueError:
        return "text/plain"
    return "application/json"


def _expectation(statuses: Sequence[str]) -> Callable[[int], bool]:
    for each in statuses:
        if not _STATUS.fullmatch(each):
            raise click.UsageError(f"{each!r} is not a status such as 200 or 4xx.")
    wanted = re.compile("|".join(statuses or ("2xx",)).replace("x", r"\d"))
    return lambda status: wanted.fullmatch(str(status)) is not None


def _write(path: str, content: str) -> None:
    try:
        Path(path).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}.") from None
