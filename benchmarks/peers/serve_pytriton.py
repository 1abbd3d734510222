"""Triton's Python backend: WORKLOAD, BLOCKS and PORTS in the environment."""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy
from answers import model
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from sizes import BATCHES, RAW

WORKLOAD = os.environ["WORKLOAD"]
SIZE, DELAY = BATCHES.get(WORKLOAD, (1, 0))
MODEL = model(WORKLOAD, int(os.environ["BLOCKS"]))


def infer(requests: list[Any]) -> list[dict[str, Any]]:
    """Each request has an array of one row or more."""
    rows = [row for request in requests for row in request["values"]]
    if WORKLOAD in RAW:
        rows = [base64.b64decode(row[0]) for row in rows]
    else:
        rows = [row.tolist() for row in rows]
    answers = iter(MODEL(rows))
    return [
        {"answer": numpy.array([next(answers) for _ in request["values"]], dtype=numpy.float32)}
        for request in requests
    ]


if __name__ == "__main__":
    http, grpc, metrics, *_ = map(int, os.environ["PORTS"].split(","))
    config = TritonConfig(
        http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics
    )
    kind = numpy.bytes_ if WORKLOAD in RAW else numpy.float32
    batcher = DynamicBatcher(max_queue_delay_microseconds=DELAY * 1000)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="peer",
            infer_func=infer,
            inputs=[Tensor(name="values", dtype=kind, shape=(-1,))],
            outputs=[Tensor(name="answer", dtype=numpy.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=SIZE, batcher=batcher),
        )
        triton.serve()
