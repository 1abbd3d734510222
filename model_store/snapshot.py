"""Snapshots: files that say what was registered, each written whole or not at all.

Names are TorchServe's: the local time to the millisecond, then what occasioned it. A reader that
finds a file finds all of it; files that others wrote, or that a failing disk cut short, are told
apart by their content.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Occasion = Literal["startup", "snapshot", "shutdown"]

KEPT = 50
"""Snapshots that are kept in a folder; the oldest go first."""

_NAME = re.compile(r"(\d{17})-(?:startup|snapshot|shutdown)\.cfg")

logger = logging.getLogger("flambeau.snapshot")


def name_at(seconds: float, occasion: Occasion) -> str:
    """The name of a snapshot made ``seconds`` after the epoch."""
    whole = time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))
    return f"{whole}{int(seconds % 1 * 1000):03d}-{occasion}.cfg"


def write(folder: Path, name: str, text: str) -> Path:
    """Write a snapshot so that it appears whole, and remove the oldest ones; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    target, draft = folder / name, folder / f".{name}.{os.getpid()}.draft"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(folder)
    for old in _snapshots(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return target


def latest(folder: Path) -> Path | None:
    """The last complete snapshot in ``folder``; those that are not are named in the log."""
    for path in reversed(_snapshots(folder)):
        try:
            text = path.read_text(encoding="latin-1")
        except OSError as error:
            logger.warning("snapshot %s cannot be read: %s", path.name, error.strerror)
            continue
        if text.endswith("\n") and re.search(r"^model_snapshot *[=:]", text, re.MULTILINE):
            return path
        logger.warning("snapshot %s is not complete; the one before it is taken", path.name)
    return None


def _snapshots(folder: Path) -> list[Path]:
    """The snapshots in ``folder``, the oldest first; other files do not matter."""
    if not folder.is_dir():
        return []
    names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    # Of two in the same millisecond the shutdown is the later one.
    order = {"startup": 0, "snapshot": 1, "shutdown": 2}
    return sorted(names, key=lambda path: (path.name[:17], order[path.stem[18:]]))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
