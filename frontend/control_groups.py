"""Where the kernel says what memory a process's control group has, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


class MemoryGroup(NamedTuple):
    """The group of a process, of version 1 or 2: folders in which its files may be, best first."""

    is_version_1: bool
    folders: tuple[Path, ...]

    def file(self, version_1: str, version_2: str) -> Path | None:
        """The file that is called so in the one version, and so in the other; None without one."""
        name = version_1 if self.is_version_1 else version_2
        return next((each / name for each in self.folders if (each / name).is_file()), None)


def memory_group(process: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> MemoryGroup:
    """That of a process, by its number or ``self``; without folders if it is gone."""
    try:
        lines = (proc / process / "cgroup").read_text().splitlines()
    except OSError:
        return MemoryGroup(False, ())
    paths = {controllers: path for _, controllers, path in (each.split(":", 2) for each in lines)}
    first = next((path for kind, path in paths.items() if "memory" in kind.split(",")), None)
    root = cgroups if first is None else cgroups / "memory"
    inner = paths.get("", "/") if first is None else first
    # In a container the path may be the host's, while what is mounted is the group itself.
    return MemoryGroup(first is not None, (root / inner.lstrip("/"), root))
