"""What is left of image_classifier's own speed when it is served: pictures in batches of eight.

    python benchmarks/classifier.py [--rounds 8] [--seconds 4] [--architecture resnet18]

Needs torchvision for the architecture. Windows of served requests and windows of the same handler
(preprocess, model, postprocess) called in a loop without a server take turns; the figure is the
median of their ratios. The report is Markdown on standard output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml
from conv import CONNECTIONS
from echo import SETTLE, say
from load import TOOLS, Load
from PIL import Image
from processes import BenchmarkError, companion
from served import serving

BATCH_SIZE = 8
SIZE = (320, 240)


def write_model(store: Path, architecture: str) -> Path:
    """``classifier``: the built-in handler with a network of torchvision and no weights."""
    model = store / "classifier"
    (model / "MAR-INF").mkdir(parents=True)
    entries = {
        "modelName": "classifier",
        "modelVersion": "1.0",
        "handler": "image_classifier",
        "configFile": "model-config.yaml",
    }
    manifest = json.dumps({"runtime": "python", "model": entries})
    (model / "MAR-INF" / "MANIFEST.json").write_text(manifest)
    config = {
        "minWorkers": 1,
        "batchSize": BATCH_SIZE,
        "maxBatchDelay": 20,
        "handler": {"architecture": architecture},
    }
    (model / "model-config.yaml").write_text(yaml.safe_dump(config))
    return model


def write_picture(path: Path) -> None:
    """A JPEG with something in it to decode."""
    picture = Image.effect_mandelbrot(SIZE, (-2.0, -1.2, 1.2, 1.2), 100).convert("RGB")
    picture.save(path, "JPEG", quality=90)


def measure(folder: Path, load: Load, rounds: int, seconds: float, architecture: str) -> str:
    """Served and unserved windows in turn; the report."""
    model = write_model(folder / "store", architecture)
    picture = folder / "picture.jpg"
    write_picture(picture)
    served_rates, loop_rates = [], []
    with (
        serving(folder, {"classifier": "classifier"}) as served,
        companion("classifier_loop.py", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1") as loop,
    ):
        target = served.target("classifier", picture, "image/jpeg")
        loop.ask(60, load=str(model))
        load.window(target, CONNECTIONS, 2.0)
        for number in range(1, rounds + 1):
            time.sleep(SETTLE)
            served_rates.append(load.window(target, CONNECTIONS, seconds).rate)
            time.sleep(SETTLE)
            done = loop.ask(seconds + 60, loop=seconds, file=str(picture))
            loop_rates.append(done["images"] / done["seconds"])
            say(
                f"  {number}/{rounds}: served {served_rates[-1]:.1f} pictures/s, in a loop "
                f"{loop_rates[-1]:.1f}, ratio {served_rates[-1] / loop_rates[-1]:.3f}"
            )
    ratios = [one / other for one, other in zip(served_rates, loop_rates, strict=True)]
    return (
        f"| {architecture}, batches of {BATCH_SIZE}, {CONNECTIONS} connections | pictures/s |\n"
        "|---|---:|\n"
        f"| served | {statistics.median(served_rates):.1f} |\n"
        f"| in a loop | {statistics.median(loop_rates):.1f} |\n"
        f"| ratio | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what serving image_classifier costs.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one window")
    parser.add_argument("--architecture", default="resnet18", help="a model of torchvision")
    parser.add_argument("--client", choices=TOOLS, help="load generator (default: wrk if there)")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as folder:
            load = Load(arguments.client)
            report = measure(
                Path(folder), load, arguments.rounds, arguments.seconds, arguments.architecture
            )
            print(report)
    except (BenchmarkError, OSError) as exc:
        print(f"The benchmark failed: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
