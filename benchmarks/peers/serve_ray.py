"""Ray Serve: WORKLOAD, BLOCKS and PORT in the environment."""

import os
import threading
from typing import Any

import ray
from answers import model, parse
from ray import serve
from sizes import BATCHES
from starlette.requests import Request

WORKLOAD = os.environ["WORKLOAD"]
SIZE, DELAY = BATCHES.get(WORKLOAD, (1, 0))


@serve.deployment(num_replicas=1, max_ongoing_requests=128)
class Peer:
    def __init__(self) -> None:
        self.model = model(WORKLOAD, int(os.environ["BLOCKS"]))

    @serve.batch(max_batch_size=SIZE, batch_wait_timeout_s=DELAY / 1000)
    async def batch(self, inputs: list[Any]) -> list[Any]:
        return self.model(inputs)

    async def __call__(self, request: Request) -> dict[str, Any]:
        value = parse(WORKLOAD, await request.body())
        return {"answer": self.model([value])[0] if SIZE == 1 else await self.batch(value)}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Peer.bind())
    threading.Event().wait()
