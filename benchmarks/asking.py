"""Clients that ask without a break while something happens to the server, and miss nothing.

Each client is a thread with one request under way. Every answer is held against what was asked.
Nothing is tried twice: a connection that breaks is a failed request, as it is for a client that
must not send a request again. A client that keeps its connection follows ``Connection: close``.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

GOOD = "right answers"
PIECES = 12
_LONGEST_WAIT = 60.0


@dataclass
class Report:
    """How requests ended, and the seconds that the answers took."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        return self.requests - self.outcomes[GOOD]

    def text(self) -> str:
        """Every outcome with its number, and how long the answers took."""
        ordered = sorted(self.seconds) or [0.0]
        median, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        lines = [f"{count:8,}  {outcome}" for outcome, count in self.outcomes.most_common()]
        took = (
            f"median {median * 1000:.1f} ms, p99 {late * 1000:.1f} ms, "
            f"longest {ordered[-1] * 1000:.0f} ms"
        )
        return (
            "\n".join([f"{self.requests:8,}  requests, {self.failed} of them failed", *lines])
            + f"\n          {took}"
        )


class Asking:
    """Clients that ask from ``with`` on, until ``finish``.

    ``kept`` of them keep their connections, ``single`` open one for each request, ``streams`` read
    answers that come in pieces. ``base`` is the URL of the inference API, with the models ``echo``
    and, for streams, ``slow``.
    """

    def __init__(
        self,
        base: str,
        kept: int,
        single: int,
        streams: int = 0,
        headers: Mapping[str, str] | None = None,
        certificate: Path | None = None,
    ) -> None:
        self._place = urlsplit(base)
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._certificate = certificate
        self.report = Report()
        self._lock = threading.Lock()
        self._over = threading.Event()
        kinds = [self._keep] * kept + [self._single] * single + [self._stream] * streams
        self._clients = [
            threading.Thread(target=kind, args=(number,), daemon=True)
            for number, kind in enumerate(kinds)
        ]

    def __enter__(self) -> Asking:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def wait(self, requests: int) -> None:
        """Wait until so many requests have ended, however they did."""
        while self.report.requests < requests:
            if not any(client.is_alive() for client in self._clients):
                raise RuntimeError("the clients have ended")
            time.sleep(0.01)

    def finish(self) -> Report:
        """Let the clients end what they have begun; how it all ended."""
        self._over.set()
        for client in self._clients:
            client.join()
        return self.report

    def _keep(self, number: int) -> None:
        connection = self._connect()
        for count in self._counting():
            self._note(self._echo, connection, f"{number}.{count}")
        connection.close()

    def _single(self, number: int) -> None:
        for count in self._counting():
            connection = self._connect()
            self._note(self._echo, connection, f"{number}.{count}")
            connection.close()

    def _stream(self, number: int) -> None:
        for _ in self._counting():
            connection = self._connect()
            self._note(self._pieces, connection, "")
            connection.close()

    def _counting(self) -> Any:
        count = 0
        while not self._over.is_set():
            count += 1
            yield count

    def _note(
        self,
        ask: Callable[[http.client.HTTPConnection, str], str],
        connection: http.client.HTTPConnection,
        text: str,
    ) -> None:
        started = time.perf_counter()
        try:
            outcome = ask(connection, text)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            outcome = f"no answer: {type(error).__name__}"
        took = time.perf_counter() - started
        with self._lock:
            self.report.outcomes[outcome] += 1
            if ask == self._echo:
                self.report.seconds.append(took)

    def _echo(self, connection: http.client.HTTPConnection, text: str) -> str:
        asked = {"text": text, "filler": "x" * 64}
        connection.request("POST", "/predictions/echo", json.dumps(asked), self._headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return f"status {answer.status}"
        return GOOD if json.loads(body) == asked else "wrong answers"

    def _pieces(self, connection: http.client.HTTPConnection, _: str) -> str:
        connection.request(
            "POST", "/predictions/slow", json.dumps({"pieces": PIECES}), self._headers
        )
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return f"stream with status {answer.status}"
        whole = "".join(f"{number} " for number in range(PIECES))
        return GOOD if body.decode() == whole else "broken streams"

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._place.hostname or "", self._place.port
        if self._place.scheme == "https":
            # The certificate is the benchmark's own, and names no host.
            context = ssl.create_default_context(cafile=self._certificate)
            context.check_hostname = False
            return http.client.HTTPSConnection(host, port, timeout=_LONGEST_WAIT, context=context)
        return http.client.HTTPConnection(host, port, timeout=_LONGEST_WAIT)
