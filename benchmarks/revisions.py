"""Measures two revisions of flambeau beside each other: echo, a server of each, in turn.

    python benchmarks/revisions.py BEFORE [AFTER] [--rounds 20] [--seconds 1]

BEFORE and AFTER are revisions of this repository; without AFTER it is the working tree. Many short
windows in turn, since a machine's speed comes and goes: what counts are the ratios of two windows
that followed each other. The report is Markdown on standard output.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from echo import JSON, SETTLE, check_echo, say
from load import TOOLS, Load
from models import write_echo, write_inputs
from processes import HERE, BenchmarkError
from served import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from load import Target, Window

CONNECTIONS = (1, 8, 32)
WORKING_TREE = "the working tree"
Windows = dict[int, list["Window"]]


def source_of(revision: str, folder: Path) -> Path:
    """A folder from which ``import flambeau`` has this revision."""
    folder.mkdir()
    package = folder / "flambeau"
    if revision == WORKING_TREE:
        package.symlink_to(HERE.parent)
        return folder
    command = ["git", "-C", str(HERE.parent), "archive", "--prefix=flambeau/", revision]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"no revision {revision!r}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def measure(
    revisions: list[str], folder: Path, load: Load, rounds: int, seconds: float
) -> list[Windows]:
    """The windows of each, by connections: one of each in turn."""
    document, _ = write_inputs(folder)
    with ExitStack() as stack:
        asked: list[tuple[Target, Mapping[str, int]]] = []
        for number, revision in enumerate(revisions):
            home = folder / str(number)
            write_echo(home / "store")
            source = source_of(revision, home / "source")
            served = stack.enter_context(serving(home, {"echo": "echo"}, source=source))
            target = served.target("echo", document, JSON)
            check_echo(target)
            load.window(target, max(CONNECTIONS), 1.0)
            asked.append((target, {"frontend": served.pid, "worker": served.worker("echo")}))
        found: list[Windows] = [{each: [] for each in CONNECTIONS} for _ in revisions]
        for number in range(rounds):
            for connections in CONNECTIONS:
                for which in (0, 1) if number % 2 else (1, 0):
                    target, pids = asked[which]
                    window = load.window(target, connections, seconds, pids)
                    found[which][connections].append(window)
                    time.sleep(SETTLE)
            shown = " and ".join(f"{windows[CONNECTIONS[-1]][-1].rate:,.0f}" for windows in found)
            say(f"  round {number + 1} of {rounds}: {shown} requests/s")
    return found


def report(revisions: list[str], found: list[Windows]) -> str:
    """For each number of connections the medians, and the ratios with their quartiles."""
    before, after = found
    lines = [
        f"| echo, connections | {revisions[0]}, requests/s | {revisions[1]} | ratio | p50 | "
        "CPU of the frontend | of the worker |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    figures: list[Callable[[Window], float]] = [
        lambda window: window.rate,
        lambda window: window.p50_ms,
        lambda window: window.cpu_ms["frontend"],
        lambda window: window.cpu_ms["worker"],
    ]
    for connections in CONNECTIONS:
        pairs = list(zip(before[connections], after[connections], strict=True))
        rates = [
            f"{statistics.median(window.rate for window in windows[connections]):,.0f}"
            for windows in found
        ]
        ratios = [_ratio([figure(two) / figure(one) for one, two in pairs]) for figure in figures]
        lines.append(f"| {connections} | {' | '.join([*rates, *ratios])} |")
    return "\n".join(lines)


def _ratio(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure two revisions beside each other.")
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default=WORKING_TREE)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one window")
    parser.add_argument("--client", choices=TOOLS, help="load generator (default: wrk if there)")
    arguments = parser.parse_args()
    revisions = [arguments.before, arguments.after]
    try:
        with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as folder:
            load = Load(arguments.client)
            found = measure(revisions, Path(folder), load, arguments.rounds, arguments.seconds)
    except (BenchmarkError, OSError) as exc:
        print(f"The benchmark failed: {exc}", file=sys.stderr)
        return 1
    print(report(revisions, found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
