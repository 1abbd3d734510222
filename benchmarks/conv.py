"""What serving costs beside calling the model in a loop, and what batching costs one client."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from echo import SETTLE, say
from processes import BenchmarkError
from served import call

if TYPE_CHECKING:
    from pathlib import Path

    from load import Load, Target, Window
    from processes import Companion
    from served import Served

CONNECTIONS = 32
WANTED_MS = 3.0
BOUNDS_MS = (2.0, 4.0)
RAW = "application/octet-stream"
_TOLERANCE = 1e-4


@dataclass
class ConvResult:
    """``served`` and ``loop`` (images per second) are pairs of windows that followed each other."""

    blocks: int
    ms_per_image: float
    served: list[Window] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    adaptive: list[Window] = field(default_factory=list)
    single: list[Window] = field(default_factory=list)


def calibrate(inprocess: Companion) -> ConvResult:
    """A depth at which one image in a batch takes 2 to 4 ms on a core of this machine.

    Other work on the machine can spoil it: the report says what came out.
    """
    found = inprocess.ask(120, calibrate=WANTED_MS)
    for _ in range(2):
        if not BOUNDS_MS[0] <= found["ms_per_image"] <= BOUNDS_MS[1]:
            say(f"  conv: {found['ms_per_image']:.1f} ms per image is out of range, once more")
            found = inprocess.ask(120, calibrate=WANTED_MS)
    result = ConvResult(found["blocks"], found["ms_per_image"])
    say(f"  conv: {result.blocks} blocks, {result.ms_per_image:.2f} ms per image in a batch")
    inprocess.ask(60, load=result.blocks)
    return result


def measure_throughput(
    result: ConvResult,
    served: Served,
    inprocess: Companion,
    image: Path,
    load: Load,
    pairs: int,
    seconds: float,
) -> None:
    """Served windows and windows of the loop in turn; the one rests while the other works."""
    target = served.target("conv", image, RAW)
    check_scores(target, inprocess)
    pids = {"frontend": served.pid, "worker": served.worker("conv")}
    load.window(target, CONNECTIONS, min(seconds, 1.0))
    _loop(inprocess, image, min(seconds, 1.0))
    for number in range(1, pairs + 1):
        time.sleep(SETTLE)
        window = load.window(target, CONNECTIONS, seconds, pids)
        time.sleep(SETTLE)
        alone = _loop(inprocess, image, seconds)
        result.served.append(window)
        result.loop.append(alone)
        say(
            f"  conv {number}/{pairs}: served {window.rate:.0f} images/s, in a loop {alone:.0f}, "
            f"ratio {window.rate / alone:.3f}"
        )


def measure_latency(
    result: ConvResult, served: Served, image: Path, load: Load, rounds: int, seconds: float
) -> None:
    """One client alone, with batch size 8 (adaptive) and with batch size 1 in turn."""
    batched = served.target("conv", image, RAW)
    single = served.target("conv_single", image, RAW)
    for target in (batched, single):
        load.window(target, 1, min(seconds, 0.5))
    for number in range(1, rounds + 1):
        result.adaptive.append(load.window(batched, 1, seconds))
        result.single.append(load.window(single, 1, seconds))
        say(
            f"  conv {number}/{rounds}, 1 connection: p50 {result.adaptive[-1].p50_ms:.2f} ms with "
            f"batch size 8, {result.single[-1].p50_ms:.2f} ms with 1"
        )


def check_scores(target: Target, inprocess: Companion) -> None:
    """The server answers what the same network answers without it."""
    answered = json.loads(call("POST", target.url, target.body.read_bytes(), RAW))["scores"]
    expected = inprocess.ask(60, scores=str(target.body))["scores"]
    if max(abs(one - two) for one, two in zip(answered, expected, strict=True)) > _TOLERANCE:
        raise BenchmarkError(f"the server answers {answered} instead of {expected}.")


def _loop(inprocess: Companion, image: Path, seconds: float) -> float:
    done = inprocess.ask(seconds + 30, loop=seconds, file=str(image))
    return float(done["images"] / done["seconds"])
