"""A client that stops in the middle of its request holds its connection, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from flambeau.frontend.http import listener

BODY = b"0123456789"
SHORT_WAY = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + BODY
LONG_WAY = b"POST /predictions/m?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + BODY
REGISTRATION = (
    b"POST /models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{"
)
WORKFLOW = (
    b"POST /wfpredict/w HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\nExpect: 100-continue\r\n\r\n"
)
PREDICTIONS = [pytest.param(SHORT_WAY, id="short way"), pytest.param(LONG_WAY, id="long way")]


def clients_of(house):
    return [each for listener in house.listeners._listeners for each in listener.clients]


@pytest.fixture
def connect(house, wait_for):
    """A connection that has arrived, and on which these bytes are sent."""
    with contextlib.ExitStack() as stack:

        def make(sent=b"", name="inference"):
            address = house.listeners.addresses[name]
            client = stack.enter_context(socket.create_connection(address, timeout=20))
            port = client.getsockname()[1]

            def has_arrived():
                there = [each.transport.get_extra_info("peername") for each in clients_of(house)]
                return port in [each[1] for each in there]

            wait_for(has_arrived, "the connection")
            client.sendall(sent)
            return client

        yield make


def rest_of(client):
    """What comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("stalled", PREDICTIONS)
def test_no_place_in_the_queue_is_held(house, connect, stalled):
    client = connect(stalled)
    assert house.ask("POST", "/predictions/m", b"x").body == b"x"
    assert len(house.engine.jobs) == 1
    client.sendall(b"." * 90)
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(house.engine.jobs) == 2


def be_patient(house, monkeypatch, seconds):
    for runner in house.listeners._runners:
        monkeypatch.setattr(runner, "_shutdown_timeout", seconds)


def test_listeners_that_close_wait_for_all_slow_clients_at_once(house, connect, monkeypatch):
    be_patient(house, monkeypatch, 60.0)
    stalled = [
        connect(SHORT_WAY),
        connect(REGISTRATION, "management"),
    ]
    idle = [connect(name=name) for name in ("inference", "management", "metrics")]
    closing = asyncio.run_coroutine_threadsafe(house.listeners.close(), house.loop)
    for each in idle:
        assert each.recv(1) == b"", "each listener has begun to close"
    for each in stalled:
        each.close()
    closing.result(20)


def test_a_listener_that_closes_waits_for_a_slow_client_for_so_long_only(
    house, connect, monkeypatch
):
    be_patient(house, monkeypatch, 0.1)
    clients = [connect(SHORT_WAY), connect(LONG_WAY), connect(REGISTRATION, "management")]
    house.run(house.listeners.close())
    assert [rest_of(each) for each in clients] == [b"", b"", b""]
    assert house.engine.jobs == []


def test_a_workflow_is_not_in_use_before_the_body_is_there(house, connect):
    house.add_workflow("w", {"a": ["b"]}, "a: {url: a.mar}, b: {url: b.mar}")
    client = connect(WORKFLOW)
    assert client.recv(65536).startswith(b"HTTP/1.1 100")
    client.sendall(BODY)
    house.run(asyncio.wait_for(house.workflows.unused(60.0), 10.0))
    assert house.manage("DELETE", "/workflows/w").status == 200
    client.sendall(b"...")
    assert client.recv(65536).startswith(b"HTTP/1.1 404")


def look(house):
    for each in house.listeners._listeners:
        house.loop.call_soon_threadsafe(each._look)


IDLE = {
    "nothing": b"",
    "a head that never ends": b"POST /predictions/m HTTP/1.1\r\nConten",
    "one answer by the short way": SHORT_WAY + b"." * 90,
    "one answer by the long way": LONG_WAY + b"." * 90,
}


@pytest.mark.parametrize("sent", IDLE.values(), ids=IDLE)
def test_who_asks_for_nothing_is_closed_after_a_while(house, connect, wait_for, monkeypatch, sent):
    stalled = connect(SHORT_WAY)
    client = connect(sent)
    if sent.endswith(b"."):
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    elif sent:
        wait_for(lambda: any(each._long_way for each in clients_of(house)), "the head's beginning")
    wait_for(lambda: sum(each.is_idle for each in clients_of(house)) == 1, "the other's head")
    monkeypatch.setattr(listener, "KEEP_ALIVE", 0.0)
    look(house)
    assert rest_of(client) == b""
    stalled.sendall(b"." * 90)
    assert stalled.recv(65536).startswith(b"HTTP/1.1 200"), "a body has no such limit"
