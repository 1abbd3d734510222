"""Answers in pieces, as a client sees them."""

from __future__ import annotations

import json

import pytest

from flambeau.frontend.errors import InferenceError
from flambeau.frontend.jobs import Outcome
from flambeau.frontend.streams import MAX_BACKLOG, BodyStream

ASK = b"POST /predictions/m HTTP/1.%d\r\nHost: h\r\n%sContent-Length: 2\r\n\r\nhi"


def streaming(*pieces: bytes, end: Outcome | None = None, headers=()):
    """An engine's answer that has come to its end already."""

    def answer(job):
        stream = BodyStream()
        for piece in pieces:
            stream.put(piece)
        stream.finish(end or Outcome(body=b"last"))
        return Outcome(headers=list(headers), stream=stream)

    return answer


def test_pieces_are_chunks(house):
    house.engine.answer = streaming(b"one", b"two", headers=[("x-mine", "1"), ("Expires", "0")])
    raw = house.raw(ASK % (1, b""), b"0\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 "
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert headers["transfer-encoding"] == "chunked"
    assert headers["ts_stream_next"] == "true"
    assert headers["connection"] == "keep-alive"
    assert headers["x-mine"] == "1"
    assert headers["expires"] == "thu, 01 jan 1970 00:00:00 utc"
    assert "x-request-id" in headers
    assert not {"server", "date", "content-type", "content-length"} & headers.keys()
    assert body == b"3\r\none\r\n3\r\ntwo\r\n4\r\nlast\r\n0\r\n\r\n"


def test_the_connection_serves_on(house):
    house.engine.answer = streaming(b"one")
    connection = house.connect()
    for _ in range(2):
        assert house.ask_on(connection, "POST", "/predictions/m", b"hi").body == b"onelast"
    connection.close()


def test_an_old_client_knows_the_end_by_the_closing(house):
    house.engine.answer = streaming(b"one")
    raw = house.raw(ASK % (0, b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"connection: close" in head.lower()
    assert body == b"onelast"


def test_events_where_the_client_asks_for_them(house):
    house.engine.answer = streaming(b"one\ntwo", b"three\r\n", end=Outcome())
    reply = house.ask("POST", "/predictions/m", b"hi", {"Accept": "text/event-stream"})
    assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert reply.body == b"data: one\ndata: two\n\ndata: three\ndata: \n\n"


def test_a_stream_that_breaks_has_no_end(house):
    failure = InferenceError("Worker died.", 500)
    house.engine.answer = streaming(b"one", end=Outcome(status=500, error=failure))
    try:
        raw = house.raw(ASK % (1, b""))
    except ConnectionResetError:
        raw = b""
    assert not raw.endswith(b"0\r\n\r\n")
    assert b"Worker died" not in raw


def test_an_event_tells_of_an_error(house):
    failure = InferenceError("Worker died.", 500)
    house.engine.answer = streaming(b"one", end=Outcome(status=500, error=failure))
    headers = {"Accept": "text/event-stream", "X-Request-Id": "mine"}
    reply = house.ask("POST", "/predictions/m", b"hi", headers)
    assert reply.status == 200
    first, last = reply.body.decode().removesuffix("\n\n").split("\n\n")
    assert first == "data: one"
    name, *data = last.split("\n")
    assert name == "event: error"
    assert json.loads("".join(line.removeprefix("data: ") for line in data)) == {
        "code": 500,
        "type": "InternalServerException",
        "message": "Worker died.",
        "requestId": "mine",
    }


def test_a_piece_beyond_the_limit_ends_the_stream(make_house):
    house = make_house(max_response_size=5)
    house.engine.answer = streaming(b"short", b"too long", end=Outcome())
    reply = house.ask("POST", "/predictions/m", b"hi", {"Accept": "text/event-stream"})
    assert reply.body.startswith(b"data: short\n\nevent: error\n")
    assert b"of 8 bytes exceeds max_response_size=5" in reply.body


@pytest.mark.parametrize("given", ["", "0", "-1", "1.5", "soon", "9999999999"])
def test_a_time_limit_that_is_none_is_refused(house, given):
    reply = house.ask("POST", "/predictions/m", b"x", {"X-Request-Timeout-Ms": given})
    assert (reply.status, reply.json["type"]) == (400, "BadRequestException")
    assert "X-Request-Timeout-Ms" in reply.json["message"]


def test_a_time_limit_goes_with_the_request(house):
    house.ask("POST", "/predictions/m", b"x", {"X-Request-Timeout-Ms": "1500"})
    assert house.engine.job.time_limit == 1.5
    house.ask("POST", "/predictions/m", b"x")
    assert house.engine.job.time_limit is None


def test_a_client_that_does_not_read_loses_its_stream():
    async def overflow():
        stream = BodyStream()
        for _ in range(3):
            stream.put(b"x" * (MAX_BACKLOG // 2))
        stream.finish(Outcome())
        with pytest.raises(InferenceError, match="waited to be read"):
            await anext(aiter(stream))

    import asyncio

    asyncio.run(overflow())
