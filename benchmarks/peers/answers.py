"""The models: what each server calls, and the same without a server for reference.

Copied beside what serves it, so it imports only torch and what lies there too.

    python answers.py BLOCKS FOLDER SECONDS [WORKLOAD]

prints the right answers to FOLDER's bodies of each workload, or of this one, and how many a core
makes in a second when it is called in a loop for so long. A body is NAME-NUMBER.body.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from conv_handler import SHAPE, Net
from sizes import BATCHES, RAW, STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

_VOCABULARY = 1000


def model(workload: str, blocks: int) -> Callable[[list[Any]], list[list[float]]]:
    """A function from a batch of inputs to their answers, each a list of numbers."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if workload == "echo":
        return lambda batch: [[sum(values)] for values in batch]
    if workload == "mlp":
        return _mlp()
    if workload == "conv":
        return _conv(blocks)
    if workload == "encoder":
        return _encoder()
    if workload == STREAM:
        return lambda batch: batch
    return lambda batch: [[float(len(body))] for body in batch]


def parse(workload: str, body: Any) -> Any:
    """A model's input from a request's body, for servers that leave this to the model."""
    return bytes(body) if workload in RAW else json.loads(body)["values"]


def pieces(values: list[float]) -> list[str]:
    """What is sent one after the other, in the workload that streams."""
    return [f"{float(value)} " for value in values]


def _mlp() -> Callable[[list[Any]], list[list[float]]]:
    layers = torch.nn
    net = layers.Sequential(
        layers.Linear(64, 256),
        layers.ReLU(),
        layers.Linear(256, 256),
        layers.ReLU(),
        layers.Linear(256, 10),
    ).eval()

    def call(batch: list[Any]) -> list[list[float]]:
        with torch.inference_mode():
            scores: list[list[float]] = net(torch.tensor(batch)).tolist()
            return scores

    return call


def _conv(blocks: int) -> Callable[[list[Any]], list[list[float]]]:
    net = Net(blocks).eval()

    def call(batch: list[Any]) -> list[list[float]]:
        images = [
            torch.frombuffer(bytearray(body), dtype=torch.float32).view(SHAPE) for body in batch
        ]
        with torch.inference_mode():
            scores: list[list[float]] = net(torch.stack(images)).tolist()
            return scores

    return call


def _encoder() -> Callable[[list[Any]], list[list[float]]]:
    """Texts of a batch are filled up to the longest; the answer is the mean of a text's tokens."""
    embedding = torch.nn.Embedding(_VOCABULARY, 64)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    net = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()

    def call(batch: list[Any]) -> list[list[float]]:
        texts = [torch.tensor([int(token) for token in text]) for text in batch]
        tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in texts])
        missing = torch.arange(tokens.shape[1]) >= lengths[:, None]
        with torch.inference_mode():
            found = net(embedding(tokens), src_key_padding_mask=missing)
            found = found.masked_fill(missing[:, :, None], 0).sum(dim=1) / lengths[:, None]
        vectors: list[list[float]] = found[:, :8].tolist()
        return vectors

    return call


def _reference(workload: str, blocks: int, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    """Batches of the loop are full, and take the bodies in turn."""
    call = model(workload, blocks)
    size = BATCHES.get(workload, (1, 0))[0]
    answers = [call([parse(workload, body)])[0] for body in bodies]
    turns = cycle(bodies)
    call([parse(workload, body) for body in islice(turns, size)])
    done = 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        call([parse(workload, body) for body in islice(turns, size)])
        done += size
    return {"answers": answers, "rate": done / passed}


def main() -> int:
    blocks, folder, seconds, *only = sys.argv[1:]
    bodies: dict[str, list[bytes]] = {}
    for path in sorted(Path(folder).glob("*.body")):
        bodies.setdefault(path.stem.rpartition("-")[0], []).append(path.read_bytes())
    found = {
        name: _reference(name, int(blocks), each, float(seconds))
        for name, each in bodies.items()
        if not only or name in only
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
