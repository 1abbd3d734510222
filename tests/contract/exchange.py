"""One HTTP exchange, byte for byte: no library in between that mends what it sends or reads."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from contract.rows import Row

PATIENCE = 30.0


@dataclass(frozen=True)
class Reply:
    """An answer as it came; header names are in lower case, ``pieces`` are the chunks."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    pieces: tuple[bytes, ...] = ()


def key_of(name: str) -> str:
    """Stands in a header for the server's key called ``name``: inference, management or API."""
    return f"<key {name}>"


def exchange(
    addresses: Mapping[str, str],
    row: Row,
    key_file: Path | None = None,
    patience: float = PATIENCE,
) -> Reply:
    """Send the row's request on a connection of its own and read the whole answer.

    The keys of ``key_file`` take the place of their names in the request's headers. Raises
    TimeoutError if nothing comes for ``patience`` seconds.
    """
    address = urlsplit(addresses[row.port])
    with socket.create_connection((address.hostname, address.port), patience) as connection:
        connection.settimeout(patience)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            # A server may refuse, and hang up, before it has read everything.
            connection.sendall(row.raw if row.raw is not None else _request(row, key_file))
        with connection.makefile("rb") as stream:
            reply = _read(stream, row.method)
            while reply.status == 100:
                reply = _read(stream, row.method)
            return reply


def _request(row: Row, key_file: Path | None) -> bytes:
    headers = {"Host": "localhost", **row.headers}
    if key_file is not None and "Authorization" in headers:
        for name, value in json.loads(key_file.read_text()).items():
            known = headers["Authorization"].replace(key_of(name), value["key"])
            headers["Authorization"] = known
    if row.body is not None:
        headers.setdefault("Content-Length", str(len(row.body)))
    lines = [f"{row.method} {row.target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (row.body or b"")


def _read(stream, method: str) -> Reply:
    first = stream.readline().decode("latin-1").rstrip("\r\n")
    if not first:
        return Reply(0, "connection closed without an answer", {}, b"")
    _, code, *reason = first.split(" ", 2)
    headers = {}
    while line := stream.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body, pieces = b"", []
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(stream.readline().split(b";")[0] or b"0", 16):
            pieces.append(stream.read(size))
            stream.readline()
        stream.readline()
        body = b"".join(pieces)
    elif method != "HEAD":
        body = stream.read(int(headers.get("content-length", 0)))
    return Reply(int(code), reason[0] if reason else "", headers, body, tuple(pieces))
