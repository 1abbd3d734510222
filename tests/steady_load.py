"""Clients that ask without a break while something happens to the server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from real_server import wait_for

if TYPE_CHECKING:
    from real_server import Answer, RealServer


class Load:
    """Clients that ask a model without a break, until the ``with`` ends."""

    def __init__(self, server: RealServer, model: str, clients: int = 4) -> None:
        self._server, self._model, self._clients = server, model, clients
        self._over = threading.Event()
        self.answers: list[Answer] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self._clients)
        self._asking = [self._pool.submit(self._ask) for _ in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for each in self._asking:
            each.result()

    def _ask(self) -> None:
        with self._server.connect() as connection:
            while not self._over.is_set():
                self.answers.append(connection.ask("POST", f"/predictions/{self._model}", b"x"))

    def more(self, count: int = 50) -> None:
        """Wait until as many more requests have been answered."""
        goal = len(self.answers) + count
        wait_for(lambda: len(self.answers) >= goal, 20.0, f"{count} more answers")

    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]
