"""What things cost as the work grows: more models, more workers, a longer queue, more requests.

    python benchmarks/growth.py [--models 1,10,100,500] [--workers 1,10,100,500] [--queued 100000]
                                [--at-once 10,50,200] [--requests 2000000] [--longest-soak 180]
                                [--parts ...] [--quick]

``models``: one server gets more and more models without workers, and is asked the same each time.
``workers``: the same with a worker for each. ``at_once``: registrations that wait for their workers
beside each other. ``queue``: requests that wait (``queued.py``). ``soak``: requests one after the
other, with the memory of frontend and worker along the way. A part says itself where it stopped
before the end. The report is Markdown on standard output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from at_once import AtOnce, measure_at_once
from crowded import Crowded, measure_crowd
from echo import say
from processes import HERE, BenchmarkError
from soak import Soak, measure_soak

PARTS = ("models", "workers", "at_once", "queue", "soak")
DISCIPLINES = ("fifo", "lifo_on_overload", "priority", "deadline")
FEW_QUEUED = 1000
CALLS = ("describe", "list", "scrape", "ping", "predict")


def models_table(rows: list[Crowded]) -> list[str]:
    """Milliseconds of each call, p50 and p99, and p50 as a multiple of that with one model."""
    names = " | ".join(f"{call} p50, p99 ms" for call in CALLS)
    lines = [f"| models | {names} | status s |", "|---:|" + "---:|" * (len(CALLS) + 1)]
    for row in rows:
        cells = []
        for call in CALLS:
            p50, p99 = row.calls[call]
            ratio = p50 / rows[0].calls[call][0]
            cells.append(f"{p50:.2f}, {p99:.2f} ({ratio:.1f})")
        lines.append(f"| {row.models} | {' | '.join(cells)} | {row.status_seconds:.2f} |")
    return lines


def footprint_table(rows: list[Crowded]) -> list[str]:
    """What models and workers hold, what they do while idle, and what it costs to get them."""
    lines = [
        "| models | frontend PSS MB | a worker's PSS MB | all PSS MB | registration ms, p50, p99 | "
        "frontend idle CPU % | all workers' idle CPU % |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        p50, p99 = row.registration
        lines.append(
            f"| {row.models} | {row.frontend_mb:.1f} | {row.worker_mb:.1f} | {row.all_mb:.0f} | "
            f"{p50:.1f}, {p99:.1f} | {row.frontend_idle:.2f} | {row.workers_idle:.2f} |"
        )
    first, last = rows[0], rows[-1]
    if last.models > first.models:
        per_model = (last.frontend_mb - first.frontend_mb) / (last.models - first.models)
        lines += ["", f"Each model adds {per_model * 1000:.0f} kB to the frontend."]
    lines += [f"Stopped at {last.models} models: {last.stopped}."] if last.stopped else []
    return lines


def at_once_table(rows: list[AtOnce]) -> list[str]:
    """What a registration costs the frontend, beside how many others."""
    return [
        "| registrations at once | frontend CPU ms of each | all, s |",
        "|---:|---:|---:|",
        *(f"| {row.count} | {row.cpu_ms_each:.1f} | {row.seconds:.1f} |" for row in rows),
    ]


def queue_report(requests: int) -> list[str]:
    """Microseconds of each step with few and with many that wait."""
    few = min(FEW_QUEUED, requests // 2)
    lines = [
        f"| | step | us, of {few:,} | us, of {requests:,} | ratio | all, s | bytes each |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for discipline in DISCIPLINES:
        small, large = (_queued(count, discipline) for count in (few, requests))
        for step, micros in large["micros"].items():
            ratio = micros / small["micros"][step]
            total = f"{micros * requests / 1e6:.2f}"
            if step in large["unfinished"]:
                total = "given up"
            size = f"{large['bytes']:.0f}" if step == "come" else ""
            lines.append(
                f"| {discipline} | {step} | {small['micros'][step]:.1f} | {micros:.1f} | "
                f"{ratio:.2f} | {total} | {size} |"
            )
        say(f"  {discipline}: measured")
    return lines


def _queued(requests: int, discipline: str) -> dict[str, dict[str, float]]:
    command = [sys.executable, str(HERE / "queued.py"), f"--requests={requests}"]
    done = subprocess.run(
        [*command, f"--discipline={discipline}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"queued.py failed: {done.stderr.strip()}")
    measured: dict[str, dict[str, float]] = json.loads(done.stdout)
    return measured


def soak_report(soak: Soak) -> list[str]:
    """Memory along the way, and how much of it each thousand requests have left behind."""
    lines = [
        f"{soak.samples[-1].requests:,} requests in {soak.seconds:.0f} s.",
        "",
        "| requests | frontend MB | worker MB |",
        "|---:|---:|---:|",
    ]
    step = max(1, len(soak.samples) // 8)
    lines += [
        f"| {sample.requests:,} | {sample.frontend_mb:.2f} | {sample.worker_mb:.2f} |"
        for sample in [*soak.samples[:-1:step], soak.samples[-1]]
    ]
    frontend, worker = soak.slopes()
    lines += ["", f"After the first third: frontend {frontend:+.0f}, worker {worker:+.0f} bytes"]
    lines[-1] += " per 1,000 requests."
    return lines


def report(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Every part that was asked for, as Markdown."""
    quick = arguments.quick
    lines: list[str] = []
    for part, counts in (("models", arguments.models), ("workers", arguments.workers)):
        if part in arguments.parts:
            workers = int(part == "workers")
            rows = measure_crowd(folder / part, counts, workers, quick=quick)
            lines += [f"### {part.capitalize()}", "", *models_table(rows), ""]
            lines += [*footprint_table(rows), ""]
    if "at_once" in arguments.parts:
        at_once = measure_at_once(folder / "at_once", arguments.at_once, quick=quick)
        lines += ["### At once", "", *at_once_table(at_once), ""]
    if "queue" in arguments.parts:
        lines += ["### Queue", "", *queue_report(arguments.queued), ""]
    if "soak" in arguments.parts:
        seconds = 1.0 if quick else 5.0
        soak = measure_soak(folder / "soak", arguments.requests, arguments.longest_soak, seconds)
        lines += ["### Soak", "", *soak_report(soak), ""]
    return lines


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what things cost as the work grows.")
    counts = lambda text: [int(each) for each in text.split(",")]  # noqa: E731
    parser.add_argument("--models", type=counts, default=[1, 10, 100, 500])
    parser.add_argument("--workers", type=counts, default=[1, 10, 100, 500])
    parser.add_argument("--at-once", type=counts, default=[10, 50, 200])
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--longest-soak", type=float, default=180.0, help="seconds")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a look at everything, small")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.models, arguments.workers, arguments.queued = [1, 4], [1, 2], 400
        arguments.at_once = [2]
        arguments.requests, arguments.longest_soak = 100, 3.0
    return arguments


def main() -> int:
    arguments = parse()
    try:
        with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as name:
            lines = report(arguments, Path(name))
    except (BenchmarkError, OSError) as exc:
        print(f"The benchmark failed: {exc}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
