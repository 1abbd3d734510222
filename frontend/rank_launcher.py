"""Starts the ranks of a worker, which begin and end together."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from .ranks import members_of, rank_environ

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .exits import Exit
    from .launcher import Handle, Launch, Launcher
    from .ranks import Parallelism

_PORTS = 1000
"""How many ports are tried for one that is free."""
_LEAVING = 1.0
"""Seconds for the others to end by themselves, after a rank that has ended well.

They have been told to stop as it was, or it has left by itself: then that must show soon.
"""


_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
"""Variables by which gloo, NCCL and torch's RPC know on which network to listen."""


class RankLauncher:
    """Starts each rank with ``launcher``, and workers that have none as they are.

    The ranks of a worker meet at a port of this host: the first free one from ``first_port`` on.
    They talk over the loopback interface, unless ``environ``, the server's, names another.
    """

    def __init__(self, launcher: Launcher, first_port: int, environ: Mapping[str, str]) -> None:
        self._launcher = launcher
        self._first_port = first_port
        self._network = {
            name: interface
            for _, interface in socket.if_nameindex()
            if interface in ("lo", "lo0")
            for name in _INTERFACES
            if name not in environ
        }

    async def start(self, launch: Launch) -> Handle:
        """Start one worker, with all of its ranks or not at all; raises OSError."""
        parallel = launch.parallel
        if parallel is None or not parallel.has_ranks:
            return await self._launcher.start(launch)
        meeting_point = reserve_port(self._first_port)
        port = meeting_point.getsockname()[1]
        # All at once: they wait for each other anyway.
        started = await asyncio.gather(
            *(self._launcher.start(each) for each in self._launches(launch, parallel, port)),
            return_exceptions=True,
        )
        handles = [each for each in started if not isinstance(each, BaseException)]
        failures = [each for each in started if isinstance(each, BaseException)]
        if failures:
            meeting_point.close()
            for handle in handles:
                handle.kill()
            await asyncio.gather(*(handle.wait() for handle in handles))
            raise failures[0]
        return GroupHandle(launch.identity, handles, meeting_point)

    def _launches(self, launch: Launch, parallel: Parallelism, port: int) -> Iterator[Launch]:
        for rank, member in enumerate(members_of(launch.identity, parallel)):
            own = rank_environ(rank, parallel, port, launch.key[0])
            environ = {**launch.environ, **self._network, **own}
            yield replace(launch, identity=member, environ=environ)

    def close(self) -> None:
        self._launcher.close()


class GroupHandle:
    """The ranks of a worker. When one ends, the others cannot go on: they are ended too."""

    def __init__(
        self, identity: str, handles: Sequence[Handle], meeting_point: socket.socket
    ) -> None:
        self._identity = identity
        self._handles = handles
        self._meeting_point = meeting_point

    async def wait(self) -> Exit:
        """How the rank ended that was the first to do so, once all have."""
        waits = [asyncio.ensure_future(handle.wait()) for handle in self._handles]
        ended, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        rank, exit = next((n, each.result()) for n, each in enumerate(waits) if each in ended)
        if exit.code == 0 and others:
            # Told to stop, as the others are.
            await asyncio.wait(others, timeout=_LEAVING)
        self.kill()
        await asyncio.gather(*waits)
        self._meeting_point.close()
        return replace(exit, identity=self._identity, message=f"Rank {rank}: {exit.message}")

    def terminate(self) -> None:
        for handle in self._handles:
            handle.terminate()

    def kill(self) -> None:
        for handle in self._handles:
            handle.kill()


def reserve_port(first: int) -> socket.socket:
    """A socket that keeps a port of the loopback interface for a rank to listen on.

    It is the first free one from ``first`` on; raises OSError if there is none. The reservation
    keeps off everybody who asks for a free port, and admits whom ``SO_REUSEADDR`` lets share it, as
    torch does: two servers on one host give their workers different ports.
    """
    for port in range(first, min(first + _PORTS, 1 << 16)):
        reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            reservation.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
        else:
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return reservation
    raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: every port from {first} on")
