"""Every row of the contract, asked of a real flambeau."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract.exchange import exchange
from contract.models import fill
from contract.profiles import PROFILES
from contract.tables import CASES
from real_server import RealServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contract.rows import Case


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RealServer]]:
    """A server of each profile."""
    servers: dict[str, RealServer] = {}
    try:
        for name, profile in PROFILES.items():
            flags = profile.flags
            if profile.one_address:
                here = f"http://127.0.0.1:{free_port()}"
                flags += (f"--inference-address={here}", f"--management-address={here}")
            server = RealServer(tmp_path_factory.mktemp(name), flags, profile.settings)
            fill(server.store)
            servers[name] = server
            server.start()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_contract_holds(served: dict[str, RealServer], case: Case) -> None:
    server = served[case.profile]
    key_file = server.base / "key_file.json" if case.profile == "tokens" else None
    for number, row in enumerate(case.rows, start=1):
        faults = row.expect.faults(exchange(server.addresses, row, key_file))
        assert not faults, f"row {number}, {row}: {'; '.join(faults)}"


def test_ids_are_unique() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
