"""Bytes that are not quite HTTP: nothing is served that somebody might read otherwise."""

from __future__ import annotations

import socket

import pytest

POST = b"POST /predictions/m HTTP/1.1\r\nHost: h\r\n"
SMUGGLED = b"GET /predictions/m HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "length and chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "chunks and length": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab" + SMUGGLED,
    "one length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\nab",
    "a signed length": POST + b"Content-Length: +2\r\n\r\nab",
    "a negative length": POST + b"Content-Length: -2\r\n\r\nab",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\nab",
    "a length beyond all measure": POST + b"Content-Length: 99999999999999999999999\r\n\r\nab",
    "no chunks after all": POST + b"Transfer-Encoding: identity\r\n\r\nab",
    "almost chunks": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"POST /predictions/m HTTP/1.1\nHost: h\nContent-Length: 1\n\nx",
    "a bare line feed": POST + b"X: a\nContent-Length: 1\r\n\r\nx",
    "a bare carriage return": POST + b"X: a\rContent-Length: 1\r\n\r\nx",
    "a folded header": POST + b"X: a\r\n b\r\nContent-Length: 1\r\n\r\nx",
    "a zero byte": POST + b"X: a\0b\r\nContent-Length: 1\r\n\r\nx",
    "a name that is none": POST + b"X(y): a\r\nContent-Length: 1\r\n\r\nx",
    "no host": b"POST /predictions/m HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    "two hosts": POST + b"Host: g\r\nContent-Length: 1\r\n\r\nx",
    "another version": b"GET /ping HTTP/1.2\r\nHost: h\r\n\r\n",
    "HTTP/2 in name only": b"GET /ping HTTP/2.0\r\nHost: h\r\n\r\n",
    "no version": b"GET /ping\r\n\r\n",
    "the beginning of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a negative chunk": CHUNKED + b"\r\n-1\r\n\r\n",
    "a chunk size with a prefix": CHUNKED + b"\r\n0x1\r\na\r\n0\r\n\r\n",
    "a chunk size beyond all measure": CHUNKED + b"\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a chunk with bare line feeds": CHUNKED + b"\r\n1\na\n0\n\n",
    "a chunk longer than its size": CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n",
    "a line feed in a chunk's extension": CHUNKED + b"\r\n1;a\nb\r\na\r\n0\r\n\r\n",
    "a long request line": b"GET /ping?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "a long header": b"GET /ping HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    "too many headers": b"GET /ping HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 200 + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_once_and_for_all(house, request_bytes):
    answer = house.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.count(b"HTTP/1.") == 1
    assert b"Connection: close\r\n" in answer
    assert b'"message": "Invalid HTTP message."' in answer
    assert house.engine.jobs == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        CHUNKED + b"\r\n1\r\na\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\tchunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1;name=value\r\na\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1\r\na\r\n0\r\nX-Trailer: y\r\n\r\n",
        POST + b"Content-Length: 1\r\n\r\na",
    ],
)
def test_each_request_ends_where_it_says(house, request_bytes):
    answers = house.raw(
        request_bytes * 2 + SMUGGLED.replace(b"h\r\n", b"h\r\nConnection: close\r\n")
    )
    assert answers.count(b"HTTP/1.1 200 \r\n") == 3
    bodies = [bytes(job.parts[0].body) for _, job in house.engine.jobs]
    assert bodies == [b"a", b"a", b""]


def test_a_request_that_comes_byte_by_byte_is_one_request(house):
    with socket.create_connection(house.listeners.addresses["inference"], timeout=20) as client:
        for byte in POST + b"Content-Length: 2\r\n\r\nab":
            client.sendall(bytes([byte]))
        assert client.recv(1000).startswith(b"HTTP/1.1 200 \r\n")
    assert house.engine.inputs() == {"body": ("", b"ab")}


@pytest.mark.parametrize("listener", ["inference", "management", "metrics"])
def test_an_unknown_expectation_fails_wherever_it_goes(house, listener):
    reply = house.ask("GET", "/ping", None, {"Expect": "miracle"}, listener=listener)
    assert (reply.status, reply.json["type"]) == (417, "BadRequestException")


def test_a_client_that_wants_its_connection_closed_is_heard(house):
    answer = house.raw(b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"Connection: close\r\n" in answer


def test_an_answer_beyond_the_limit_is_an_error_of_its_request_alone(make_house):
    house = make_house(max_response_size=3)
    assert house.ask("POST", "/predictions/m", b"abc").status == 200
    reply = house.ask("POST", "/predictions/m", b"abcd")
    assert (reply.status, reply.json["type"]) == (500, "InternalServerException")
    assert reply.json["message"] == (
        "The model's answer of 4 bytes exceeds max_response_size=3 of the server's configuration."
    )
