"""Runs the program that makes an environment: its lines as they come, its end on request."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import without_folders
from .shared_cache import Stopped

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Say = Callable[[str], None]
"""Is told each line of output."""

_LOOK = 0.1
"""Seconds until ``stop`` and the time are looked at again while nothing is said."""
_LONGEST_LINE = 8 * 1024
_LONGEST_REASON = 1000
_MOST_ERRORS = 4
_VERSIONS = re.compile(r"\(from versions: [^)]*?((?:, [^,)]+){3})\)")
"""Where pip lists all that there are, often hundreds: the last three will do."""


class TooSlowError(Exception):
    """The time was up."""


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    lock: int,
    timeout: float,
    say: Say,
    stop: threading.Event,
) -> int:
    """The exit code of ``command``; everything that it has started ends with it.

    It inherits the descriptor ``lock``, and an stdin that ends when this process does. Raises
    Stopped once ``stop`` is set, TooSlowError after ``timeout`` seconds, OSError if it cannot be
    started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=dict(environ),
        pass_fds=(lock,),
        start_new_session=True,
    )
    deadline = time.monotonic() + timeout
    try:
        for line in _lines(process, deadline, stop):
            say(line)
        # It may have closed its output and go on.
        while not _has_ended(process):
            _check(deadline, stop)
            stop.wait(_LOOK)
    finally:
        # Before it is waited for: its number, and so its group's, cannot be somebody else's yet.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    return code


def is_error(line: str) -> bool:
    """pip, or what it runs, gives a reason in this line."""
    return line.lstrip().lower().startswith("error:")


def reason(lines: Iterable[str]) -> str:
    """Why pip gave up, from the lines that say so or else its last: without our folders."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line[len("error:") :].strip() for line in said if is_error(line)][:_MOST_ERRORS]
    text = without_folders("; ".join(filter(None, errors)) or (said or ["pip said nothing"])[-1])
    text = _VERSIONS.sub(r"(from versions: ...\1)", text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."


def _lines(
    process: subprocess.Popen[bytes], deadline: float, stop: threading.Event
) -> Iterator[str]:
    """What the process says, until it has ended: a child of its own may keep the pipe open."""
    if process.stdout is None:
        return
    descriptor = process.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    pending = b""
    while True:
        _check(deadline, stop)
        # Looked at first: what was said before the end is in the pipe by now.
        has_ended = _has_ended(process)
        if not poll.poll(0 if has_ended else _LOOK * 1000):
            if has_ended:
                break
            continue
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            break
        *whole, pending = (pending + chunk).split(b"\n")
        if len(pending) > _LONGEST_LINE:
            whole, pending = [*whole, pending], b""
        yield from map(_text, whole)
    if pending:
        yield _text(pending)


def _check(deadline: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped
    if time.monotonic() > deadline:
        raise TooSlowError


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without burying it: until then its process group is its own."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _text(line: bytes) -> str:
    text = line[:_LONGEST_LINE].decode(errors="replace").rstrip()
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
