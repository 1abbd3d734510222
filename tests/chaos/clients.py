"""Clients that ask, on connections that they keep and on fresh ones, and note what came of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import aiohttp
from chaos.ledger import Ledger, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.schedule import Order

PATIENCE = 60.0
"""Seconds after which a request without an answer is a failure of the run."""
HURTS = frozenset({"exit", "leave", "crash", "hang"})
"""What costs a worker its life."""


def body_of(order: Order) -> bytes:
    """The request's JSON."""
    fields: dict[str, object] = {"token": order.token}
    if order.pad:
        fields["pad"] = "x" * order.pad
    if order.do is not None:
        fields["do"] = order.do
    return json.dumps(fields).encode()


class Clients:
    """``count`` clients that ask one request after the other."""

    def __init__(self, url: str, ledger: Ledger, count: int) -> None:
        self._url, self._ledger, self._count = url, ledger, count
        self.asked = 0

    async def ask_all(self, orders: Callable[[], Order | None]) -> None:
        """Until ``orders`` has no more of them."""
        connector = aiohttp.TCPConnector(limit=self._count)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._ask_on(session, orders) for _ in range(self._count)))

    async def _ask_on(
        self, session: aiohttp.ClientSession, orders: Callable[[], Order | None]
    ) -> None:
        while (order := orders()) is not None:
            self.asked += 1
            began = time.monotonic()
            if order.do in HURTS:
                self._ledger.injured(order.model, began)
            reply = await self._ask(session, order)
            ended = time.monotonic()
            if order.do in HURTS:
                self._ledger.injured(order.model, ended)
            self._ledger.enter(order, reply, began, ended)

    async def _ask(self, session: aiohttp.ClientSession, order: Order) -> Reply:
        headers = {"Content-Type": "application/json"}
        if order.fresh:
            headers["Connection"] = "close"
        url = f"{self._url}/predictions/{order.model}"
        status, said = 0, b""
        answered: dict[str, str] = {}
        try:
            async with session.post(url, data=body_of(order), headers=headers) as response:
                status = response.status
                answered = {name.lower(): value for name, value in response.headers.items()}
                async for piece in response.content.iter_any():
                    said += piece
        except asyncio.TimeoutError:
            return Reply(status, answered, b"no answer in time", broken=True)
        except aiohttp.ClientError as error:
            return Reply(status, answered, said or repr(error).encode(), broken=True)
        return Reply(status, answered, said)
