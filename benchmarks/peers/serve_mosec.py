"""Mosec: WORKLOAD BLOCKS in the environment, its own options on the command line."""

from __future__ import annotations

import os
from typing import Any

from answers import model
from mosec import Server, Worker
from sizes import BATCHES, RAW

WORKLOAD = os.environ["WORKLOAD"]
SIZE, DELAY = BATCHES.get(WORKLOAD, (1, 0))


class Peer(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = model(WORKLOAD, int(os.environ["BLOCKS"]))

    def deserialize(self, data: bytes) -> Any:
        return data if WORKLOAD in RAW else super().deserialize(data)["values"]

    def forward(self, data: Any) -> Any:
        if SIZE == 1:
            return {"answer": self.model([data])[0]}
        return [{"answer": answer} for answer in self.model(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Peer, num=1, max_batch_size=SIZE, max_wait_time=DELAY)
    server.run()
