"""Measures what keys, TLS and the access log cost: echo, one server of each kind, in turn.

    python benchmarks/protection.py [--rounds 30] [--seconds 1]

Needs ``openssl`` for a certificate of its own. Many short windows in turn, since a machine's speed
comes and goes. The figures are ratios to the server without any of
them in the same round; the report is Markdown on standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from echo import JSON, say
from load import TOOLS, Load, Target
from models import write_echo, write_inputs
from processes import BenchmarkError
from served import serving

if TYPE_CHECKING:
    from load import Window

CONNECTIONS = 32
KEY = "flb_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
KEYS = [
    {"name": f"k{number}", "key": f"{KEY}{number}", "scopes": ["infer"]} for number in range(20)
]


@dataclass
class Kind:
    """A server with one of the protections; the windows of its rounds."""

    name: str
    scheme: str = "http"
    key: str | None = None
    settings: dict[str, object] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)


def kinds(folder: Path) -> list[Kind]:
    """The open one first: the others are compared to it."""
    certificate, key = make_certificate(folder)
    files = {"certificate_file": certificate, "private_key_file": key}
    return [
        Kind("open"),
        Kind("20 keys", key=KEYS[-1]["key"], settings={"api_keys": json.dumps(KEYS)}),
        Kind("access log", settings={"access_log": "true"}),
        Kind("TLS", "https", settings=files),
    ]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BenchmarkError(f"openssl made no certificate: {exc}") from exc
    return certificate, key


def measure(folder: Path, load: Load, rounds: int, seconds: float) -> list[Kind]:
    """The kinds with their windows, measured in turn."""
    made = kinds(folder)
    if load.tool != "wrk":
        made = [kind for kind in made if kind.scheme == "http"]
    document, _ = write_inputs(folder)
    with ExitStack() as stack:
        targets = []
        for kind in made:
            own = folder / kind.name.replace(" ", "-")
            write_echo(own / "store")
            served = stack.enter_context(
                serving(own, {"echo": "echo"}, kind.scheme, **kind.settings)
            )
            url = f"{served.inference}/predictions/echo"
            targets.append((kind, Target(url, document, JSON, kind.key), served.pid))
        for _, target, _ in targets:
            load.window(target, CONNECTIONS, 1.0)
        for number in range(1, rounds + 1):
            for kind, target, pid in targets:
                kind.windows.append(load.window(target, CONNECTIONS, seconds, {"frontend": pid}))
            shown = ", ".join(f"{kind.name} {kind.windows[-1].rate:,.0f}/s" for kind in made)
            say(f"  round {number} of {rounds}: {shown}")
    return made


def report(made: list[Kind]) -> str:
    """A table: of each kind the medians, and the medians of its ratios to the open one."""
    lines = [
        "| echo, 32 connections | requests/s | to the open one | CPU of the frontend, ms | to it |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in made:
        rate = statistics.median(window.rate for window in kind.windows)
        cost = statistics.median(window.cpu_ms["frontend"] for window in kind.windows)
        pairs = list(zip(kind.windows, made[0].windows, strict=True))
        rates = statistics.median(one.rate / other.rate for one, other in pairs)
        costs = statistics.median(
            one.cpu_ms["frontend"] / other.cpu_ms["frontend"] for one, other in pairs
        )
        lines.append(f"| {kind.name} | {rate:,.0f} | {rates:.3f} | {cost:.4f} | {costs:.3f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what protection costs.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one window")
    parser.add_argument("--client", choices=TOOLS, help="load generator (default: wrk if there)")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as folder:
            load = Load(arguments.client)
            print(report(measure(Path(folder), load, arguments.rounds, arguments.seconds)))
    except (BenchmarkError, OSError) as exc:
        print(f"The benchmark failed: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
