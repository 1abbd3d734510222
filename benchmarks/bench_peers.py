"""Measures flambeau and other servers in turn: same models, same weights, same client.

    make bench-peers                           (or: python benchmarks/bench_peers.py)

Each server gets a Python environment of its own under .make/peers, made the first time. First each
is started alone, for its start and its memory. Then, for each workload, all run at once and are
asked in turn. Progress goes to standard error, the report (Markdown) to standard output.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from echo import say
from load import TOOLS, Load
from peers.commands import SERVERS
from peers.environments import install, python_of, versions
from peers.report import markdown, put
from peers.results import Results
from peers.servers import serving
from peers.sizes import STREAM
from peers.together import measure_together
from peers.windows import Plan, Turn, look
from peers.workloads import MOST, WORKLOADS, loop_rate, references, write_bodies
from processes import HERE, BenchmarkError

from flambeau import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from peers.workloads import Workload

PAGE = HERE.parent / "docs" / "benchmarks.md"


def main() -> int:
    arguments = parse_arguments()
    # Whoever ends the benchmark must not leave a server behind: SystemExit runs all cleanup.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        results = measure_all(arguments)
        report = markdown(results)
        if arguments.write is not None:
            pictures = write_plots(results, arguments.write.parent)
            put("\n\n".join([report, *pictures]), arguments.write)
    except (BenchmarkError, OSError, ValueError, TypeError) as exc:
        print(f"\nThe benchmark failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe benchmark was interrupted.", file=sys.stderr)
        return 130
    say(f"Done in {time.monotonic() - started:.0f} s.")
    print(report)
    return 0


def write_plots(results: Results, folder: Path) -> list[str]:
    """Draw SVG files into the folder; the lines that show them, or that there are none."""
    try:
        install("plots")
    except BenchmarkError as exc:
        say(f"SKIPPED plots: {exc}")
        return ["No plots: matplotlib could not be installed."]
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        results.keep(Path(figures.name))
        script = HERE / "peers" / "plots.py"
        command = [str(python_of("plots")), str(script), figures.name, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"plots.py failed: {done.stderr.strip()}")
    return [f"![{Path(each).stem}]({each})" for each in done.stdout.split()]


def measure_all(arguments: argparse.Namespace) -> Results:
    """Everything, in one temporary folder that is gone afterwards."""
    results = Results(client(Load(arguments.client).tool))
    if arguments.resume and arguments.json is not None and arguments.json.exists():
        results = Results.load(arguments.json)
    measured = {each.workload for each in results.samples if each.what == "errors"}
    left = [each for each in arguments.workloads if each not in measured]
    if not left:
        return results
    servers = installed(arguments.peers, results)
    results.versions = versions(servers)
    with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_bodies(folder)
        found = references(folder, arguments.blocks, left)
        results.ceilings |= {each: found[each].ceiling for each in left}
        able = {
            each: [server for server in servers if is_able(results, server, each)] for each in left
        }
        if not results.samples:
            measure_alone(arguments, results, able[left[0]], found[left[0]], folder)
            keep(results, arguments)
        for each in left:
            plan = planned(arguments, each, folder)
            # wrk does not tell when the first piece of an answer came.
            load = Load("asyncio" if each == STREAM else arguments.client)
            measure_together(results, found[each], able[each], load, plan, folder)
            keep(results, arguments)
    return results


def keep(results: Results, arguments: argparse.Namespace) -> None:
    """Write what is there, should the rest fail."""
    if arguments.json is not None:
        results.keep(arguments.json)


def client(tool: str) -> str:
    """The load generator with its version."""
    if tool != "wrk":
        return f"flambeau bench {__version__}"
    # It says so on its first line, and ends with 1.
    command = [shutil.which("wrk") or "wrk", "-v"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join((said.stdout or said.stderr).split()[:2])


def installed(names: list[str], results: Results) -> list[str]:
    """Those whose environment is there; why the others are left out stands in the report."""
    there = []
    for name in names:
        try:
            install(name)
            there.append(name)
        except BenchmarkError as exc:
            results.problems.append(f"{name} left out: {exc}")
            say(f"SKIPPED {results.problems[-1]}")
    if not there:
        raise BenchmarkError("none of the servers can be installed.")
    return there


def is_able(results: Results, server: str, workload: str) -> bool:
    """Not if it cannot stream, which the report says."""
    reason = SERVERS[server].cannot
    if workload != STREAM or not reason:
        return True
    problem = f"{server}, {workload} left out: {reason}."
    if problem not in results.problems:
        results.problems.append(problem)
    return False


def planned(arguments: argparse.Namespace, workload: str, folder: Path) -> Plan:
    """What is measured of each server."""

    def loop() -> float:
        return loop_rate(folder, arguments.blocks, workload, arguments.seconds)

    most = MOST.get(workload)
    return Plan(
        arguments.rounds,
        [each for each in arguments.connections if most is None or each <= most],
        arguments.seconds,
        arguments.warm_up,
        arguments.blocks,
        most is None and not arguments.no_open_loop,
        loop if workload == "conv" else None,
    )


def measure_alone(
    arguments: argparse.Namespace,
    results: Results,
    servers: list[str],
    workload: Workload,
    folder: Path,
) -> None:
    """Start each server, look at it, end it, and again."""
    plan = planned(arguments, workload.name, folder)
    load = Load(arguments.client)
    able = list(servers)
    for number in range(1, arguments.starts + 1):
        say(f"  each alone, {number} of {arguments.starts}")
        for server in able.copy():
            turn = Turn(server, workload.name, number, results.samples, results.problems)
            home = folder / server
            try:
                with serving(server, workload, arguments.blocks, home) as running:
                    look(turn, running, load, plan)
            except BenchmarkError as exc:
                turn.fail(str(exc))
                able.remove(server)
            finally:
                shutil.rmtree(home, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure flambeau beside other servers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=3, help="of each server, alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each window")
    parser.add_argument("--warm-up", type=float, default=3.0, help="load that does not count")
    parser.add_argument("--peers", type=_names(SERVERS), default=list(SERVERS))
    parser.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--connections", type=_numbers, default=[1, 8, 32, 64, 512])
    parser.add_argument("--blocks", type=int, default=14, help="depth of the convolutional model")
    parser.add_argument("--no-open-loop", action="store_true")
    parser.add_argument("--client", choices=TOOLS, help="load generator (default: wrk if there)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--resume", action="store_true", help="keep the workloads that FILE has")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=PAGE,
        metavar="PAGE",
        help="put the report and plots into PAGE (default: docs/benchmarks.md)",
    )
    return parser.parse_args()


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads a list with commas; all of it must be known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            message = f"{', '.join(unknown)}: not one of {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return names

    return read


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
