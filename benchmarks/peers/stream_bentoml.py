"""BentoML with answers in pieces."""

import asyncio
from collections.abc import AsyncGenerator

import bentoml
from answers import pieces
from sizes import PAUSE


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 2000})
class Peer:
    @bentoml.api(route="/peer")
    async def predict(self, values: list[float]) -> AsyncGenerator[str, None]:
        for number, piece in enumerate(pieces(values)):
            if number:
                await asyncio.sleep(PAUSE)
            yield piece
