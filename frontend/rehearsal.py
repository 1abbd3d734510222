"""A handler at work without a server: one worker, the requests of one's own, their answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .. import FlambeauError
from .jobs import Outcome
from .predictor import Predictor
from .server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .config import Config
    from .jobs import Part
    from .precedence import Registration

Input = tuple[dict[str, str], list["Part"]]
"""Headers and parts of a request."""


async def rehearse(
    config: Config, registration: Registration, model: str, inputs: list[Input]
) -> AsyncGenerator[Outcome, None]:
    """Register ``model``, ask it all ``inputs`` at once, and give the outcomes in their order.

    They pass through queue, wire and worker as they would in a server; nobody listens. Raises what
    a registration raises.
    """
    server = Server(config)
    try:
        await server.registry.register(registration)
        predictor = Predictor(
            server.engine, server.registry, server.metrics, lambda: False, config.max_response_size
        )
        asked = [
            asyncio.ensure_future(_ask(predictor, model, number, each))
            for number, each in enumerate(inputs, start=1)
        ]
        for answered in asked:
            yield await answered
    finally:
        await server.close()


async def _ask(predictor: Predictor, model: str, number: int, given: Input) -> Outcome:
    async def read_input() -> Input:
        return given

    try:
        return await predictor.predict(f"input-{number}", model, None, read_input, lambda _: None)
    except FlambeauError as error:
        return Outcome(status=error.status, error=error)
