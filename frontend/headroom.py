"""Whether there is memory for more workers: on the host, in its control group, on the GPUs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .lifecycle import VersionKey
    from .roster import Version
    from .version_spec import VersionSpec

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


def host_memory(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int]:
    """Bytes that are available, and all: the host's, or those of a smaller control group."""
    figures = dict(re.findall(r"^(\w+): +(\d+) kB", _text(proc / "meminfo"), re.MULTILINE))
    total = int(figures.get("MemTotal", 0)) << 10
    available = int(figures.get("MemAvailable", 0)) << 10
    if not total:
        return 1 << 62, 1 << 62
    for limit, used, cache in _groups(proc, cgroups):
        if limit < total:
            total = limit
            available = min(available, limit - used + cache)
    return available, total


def _groups(proc: Path, cgroups: Path) -> Iterable[tuple[int, int, int]]:
    """Limit, use, and what of that is files that need not stay, of our control groups."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = cgroups / "memory"
        else:
            continue
        # In a container the group is mounted as the root.
        for folder in (root / path.lstrip("/"), root):
            limit, used = (_text(folder / name).strip() for name in names[:2])
            if limit.isdigit() and used.isdigit():
                cache = re.search(
                    rf"^{names[2]} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE
                )
                yield int(limit), int(used), int(cache[1]) if cache else 0
                break


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
