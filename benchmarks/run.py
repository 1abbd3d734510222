"""Measures flambeau on this machine, with what it is compared to in the same run.

    make bench                                 (or: python benchmarks/run.py)

Takes about three minutes; ``--quick`` about one, with coarser figures. Progress goes to
standard error, the report (Markdown) to standard output. docs/benchmarks.md says what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from conv import calibrate, measure_latency, measure_throughput
from echo import CONNECTIONS, JSON, EchoResult, check_echo, measure_echo, say
from footprint import FootprintResult, measure_memory, measure_starts
from load import TOOLS, Load, Target
from models import write_conv, write_echo, write_inputs
from processes import HERE, BenchmarkError, OtherWork, companion
from report import Results, goals, markdown, write
from served import Served, serving
from torchserve import torchserve

PAGE = HERE.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Plan:
    """How long and how often. Times are in seconds.

    TorchServe's rate rises for about 18 s of load, until Java has compiled what is used often.
    A shorter ``torchserve_warm_up`` makes the comparison look better than it is.
    """

    rounds: int
    echo: float
    torchserve_warm_up: float
    pairs: int
    conv: float
    single: float
    starts: int
    idle: float


FULL = Plan(
    3, echo=3.0, torchserve_warm_up=20.0, pairs=4, conv=5.0, single=2.0, starts=5, idle=10.0
)
QUICK = Plan(
    3, echo=1.0, torchserve_warm_up=20.0, pairs=3, conv=1.0, single=1.0, starts=2, idle=3.0
)
SMOKE = Plan(1, echo=0.3, torchserve_warm_up=0.3, pairs=1, conv=0.3, single=0.3, starts=0, idle=0.0)


def main() -> int:
    arguments = parse_arguments()
    # Whoever ends the benchmark must not leave a server behind: SystemExit runs all cleanup.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    started = time.monotonic()
    try:
        results = measure(plan, Load(arguments.client), arguments.torchserve)
        report = markdown(results)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(as_json(results), indent=2) + "\n")
        if arguments.write is not None:
            write(report, arguments.write)
    except (BenchmarkError, OSError, ValueError) as exc:
        print(f"\nThe benchmark failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe benchmark was interrupted.", file=sys.stderr)
        return 130
    say(f"Done in {time.monotonic() - started:.0f} s.")
    print(report)
    return 0


def measure(plan: Plan, load: Load, rival: Path | None = None) -> Results:
    """Everything, in one temporary folder that is gone afterwards.

    ``rival`` is the folder with TorchServe's commands, if it is to be measured as well.
    """
    with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        document, image = write_inputs(folder)
        others = {"before": _rest(min(2.0, max(0.2, plan.idle)))}
        say(f"Load by {load.tool}; other work takes {others['before']:.2f} cores")
        footprint = FootprintResult()
        with companion("inprocess.py", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1") as inprocess:
            conv = calibrate(inprocess)
            write_echo(folder / "store")
            write_conv(folder / "store", conv.blocks)
            say("Starting flambeau")
            with serving(
                folder, {each: each for each in ("echo", "conv", "conv_single")}
            ) as served:
                echo, others["echo"] = _echo(plan, load, served, document, folder, rival)
                work = OtherWork()
                measure_throughput(conv, served, inprocess, image, load, plan.pairs, plan.conv)
                measure_latency(conv, served, image, load, plan.rounds, plan.single)
                others["conv"] = work.cores()
                measure_memory(footprint, served)
        if plan.starts:
            work = OtherWork()
            measure_starts(footprint, folder, plan.starts, plan.idle)
            others["starts"] = work.cores()
        return Results(load.tool, others, echo, conv, footprint)


def _echo(
    plan: Plan, load: Load, served: Served, document: Path, folder: Path, rival: Path | None
) -> tuple[EchoResult, float]:
    """The echo part and the cores that other work took. TorchServe runs only meanwhile."""
    if rival is not None:
        say("Starting TorchServe")
    with torchserve(rival, folder) as url:
        target = Target(url, document, JSON) if url else None
        if target is not None:
            check_echo(target)
            load.window(target, max(CONNECTIONS), plan.torchserve_warm_up)
        work = OtherWork()
        echo = measure_echo(served, document, folder, load, plan.rounds, plan.echo, target)
        return echo, work.cores()


def _rest(seconds: float) -> float:
    work = OtherWork()
    time.sleep(seconds)
    return work.cores()


def as_json(results: Results) -> dict[str, object]:
    """The goals and every single window, for programs."""
    verdicts = [
        {**dataclasses.asdict(goal), "met": goal.is_met if goal.values else None}
        for goal in goals(results)
    ]
    return {"goals": verdicts, "windows": dataclasses.asdict(results)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure flambeau on this machine.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="short windows: about a minute in all")
    length.add_argument(
        "--smoke", action="store_true", help="tiny windows, no starts: only proves that it works"
    )
    parser.add_argument("--client", choices=TOOLS, help="load generator (default: wrk if there)")
    parser.add_argument(
        "--torchserve",
        type=Path,
        metavar="BIN",
        help="measure echo beside TorchServe, too, whose commands are in the folder BIN",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=PAGE,
        metavar="PAGE",
        help="put the report into PAGE (default: docs/benchmarks.md)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
