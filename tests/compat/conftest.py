"""The cases of this run, each loaded while the one before it is asked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from compat.archives import build
from compat.profiles import PROFILES
from real_server import RealServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from compat.case import Case

AT_ONCE = 2
"""Loading costs a core some seconds: importing torch. More at once would cost memory."""
LOAD_LIMIT = 100.0


class Cases:
    """The cases in the order of the tests; at most ``AT_ONCE`` are loaded or loading."""

    def __init__(self, servers: Mapping[str, RealServer], cases: Sequence[Case]) -> None:
        self._servers = servers
        self._upcoming = iter(cases)
        for _ in range(AT_ONCE):
            self._load_next()

    @contextlib.contextmanager
    def served(self, case: Case) -> Iterator[RealServer]:
        """The server that has ``case`` as a model, for as long as the block lasts."""
        server = self._servers[case.profile]
        try:
            wait_for(lambda: _is_loaded(server, case), LOAD_LIMIT, f"{case.id} to be loaded")
            yield server
        finally:
            server.manage("DELETE", f"/models/{case.id}")
            self._load_next()

    def _load_next(self) -> None:
        case = next(self._upcoming, None)
        if case is None:
            return
        server = self._servers[case.profile]
        url = build(case, server.store.root)
        answer = server.register(url, synchronous="false")
        assert answer.status in (200, 202), answer


def _is_loaded(server: RealServer, case: Case) -> bool:
    version = server.describe(case.id)
    assert version["status"] != "FAILED", version
    states = [worker["status"] for worker in version["workers"]]
    return states != [] and set(states) == {"READY"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, RealServer]]:
    """A server of each profile."""
    servers: dict[str, RealServer] = {}
    try:
        for name, settings in PROFILES.items():
            servers[name] = RealServer(tmp_path_factory.mktemp(name), (), settings)
            servers[name].start()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="module")
def cases(servers: Mapping[str, RealServer], request: pytest.FixtureRequest) -> Cases:
    """The cases that the tests of this run ask for."""
    wanted = [
        item.callspec.params["case"]
        for item in request.session.items
        if item.path == request.path and "case" in getattr(item, "fixturenames", ())
    ]
    return Cases(servers, wanted)
