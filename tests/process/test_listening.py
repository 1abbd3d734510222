"""Where a real server and its workers listen, and what SIGHUP does."""

from __future__ import annotations

import ipaddress
import signal
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import trustme
from real_server import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from real_server import RealServer


def test_nothing_listens_to_other_machines(server: RealServer, model: Callable[..., str]) -> None:
    name = model(workers=2)
    assert server.predict(name).status == 200
    processes = server.processes()
    assert len(processes) >= 3
    listening = [
        connection.laddr
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    ]
    assert len(listening) >= 3
    assert all(ipaddress.ip_address(each.ip).is_loopback for each in listening), listening


def issue(folder: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")


def shown(url: str) -> bytes | None:
    """The certificate that a server shows."""
    address = urlsplit(url)
    context = ssl._create_unverified_context()  # noqa: S323 - it is looked at, not trusted
    with (
        socket.create_connection((address.hostname, address.port), timeout=20) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.getpeercert(binary_form=True)


def test_sighup_renews_the_certificate_and_the_socket_goes_with_the_server(
    new_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    issue(tmp_path)
    server = new_server(
        "--inference-address=https://127.0.0.1:0",
        private_key_file=tmp_path / "key.pem",
        certificate_file=tmp_path / "certificate.pem",
    )
    path = server.run_dir / "management.sock"
    server._flags += (f"--management-address=unix:{path}",)
    server.start()
    assert server.addresses["management"] == f"unix:{path}"
    assert path.is_socket()
    first = shown(server.addresses["inference"])
    issue(tmp_path)
    server.signal(signal.SIGHUP)
    wait_for(lambda: shown(server.addresses["inference"]) != first, 10, "the new certificate")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not path.exists()
