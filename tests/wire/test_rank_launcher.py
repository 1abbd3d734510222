"""Ranks begin and end together."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

import pytest

from flambeau.frontend.exits import Exit, ExitReason
from flambeau.frontend.launcher import Launch
from flambeau.frontend.rank_launcher import RankLauncher, reserve_port
from flambeau.frontend.ranks import Parallelism

FIRST_PORT = 29_600


class FakeProcess:
    """Ends when a test says so, or when it is killed."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.was_asked = False
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> Exit:
        code = await self.ended
        message = f"ended with {code}"
        return Exit(self.launch.identity, ExitReason.EXIT_CODE, message, 1.0, code, 500, ("why",))

    def terminate(self) -> None:
        self.was_asked = True

    def kill(self) -> None:
        if not self.ended.done():
            self.ended.set_result(-9)


@dataclass
class FakeLauncher:
    """Starts as many processes as it ``can``."""

    can: int = 9
    started: list[FakeProcess] = field(default_factory=list)

    async def start(self, launch: Launch) -> FakeProcess:
        if len(self.started) == self.can:
            raise OSError(11, "no more processes")
        self.started.append(FakeProcess(launch))
        return self.started[-1]

    def close(self) -> None:
        pass


def launch(kind: str = "tp", level: int = 3) -> Launch:
    parallel = Parallelism(kind, level)
    return Launch("m/1.0/9000#1", "ipc://x", ("m", "1.0"), 1, {"MINE": "1"}, parallel=parallel)


def port_of(process: FakeProcess) -> int:
    return int(process.launch.environ["MASTER_PORT"])


def test_each_rank_has_a_name_and_an_environment_of_its_own():
    async def scenario() -> None:
        fake = FakeLauncher()
        ranks = RankLauncher(fake, FIRST_PORT, {})
        handle = await ranks.start(launch())
        launches = [process.launch for process in fake.started]
        assert [each.identity for each in launches] == [f"m/1.0/9000#1~{n}" for n in range(3)]
        assert [each.environ["RANK"] for each in launches] == ["0", "1", "2"]
        assert {each.environ["MINE"] for each in launches} == {"1"}
        other = await ranks.start(launch())
        ports = {port_of(process) for process in fake.started}
        assert len(ports) == 2, "two workers meet at different ports"
        for each in (handle, other):
            each.kill()
            await each.wait()

    asyncio.run(scenario())


def test_when_one_rank_dies_the_others_are_killed_and_its_death_is_told():
    async def scenario() -> None:
        fake = FakeLauncher()
        handle = await RankLauncher(fake, FIRST_PORT, {}).start(launch())
        waiting = asyncio.ensure_future(handle.wait())
        fake.started[1].ended.set_result(3)
        exit = await waiting
        assert [process.ended.result() for process in fake.started] == [-9, 3, -9]
        assert (exit.identity, exit.code, exit.tail) == ("m/1.0/9000#1", 3, ("why",))
        assert exit.message == "Rank 1: ended with 3"

    asyncio.run(scenario())


def test_ranks_that_were_told_to_stop_may_leave_one_by_one():
    async def scenario() -> None:
        fake = FakeLauncher()
        handle = await RankLauncher(fake, FIRST_PORT, {}).start(launch())
        handle.terminate()
        assert all(process.was_asked for process in fake.started)
        waiting = asyncio.ensure_future(handle.wait())
        fake.started[2].ended.set_result(0)
        await asyncio.wait([waiting], timeout=0.01)
        for process in fake.started[:2]:
            assert not process.ended.done()
            process.ended.set_result(0)
        assert (await waiting).code == 0

    asyncio.run(scenario())


def test_a_rank_that_leaves_alone_takes_the_others_with_it(monkeypatch):
    monkeypatch.setattr("flambeau.frontend.rank_launcher._LEAVING", 0.01)

    async def scenario() -> None:
        fake = FakeLauncher()
        handle = await RankLauncher(fake, FIRST_PORT, {}).start(launch())
        fake.started[0].ended.set_result(0)
        await handle.wait()
        assert [process.ended.result() for process in fake.started] == [0, -9, -9]

    asyncio.run(scenario())


def test_a_worker_that_cannot_have_all_of_its_ranks_has_none():
    async def scenario() -> None:
        fake = FakeLauncher(can=2)
        with pytest.raises(OSError, match="no more processes"):
            await RankLauncher(fake, FIRST_PORT, {}).start(launch())
        assert [process.ended.result() for process in fake.started] == [-9, -9]

    asyncio.run(scenario())


def test_ranks_listen_on_the_loopback_interface_unless_told_otherwise():
    async def scenario() -> None:
        fake = FakeLauncher()
        environ = {"NCCL_SOCKET_IFNAME": "eth7"}
        handle = await RankLauncher(fake, FIRST_PORT, environ).start(launch())
        shown = fake.started[0].launch.environ
        assert shown["GLOO_SOCKET_IFNAME"] == shown["TP_SOCKET_IFNAME"] in ("lo", "lo0")
        assert "NCCL_SOCKET_IFNAME" not in shown, "the server's own is inherited"
        handle.kill()
        await handle.wait()

    asyncio.run(scenario())


def test_a_worker_without_ranks_is_started_as_it_is():
    async def scenario() -> None:
        fake = FakeLauncher()
        custom = launch("custom")
        assert await RankLauncher(fake, FIRST_PORT, {}).start(custom) is fake.started[0]
        assert fake.started[0].launch is custom

    asyncio.run(scenario())


def test_a_reserved_port_is_kept_from_others_and_free_for_the_rank():
    with reserve_port(FIRST_PORT) as first, reserve_port(FIRST_PORT) as second:
        port = first.getsockname()[1]
        assert FIRST_PORT <= port < second.getsockname()[1]
        # As torch does it: on all addresses, IPv6 and IPv4.
        with socket.socket(socket.AF_INET6) as store:
            store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            store.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            store.bind(("::", port))
            store.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass


def test_ports_can_run_out():
    with reserve_port(65_535), pytest.raises(OSError, match="every port from 65535 on"):
        reserve_port(65_535)
