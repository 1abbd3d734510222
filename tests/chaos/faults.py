"""The faults: each is done to a server that is asked meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from chaos.junk import ask_slowly, disturb_workers_socket, leave_early, throw_bytes
from chaos.schedule import STEADY

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from chaos.ledger import Ledger
    from real_server import RealServer

SEEN_WITHIN = 2.0
"""Seconds after which a dead worker must not be shown as READY any more."""
QUESTIONS = (
    ("inference", "/ping"),
    ("management", "/models"),
    ("management", "/models/batched/all"),
    ("metrics", "/metrics"),
    ("inference", "/api-description"),
    ("management", "/api-description"),
)
WRONG_CALLS = (
    ("POST", "management", "/models?url=../../etc/passwd"),
    ("POST", "management", "/models?url=nothing-of-this-name.mar"),
    ("POST", "management", "/models"),
    ("PUT", "management", "/models/single?min_worker=many"),
    ("PUT", "management", "/models/single?min_worker=100000"),
    ("DELETE", "management", "/models/nobody"),
    ("PUT", "management", "/models/single/9.9/set-default"),
    ("GET", "inference", "/predictions"),
    ("POST", "inference", "/predictions/nobody"),
    ("PATCH", "management", "/models/single"),
)


@dataclass
class Faults:
    """Does what the schedule says. ``wanted``: how many workers each model is to have now."""

    server: RealServer
    session: aiohttp.ClientSession
    ledger: Ledger
    wanted: dict[str, int]
    clock: Path
    small_disk: Path | None
    """A file system of its own that holds the model cache; None where none could be made."""
    impossible: dict[str, str] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each SIGKILL until the dead worker was not READY any more."""
    volatile: bool = True
    _stopped: set[int] = field(default_factory=set)
    _jobs: set[asyncio.Task[None]] = field(default_factory=set)

    def inflict(self, kind: str, choice: random.Random) -> None:
        """Begin with a fault; it may take a while."""
        job = asyncio.ensure_future(self._inflict(kind, choice))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def end(self) -> None:
        """Wait for what has been begun, and let everybody go on who was stopped."""
        if self._jobs:
            await asyncio.wait(self._jobs)
        for pid in list(self._stopped):
            self._go_on(pid)
        self._set_clock(0.0)
        await self.bring_back()

    async def bring_back(self) -> None:
        """The model that comes and goes is there in the end."""
        for _ in range(50):
            status, _ = await self.call("GET", "/models/volatile")
            if status == 200:
                return
            await self.call("POST", "/models?url=volatile.mar&initial_workers=1")

    async def call(self, method: str, path: str, listener: str = "management") -> tuple[int, Any]:
        """A call that must be answered with JSON: status and document."""
        url = self.server.addresses[listener] + path
        async with self.session.request(method, url) as response:
            text = await response.text()
            try:
                document = json.loads(text)
            except ValueError:
                document = None
            if document is None and listener != "metrics":
                self.ledger.wrong.append(f"{method} {path}: {response.status} {text[:200]!r}")
            return response.status, document

    async def _inflict(self, kind: str, choice: random.Random) -> None:
        self.ledger.faults[kind] += 1
        action = getattr(self, "_" + kind.replace(" ", "_").replace("'", ""))
        try:
            await action(choice)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            self.ledger.wrong.append(f"{kind}: {error!r}")

    async def _workers(self, model: str) -> list[dict[str, Any]]:
        status, document = await self.call("GET", f"/models/{model}")
        return list(document[0]["workers"]) if status == 200 else []

    async def _victim(self, choice: random.Random) -> tuple[str, int] | None:
        model = choice.choice(STEADY)
        ready = [each["pid"] for each in await self._workers(model) if each["status"] == "READY"]
        return (model, choice.choice(ready)) if ready else None

    def _signal(self, model: str, pid: int, number: signal.Signals) -> bool:
        self.ledger.injured(model, time.monotonic())
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    async def _kill(self, choice: random.Random) -> None:
        victim = await self._victim(choice)
        if victim is None or not self._signal(*victim, signal.SIGKILL):
            return
        model, pid = victim
        began = time.monotonic()
        while any(
            each["pid"] == pid and each["status"] == "READY" for each in await self._workers(model)
        ):
            if time.monotonic() - began > 10 * SEEN_WITHIN:
                break
            await asyncio.sleep(0.01)
        self.recoveries.append(time.monotonic() - began)
        if self.recoveries[-1] > SEEN_WITHIN:
            self.ledger.wrong.append(
                f"worker {pid} of {model} was READY {self.recoveries[-1]:.1f} s after its death"
            )

    async def _stop(self, choice: random.Random) -> None:
        victim = await self._victim(choice)
        if victim is None or not self._signal(*victim, signal.SIGSTOP):
            return
        model, pid = victim
        self._stopped.add(pid)
        for _ in range(choice.randrange(1, 8)):
            await asyncio.sleep(0.5)
            self.ledger.injured(model, time.monotonic())
        self._go_on(pid)
        self.ledger.injured(model, time.monotonic())

    def _go_on(self, pid: int) -> None:
        self._stopped.discard(pid)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    async def _terminate(self, choice: random.Random) -> None:
        victim = await self._victim(choice)
        if victim is not None:
            self._signal(*victim, signal.SIGTERM)

    async def _junk_on_the_workers_socket(self, choice: random.Random) -> None:
        if not await asyncio.to_thread(disturb_workers_socket, self.server.run_dir, choice):
            self.impossible["junk on the workers' socket"] = "there is no socket"

    async def _junk_on_the_HTTP_port(self, choice: random.Random) -> None:
        listener = choice.choice(("inference", "management", "metrics"))
        await throw_bytes(self.server.addresses[listener], choice)

    async def _client_leaves(self, choice: random.Random) -> None:
        await leave_early(self.server.addresses["inference"], choice)

    async def _slow_request(self, choice: random.Random) -> None:
        line = await ask_slowly(self.server.addresses["inference"], choice)
        status = line.split()[1:2]
        if status not in ([b"200"], [b"500"], [b"503"], [b"504"], [b"507"]):
            self.ledger.wrong.append(f"a slow request was answered {line!r}")

    async def _disk_full(self, choice: random.Random) -> None:
        if self.small_disk is None:
            self.impossible["disk full"] = "a file system could not be mounted"
            return
        filler = self.small_disk / "filler"
        await asyncio.to_thread(_fill, filler)
        name = f"big{choice.randrange(3)}"
        content = {
            "handler.py": "def handle(data, context): return data",
            "weights": os.urandom(9999),
        }
        self.server.store.mar(name, content)
        status, _ = await self.call("POST", f"/models?url={name}.mar&initial_workers=1")
        filler.unlink(missing_ok=True)
        if status < 400:
            # There was room after all.
            await self.call("DELETE", f"/models/{name}")

    async def _clock_jump(self, choice: random.Random) -> None:
        seconds = choice.choice((-1e9, -3600.0, 60.0, 86_400.0, 3e8))
        self._set_clock(seconds)
        await asyncio.sleep(choice.random())
        self._set_clock(0.0)

    def _set_clock(self, seconds: float) -> None:
        # In place: others have the file mapped, and one that is cut short would kill them (SIGBUS).
        with self.clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    async def _scale(self, choice: random.Random) -> None:
        model = choice.choice(STEADY)
        count = choice.randrange(1, 4)
        self.wanted[model] = count
        await self.call("PUT", f"/models/{model}?min_worker={count}&synchronous=false")

    async def _register_and_unregister(self, choice: random.Random) -> None:
        if choice.random() < 0.5:
            await self.call("DELETE", "/models/volatile")
        else:
            await self.call("POST", "/models?url=volatile.mar&initial_workers=1")

    async def _default(self, choice: random.Random) -> None:
        model = choice.choice((*STEADY, "volatile"))
        await self.call("PUT", f"/models/{model}/1.0/set-default")

    async def _replace(self, choice: random.Random) -> None:
        model = choice.choice(STEADY)
        await self.call("POST", f"/models?url={model}.mar&replace=true")

    async def _questions(self, choice: random.Random) -> None:
        listener, path = choice.choice(QUESTIONS)
        status, _ = await self.call("GET", path, listener)
        if status != 200 and path != "/ping":
            self.ledger.wrong.append(f"GET {path}: {status}")

    async def _nonsense(self, choice: random.Random) -> None:
        method, listener, path = choice.choice(WRONG_CALLS)
        status, _ = await self.call(method, path, listener)
        if not 400 <= status < 500:
            self.ledger.wrong.append(f"{method} {path}: {status}")


def _fill(path: Path) -> None:
    try:
        with path.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    except OSError:
        pass
