"""flambeau bench against small servers that answer as a test wants."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from click.testing import CliRunner, Result

from flambeau.frontend.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Busy\r\nContent-Length: 19\r\n\r\n" + b'{"message": "full"}'


class Peer:
    """Answers each request, whose bytes it keeps, with what ``answer`` makes of its number."""

    def __init__(
        self,
        answer: Callable[[int], bytes | None],
        listener: socket.socket,
        context: ssl.SSLContext | None = None,
        *,
        hangs_up: bool = False,
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._listener = listener
        self._context = context
        self._hangs_up = hangs_up
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            if self._context is not None:
                client = stack.enter_context(self._context.wrap_socket(client, server_side=True))
            while request := self._read(client):
                with self._lock:
                    number = len(self.requests)
                    self.requests.append(request)
                answer = self._answer(number)
                if answer is None:
                    return
                client.sendall(answer)
                if self._hangs_up:
                    return

    @staticmethod
    def _read(client: socket.socket) -> bytes:
        data = b""
        while piece := client.recv(65536):
            data += piece
            head, end, body = data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if end and len(body) >= int(length or 0):
                return data
        return b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Peer, str]]]:
    """Starts a peer: itself, and its address."""
    peers = []

    def start(answer: Callable[[int], bytes | None], **options: Any) -> tuple[Peer, str]:
        listener = socket.create_server(("127.0.0.1", 0))
        peers.append(Peer(answer, listener, **options))
        return peers[-1], f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for peer in peers:
        peer.close()


def bench(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], input)


def figures(*arguments: object) -> dict[str, Any]:
    result = bench(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_so_many_requests_over_so_many_connections(serve):
    peer, address = serve(lambda _: GOOD)
    report = figures(f"http://{address}/x?y=1", "-n", 50, "-c", 4, "-H", "X-A: b", "--key", "k")
    assert (report["requests"], report["expected"], report["errors"]) == (50, 50, 0)
    assert report["latency"]["min"] > 0
    assert peer.connections <= 4
    assert len(peer.requests) == 50
    head = peer.requests[0].split(b"\r\n")
    assert head[0] == b"GET /x?y=1 HTTP/1.1"
    assert {b"X-A: b", b"Authorization: Bearer k"} <= set(head)


def test_bodies_go_out_in_turn(serve, tmp_path):
    peer, address = serve(lambda _: GOOD)
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.json").write_text("1")
    arguments = ("--data", f"@{tmp_path}", "--data", '{"a": 3}', "-n", 4, "-c", 1)
    assert figures(f"http://{address}", *arguments)["requests"] == 4
    assert all(request.startswith(b"POST / ") for request in peer.requests)
    bodies = [request.partition(b"\r\n\r\n")[2] for request in peer.requests]
    assert bodies == [b"1", b"two", b'{"a": 3}', b"1"]
    types = [b"application/json", b"text/plain", b"application/json"]
    for request, content_type in zip(peer.requests, types, strict=False):
        assert b"Content-Type: " + content_type in request


@pytest.mark.parametrize("how", [["--constant"], ["--seed", "3"]])
def test_an_open_loop_does_not_wait_for_a_server_that_stalls(serve, how):
    gate = threading.Event()

    def answer(number: int) -> bytes:
        if number == 0:
            gate.wait(10)
        elif number == 9:
            gate.set()
        return GOOD

    peer, address = serve(answer)
    report = figures(f"http://{address}", "--rate", 200, "-n", 10, *how)
    assert report["expected"] == 10
    assert peer.connections > 1
    assert report["latency"]["max"] > 10, "nine more were sent while the first was not answered"
    assert report["sentLate"] is not None


def test_latency_counts_from_when_a_request_was_due(serve):
    def stall(number: int) -> bytes:
        time.sleep(0 if number else 0.3)
        return GOOD

    _, address = serve(stall)
    report = figures(f"http://{address}", "--rate", 100, "--constant", "-n", 5, "-c", 1)
    assert report["latency"]["min"] > 150, "also for those that waited for the only connection"


def test_each_request_on_a_connection_of_its_own(serve):
    peer, address = serve(lambda _: GOOD)
    assert figures(f"http://{address}", "-n", 6, "--no-keep-alive")["expected"] == 6
    assert peer.connections == 6
    assert all(b"Connection: close" in request for request in peer.requests)


def test_a_server_that_closes_after_each_answer_is_none_that_fails(serve):
    closing = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    peer, address = serve(lambda _: closing)
    assert figures(f"http://{address}", "-n", 6, "-c", 2)["errors"] == 0
    assert peer.connections >= 6


def test_errors_are_counted_by_kind(serve):
    _, address = serve(
        lambda number: (GOOD, BAD, None, GOOD[:-1] if number == 3 else GOOD)[number % 4]
    )
    arguments = (f"http://{address}", "-n", 8, "-c", 1, "--timeout", 0.3)
    result = bench(*arguments)
    assert result.exit_code == 1
    assert [line.split()[1] for line in result.stdout.splitlines()[-3:]] == [
        "503",
        "closed",
        "timeout",
    ]
    assert "full" in result.stdout
    report = figures(*arguments, "--allow-errors")
    assert report["statuses"]["503"]["message"] == "full"


def test_what_is_expected_is_no_error(serve):
    _, address = serve(lambda number: (GOOD, BAD)[number % 2])
    assert (
        figures(f"http://{address}", "-n", 4, "--expect", "2xx", "--expect", "503")["expected"] == 4
    )


def test_the_warm_up_does_not_count(serve):
    peer, address = serve(lambda _: GOOD)
    report = figures(f"http://{address}", "-n", 3, "-c", 1, "--warm-up", 0.1)
    assert report["requests"] == 3
    assert len(peer.requests) > 3


def test_the_first_chunk_of_a_stream(serve):
    stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    _, address = serve(lambda _: stream)
    report = figures(f"http://{address}", "-n", 3)
    assert 0 < report["firstChunk"]["max"] <= report["latency"]["max"]


def test_figures_go_to_a_file(serve, tmp_path):
    _, address = serve(lambda _: GOOD)
    result = bench(f"http://{address}", "-d", 0.2, "--json-file", tmp_path / "run.json")
    assert result.exit_code == 0
    report = json.loads((tmp_path / "run.json").read_text())
    assert sum(bucket["count"] for bucket in report["histogram"]) == report["expected"] > 0
    assert f"{report['requests']:,} in" in result.stdout


def test_a_unix_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("s")
    listener.listen()
    peer = Peer(lambda _: GOOD, listener)
    try:
        assert figures(f"unix:{tmp_path}/s:/ping", "-n", 3)["expected"] == 3
        assert peer.requests[0].startswith(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n")
    finally:
        peer.close()


def test_https(serve, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    _, address = serve(lambda _: GOOD, context=context)
    assert figures(f"https://{address}", "-n", 3, "--insecure")["expected"] == 3
    assert figures(f"https://{address}", "-n", 3, "--cacert", tmp_path / "ca.pem")["expected"] == 3
    result = bench(f"https://{address}", "-n", 3, "-c", 1)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is not trusted" in result.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "closed the connection without an answer"),
        (b"SSH-2.0-server\r\n", "is not HTTP"),
        (GOOD[:-1], "in the middle of an answer"),
    ],
)
def test_what_is_no_server_is_said_in_one_line(serve, answer, said):
    _, address = serve(lambda _: answer, hangs_up=True)
    result = bench(f"http://{address}", "-c", 1)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:1/"], "No server answers at http://127.0.0.1:1."),
        (["http://nobody.invalid/"], "The host nobody.invalid is not known."),
        (["unix:/nowhere:/x"], "No server answers at unix:/nowhere."),
        (["ftp://127.0.0.1/"], "is not an address"),
        (["http://127.0.0.1:1/", "-H", "x"], "is not a header"),
        (["http://127.0.0.1:1/", "--data", "@/nowhere"], "cannot be read"),
        (["http://127.0.0.1:1/", "--rate", "0"], "0.0 is not in the range"),
        (["http://127.0.0.1:1/", "--duration", "-1"], "not in the range"),
        (["http://127.0.0.1:1/", "-n", "0"], "not in the range"),
        (["http://127.0.0.1:1/", "--rate", "nan"], "not a number"),
        (["http://127.0.0.1:1/", "--expect", "2x"], "is not a status"),
        (["http://127.0.0.1:1/", "--constant"], "go with --rate"),
        (["http://127.0.0.1:1/", "-n", "1", "-d", "1"], "not both"),
        (["http://127.0.0.1:1/", "--version", "1"], "go with a MODEL"),
    ],
)
def test_bad_input_is_said_in_one_line(arguments, said):
    result = bench(*arguments)
    assert result.exit_code in (1, 2)
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
