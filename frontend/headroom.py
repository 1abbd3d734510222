"""Whether there is memory for more workers: on the host, in its control group, on the GPUs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .control_groups import CGROUPS, PROC, memory_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .lifecycle import VersionKey
    from .version_spec import VersionSpec
    from .versions import Version

RESERVE = 0.05
"""The share of all memory that is left free."""
_MIB = 1 << 20


class GpuMemory(NamedTuple):
    """Of one GPU, in bytes."""

    used: int
    total: int


class Headroom:
    """What memory is left. ``versions`` are those of the fleet, to be read.

    ``gpus`` is to be set now and then: the drivers may take their time to tell.
    """

    def __init__(
        self,
        versions: Mapping[VersionKey, Version],
        host: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.gpus: Mapping[int, GpuMemory] = {}
        self._versions = versions
        self._host = host or host_memory

    def room_for(self, spec: VersionSpec, largest: int, more: int) -> tuple[int, str]:
        """How many of ``more`` workers there is room for, if each is as large as ``largest`` bytes,
        and what lacks for the others.
        """
        available, total = self._host()
        spare = available - int(total * RESERVE)
        room = more if not largest else max(0, min(more, spare // largest))
        if room < more:
            lack = f"a worker takes {largest // _MIB} MB, and {max(0, spare) // _MIB} MB are free"
            return room, lack
        return self._on_gpus(spec, more)

    def _on_gpus(self, spec: VersionSpec, more: int) -> tuple[int, str]:
        if spec.device_type == "cpu" or not self.gpus:
            return more, ""
        room, text = 0, ""
        for gpu, memory in self.gpus.items():
            if spec.device_ids and gpu not in spec.device_ids:
                continue
            need = memory.used // max(1, self._workers_on(gpu)) or 1
            spare = memory.total - memory.used - int(memory.total * RESERVE)
            room += max(0, spare // need)
            text = (
                f"a worker takes about {need // _MIB} MB of GPU {gpu}, and {spare // _MIB} are free"
            )
        return min(more, room), "" if room >= more else text

    def _workers_on(self, gpu: int) -> int:
        slots = (slot for version in self._versions.values() for slot in version.slots.values())
        return sum(slot.device == gpu for slot in slots)


def host_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, int]:
    """Bytes that are available, and all: the host's, or those of a smaller control group."""
    figures = dict(re.findall(r"^(\w+): +(\d+) kB", _text(proc / "meminfo"), re.MULTILINE))
    total = int(figures.get("MemTotal", 0)) << 10
    available = int(figures.get("MemAvailable", 0)) << 10
    if not total:
        return 1 << 62, 1 << 62
    group = memory_group("self", proc, cgroups)
    limit = _number(_text(group.file("memory.limit_in_bytes", "memory.max")))
    if limit is not None and limit < total:
        total = limit
        used = _number(_text(group.file("memory.usage_in_bytes", "memory.current"))) or 0
        # Files that are kept in memory need not stay there.
        stat = _text(group.file("memory.stat", "memory.stat"))
        name = "total_inactive_file" if group.is_version_1 else "inactive_file"
        cache = re.search(rf"^{name} (\d+)$", stat, re.MULTILINE)
        available = min(available, limit - used + (int(cache[1]) if cache else 0))
    return available, total


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _text(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text()
    except OSError:
        return ""
