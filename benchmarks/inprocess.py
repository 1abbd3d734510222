"""The convolution model without a server: a companion process that calls its handler in a loop.

Questions are lines of JSON on standard input, answers lines of JSON on standard output:
{"calibrate": MS} finds the depth at which an image takes about so many milliseconds in a batch,
{"load": BLOCKS} makes the network, {"scores": FILE} answers one image,
{"loop": SECONDS, "file": FILE} runs batches for so long.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from conv_handler import SHAPE, ConvHandler

BATCH_SIZE = 8


def calibrate(wanted_ms: float) -> dict[str, Any]:
    """The depth whose time per image, in a batch on one core, is nearest to ``wanted_ms``."""
    shallow, deep = (_ms_per_image(_load(blocks)) for blocks in (1, 5))
    per_block = max((deep - shallow) / 4, 1e-3)
    blocks = max(1, 1 + round((wanted_ms - shallow) / per_block))
    return {"blocks": blocks, "ms_per_image": _ms_per_image(_load(blocks))}


def loop(handler: ConvHandler, body: bytes, seconds: float) -> dict[str, Any]:
    """Full batches, one after the other. Each image is a fresh ``bytearray``, as in a worker."""
    images = 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        handler.handle([{"body": bytearray(body)} for _ in range(BATCH_SIZE)], None)
        images += BATCH_SIZE
    return {"images": images, "seconds": passed}


def _load(blocks: int) -> ConvHandler:
    handler = ConvHandler()
    handler.initialize(SimpleNamespace(model_yaml_config={"handler": {"blocks": blocks}}))
    return handler


def _ms_per_image(handler: ConvHandler) -> float:
    body = bytes(torch.zeros(SHAPE).numpy().data)
    loop(handler, body, 0.1)
    rounds = [loop(handler, body, 0.1) for _ in range(5)]
    return float(statistics.median(each["seconds"] / each["images"] for each in rounds)) * 1000


def main() -> int:
    torch.set_num_threads(1)
    handler = ConvHandler()
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "calibrate" in question:
            answer = calibrate(question["calibrate"])
        elif "load" in question:
            handler = _load(question["load"])
        elif "scores" in question:
            body = Path(question["scores"]).read_bytes()
            answer = handler.handle([{"body": bytearray(body)}], None)[0]
        else:
            answer = loop(handler, Path(question["file"]).read_bytes(), question["loop"])
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
