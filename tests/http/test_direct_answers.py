"""Plain predictions take a short way through the server: it must not show."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from concurrent import futures
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.errors import InferenceError
from flambeau.frontend.http import connection as connections
from flambeau.frontend.http.heads import Heads
from flambeau.frontend.jobs import Outcome

HEAD = "{method} {target} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {length}\r\n\r\n"
CHANGING = re.compile(rb"(total|queue|batch|handler);dur=[0-9.]+")


def request(target="/predictions/m", body=b"x", method="POST", **headers):
    lines = {"x-request-id": "abc", **{name.replace("_", "-"): v for name, v in headers.items()}}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    head = HEAD.format(method=method, target=target, headers=text, length=len(body))
    return head.encode() + body


def answered(house, sent, pieces=None):
    """Everything that comes back for a request after which the server closes."""
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces or [sent]:
            client.sendall(piece)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    return CHANGING.sub(rb"\1;dur=0", answer)


@pytest.fixture
def long_ways(monkeypatch):
    """How many connections needed aiohttp's end."""
    made = []
    original = connections.Connection._hand_on

    def counted(self, data, **options):
        made.append(data)
        original(self, data, **options)

    monkeypatch.setattr(connections.Connection, "_hand_on", counted)
    return made


OUTCOMES = {
    "plain": Outcome(body=b"[1, 2]", queued=0.1, batched=0.1, handled=0.1),
    "untimed": Outcome(body=b"1"),
    "empty": Outcome(body=b""),
    "standard phrase": Outcome(body=b"1", reason=None),
    "own phrase": Outcome(body=b"1", reason="Fine"),
    "type": Outcome(body=b"{}", headers=[("content-type", "application/json")]),
    "headers": Outcome(body=b"{}", headers=[("x-A", "1"), ("X-a", "2"), ("Connection", "close")]),
    "created": Outcome(body=b"new", status=201, reason=None),
    "no content": Outcome(body=b"ignored", status=204, reason=None),
    "not modified": Outcome(body=b"ignored", status=304, reason=None),
    "nothing modified": Outcome(body=b"", status=304, reason=None),
    "odd status": Outcome(body=b"1", status=299, reason=None),
    "beyond ASCII": Outcome(body=b"1", headers=[("x-a", "\u00e9\u4e2d")]),
    "view": Outcome(body=memoryview(b"abc" * 1000)),
    "large": Outcome(body=b"x" * 3_000_000),
    "impossible status": Outcome(body=b"1", status=42),
    "impossible header": Outcome(body=b"1", headers=[("a b", "1")]),
    "impossible phrase": Outcome(body=b"1", reason="a\r\nb"),
    "failed": Outcome(status=503, error=InferenceError("Prediction failed", 503), queued=0.1),
    "failed at once": Outcome(status=507, error=InferenceError("No room", 507)),
}


@pytest.mark.parametrize("cors", [{}, {"cors_allowed_origin": "https://a.example"}])
@pytest.mark.parametrize("name", OUTCOMES)
def test_both_ways_answer_the_same_bytes(make_house, long_ways, name, cors):
    house = make_house(**cors)
    # An outcome is the client's own.
    house.engine.answer = lambda job: vary(OUTCOMES[name])
    short = answered(house, request(Connection="close"))
    assert not long_ways
    long = answered(house, request("/predictions/m?a=b", Connection="close"))
    assert len(long_ways) == 1
    assert short == long


def vary(outcome):
    made = Outcome(**{name: getattr(outcome, name) for name in Outcome.__slots__})
    if outcome.error is not None:
        made.error = InferenceError(outcome.error.message, outcome.error.status)
    return made


@pytest.mark.parametrize(
    "sent",
    [
        request("/predictions/m/2.0"),
        request("/predictions/m/2.0/more/behind"),
        request("/predictions/m/"),
        request("/predictions//m"),
        request("/predictions/x"),
        request("/predictions/m/3.0"),
        request("/predictions/%6D"),
        request("/predictions/%zz"),
        request(Content_Type="application/json; charset=utf-8"),
        request(Content_Type="application/json", Content_Encoding="gzip"),
        request(explain="True", X_Own="\u00e9"),
        request(X_Request_Timeout_Ms="50000"),
        request(X_Request_Timeout_Ms="soon"),
        request(Content_Type="application/x-www-form-urlencoded", body=b"a=1&b=2"),
        request(Accept="text/event-stream"),
        request(method="PUT"),
        request(body=b""),
        request(body=b"x" * 100_000),
        request(body=b"x" * 100_001),
    ],
)
def test_the_handler_sees_the_same(house, sent):
    end = b" HTTP/1.1\r\n"
    closing = sent.replace(end, end + b"Connection: close\r\n", 1)
    short = answered(house, closing)
    short_jobs = [(key, job.headers, job.parts) for key, job in house.engine.jobs]
    house.engine.jobs.clear()
    direct = connections.Connection._direct
    try:
        # Nothing is direct.
        connections.Connection._direct = property(lambda self: None, lambda self, value: None)
        long = answered(house, closing)
    finally:
        connections.Connection._direct = direct
    assert short == long
    assert short_jobs == [(key, job.headers, job.parts) for key, job in house.engine.jobs]


def test_wherever_a_request_is_torn_the_answer_is_the_same(house):
    sent = request(body=b"hello", Connection="close")
    whole = answered(house, sent)
    for at in range(1, len(sent)):
        assert answered(house, sent, [sent[:at], sent[at:]]) == whole
    assert {bytes(job.parts[0].body) for _, job in house.engine.jobs} == {b"hello"}


def test_requests_that_come_together_are_answered_in_turn(house):
    bodies = [f"{number}".encode() for number in range(20)]
    sent = b"".join(request(body=body) for body in bodies) + request(Connection="close", body=b"z")
    answer = answered(house, sent)
    assert answer.count(b"HTTP/1.1 200") == 21
    assert [bytes(job.parts[0].body) for _, job in house.engine.jobs] == [*bodies, b"z"]


def test_requests_that_come_during_another_are_answered_in_turn(house, wait_for, long_ways):
    house.engine.held = True
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(request(body=b"0"))
        wait_for(lambda: house.engine.jobs, "the job")
        client.sendall(request(body=b"1" * 80_000) + request(body=b"2", Connection="close"))
        house.engine.held = False
        house.loop.call_soon_threadsafe(house.engine.waiting[0], Outcome(body=b"0"))
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    assert answer.count(b"HTTP/1.1 200") == 3
    bodies = [bytes(job.parts[0].body) for _, job in house.engine.jobs]
    assert bodies == [b"0", b"1" * 80_000, b"2"]


def test_a_connection_goes_back_and_forth(house, long_ways):
    connection = house.connect()
    for _ in range(3):
        assert house.ask_on(connection, "POST", "/predictions/m", b"x").body == b"x"
        assert house.ask_on(connection, "GET", "/ping").status == 200
        assert house.ask_on(connection, "POST", "/predictions/m?a=b", b"y").body == b"y"
    connection.close()
    # The client sends head and body apart, and what is torn stays with aiohttp.
    assert len(long_ways) >= 6


def test_a_probe_on_the_same_connection_does_not_make_predictions_slow(house, long_ways):
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        for _ in range(3):
            client.sendall(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
            assert b"Healthy" in client.recv(65536)
            client.sendall(request(body=b"x"))
            assert client.recv(65536).endswith(b"x")
    assert len(long_ways) == 3


def test_who_was_told_of_a_bug_gets_no_second_answer(house, wait_for, caplog):
    def break_down(job):
        raise RuntimeError("after it was queued")

    house.engine.answer = break_down
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(request())
        assert client.recv(65536).startswith(b"HTTP/1.1 500")
        house.engine.held = True
        client.sendall(request())
        wait_for(lambda: len(house.engine.waiting) == 2, "the second job")
        house.loop.call_soon_threadsafe(house.engine.waiting[0], Outcome(body=b"late"))
        house.loop.call_soon_threadsafe(house.engine.waiting[1], Outcome(body=b"right"))
        assert client.recv(65536).endswith(b"right")


def test_a_client_that_leaves_in_the_middle_of_its_body_asks_for_nothing(house, wait_for):
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(request(body=b"hello")[:-2])
        wait_for(lambda: house.listeners.connections, "the connection")
    wait_for(lambda: not house.listeners.connections, "the end of the connection")
    assert house.engine.jobs == []
    assert house.engine.abandoned == []


def test_who_has_no_room_refuses_before_the_body_comes(house):
    house.engine.full = True
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(request(body=b"hello")[:-2])
        assert client.recv(65536).startswith(b"HTTP/1.1 503")


def test_answers_that_nobody_reads_stop_the_reading(house, wait_for):
    house.engine.answer = lambda job: Outcome(body=b"x" * 1_000_000)
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(b"".join(request(body=b"%d" % number) for number in range(50)))
        client.shutdown(socket.SHUT_WR)
        received = 0
        while chunk := client.recv(1 << 20):
            received += len(chunk)
            if received == len(chunk):
                assert len(house.engine.jobs) < 50
    assert received <= 50 * 1_001_000


def the_client(house):
    (client,) = (each for listener in house.listeners._listeners for each in listener.clients)
    return client


def test_what_comes_in_the_turn_of_an_answer_stays_behind_what_came_before(house, wait_for):
    house.engine.held = True
    second = request(body=b"0123456789", Connection="close")
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(request(body=b"0"))
        wait_for(lambda: house.engine.jobs, "the job")
        client.sendall(second[:-4])
        wait_for(lambda: the_client(house)._ahead, "the beginning of the second request")
        house.engine.held = False

        def turn():
            # When the loop looks next there are both an answer to send and bytes to read.
            client.sendall(second[-4:])
            arrived = the_client(house).transport.get_extra_info("socket").fileno()
            select.select([arrived], [], [], 10)
            house.loop.call_soon(house.engine.waiting[0], Outcome(body=b"0"))

        house.loop.call_soon_threadsafe(turn)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [bytes(job.parts[0].body) for _, job in house.engine.jobs] == [b"0", b"0123456789"]


def test_requests_wait_while_nobody_reads_the_answer_before_them(house, wait_for):
    house.engine.held = True
    large = Outcome(body=b"x" * 5_000_000)
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(request())
        wait_for(lambda: house.engine.jobs, "the job")
        client.sendall(request() * 20 + request(Connection="close"))
        wait_for(lambda: the_client(house)._ahead, "the requests behind it")
        house.engine.held, house.engine.answer = False, lambda job: large
        house.loop.call_soon_threadsafe(house.engine.waiting[0], large)
        wait_for(lambda: the_client(house).is_sending, "the first answer")
        for _ in range(10):
            assert house.ask("GET", "/ping").status == 200
        assert len(house.engine.jobs) == 1
        received = 0
        while chunk := client.recv(1 << 20):
            received += len(chunk)
    assert received > 22 * 5_000_000
    assert len(house.engine.jobs) == 22


def test_an_answer_on_its_way_to_a_slow_reader_outlives_the_listener(house, wait_for):
    house.engine.answer = lambda job: Outcome(body=b"x" * 6_000_000)
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(request())
        wait_for(lambda: house.engine.jobs and the_client(house).is_sending, "the answer")
        closing = asyncio.run_coroutine_threadsafe(house.listeners.close(), house.loop)
        wait_for(lambda: the_client(house).transport.is_closing(), "the end of the listener")
        with pytest.raises(futures.TimeoutError):
            closing.result(0.2)
        received = 0
        while chunk := client.recv(1 << 20):
            received += len(chunk)
        assert received > 6_000_000
        closing.result(20)


def heads(limit=1000):
    loop = SimpleNamespace(get_debug=lambda: False)
    return Heads(loop, limit)


SMUGGLED = [
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 2\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Content-Length: +1\r\n",
    b" folded\r\n",
    b"No-Colon\r\n",
    b"Bad Name: 1\r\n",
    b"A: \x00\r\n",
]


@pytest.mark.parametrize("line", SMUGGLED)
def test_what_may_mean_two_things_is_left_to_the_long_way(line):
    sent = request(body=b"hello").replace(b"Host", line + b"Host", 1)
    head = heads().find(sent)
    assert head is None or head.asked is None


@given(st.binary(max_size=40), st.integers(0, 120), st.integers(0, 6))
def test_a_damaged_head_is_never_read_beyond_its_end(damage, at, cut):
    sent = request(body=b"hello")
    sent = sent[:at] + damage + sent[at + cut :]
    found = heads().find(sent)
    if found is not None and found.asked is not None:
        assert sent[: found.size].endswith(b"\r\n\r\n")
        assert sent.find(b"\r\n\r\n") == found.size - 4
        assert f"{found.length}" == found.asked.headers["Content-Length"].strip()


def test_only_so_many_heads_are_remembered():
    known = heads()
    for number in range(5000):
        assert known.find(request(x_request_id=f"{number}")).asked.model == "m"
    assert len(known._known) <= 512


def test_a_known_head_is_the_same_object_and_a_longer_one_is_no_part_of_it():
    known = heads()
    first = known.find(request())
    assert known.find(request(body=b"y")) is first
    assert known.find(request("/predictions/other")) is not first
    assert known.find(request()[:20]) is None
