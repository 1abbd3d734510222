"""BentoML: WORKLOAD and BLOCKS in the environment."""

import base64
import os
from typing import Any

import bentoml
from answers import model
from sizes import BATCHES, RAW

WORKLOAD = os.environ["WORKLOAD"]
SIZE, _ = BATCHES.get(WORKLOAD, (1, 0))
# It waits for no fixed time; beyond this one it answers 503.
LATENCY_MS = 10_000


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 2000})
class Peer:
    def __init__(self) -> None:
        self.model = model(WORKLOAD, int(os.environ["BLOCKS"]))

    @bentoml.api(
        batchable=SIZE > 1, max_batch_size=max(SIZE, 2), max_latency_ms=LATENCY_MS, route="/peer"
    )
    def predict(self, values: list[Any]) -> list[Any]:
        batch = values if SIZE > 1 else [values]
        if WORKLOAD in RAW:
            batch = [base64.b64decode(each[0]) for each in batch]
        answers = self.model(batch)
        return answers if SIZE > 1 else answers[0]
