"""A server hands its place to another one, which has been started beside it.

The new process connects to a Unix socket in the run directory of the old one and gets its listening
sockets and what it needs to know. It loads its models meanwhile, says that it is ready, is told to
go on, and takes connections; then the old one takes no more. Until that word the old server serves
as ever, and if the new one goes away before it, nothing has happened.

One line of JSON is one message. The new one says ``hello``, ``ready`` and ``serving``; the old one
answers the first two, or with an ``error``.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

from .errors import HandoverError
from .inherited import ListeningSocket, adopt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PROTOCOL = 1
PATIENCE = 10.0
"""Seconds within which each side answers where it has nothing to wait for."""
TAKING_PLACE = 60.0
"""Seconds that the new server has to open its listeners, once it was told to go on."""
_MAX_SOCKETS = 64
_CREDENTIALS = struct.Struct("3i")

logger = logging.getLogger("flambeau.server")


def handover_path(run_dir: Path, pid: int) -> Path:
    """Where the server ``pid`` can be asked for its place."""
    return run_dir / f"{pid}.handover.sock"


class Place(Protocol):
    """What a server says and does when another one asks for its place."""

    def offer(self) -> tuple[dict[str, Any], Sequence[ListeningSocket]]:
        """What the new one needs to know, and the sockets."""

    def freeze(self) -> None:
        """Let nobody change what was offered; raises HandoverError if it is not so any more."""

    def thaw(self) -> None:
        """The new one did not come: all is as before."""

    def leave(self) -> None:
        """The new one serves: finish what is there, and go."""


class Handover:
    """Waits for a successor, as long as the server serves."""

    def __init__(self, path: Path, place: Place) -> None:
        self._path = path
        self._place = place
        self._server: asyncio.AbstractServer | None = None
        self._successor: asyncio.StreamWriter | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self.is_done = False
        """A successor has taken the place."""

    async def open(self) -> None:
        """Wait for a successor from now on."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._met, str(self._path))
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Hand nothing over any more: a successor that is still loading is sent away."""
        self._is_closing = True
        if self._server is not None:
            self._server.close()
        if self._successor is not None and not self.is_done:
            with contextlib.suppress(OSError):
                await _say(self._successor, {"error": "it was told to stop meanwhile"})
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._served(reader, writer))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as ours:
                pid = _peer(ours)
                if pid is None:
                    logger.warning("another user has asked for the place of this server")
                    return
                await self._talk(pid, reader, writer, ours)
        except HandoverError as error:
            logger.error("this server goes on serving: %s", error)
            with contextlib.suppress(OSError):
                await _say(writer, {"error": error.message})
        except (OSError, ValueError, asyncio.TimeoutError, EOFError) as error:
            logger.error("this server goes on serving: its successor is gone (%s)", error)
        finally:
            if self._successor is writer:
                self._successor = None
            writer.close()

    async def _talk(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ours: socket.socket,
    ) -> None:
        await asyncio.wait_for(_hear(reader, "hello"), PATIENCE)
        offered, sockets = self._offer()
        self._successor = writer
        logger.info("process %d is to take the place of this server", pid)
        _send_sockets(ours, [each.socket.fileno() for each in sockets])
        named = [(each.name, each.wanted) for each in sockets]
        await _say(writer, {"protocol": PROTOCOL, "sockets": named, "offered": offered})
        await _hear(reader, "ready")
        self._place.freeze()
        try:
            await _say(writer, {"go": True})
            await asyncio.wait_for(_hear(reader, "serving"), TAKING_PLACE)
        except BaseException:
            self._place.thaw()
            raise
        self.is_done = True
        logger.info("process %d has taken the place of this server", pid)
        self._place.leave()

    def _offer(self) -> tuple[dict[str, Any], Sequence[ListeningSocket]]:
        if self.is_done:
            raise HandoverError("it has been replaced already")
        if self._successor is not None:
            raise HandoverError("it is being replaced already")
        if self._is_closing:
            raise HandoverError("it is about to stop")
        return self._place.offer()


class Predecessor:
    """The server whose place is to be taken, as seen from the new one."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.offered: dict[str, Any] = {}
        self.sockets: list[ListeningSocket] = []
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")

    @classmethod
    def meet(cls, path: Path, pid: int) -> Predecessor:
        """Ask the server ``pid`` for its place; raises HandoverError if it does not give it."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(path))
            if _peer(connection) not in (pid, 0):
                raise HandoverError(f"The server is not process {pid} of yours.")
            found = cls(pid, connection)
            found._begin()
        except (OSError, EOFError) as error:
            connection.close()
            raise HandoverError(
                f"The server that runs, pid {pid}, cannot be asked for its place ({error})."
            ) from None
        except BaseException:
            connection.close()
            raise
        return found

    def _begin(self) -> None:
        self._say("hello")
        first, ancillary, _, _ = self._connection.recvmsg(
            1, socket.CMSG_SPACE(_MAX_SOCKETS * array.array("i").itemsize)
        )
        sockets = [adopt(fd) for fd in _descriptors(ancillary)]
        word = self._hear(first.decode())
        named = word.get("sockets", [])
        if word.get("protocol") != PROTOCOL or len(named) != len(sockets):
            raise HandoverError("The server that runs hands over in another way; stop it first.")
        self.offered = word["offered"]
        self.sockets = [
            ListeningSocket(name, wanted, each)
            for (name, wanted), each in zip(named, sockets, strict=True)
        ]

    async def ready(self) -> None:
        """Say that all is loaded, and wait for the word to go on. If the old server has ended
        meanwhile, that is one. Raises HandoverError if it does not give its place.
        """
        await asyncio.to_thread(self._ready)

    def _ready(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._say("ready")
        try:
            self._hear()
        except EOFError:
            logger.warning("the server before, pid %d, has ended by itself", self.pid)
        except OSError as error:
            raise HandoverError(f"The server before does not answer ({error}).") from None

    def serving(self) -> None:
        """Connections are taken: the old server takes no more from now on."""
        with contextlib.suppress(OSError):
            self._say("serving")
        self.close()

    def close(self) -> None:
        """Part from the old server, which goes on if it was not told ``serving``."""
        self._lines.close()
        self._connection.close()

    def _say(self, word: str) -> None:
        self._connection.sendall(json.dumps({"say": word}).encode() + b"\n")

    def _hear(self, first: str = "") -> dict[str, Any]:
        line = first + self._lines.readline()
        if not line.endswith("\n"):
            raise EOFError("no more words")
        word: dict[str, Any] = json.loads(line)
        if "error" in word:
            raise HandoverError(
                f"The server that runs, pid {self.pid}, does not give its place: {word['error']}."
            )
        return word


async def _say(writer: asyncio.StreamWriter, word: Mapping[str, Any]) -> None:
    writer.write(json.dumps(word).encode() + b"\n")
    await writer.drain()


async def _hear(reader: asyncio.StreamReader, expected: str) -> None:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("it hung up")
    word = json.loads(line)
    if not isinstance(word, dict) or word.get("say") != expected:
        raise ValueError(f"it did not say {expected}")


def _send_sockets(ours: socket.socket, fds: Sequence[int]) -> None:
    """They travel beside a byte that means nothing, before the words."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    ours.sendmsg([b" "], rights)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _peer(connection: socket.socket) -> int | None:
    """The process at the other end; None if it is another user's.

    0 where the system does not tell: there the folder alone, which is for its owner only, keeps
    others away.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return int(pid) if uid == os.geteuid() else None
