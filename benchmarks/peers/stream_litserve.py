"""LitServe with answers in pieces: PORT in the environment."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import litserve
from answers import pieces
from sizes import PAUSE


class Peer(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    async def decode_request(self, request: dict[str, Any]) -> list[float]:
        values: list[float] = request["values"]
        return values

    async def predict(self, x: list[float]) -> AsyncIterator[str]:
        for number, piece in enumerate(pieces(x)):
            if number:
                await asyncio.sleep(PAUSE)
            yield piece

    async def encode_response(self, output: AsyncIterator[str]) -> Any:
        # FastAPI would make a schema of a narrower type, and fail.
        async for piece in output:
            yield piece


if __name__ == "__main__":
    api = Peer(stream=True, enable_async=True)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
