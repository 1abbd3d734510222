"""Processes of the benchmark: started here, asked over pipes, looked at in /proc, ended here."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_PATIENCE = 15.0


class BenchmarkError(Exception):
    """A measurement is not possible or would not be true; the message says why."""


@contextmanager
def running(
    command: Sequence[object], environ: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, ended however the block ends.

    It has a session of its own: Ctrl-C reaches only this process, which then ends the child.
    """
    process = subprocess.Popen([*map(str, command)], env=environ, start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL for one that does not leave."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:  # a second Ctrl-C comes by here as well
            if process.poll() is None:
                process.kill()
                process.wait()


def percentile(ordered: list[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def read_json_line(fd: int, timeout: float, who: str) -> dict[str, Any]:
    """One line of JSON from a pipe; BenchmarkError if it does not come."""
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise BenchmarkError(f"{who} did not answer within {timeout:.0f} s.")
        chunk = os.read(fd, 65536)
        if not chunk:
            raise BenchmarkError(f"{who} ended before it answered.")
        line += chunk
    answer: dict[str, Any] = json.loads(line)
    return answer


class Companion:
    """A script of this folder in a process of its own: a line of JSON in, a line of JSON out."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a companion needs both pipes")
        self._stdin, self._stdout = process.stdin, process.stdout
        self._name = name

    def ask(self, timeout: float, **question: object) -> dict[str, Any]:
        """Send a question, wait for its answer."""
        self._stdin.write(json.dumps(question).encode() + b"\n")
        self._stdin.flush()
        return self.hear(timeout)

    def hear(self, timeout: float) -> dict[str, Any]:
        """Wait for the next answer."""
        return read_json_line(self._stdout.fileno(), timeout, self._name)


@contextmanager
def companion(script: str, *arguments: object, **environ: str) -> Iterator[Companion]:
    """Run ``script``; it ends when its standard input does, so it cannot outlive this process."""
    with running(
        [sys.executable, HERE / script, *arguments],
        {**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield Companion(process, script)


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes, with all their threads, have used so far."""
    return sum(_seconds(pid, ended_children=False) for pid in pids)


def _seconds(pid: int, *, ended_children: bool) -> float:
    fields = _stat(pid)[11 : 15 if ended_children else 13]
    return sum(int(field) for field in fields) / _TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents = {each: int(fields[1]) for each, fields in _all_stats()}
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def children(pid: int) -> list[int]:
    """The processes that this one has started, without theirs."""
    return [each for each, fields in _all_stats() if int(fields[1]) == pid]


def in_session(leader: int) -> list[int]:
    """The processes of a session that still run, those that have lost their parent as well."""
    return [
        each for each, fields in _all_stats() if int(fields[3]) == leader and fields[0] not in "ZX"
    ]


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), _stat(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional size (shared pages divided among their users), in MB of 10^6."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6


class OtherWork:
    """What everybody else has used of this machine since this was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._before = self._used()

    def cores(self) -> float:
        """The mean number of cores that were busy with other work, or kept by the host."""
        return max(0.0, self._used() - self._before) / (time.perf_counter() - self._started)

    @staticmethod
    def _used() -> float:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
        values = [int(each) for each in first.split()[1:9]]
        busy = (sum(values) - values[3] - values[4]) / _TICKS
        for pid in tree(os.getpid()):
            try:
                busy -= _seconds(pid, ended_children=True)
            except OSError:  # it has ended meanwhile
                continue
        return busy
