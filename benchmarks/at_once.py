"""Many models registered at once: what each of the registrations costs the frontend."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from echo import say
from models import write_echo
from processes import cpu_seconds
from served import call, serving

if TYPE_CHECKING:
    from pathlib import Path

    from served import Served


@dataclass(frozen=True)
class AtOnce:
    """``count`` registrations, each of which waited for a worker, and what they took together."""

    count: int
    cpu_seconds: float
    seconds: float

    @property
    def cpu_ms_each(self) -> float:
        return self.cpu_seconds * 1000 / self.count


def measure_at_once(folder: Path, counts: list[int], *, quick: bool) -> list[AtOnce]:
    """Register so many models at once, then unregister them: each number in turn."""
    (folder / "store").mkdir(parents=True)
    write_echo(folder / "store")
    rows = []
    with serving(folder, {"echo": "echo"}) as served:
        # The template imports what workers share as soon as the first one is ready.
        time.sleep(0.0 if quick else 8.0)
        for count in counts:
            rows.append(_register(served, count))
            say(f"  {count} at once: measured")
    return rows


def _register(served: Served, count: int) -> AtOnce:
    models = f"{served.management}/models"
    names = [f"at-once-{number}" for number in range(count)]
    wanted = {"url": "echo", "initial_workers": 1, "synchronous": "true"}
    queries = [urlencode({**wanted, "model_name": name}) for name in names]
    with ThreadPoolExecutor(count) as clients:
        began, used = time.perf_counter(), cpu_seconds([served.pid])
        list(clients.map(lambda query: call("POST", f"{models}?{query}"), queries))
        used, took = cpu_seconds([served.pid]) - used, time.perf_counter() - began
        list(clients.map(lambda name: call("DELETE", f"{models}/{name}"), names))
    return AtOnce(count, used, took)
