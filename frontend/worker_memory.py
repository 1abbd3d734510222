"""How much memory a process has."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """What of the process is in memory, pages that it shares with others included; 0 if it is gone.

    The kernel's share-aware count (PSS) would walk through all pages of the process for it.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
