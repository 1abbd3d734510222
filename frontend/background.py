"""Starts a server that outlives its starter, and waits until it is ready."""

from __future__ import annotations

import json
import os
import select
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import FlambeauError
from .settings import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL_LINES = 20
_TAIL_BYTES = 16_384
_LAST_WORDS = 10.0
"""Seconds that a server which reported failure has to end by itself."""
_TALKATIVE_AFTER = 1.0


class StartError(FlambeauError):
    """The server did not come up; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that serves. ``process`` is ours for as long as this process lives.

    ``failed`` has a line for each archive that was to be served and is not.
    """

    pid: int
    addresses: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    failed: tuple[str, ...] = ()


def start_detached(
    command: Sequence[str],
    log: Path,
    while_waiting: Callable[[], object] = lambda: None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ready:
    """Run ``command --ready-fd N`` in a session of its own and wait for its word on ``N``.

    ``environ`` and ``folder`` are this process's where none are given.

    That is one line of JSON: ``{"pid": ..., "addresses": {...}}`` or ``{"error": "..."}``. What
    the server prints is appended to ``log``. ``while_waiting`` is called once if it takes more
    than a second. Raises StartError if the server ends or reports an error; if this process is
    interrupted meanwhile, the server is stopped.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe, open(log, "ab") as output:
        printed_before = output.seek(0, os.SEEK_END)
        try:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(writing,),
                env=environ,
                cwd=folder,
            )
        finally:
            os.close(writing)
        try:
            word = _read_word(pipe.fileno(), while_waiting)
        except BaseException:
            process.terminate()
            _end(process)
            raise
    if "pid" in word:
        failed = tuple(map(str, word.get("failed", ())))
        return Ready(word["pid"], _urls(word["addresses"]), log, process, failed)
    _end(process)
    reason = word.get("error") or f"it ended with exit code {process.returncode}"
    tail = _tail(log, printed_before)
    raise StartError(
        f"flambeau did not start: {reason}\n"
        + (f"The last lines of {log}:\n{tail}" if tail else f"It left no word in {log}.")
    )


def _read_word(pipe: int, while_waiting: Callable[[], object]) -> dict[str, Any]:
    """What the server says; nothing if it ends before it said a whole line."""
    if not select.select([pipe], [], [], _TALKATIVE_AFTER)[0]:
        while_waiting()
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(pipe, 4096)
        if not piece:
            return {}
        line += piece
    word: dict[str, Any] = json.loads(line)
    return word


def _urls(addresses: Mapping[str, Any]) -> dict[str, str]:
    """Listeners by URL, whether they are given so or as host and port."""
    return {
        name: given if isinstance(given, str) else str(Address(*given))
        for name, given in addresses.items()
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a server that failed or was told to stop; push it when it hangs."""
    for push in (process.terminate, process.kill):
        try:
            process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            push()
    process.wait()


def _tail(log: Path, start: int) -> str:
    with open(log, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])
