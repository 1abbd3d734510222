"""The host's own figures, under TorchServe's names: processor, memory, disk and GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .devices import gpu_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_GIB = 1024.0**3


class Reading(NamedTuple):
    """One figure of this moment; ``labels`` come beside those of the host."""

    name: str
    unit: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class SystemMetrics:
    """Reads the figures when it is asked; what has no source on this host is left out.

    The processor's load is that since the last reading, since the start for the first one.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        gpus: Callable[[], Iterable[tuple[int, float, float, float]]] = gpu_figures,
    ) -> None:
        self._proc = proc
        self._gpus = gpus
        self._last = self._processor_times()

    def read(self) -> list[Reading]:
        """Every figure of this moment."""
        return [*self._processor(), *self._memory(), *_disk(), *self._graphics()]

    def _processor(self) -> list[Reading]:
        now, last = self._processor_times(), self._last
        if now is None or last is None:
            return []
        self._last = now
        busy, total = now[0] - last[0], now[1] - last[1]
        percent = 100.0 * busy / total if total > 0 else 0.0
        return [Reading("CPUUtilization", "Percent", round(percent, 1))]

    def _processor_times(self) -> tuple[float, float] | None:
        """Busy and whole time of all processors, in ticks."""
        try:
            fields = (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]
            ticks = [float(field) for field in fields]
        except (OSError, ValueError):
            return None
        if len(ticks) < 5:
            return None
        idle = sum(ticks[3:5])
        return sum(ticks) - idle, sum(ticks)

    def _memory(self) -> list[Reading]:
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
            kib = {line.split(":")[0]: float(line.split()[1]) for line in lines if ":" in line}
            total, free = kib["MemTotal"] / 1024, kib["MemAvailable"] / 1024
        except (OSError, ValueError, KeyError, IndexError):
            return []
        return [
            Reading("MemoryAvailable", "Megabytes", round(free, 1)),
            Reading("MemoryUsed", "Megabytes", round(total - free, 1)),
            Reading("MemoryUtilization", "Percent", round(100 * (total - free) / total, 1)),
        ]

    def _graphics(self) -> list[Reading]:
        readings = []
        for number, load, used, percent in self._gpus():
            device = (("DeviceId", str(number)),)
            readings += [
                Reading("GPUMemoryUtilization", "Percent", round(percent, 1), device),
                Reading("GPUMemoryUsed", "Megabytes", round(used, 1), device),
                Reading("GPUUtilization", "Percent", load, device),
            ]
        return readings


def _disk() -> list[Reading]:
    try:
        status = os.statvfs("/")
    except OSError:
        return []
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    used = total - status.f_bfree * status.f_frsize
    return [
        Reading("DiskAvailable", "Gigabytes", round(free / _GIB, 2)),
        Reading("DiskUsage", "Gigabytes", round(used / _GIB, 2)),
        Reading("DiskUtilization", "Percent", round(100 * used / (used + free or 1), 1)),
    ]
