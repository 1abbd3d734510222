"""Which deaths want of memory explains: the kernel's counts of OOM kills, by control group."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from .control_groups import CGROUPS, PROC, memory_group

if TYPE_CHECKING:
    from pathlib import Path

LOOK_EVERY = 1.0
"""Seconds between two looks at the counts."""
_WINDOW = 10.0
"""Seconds from a kill to the news of it, at most: a large process takes its time to end."""


class OomKills:
    """Says of processes that SIGKILL has ended whether the kernel did it for want of memory.

    It counts such kills for each control group and does not say whom it killed. So a kill is known
    to have happened shortly before, and explains one death: not those that came long after it, and
    not two. ``proc`` and ``cgroups`` are where the kernel shows its processes and groups.
    """

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._groups: dict[Path, _Group] = {}

    def watch(self, pid: int, now: float) -> Path | None:
        """Begin to look at the group of a process: its name for the calls below, None if none."""
        group_of = memory_group(str(pid), self._proc, self._cgroups)
        path = group_of.file("memory.oom_control", "memory.events")
        if path is not None:
            group = self._groups.setdefault(path, _Group(path))
            group.processes += 1
            group.look(now)
        return path

    def look(self, now: float) -> None:
        """Note the counts of this moment. To be called every LOOK_EVERY seconds."""
        for group in self._groups.values():
            group.look(now)

    def rose(self, path: Path | None, now: float) -> bool:
        """A process of that group was killed a short time ago."""
        group = None if path is None else self._groups.get(path)
        return group is not None and group.rise(now) > 0

    def explains(self, path: Path | None, now: float) -> bool:
        """That a process of that group was killed is why this one has ended, by SIGKILL.

        It then explains no other death.
        """
        group = None if path is None else self._groups.get(path)
        if group is None or group.rise(now) <= len(group.explained):
            return False
        group.explained.append(now)
        return True

    def forget(self, path: Path | None) -> None:
        """A process that was watched has ended, and all is said of it."""
        group = None if path is None else self._groups.get(path)
        if group is None or path is None:
            return
        group.processes -= 1
        if not group.processes:
            del self._groups[path]

    @property
    def is_watching(self) -> bool:
        return bool(self._groups)


class _Group:
    """A control group: its count over the last seconds, and the kills that explain a death."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: deque[tuple[float, int]] = deque()
        self.explained: deque[float] = deque()
        self.processes = 0

    def look(self, now: float) -> None:
        self._counts.append((now, _count(self._path)))
        # The newest of those that are older than the window is what the count rose from.
        while len(self._counts) > 1 and self._counts[1][0] <= now - _WINDOW:
            self._counts.popleft()
        while self.explained and self.explained[0] <= now - _WINDOW:
            self.explained.popleft()

    def rise(self, now: float) -> int:
        self.look(now)
        return self._counts[-1][1] - self._counts[0][1]


def _count(path: Path) -> int:
    try:
        return int(re.findall(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)[0])
    except (OSError, IndexError):
        return 0
