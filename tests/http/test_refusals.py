"""What a client gets that is refused for want of room: at once, without its body being read."""

from __future__ import annotations

import json
import socket

import pytest

from flambeau.frontend.errors import DeadlineUnreachableError, NoFreeWorkerError, QueueFullError


def refuse_with(house, error):
    def refuse(job):
        raise error

    house.engine.answer = refuse


def head_of(answer: bytes) -> tuple[bytes, dict[str, str], dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, dict(each.split(": ", 1) for each in headers), json.loads(body)


@pytest.mark.parametrize(
    ("error", "status", "reason", "pending"),
    [
        (QueueFullError("m", None, 7, 100), 503, "queue_full", 100),
        (QueueFullError("m", None, 7, 100, 429), 429, "queue_full", 100),
        (DeadlineUnreachableError("m", 7, 12), 503, "deadline_unreachable", 12),
        (NoFreeWorkerError("m", None, 7), 503, "no_free_worker", None),
    ],
)
def test_a_refusal_says_why_when_to_come_again_and_how_many_wait(
    house, error, status, reason, pending
):
    refuse_with(house, error)
    reply = house.ask("POST", "/predictions/m", b"x")
    assert (reply.status, reply.json["code"]) == (status, status)
    assert reply.json["type"] == "ServiceUnavailableException"
    assert reply.json["reason"] == reason
    assert reply.json.get("pendingRequests") == pending
    assert reply.headers["Retry-After"] == "7"


def test_a_client_that_asks_first_need_not_send_its_body(house):
    house.engine.full = True
    request = (
        b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    line, headers, body = head_of(house.raw(request, b"}\n"))
    assert line == "HTTP/1.1 503 Service Unavailable"
    assert (headers["Retry-After"], body["reason"]) == ("7", "queue_full")
    assert not house.engine.jobs


def test_a_client_that_sends_its_body_all_the_same_is_answered_and_may_go_on(house):
    house.engine.full = True
    size = house.config.max_request_size
    head = f"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode()
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        client.sendall(head)
        answer = b""
        while not answer.endswith(b"}\n"):
            answer += client.recv(65536)
        line, headers, _ = head_of(answer)
        assert line.startswith("HTTP/1.1 503")
        assert headers["Connection"] == "keep-alive"
        client.sendall(b"x" * size)
        house.engine.full = False
        client.sendall(b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert [part.body for part in house.engine.job.parts] == [b"hi"]


def test_a_priority_is_read_where_the_queue_asks_for_it(house):
    house.engine.discipline = "priority"
    house.ask("POST", "/predictions/m", b"x", {"X-Request-Priority": "2"})
    assert house.engine.job.priority == 2
    house.ask("POST", "/predictions/m", b"x")
    assert house.engine.job.priority == 5
    reply = house.ask("POST", "/predictions/m", b"x", {"X-Request-Priority": "high"})
    assert reply.status == 400
    house.engine.discipline = "fifo"
    reply = house.ask("POST", "/predictions/m", b"x", {"X-Request-Priority": "high"})
    assert reply.status == 200
