"""image_classifier without a server: a companion process that calls it in a loop.

Questions are lines of JSON on standard input, answers lines of JSON on standard output:
{"load": FOLDER} loads the model in it, {"loop": SECONDS, "file": PICTURE} runs batches for so long.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from classifier import BATCH_SIZE

from flambeau.handlers.image_classifier import ImageClassifier
from flambeau.worker.context import Context


def load(model: Path) -> tuple[ImageClassifier, Context]:
    """The handler as a worker has it."""
    manifest = json.loads((model / "MAR-INF" / "MANIFEST.json").read_text())
    config = yaml.safe_load((model / "model-config.yaml").read_text())
    context = Context(
        "classifier", str(model), manifest, BATCH_SIZE, None, "", model_yaml_config=config
    )
    handler = ImageClassifier()
    handler.initialize(context)
    return handler, context


def loop(handler: ImageClassifier, context: Context, body: bytes, seconds: float) -> dict[str, Any]:
    """Full batches, one after the other. Each picture is a fresh ``bytearray``, as in a worker."""
    images = 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        context.begin_batch([""] * BATCH_SIZE, [{}] * BATCH_SIZE)
        handler.handle([{"body": bytearray(body)} for _ in range(BATCH_SIZE)], context)
        images += BATCH_SIZE
    return {"images": images, "seconds": passed}


def main() -> int:
    torch.set_num_threads(1)
    model: tuple[ImageClassifier, Context] | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "load" in question:
            model = load(Path(question["load"]))
        elif model is not None:
            body = Path(question["file"]).read_bytes()
            answer = loop(*model, body, question["loop"])
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
