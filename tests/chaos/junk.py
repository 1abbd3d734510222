"""What must not trouble the server: bytes that mean nothing, and clients that do not end well."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import zmq

if TYPE_CHECKING:
    import random
    from pathlib import Path

REQUEST = (
    b"POST /predictions/single HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b'Content-Length: 14\r\n\r\n{"token": "a"}'
)
NONSENSE = (
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /predictions/single HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /predictions/single HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /predictions/single HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X-Filler: " + b"b" * 100_000 + b"\r\n\r\n",
    REQUEST[:60],
)


async def _open(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def throw_bytes(url: str, choice: random.Random) -> None:
    """Something that is no request, or not all of one."""
    _, writer = await _open(url)
    with contextlib.suppress(OSError):
        writer.write(choice.choice((*NONSENSE, choice.randbytes(choice.randrange(1, 5000)))))
        await writer.drain()
        await asyncio.sleep(choice.random() / 2)
    await _close(writer)


async def leave_early(url: str, choice: random.Random) -> None:
    """A client that goes before its request, or its answer, is complete."""
    _, writer = await _open(url)
    model = choice.choice((b"single", b"stream", b"batched", b"async"))
    request = REQUEST.replace(b"single", model)
    with contextlib.suppress(OSError):
        writer.write(request[: choice.choice((20, 90, len(request) - 1, len(request)))])
        await writer.drain()
        await asyncio.sleep(choice.choice((0.0, 0.001, 0.01)))
    if choice.random() < 0.5:
        writer.transport.abort()
    await _close(writer)


async def ask_slowly(url: str, choice: random.Random) -> bytes:
    """A request that comes in small pieces: its status line."""
    reader, writer = await _open(url)
    size = choice.choice((4, 16))
    for start in range(0, len(REQUEST), size):
        writer.write(REQUEST[start : start + size])
        await writer.drain()
        await asyncio.sleep(0.01)
    line = await asyncio.wait_for(reader.readline(), 60.0)
    await _close(writer)
    return line


def disturb_workers_socket(run_dir: Path, choice: random.Random) -> bool:
    """Throw frames at the socket by which workers talk to the server; False: there is none."""
    paths = list(run_dir.glob("*.sock"))
    if not paths:
        return False
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(
            zmq.ROUTING_ID, choice.choice((b"stranger", b"single/1.0/9000#1", b"\xff"))
        )
        socket.connect(f"ipc://{choice.choice(paths)}")
        for _ in range(choice.randrange(1, 20)):
            count = choice.randrange(1, 5)
            frames = [choice.randbytes(choice.choice((0, 1, 50, 100_000))) for _ in range(count)]
            socket.send_multipart([choice.choice((b"", b"\x93\x01\x01\x02", b"\xc1")), *frames])
        socket.close()
    finally:
        context.term()
    return True
