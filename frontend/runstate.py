"""Which servers run: each keeps a state file in the run directory for ``flambeau stop``.

The files are ``<run_dir>/servers/<management port>.json``; a Unix socket has a digest of its path
in place of the port.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from .settings import read_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import Address


class Launch(TypedDict):
    """How a server was started: by which flags, and in which folder."""

    flags: dict[str, Any]
    reload: bool
    folder: str


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What a server says of itself.

    ``addresses`` are the URLs of ``inference``, ``management`` and ``metrics`` with the ports that
    are really bound, ``started_at`` seconds since the epoch, ``log`` the file that its stderr goes
    to. ``process_start`` is the kernel's reading of when the process began (in its own ticks): a
    later process with the same pid has another one. ``certificate`` is the file with what its
    https listeners show. ``launch`` is how a background server was started; who started another one
    must start the next one too.
    """

    pid: int
    started_at: float
    process_start: int | None
    addresses: Mapping[str, str]
    log: str | None = None
    certificate: str | None = None
    launch: Launch | None = None

    @property
    def management_port(self) -> int:
        """0 for a Unix socket."""
        return read_address(self.addresses["management"]).port

    @property
    def name(self) -> str:
        """What tells servers of one run directory apart."""
        return server_name(read_address(self.addresses["management"]))


def server_name(management: Address) -> str:
    """The name of the server with this management address, fit for a file's name."""
    if not management.path:
        return str(management.port)
    return f"unix-{hashlib.sha256(os.fsencode(management.path)).hexdigest()[:16]}"


def write_state(
    run_dir: Path,
    urls: Mapping[str, str],
    certificate: Path | None = None,
    launch: Launch | None = None,
) -> RunningServer:
    """Record that this process serves at ``urls``; raises OSError if it cannot be written.

    ``urls`` are the listeners' by name, with the ports that are really bound. A file that a dead
    server left for the same management address is replaced.
    """
    pid = os.getpid()
    shown = None if certificate is None else str(certificate)
    server = RunningServer(
        pid, time.time(), _process_start(pid), dict(urls), _log_file(), shown, launch
    )
    path = _path(run_dir, server.name)
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
    return sorted(found, key=lambda server: (server.management_port, server.name))


def remove_state(run_dir: Path, server: RunningServer) -> None:
    """Forget ``server``; nothing happens if it is not on record, or another one is in its place."""
    path = _path(run_dir, server.name)
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


def _path(run_dir: Path, name: str) -> Path:
    return run_dir / "servers" / f"{name}.json"


def _read(path: Path) -> RunningServer | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        server = RunningServer(**content)
        if server.pid > 1 and _path(path.parent.parent, server.name) == path:
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
