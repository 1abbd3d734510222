"""Ray Serve with answers in pieces: PORT in the environment."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import ray
from answers import parse, pieces
from ray import serve
from sizes import PAUSE, STREAM
from starlette.requests import Request
from starlette.responses import StreamingResponse


@serve.deployment(num_replicas=1, max_ongoing_requests=128)
class Peer:
    async def __call__(self, request: Request) -> StreamingResponse:
        values = parse(STREAM, await request.body())
        return StreamingResponse(self.answer(values), media_type="text/plain")

    async def answer(self, values: list[float]) -> AsyncIterator[str]:
        for number, piece in enumerate(pieces(values)):
            if number:
                await asyncio.sleep(PAUSE)
            yield piece


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Peer.bind())
    threading.Event().wait()
