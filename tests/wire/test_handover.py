"""How two servers talk when one takes the place of the other: two ends in one process."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.frontend import handover as module
from flambeau.frontend import inherited
from flambeau.frontend.errors import ConfigError, HandoverError
from flambeau.frontend.handover import Handover, Predecessor, handover_path
from flambeau.frontend.inherited import InheritedSockets, ListeningSocket, sockets_of_systemd
from flambeau.frontend.settings import read_address

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakePlace:
    """Remembers what was asked of it; refuses to be frozen if it is to."""

    def __init__(self, *sockets: ListeningSocket) -> None:
        self.sockets = sockets
        self.said: list[str] = []
        self.refuses = False
        self.changed = threading.Event()

    def offer(self) -> tuple[dict[str, Any], tuple[ListeningSocket, ...]]:
        # Longer than any buffer of the socket between the two.
        return {"models": "x" * 1_000_000}, self.sockets

    def freeze(self) -> None:
        if self.refuses:
            raise HandoverError("it has second thoughts")
        self.said.append("freeze")

    def thaw(self) -> None:
        self.said.append("thaw")
        self.changed.set()

    def leave(self) -> None:
        self.said.append("leave")
        self.changed.set()


@contextmanager
def occupied(place: FakePlace) -> Iterator[Path]:
    """The path at which the place can be asked for."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(10)

    with tempfile.TemporaryDirectory(prefix="fl") as folder:
        path = handover_path(Path(folder), os.getpid())
        handover = Handover(path, place)
        run(handover.open())
        try:
            yield path
        finally:
            run(handover.close())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()
        assert not path.exists()


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_sockets_and_words_reach_the_successor() -> None:
    with listening() as first, listening() as second:
        place = FakePlace(
            ListeningSocket("inference", "http://127.0.0.1:0", first),
            ListeningSocket("metrics", "http://127.0.0.1:0", second),
        )
        with occupied(place) as path:
            new = Predecessor.meet(path, os.getpid())
            assert len(new.offered["models"]) == 1_000_000
            assert [each.name for each in new.sockets] == ["inference", "metrics"]
            names = [each.socket.getsockname() for each in new.sockets]
            assert names == [first.getsockname(), second.getsockname()]
            assert not any(os.get_inheritable(each.socket.fileno()) for each in new.sockets)
            asyncio.run(new.ready())
            assert place.said == ["freeze"]
            new.serving()
            assert place.changed.wait(10)
            assert place.said == ["freeze", "leave"]
            with pytest.raises(HandoverError, match="it has been replaced already"):
                Predecessor.meet(path, os.getpid())
            for each in new.sockets:
                each.socket.close()


def test_a_successor_that_leaves_before_it_serves_thaws_the_place() -> None:
    place = FakePlace()
    with occupied(place) as path:
        new = Predecessor.meet(path, os.getpid())
        with pytest.raises(HandoverError, match="it is being replaced already"):
            Predecessor.meet(path, os.getpid())
        asyncio.run(new.ready())
        new.close()
        assert place.changed.wait(10)
        assert place.said == ["freeze", "thaw"]
        # The place can be asked for again.
        place.refuses = True
        again = Predecessor.meet(path, os.getpid())
        with pytest.raises(HandoverError, match="does not give its place: it has second thoughts"):
            asyncio.run(again.ready())
        again.close()


def test_a_server_that_ends_gives_its_place() -> None:
    place = FakePlace()
    with occupied(place) as path:
        stopped = Predecessor.meet(path, os.getpid())
    with pytest.raises(HandoverError, match="it was told to stop meanwhile"):
        asyncio.run(stopped.ready())
    stopped.close()
    with pytest.raises(HandoverError, match="cannot be asked for its place"):
        Predecessor.meet(path, os.getpid())


def test_another_user_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = FakePlace()
    with occupied(place) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(HandoverError, match="is not process 1 of yours"):
            Predecessor.meet(path, 1)
        real = os.geteuid()
        monkeypatch.setattr(module.os, "geteuid", lambda: real + 1)
        with pytest.raises(HandoverError, match="is not process"):
            Predecessor.meet(path, os.getpid())
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(path))
            stranger.settimeout(10)
            assert stranger.recv(1) == b""
    assert place.said == []


@pytest.mark.parametrize("words", [b"", b"hello\n", b'{"say": "ready"}\n', b"[]\n"])
def test_who_does_not_know_the_words_gets_nothing(words: bytes) -> None:
    place = FakePlace()
    with occupied(place) as path, socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.sendall(words)
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(10)
        assert stranger.recv(1) == b""
        Predecessor.meet(path, os.getpid()).close()


def test_a_listener_gets_the_socket_of_its_name_or_else_of_its_address() -> None:
    with listening() as first, listening() as second:
        free = "http://127.0.0.1:0"
        port = second.getsockname()[1]
        sockets = InheritedSockets(
            [
                ListeningSocket("inference", free, first),
                ListeningSocket("management", free, second),
            ]
        )
        assert not sockets.has("metrics", read_address(free))
        assert sockets.take("metrics", read_address(f"https://127.0.0.1:{port}")) == [second]
        assert sockets.take("inference", read_address("http://127.0.0.1:1")) == []
        assert sockets.take("inference", read_address(free)) == [first]
        assert sockets.close() == []


def test_a_socket_that_nobody_takes_is_closed_with_its_path() -> None:
    path = Path(tempfile.mkdtemp(prefix="fl"), "old.sock")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        assert InheritedSockets([ListeningSocket("x", None, bound)]).close() == [str(path)]
    assert not path.exists()
    path.parent.rmdir()


def test_what_systemd_announces_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as given:
        monkeypatch.setattr(inherited, "FIRST_FD", os.dup(given.fileno()))
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "metrics"}
        (found,) = sockets_of_systemd(environ)
        assert environ == {}
        assert (found.name, found.socket.getsockname()) == ("metrics", given.getsockname())
        # Its name beats the address.
        taken = InheritedSockets([found]).take("metrics", read_address("http://127.0.0.1:1"))
        assert taken == [found.socket]
        found.socket.close()


def test_what_systemd_announces_to_others_is_theirs() -> None:
    assert sockets_of_systemd({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert sockets_of_systemd({}) == []


def test_a_socket_that_takes_no_connections_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unbound:
        monkeypatch.setattr(inherited, "FIRST_FD", os.dup(unbound.fileno()))
        with pytest.raises(ConfigError, match="takes no connections"):
            sockets_of_systemd({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    reading, writing = os.pipe()
    os.close(writing)
    monkeypatch.setattr(inherited, "FIRST_FD", reading)
    with pytest.raises(ConfigError, match="is no socket"):
        sockets_of_systemd({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
