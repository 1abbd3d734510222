"""Listening sockets that were opened by somebody else: the server before this one, or systemd."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ConfigError
from .settings import read_address

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from .settings import Address

FIRST_FD = 3
"""Where the descriptors begin that systemd gives (sd_listen_fds(3))."""

_Place = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket of the listener called ``name``, empty if that is not known.

    ``wanted`` is the address that the listener was configured with, None if nobody asked for one.
    """

    name: str
    wanted: str | None
    socket: socket.socket


class InheritedSockets:
    """Sockets that wait for the listeners that they are meant for."""

    def __init__(self, sockets: Iterable[ListeningSocket] = ()) -> None:
        self._left = list(sockets)

    def take(self, name: str, wanted: Address) -> list[socket.socket]:
        """The sockets for a listener: those that had its name and address, else those that are
        bound to its address; none where it is to open its own.
        """
        taken = self._meant_for(name, wanted)
        self._left = [each for each in self._left if each not in taken]
        return [each.socket for each in taken]

    def has(self, name: str, wanted: Address) -> bool:
        """``take`` would give some."""
        return bool(self._meant_for(name, wanted))

    def _meant_for(self, name: str, wanted: Address) -> list[ListeningSocket]:
        place = _place(wanted)
        named = [each for each in self._left if each.name == name and _was_for(each, place)]
        return named or [each for each in self._left if _bound(each.socket) == place]

    def close(self) -> list[str]:
        """Close those that nobody took, and say where they were bound."""
        closed = []
        while self._left:
            each = self._left.pop().socket
            host, port, path = _bound(each)
            closed.append(path or f"{host}:{port}")
            each.close()
            if path and not path.startswith("\0"):
                with suppress(OSError):
                    os.unlink(path)
        return closed


def sockets_of_systemd(environ: MutableMapping[str, str]) -> list[ListeningSocket]:
    """The sockets that systemd has opened for this process, which are then no longer announced.

    A name (``FileDescriptorName=``) is that of the listener. Raises ConfigError for what no
    listener can use.
    """
    pid, count, names = (
        environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    given = names.split(":") if names else []
    found = []
    for index in range(int(count)):
        name = given[index] if index < len(given) else ""
        found.append(ListeningSocket(name, None, _listening(FIRST_FD + index)))
    return found


def adopt(fd: int) -> socket.socket:
    """The socket behind a descriptor that is now ours; raises OSError if it is none."""
    # Workers are not to have it.
    os.set_inheritable(fd, False)
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise


def _listening(fd: int) -> socket.socket:
    try:
        found = adopt(fd)
    except OSError:
        raise ConfigError("LISTEN_FDS announces what is no socket; look at the unit.") from None
    if found.type != socket.SOCK_STREAM or not _accepts(found):
        found.close()
        raise ConfigError(
            "LISTEN_FDS announces a socket that takes no connections; the unit needs ListenStream= "
            "and Accept=no."
        )
    return found


def _accepts(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _was_for(given: ListeningSocket, place: _Place) -> bool:
    return given.wanted is None or _place(read_address(given.wanted)) == place


def _place(address: Address) -> _Place:
    """Whether TLS is spoken there does not matter to the socket."""
    return ("", 0, address.path) if address.path else (address.host, address.port, "")


def _bound(each: socket.socket) -> _Place:
    name = each.getsockname()
    if isinstance(name, (str, bytes)):
        return ("", 0, os.fsdecode(name))
    return (str(name[0]), int(name[1]), "")
