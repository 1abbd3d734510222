"""How long one worker becomes four of a small model, and what four hold in memory.

    python benchmarks/starts.py [--rounds 5] [--weights-mb 200]

The model is one layer of torch, loaded from an archive; for the memory it has as many megabytes of
weights as asked for. With and without the template (``preload``). Memory is PSS: what is shared is
shared out among those that share it. The report is Markdown on standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch
from echo import say
from processes import BenchmarkError, memory_mb
from served import Served, call, serving

WORKERS = 4
SETTLE = 8.0
"""Seconds for the template to import torch, after the first worker is ready."""
MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1024, {rows}, bias=False)

    def forward(self, x):
        return self.layer(x)
"""
HANDLER = """
import torch
from flambeau.handlers.base import BaseHandler

class Sums(BaseHandler):
    def preprocess(self, data):
        return torch.ones(len(data), 1024)

    def postprocess(self, data):
        return data.sum(dim=1).tolist()
"""


def write_model(store: Path, name: str, megabytes: float) -> None:
    """An archive with an eager model of so many megabytes of weights."""
    rows = max(1, round(megabytes * 1e6 / 4096))
    weights = store / "weights.pt"
    torch.save({"layer.weight": torch.full((rows, 1024), 0.5)}, weights)
    entries = {
        "modelName": name,
        "modelVersion": "1.0",
        "handler": "sums.py",
        "modelFile": "net.py",
        "serializedFile": "weights.pt",
    }
    with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
        archive.writestr(
            "MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": entries})
        )
        archive.writestr("net.py", MODEL.format(rows=rows))
        archive.writestr("sums.py", HANDLER)
        archive.write(weights, "weights.pt")
    weights.unlink()


def scale(served: Served, model: str, workers: int) -> float:
    """Seconds until ``model`` has so many workers that are ready."""
    began = time.perf_counter()
    query = f"min_worker={workers}&max_worker={workers}&synchronous=true"
    call("PUT", f"{served.management}/models/{model}?{query}")
    return time.perf_counter() - began


def pids(served: Served, model: str) -> list[int]:
    described = json.loads(call("GET", f"{served.management}/models/{model}"))
    return [each["pid"] for each in described[0]["workers"]]


def measure_starts(folder: Path, rounds: int, preload: str) -> list[float]:
    """Seconds from one worker to four, again and again."""
    (folder / "store").mkdir(parents=True)
    write_model(folder / "store", "small", 0.01)
    settings = {} if preload == "torch" else {"preload": "none"}
    seconds = []
    with serving(folder, {"small": "small.mar"}, **settings) as served:
        time.sleep(SETTLE)
        scale(served, "small", 2)
        for number in range(1, rounds + 1):
            scale(served, "small", 1)
            seconds.append(scale(served, "small", WORKERS))
            say(f"  {preload} {number}/{rounds}: {seconds[-1]:.3f} s")
    return seconds


def measure_memory(folder: Path, megabytes: float, preload: str) -> list[float]:
    """PSS of one worker, and of four together, in MB, after each has answered."""
    (folder / "store").mkdir(parents=True)
    write_model(folder / "store", "large", megabytes)
    settings = {} if preload == "torch" else {"preload": "none"}
    found = []
    with serving(folder, {"large": "large.mar"}, **settings) as served:
        time.sleep(SETTLE)
        for workers in (1, WORKERS):
            scale(served, "large", workers)
            for _ in range(4 * workers):
                call("POST", f"{served.inference}/predictions/large", b"x", "text/plain")
            found.append(sum(memory_mb(pid)[1] for pid in pids(served, "large")))
            say(f"  {preload}: {workers} workers hold {found[-1]:.0f} MB")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure starts of workers, and their memory.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights-mb", type=float, default=200.0)
    arguments = parser.parse_args()
    lines = ["| | 1 to 4 workers | PSS of 1 | PSS of 4 |", "|---|---:|---:|---:|"]
    try:
        with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as name:
            for preload in ("torch", "none"):
                folder = Path(name, preload)
                seconds = measure_starts(folder / "starts", arguments.rounds, preload)
                one, four = measure_memory(folder / "memory", arguments.weights_mb, preload)
                lines.append(
                    f"| preload {preload} | {statistics.median(seconds):.3f} s "
                    f"({min(seconds):.3f} to {max(seconds):.3f}) | {one:.0f} MB | {four:.0f} MB |"
                )
    except (BenchmarkError, OSError) as exc:
        print(f"The benchmark failed: {exc}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
