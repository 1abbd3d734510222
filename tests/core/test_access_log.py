"""One line for each call, as TorchServe writes it."""

from __future__ import annotations

import logging

import pytest

from flambeau.frontend.access_log import log_access


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        (("127.0.0.1", 34154), "/127.0.0.1:34154"),
        (("::1", 34154, 0, 0), "/[::1]:34154"),
        ("ipv4:127.0.0.1:51664", "/127.0.0.1:51664"),
        ("ipv6:%5B::1%5D:51664", "/[::1]:51664"),
        ("unix:", "127.0.0.1"),
        ("", "127.0.0.1"),
        (None, "127.0.0.1"),
    ],
)
def test_a_line_has_peer_request_status_and_milliseconds(peer, shown, caplog):
    caplog.set_level(logging.INFO, "flambeau.access")
    log_access(peer, "GET /metrics?name[]=x HTTP/1.1", 200, 0.0012)
    assert caplog.messages == [f'{shown} "GET /metrics?name[]=x HTTP/1.1" 200 1']
