"""Which servers run: each keeps a state file in the run directory for ``flambeau stop``.

The files are ``<run_dir>/servers/<management port>.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import Address, read_address

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What a server says of itself.

    ``addresses`` are the URLs of ``inference``, ``management`` and ``metrics`` with the ports that
    are really bound, ``started_at`` seconds since the epoch, ``log`` the file that its stderr goes
    to. ``process_start`` is the kernel's reading of when the process began (in its own ticks): a
    later process with the same pid has another one.
    """

    pid: int
    started_at: float
    process_start: int | None
    addresses: Mapping[str, str]
    log: str | None = None

    @property
    def management_port(self) -> int:
        return read_address(self.addresses["management"], 8081).port


def write_state(run_dir: Path, addresses: Mapping[str, tuple[str, int]]) -> RunningServer:
    """Record that this process serves at ``addresses``; raises OSError if it cannot be written.

    ``addresses`` are host and bound port of each listener by name. A file that a dead server left
    for the same management port is replaced.
    """
    pid = os.getpid()
    urls = {name: str(Address(host, port)) for name, (host, port) in addresses.items()}
    server = RunningServer(pid, time.time(), _process_start(pid), urls, _log_file())
    path = _path(run_dir, server.management_port)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(f".{pid}.draft")
    draft.write_text(json.dumps(asdict(server), indent=2), encoding="utf-8")
    draft.replace(path)
    return server


def read_states(run_dir: Path) -> list[RunningServer]:
    """All servers on record, dead ones included, by management port; broken files are left out."""
    found = []
    for path in (run_dir / "servers").glob("*.json"):
        server = _read(path)
        if server is not None:
            found.append(server)
    return sorted(found, key=lambda server: server.management_port)


def remove_state(run_dir: Path, server: RunningServer) -> None:
    """Forget ``server``; nothing happens if it is not on record, or another one is in its place."""
    path = _path(run_dir, server.management_port)
    if _read(path) == server:
        path.unlink(missing_ok=True)


def is_alive(server: RunningServer) -> bool:
    """The very process that wrote the state still runs."""
    if server.process_start is not None:
        return _process_start(server.pid) == server.process_start
    try:
        os.kill(server.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _path(run_dir: Path, port: int) -> Path:
    return run_dir / "servers" / f"{port}.json"


def _read(path: Path) -> RunningServer | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        server = RunningServer(**content)
        if server.pid > 1 and _path(path.parent.parent, server.management_port) == path:
            return server
    return None


def _process_start(pid: int) -> int | None:
    """When the process began, in ticks since boot; None if it is gone or the system cannot tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold anything.
    after_name = fields.rpartition(")")[2].split()
    is_over = after_name[0] in ("Z", "X")
    return None if is_over else int(after_name[19])


def _log_file() -> str | None:
    """The file that stderr goes to, unless that is a terminal, a pipe or the like."""
    try:
        if stat.S_ISREG(os.fstat(2).st_mode):
            return str(Path("/proc/self/fd/2").readlink())
    except OSError:
        pass
    return None
