"""Real servers: one for each module, and as many more as a test asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_server import RealServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server for the whole module, with the obedient model in its store but not registered."""
    server = RealServer(tmp_path_factory.mktemp("server"), (), {})
    server.store.folder("obedient")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., RealServer]]:
    """Makes servers that are not started yet: flags as arguments, settings as keywords."""
    made: list[RealServer] = []

    def make(*flags: str, **settings: object) -> RealServer:
        base = tmp_path / f"server{len(made)}"
        base.mkdir()
        made.append(RealServer(base, flags, settings))
        made[-1].store.folder("obedient")
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def model(server: RealServer, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Registers the obedient model (or another url) for one test: its name."""
    names: list[str] = []

    def register(url: str = "obedient", workers: int = 1, **query: object) -> str:
        name = f"m{len(names)}.{request.node.name[:100].partition('[')[0]}"
        server.serve(url, workers, model_name=name, **query)
        names.append(name)
        return name

    yield register
    for name in names:
        answer = server.manage("DELETE", f"/models/{name}")
        assert answer.status in (200, 404), answer
