"""The requests that a load is made of, as bytes, from what the command line says."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from ... import FlambeauError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_OURS = frozenset({"content-length", "transfer-encoding", "connection"})
_SAFE = "!#$%&'()*+,/:;=?@[]~"


class BenchError(FlambeauError):
    """Load cannot be made, or not as asked; the message says why."""


@dataclass(frozen=True)
class Target:
    """What is asked: ``base``, the address of a listener, and ``path`` with its query."""

    base: str
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """From a URL, or ``unix:/SOCKET:/PATH``. The base is checked by whoever connects."""
        if url.startswith("unix:"):
            socket, _, path = url[len("unix:") :].partition(":")
            return cls(f"unix:{socket}", _path(path))
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise BenchError(f"{url} is not a URL.") from None
        if parts.username is not None:
            raise BenchError("A URL with a user and a password is not taken; use --key or -H.")
        path = _path(parts.path) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
        return cls(f"{parts.scheme}://{parts.netloc}", path)

    @property
    def host(self) -> str:
        """What the Host header says."""
        return "localhost" if self.base.startswith("unix:") else urlsplit(self.base).netloc

    def __str__(self) -> str:
        between = ":" if self.base.startswith("unix:") else ""
        return self.base + between + self.path


def _path(text: str) -> str:
    # What is quoted already stays as it is.
    return quote(text, safe=_SAFE + "%") or "/"


@dataclass(frozen=True)
class Body:
    """What is sent, and of which type it is."""

    content: bytes
    content_type: str | None = None


@dataclass(frozen=True)
class Requests:
    """One request for each body; they are sent in turn."""

    target: Target
    method: str
    bodies: Sequence[Body] = ()
    headers: Sequence[tuple[str, str]] = ()
    key: str | None = field(default=None, repr=False)
    keeps_alive: bool = True

    def in_turn(self) -> Iterator[bytes]:
        """Their bytes, without end."""
        return itertools.cycle([self._bytes(body) for body in self.bodies or (None,)])

    def _bytes(self, body: Body | None) -> bytes:
        fields = {"Host": self.target.host, "Accept": "*/*", "User-Agent": "flambeau-bench"}
        if self.key is not None:
            fields["Authorization"] = f"Bearer {self.key}"
        if not self.keeps_alive:
            fields["Connection"] = "close"
        if body is not None and body.content_type is not None:
            fields["Content-Type"] = body.content_type
        given = {name.lower() for name, _ in self.headers}
        lines = [(name, value) for name, value in fields.items() if name.lower() not in given]
        lines += self.headers
        if body is not None or self.method in ("POST", "PUT", "PATCH"):
            lines.append(("Content-Length", str(len(body.content) if body else 0)))
        head = f"{self.method} {self.target.path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines)
        return head.encode("latin-1") + b"\r\n" + (body.content if body else b"")


def parse_header(text: str) -> tuple[str, str]:
    """Name and value of ``Name: value``; raises BenchError."""
    name, colon, value = text.partition(":")
    value = value.strip(" \t")
    if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        raise BenchError(f"{text!r} is not a header such as 'Name: value'.")
    if name.lower() in _OURS:
        raise BenchError(f"{name} is set by the load generator itself.")
    return name, value


def parse_method(text: str) -> str:
    """A method in capitals; raises BenchError."""
    if not _TOKEN.fullmatch(text) or text.upper() == "CONNECT":
        raise BenchError(f"{text!r} is not a method.")
    return text.upper()
