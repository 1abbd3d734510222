"""Ask a server, break what can be broken meanwhile, and see whether the answers are honest.

    python tests/chaos/run.py --requests 200000 --seed 1

The order of requests and faults follows from the seed; how they meet in time does not. Ends with
exit code 1 if a request got a wrong answer, two, none, or an error that nothing explains, if a dead
worker was shown as ready, or if anything is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

import aiohttp
import psutil
from chaos.clients import Clients
from chaos.faults import Faults
from chaos.ledger import Ledger
from chaos.models import write_models
from chaos.report import MORE_DESCRIPTORS, Report
from chaos.schedule import Order, Schedule
from real_server import RealServer, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 32
RECOVERY = 90.0
"""Seconds within which all workers must be back once the faults have ended."""
LAST_ROUND = 400
"""Requests after that, which must all be answered right."""
SETTLING = 5.0
"""Seconds after which it counts what the server still has."""
CACHE_MB = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--every", type=int, default=400, help="requests between two faults")
    parser.add_argument("--json", type=Path, help="where to write the report as JSON")
    given = parser.parse_args()
    print(f"chaos: {given.requests} requests, seed {given.seed}", flush=True)
    report = run(given.requests, given.seed, given.every)
    print(report.text())
    if given.json:
        given.json.write_text(report.json())
    return 0 if report.is_good else 1


def run(requests: int, seed: int, every: int, progress: bool = True) -> Report:
    """One run in folders of its own, which are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flambeau-chaos-") as folder:
        base = Path(folder)
        disk = _small_disk(base / "cache")
        try:
            return _run_in(base, disk, requests, seed, every, progress)
        finally:
            if disk is not None:
                subprocess.run(["umount", "-l", str(disk)], check=False)


def _small_disk(path: Path) -> Path | None:
    """A file system of a few megabytes, where this user may mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={CACHE_MB}m", "none", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return None
    done = subprocess.run(command, check=False, capture_output=True)
    return path if done.returncode == 0 else None


def _run_in(
    base: Path, disk: Path | None, requests: int, seed: int, every: int, progress: bool
) -> Report:
    clock = base / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    temporary = base / "tmp"
    temporary.mkdir()
    shared = _shared_memory()
    server = RealServer(
        base, (), {"default_response_timeout": 2, "model_cache_dir": base / "cache"}
    )
    server.environ |= {
        "CHAOS_CLOCK": str(clock),
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    report = Report(requests, seed)
    try:
        server.start()
        asyncio.run(_cause_chaos(server, report, clock, disk, requests, every, progress))
        processes = server.processes()
        began = time.monotonic()
        server.stop()
        report.seconds_to_stop = time.monotonic() - began
        report.left += [f"process {each.pid}" for each in processes if not is_gone(each)]
    except (AssertionError, aiohttp.ClientError) as error:
        fate = "has ended" if server.has_ended() else "is there"
        report.left.append(f"{error!r}; the server {fate}; its log:\n{server.log()}")
    finally:
        server.kill()
        report.left += [f"file {each.name}" for each in temporary.iterdir()]
        report.left += [f"shared memory {each}" for each in sorted(_shared_memory() - shared)]
        report.left += [f"file {each.name} of the run directory" for each in _files(server.run_dir)]
        shutil.rmtree(server.run_dir, ignore_errors=True)
    return report


def _shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {each.name for each in folder.iterdir()} if folder.is_dir() else set()


def _files(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


async def _cause_chaos(
    server: RealServer,
    report: Report,
    clock: Path,
    disk: Path | None,
    requests: int,
    every: int,
    progress: bool,
) -> None:
    ledger, schedule = report.ledger, Schedule(report.seed)
    at_first = write_models(server.store)
    wanted = dict(at_first)
    timeout = aiohttp.ClientTimeout(total=150.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        faults = Faults(server, session, ledger, wanted, clock, disk)
        for model, count in wanted.items():
            status, _ = await faults.call(
                "POST", f"/models?url={model}.mar&initial_workers={count}"
            )
            if status != 200:
                raise AssertionError(f"{model} could not be registered: {server.log()}")
        report.before = _holdings(server)
        began = time.monotonic()
        orders = _orders(schedule, requests, every, faults, progress)
        clients = Clients(server.addresses["inference"], ledger, CONNECTIONS)
        await clients.ask_all(lambda: next(orders, None))
        await faults.end()
        for model, count in at_first.items():
            wanted[model] = count
            await faults.call("PUT", f"/models/{model}?min_worker={count}&synchronous=false")
        report.seconds = time.monotonic() - began
        report.recoveries, report.impossible = faults.recoveries, faults.impossible
        report.seconds_to_recover = await _recovered(server, faults, wanted, report)
        calm = Ledger()
        last = iter(_calm_orders(schedule, requests))
        await Clients(server.addresses["inference"], calm, CONNECTIONS).ask_all(
            lambda: next(last, None)
        )
        wrong = sum(
            n for each in calm.outcomes.values() for what, n in each.items() if what != "right"
        )
        if wrong:
            report.left.append(f"{wrong} of the last requests failed: {calm.outcomes} {calm.wrong}")
    # The server closes the clients' connections when it notices their end.
    deadline = time.monotonic() + SETTLING
    report.after = _holdings(server)
    while report.gained_descriptors > MORE_DESCRIPTORS and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        report.after = _holdings(server)


def _orders(
    schedule: Schedule, requests: int, every: int, faults: Faults, progress: bool
) -> Iterator[Order]:
    for number in range(requests):
        if number and number % every == 0:
            faults.inflict(*schedule.fault())
        if progress and number and number % max(1, requests // 20) == 0:
            print(f"  {number} requests, {sum(faults.ledger.faults.values())} faults", flush=True)
        yield schedule.order(number)


def _calm_orders(schedule: Schedule, first: int) -> Iterator[Order]:
    for number in range(first, first + LAST_ROUND):
        order = schedule.order(number)
        yield Order(order.number, order.model, order.token, order.pad, None, order.fresh)


async def _recovered(
    server: RealServer, faults: Faults, wanted: dict[str, int], report: Report
) -> float:
    """Seconds until every model had its workers."""
    began = time.monotonic()
    missing: dict[str, str] = {}
    while time.monotonic() - began < RECOVERY:
        missing = {}
        for model, count in wanted.items():
            status, document = await faults.call("GET", f"/models/{model}")
            workers = document[0]["workers"] if status == 200 else []
            ready = sum(each["status"] == "READY" for each in workers)
            if ready != count or len(workers) != count:
                missing[model] = f"{ready} of {count} workers: {workers}"
        if not missing:
            return time.monotonic() - began
        await asyncio.sleep(0.1)
    report.left.append(f"not back after {RECOVERY:g} s: {missing}\n{server.log()}")
    return RECOVERY


def _holdings(server: RealServer) -> dict[str, int]:
    """What the server has: descriptors, threads, memory."""
    process = psutil.Process(server.pid)
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "memory_mb": process.memory_info().rss >> 20,
    }


if __name__ == "__main__":
    sys.exit(main())
