"""The frontend's socket against real peers."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

from flambeau.frontend.errors import ConfigError
from flambeau.frontend.router import Router
from flambeau.worker.messages import (
    Answer,
    Bye,
    Hello,
    Load,
    Message,
    Part,
    Request,
    Result,
    Stop,
    Work,
)
from flambeau.worker.protocol import INLINE_LIMIT, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

DEADLINE = 10.0


class Bench:
    """A router with what it heard, and workers that a test speaks for."""

    def __init__(self, path: Path) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.violations: list[tuple[str, str]] = []
        self.on_message: Callable[[str, Message], None] = lambda identity, message: None
        self.router = Router(path, self._received, self._violated)
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def _received(self, identity: str, message: Message) -> None:
        self.messages.append((identity, message))
        self.on_message(identity, message)

    def _violated(self, identity: str, what: str) -> None:
        self.violations.append((identity, what))

    def worker(self, identity: str | bytes) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        name = identity.encode() if isinstance(identity, str) else identity
        socket.setsockopt(zmq.ROUTING_ID, name)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self.router.endpoint)
        self._sockets.append(socket)
        return socket

    async def known_worker(self, identity: str) -> zmq.Socket[bytes]:
        """A worker that has said hello, so that the router can reach it."""
        worker = self.worker(identity)
        before = len(self.messages)
        worker.send_multipart(encode(Hello(1, 0, 1)))
        await self.until(lambda: len(self.messages) > before, "the hello")
        return worker

    async def until(self, condition: Callable[[], object], what: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE
        while not condition():
            if loop.time() > deadline:
                raise AssertionError(
                    f"waited for {what}; {len(self.messages)} messages, last: {self.messages[-3:]},"
                    f" violations: {self.violations}"
                )
            await asyncio.sleep(0.001)

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        self._context.term()
        self.router.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a Unix socket, as pytest's own folders are not."""
    path = Path(tempfile.mkdtemp(prefix="fl"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["asyncio", "uvloop"])
def bench(folder: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a coroutine function with a bench, on each kind of event loop."""

    def run(test: Callable[[Bench], Coroutine[None, None, None]]) -> None:
        async def with_bench() -> None:
            bench = Bench(folder / "router.sock")
            try:
                await test(bench)
            finally:
                bench.close()

        if request.param == "uvloop":
            pytest.importorskip("uvloop").run(with_bench())
        else:
            asyncio.run(with_bench())

    return run


def receive(worker: zmq.Socket[bytes]) -> Message:
    assert worker.poll(DEADLINE * 1000), "nothing came"
    return decode(worker.recv_multipart())


def test_messages_go_both_ways_by_identity(bench: Callable[..., None]) -> None:
    async def test(bench: Bench) -> None:
        workers = [await bench.known_worker(name) for name in ("m/1.0/9000#1", "m/1.0/9001#2")]
        assert [identity for identity, _ in bench.messages] == ["m/1.0/9000#1", "m/1.0/9001#2"]
        load = Load("m", "1.0", "/models/m", "handler.py")
        assert bench.router.send("m/1.0/9001#2", load)
        assert bench.router.send("m/1.0/9000#1", Stop())
        assert receive(workers[1]) == load
        assert receive(workers[0]) == Stop()

    bench(test)


@pytest.mark.parametrize("junk", [b"junk", b"", b"\xc1", b"\x91\xcc\xfe", b"\x92\x01\xa1x"])
def test_junk_is_reported_with_the_name_of_its_sender(
    bench: Callable[..., None], junk: bytes
) -> None:
    async def test(bench: Bench) -> None:
        worker = await bench.known_worker("bad")
        worker.send(junk)
        await bench.until(lambda: bench.violations, "the violation")
        ((identity, what),) = bench.violations
        assert identity == "bad"
        assert what.startswith("sent an ")
        assert len(bench.messages) == 1

    bench(test)


def test_a_sender_whose_name_is_no_text_does_no_harm(bench: Callable[..., None]) -> None:
    async def test(bench: Bench) -> None:
        bench.worker(b"\xff\xfe").send(b"junk")
        await bench.until(lambda: bench.violations, "the violation")

    bench(test)


def test_who_is_not_there_cannot_be_reached(bench: Callable[..., None]) -> None:
    async def test(bench: Bench) -> None:
        assert not bench.router.send("nobody", Stop())
        big = Work(1, [Request("r", {}, [Part("body", "", b"x" * (INLINE_LIMIT + 1))])])
        assert not bench.router.send("nobody", big)
        # What was refused leaves no half message behind.
        worker = await bench.known_worker("somebody")
        assert bench.router.send("somebody", Stop())
        assert receive(worker) == Stop()

    bench(test)


def test_who_has_left_cannot_be_reached(bench: Callable[..., None]) -> None:
    async def test(bench: Bench) -> None:
        worker = await bench.known_worker("leaver")
        worker.close()
        await bench.until(lambda: not bench.router.send("leaver", Stop()), "the peer to be gone")

    bench(test)


@pytest.mark.parametrize("count", [64, 65, 1000])
def test_all_messages_of_a_burst_arrive_in_order(bench: Callable[..., None], count: int) -> None:
    """The descriptor fires once for all of them, and a turn of the loop reads only some."""

    async def test(bench: Bench) -> None:
        worker = await bench.known_worker("eager")
        for number in range(count):
            worker.send_multipart(encode(Result(number, 0.0, [])))
        await bench.until(lambda: len(bench.messages) == count + 1, f"{count} results")
        got = [message for _, message in bench.messages[1:]]
        assert got == [Result(number, 0.0, []) for number in range(count)]

    bench(test)


def test_a_burst_does_not_keep_the_loop_from_others(bench: Callable[..., None]) -> None:
    async def test(bench: Bench) -> None:
        worker = await bench.known_worker("eager")
        turns: list[int] = []

        def turn() -> None:
            turns.append(len(bench.messages))
            asyncio.get_running_loop().call_soon(turn)

        for number in range(1000):
            worker.send_multipart(encode(Result(number, 0.0, [])))
        # Let them all lie there before the loop looks: this blocks on purpose.
        probe = bench.worker("probe")
        probe.poll(100)
        turn()
        await bench.until(lambda: len(bench.messages) == 1001, "1000 results")
        steps = [after - before for before, after in pairwise(turns)]
        assert max(steps) <= 128

    bench(test)


def test_an_answer_sent_while_reading_loses_no_edge(bench: Callable[..., None]) -> None:
    """A send may swallow the edge of the descriptor: the socket must be looked at again."""

    async def test(bench: Bench) -> None:
        names = [f"w{number}" for number in range(4)]
        workers = [await bench.known_worker(name) for name in names]

        def answer(identity: str, message: Message) -> None:
            if isinstance(message, Result) and message.batch_id < 200:
                assert bench.router.send(identity, Work(message.batch_id + 1, []))

        bench.on_message = answer
        for worker in workers:
            worker.send_multipart(encode(Result(0, 0.0, [])))
        loop = asyncio.get_running_loop()

        async def play(worker: zmq.Socket[bytes]) -> None:
            while True:
                frames = await loop.run_in_executor(None, receive, worker)
                assert isinstance(frames, Work)
                worker.send_multipart(encode(Result(frames.batch_id, 0.0, [])))
                if frames.batch_id == 200:
                    return

        await asyncio.wait_for(asyncio.gather(*map(play, workers)), DEADLINE)
        await bench.until(lambda: len(bench.messages) == 4 * 202, "every answer")

    bench(test)


@pytest.mark.parametrize("size", [0, INLINE_LIMIT, INLINE_LIMIT + 1, 20_000_000])
def test_bodies_of_any_size_travel_both_ways(bench: Callable[..., None], size: int) -> None:
    async def test(bench: Bench) -> None:
        worker = await bench.known_worker("big")
        body = os.urandom(min(size, 1 << 20)) * (size // (1 << 20) + 1)
        body = body[:size]
        parts = [Part("a", "x/y", body), Part("small", "", b"s"), Part("b", "", memoryview(body))]
        assert bench.router.send("big", Work(1, [Request("r", {"H": "v"}, parts)]))
        loop = asyncio.get_running_loop()
        work = await loop.run_in_executor(None, receive, worker)
        assert isinstance(work, Work)
        assert [bytes(part.body) for part in work.requests[0].parts] == [body, b"s", body]

        answers = [Answer(200, "", [], body), Answer(body=b"small"), Answer(body=body)]
        worker.send_multipart(encode(Result(1, 0.5, answers)))
        await bench.until(lambda: len(bench.messages) == 2, "the result")
        result = bench.messages[1][1]
        assert isinstance(result, Result)
        assert [bytes(answer.body) for answer in result.answers] == [body, b"small", body]

    bench(test)


def test_a_path_that_no_socket_can_have_is_refused_with_advice(folder: Path) -> None:
    async def make(path: Path) -> None:
        Router(path, lambda *_: None, lambda *_: None).close()

    longest = folder / ("x" * (107 - len(str(folder)) - 1))
    assert len(str(longest)) == 107
    asyncio.run(make(longest))
    with pytest.raises(ConfigError, match="run_dir is too long"):
        asyncio.run(make(Path(f"{longest}x")))


def test_a_closed_router_ignores_what_is_still_scheduled(bench: Callable[..., None]) -> None:
    async def test(bench: Bench) -> None:
        worker = await bench.known_worker("late")
        worker.send_multipart(encode(Bye()))
        bench.router.close()
        bench.router.drain()
        bench.router.close = lambda: None  # type: ignore[method-assign]
        assert len(bench.messages) == 1

    bench(test)


def test_a_bug_in_handling_one_message_does_not_stop_the_reading(
    bench: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        def stumble(identity: str, message: Message) -> None:
            raise RuntimeError("a bug")

        bench.on_message = stumble
        worker = bench.worker("m")
        for _ in range(5):
            worker.send_multipart(encode(Hello(1, 0, 1)))
        await bench.until(lambda: len(bench.messages) == 5, "all five messages")

    bench(test)
    assert len(caplog.records) == 5
