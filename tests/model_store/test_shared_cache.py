"""One cache, several server processes, some of which die at the worst moment."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from model_bench import Bench

from flambeau.model_store import store as store_module
from flambeau.model_store.archive import digest, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flambeau.model_store.archive import Limits
    from flambeau.model_store.store import ModelStore

OTHER_SERVER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from flambeau.model_store import store as module

    root, cache, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    store = module.ModelStore(root, cache)

    def stop_in_the_middle(source, target, limits):
        target.mkdir()
        (target / "half").write_text("half")
        (target.parent / f".{target.name}.abc.tmp").mkdir()
        print("unpacking", flush=True)
        sys.stdin.readline()
        target.joinpath("half").unlink()
        target.rmdir()
        original(source, target, limits)

    original = module.unpack
    if mode == "slow":
        module.unpack = stop_in_the_middle
    model = store.acquire("a.mar")
    print("holds", model.digest, flush=True)
    sys.stdin.readline()
    store.release(model)
    print("released", flush=True)
    """
)


class OtherServer:
    def __init__(self, bench: Bench, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_SERVER, str(bench.root), str(bench.cache), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        if self.process.stdout is None:
            raise RuntimeError("no output")
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        if self.process.stdin is None:
            raise RuntimeError("no input")
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def die(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=30)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.mar("a.mar")
    yield bench
    bench.close()


@pytest.fixture
def other(bench: Bench, request: pytest.FixtureRequest) -> Iterator[OtherServer]:
    server = OtherServer(bench, getattr(request, "param", "plain"))
    yield server
    server.die()


def test_an_entry_that_another_process_uses_is_not_removed(
    bench: Bench, other: OtherServer
) -> None:
    digest = other.says().split()[1]
    store = bench.open()
    model = store.acquire("a.mar")
    assert model.digest == digest
    store.release(model)
    assert bench.cached() == [digest]
    other.go_on()
    assert other.says() == "released"
    assert os.listdir(bench.cache) == []


def test_an_entry_that_this_process_uses_survives_the_other(
    bench: Bench, other: OtherServer
) -> None:
    other.says()
    store = bench.open()
    model = store.acquire("a.mar")
    other.go_on()
    assert other.says() == "released"
    assert (model.model_dir / "handler.py").is_file()
    store.release(model)
    assert os.listdir(bench.cache) == []


def test_a_process_that_died_does_not_hold_its_entry(bench: Bench, other: OtherServer) -> None:
    other.says()
    other.die()
    store = bench.open()
    store.release(store.acquire("a.mar"))
    assert os.listdir(bench.cache) == []


@pytest.mark.parametrize("other", ["slow"], indirect=True)
def test_what_another_process_unpacks_is_neither_cleaned_away_nor_used(
    bench: Bench, other: OtherServer
) -> None:
    assert other.says() == "unpacking"
    before = sorted(os.listdir(bench.cache))
    bench.open()
    assert sorted(os.listdir(bench.cache)) == before
    assert not any(len(name) == 64 for name in before)
    other.go_on()
    digest = other.says().split()[1]
    model = bench.open().acquire("a.mar")
    assert model.digest == digest
    assert (model.model_dir / "handler.py").is_file()


@pytest.mark.parametrize("other", ["slow"], indirect=True)
def test_what_a_dead_process_left_half_unpacked_is_cleaned_away(
    bench: Bench, other: OtherServer
) -> None:
    assert other.says() == "unpacking"
    alive_since_before = bench.open()
    other.die()
    assert len(os.listdir(bench.cache)) == 3
    bench.open()
    assert os.listdir(bench.cache) == []
    model = alive_since_before.acquire("a.mar")
    assert (model.model_dir / "handler.py").is_file()


@pytest.mark.parametrize("other", ["slow"], indirect=True)
def test_a_server_that_was_open_already_unpacks_over_what_a_dead_one_left(
    bench: Bench, other: OtherServer
) -> None:
    assert other.says() == "unpacking"
    store = bench.open()
    other.die()
    model = store.acquire("a.mar")
    assert sorted(os.listdir(model.model_dir)) == ["MAR-INF", "handler.py"]


class LockRequests:
    """Lets a test wait until somebody has asked for a lock a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        self._changed = threading.Condition()
        original = fcntl.flock

        def flock(fd: int, operation: int) -> None:
            with self._changed:
                self.asked.append(operation)
                self._changed.notify_all()
            original(fd, operation)

        monkeypatch.setattr(fcntl, "flock", flock)

    def wait_for(self, operation: int, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.asked.count(operation) >= count, 30):
                raise TimeoutError(f"last seen: {self.asked}")


def test_who_waits_for_another_to_unpack_uses_what_that_one_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = LockRequests(monkeypatch)
    unpacked: list[Path] = []

    def slow(source: Path, target: Path, limits: Limits) -> None:
        unpacked.append(source)
        requests.wait_for(fcntl.LOCK_SH, 1)
        unpack(source, target, limits)

    monkeypatch.setattr(store_module, "unpack", slow)
    # Locks of one file opened twice exclude each other in one process as they do in two.
    stores = [bench.open(), bench.open()]
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda store: store.acquire("a.mar"), stores)
    assert first == second
    assert len(unpacked) == 1


def test_servers_that_acquire_and_release_never_wait_for_each_other_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = LockRequests(monkeypatch)
    stores = [bench.open() for _ in range(4)]

    def use(store: ModelStore) -> None:
        for _ in range(100):
            model = store.acquire("a.mar")
            assert (model.model_dir / "handler.py").is_file()
            store.release(model)
        # The last to come may find that another has the entry and keeps it.
        store.acquire("a.mar")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, stores))
    assert len(bench.cached()) == 1
    # Only a lock that is held for ever can be waited for ever: a shared one, by an exclusive one.
    assert fcntl.LOCK_EX not in requests.asked


def test_a_lock_file_that_was_removed_while_waiting_for_it_is_not_relied_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = bench.open(), bench.open()
    lock = bench.cache / f"{digest(bench.root / 'a.mar')}.lock"
    requests = LockRequests(monkeypatch)
    # In this order, so that a failure frees the lock before the thread is waited for.
    with ThreadPoolExecutor(1) as threads, open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        acquired = threads.submit(store.acquire, "a.mar")
        requests.wait_for(fcntl.LOCK_SH, 1)
        # The holder removes the entry; a third server unpacks it anew before the lock is free.
        lock.unlink()
        new = other.acquire("a.mar")
        held.close()
        model = acquired.result(timeout=30)
    other.release(new)
    assert (model.model_dir / "handler.py").is_file()


def test_strangers_in_the_cache_are_left_alone(bench: Bench) -> None:
    bench.cache.mkdir()
    (bench.cache / "notes.txt").write_text("mine")
    (bench.cache / "x.lock").write_text("")
    (bench.cache / ".new.tmp").mkdir()
    bench.open().close()
    assert sorted(os.listdir(bench.cache)) == [".new.tmp", "notes.txt", "x.lock"]
