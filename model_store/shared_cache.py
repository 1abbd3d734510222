"""Folders that are made once, by whichever thread or process comes first, and used by all.

An entry is the folder ``<key>/``. Next to it lies ``<key>.lock``: held shared by every process that
uses the entry, exclusively by the one that makes or removes it. What is half made is never used:
whoever finds it, and gets the lock, removes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger("flambeau.model_store")

Make = Callable[["Path", int], None]
"""Makes the entry at the path, or raises. The descriptor holds its lock: a process that inherits it
keeps others away for as long as it lives."""

_ENTRY = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.?([0-9a-f]{64})(?:\.lock|\..*tmp)?")
_LOOK_AGAIN = 0.1


class Stopped(Exception):
    """Whoever wanted an entry does not want it any more."""


@dataclass(slots=True)
class _Entry:
    """This process's use of one entry; ``lock_fd`` is open while there are references."""

    mutex: threading.Lock = field(default_factory=threading.Lock)
    references: int = 0
    lock_fd: int = -1


class SharedCache:
    """The entries in ``folder``, which is made private (0700) to this user.

    An entry counts when its folder has the file ``proof`` in it, or, without a ``proof``, when it
    is there at all. All methods may be called from any thread. Raises StorageError for a folder
    that cannot be used.
    """

    def __init__(self, folder: Path, what: str, proof: str = "") -> None:
        self._folder = folder
        self._what = what
        self._proof = proof
        self._mutex = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        make_private(folder)
        self._remove_leftovers()

    def path(self, key: str) -> Path:
        return self._folder / key

    def is_there(self, key: str) -> bool:
        """The entry is complete; without a reference it may go at any time."""
        return (self.path(key) / self._proof).exists()

    def acquire(self, key: str, make: Make, stop: threading.Event | None = None) -> None:
        """Add a reference to the entry, which is made if it is not there.

        Raises what ``make`` does; then nothing is left. With ``stop``, waiting for another process
        ends with Stopped once that is set.
        """
        entry = self._entry(key)
        with entry.mutex:
            if entry.references == 0:
                entry.lock_fd = self._pin(key, make, stop)
            entry.references += 1

    def release(self, key: str, *, keep: bool = False) -> None:
        """Give a reference back; with the last one in all processes the entry goes, or is kept."""
        entry = self._entry(key)
        with entry.mutex:
            if entry.references == 0:
                return
            entry.references -= 1
            if entry.references == 0:
                try:
                    if not keep:
                        self._remove_if_unused(key, entry.lock_fd)
                except OSError as error:
                    # It is released all the same; the next start tries again.
                    logger.warning("%s: cannot remove %.12s: %s", self._what, key, error.strerror)
                finally:
                    os.close(entry.lock_fd)

    def remove_unused(self, key: str) -> bool:
        """Remove a complete entry unless somebody uses it; whether it is gone."""
        try:
            fd, is_exclusive = self._lock(key, wait=False)
        except BlockingIOError:
            return False
        try:
            if is_exclusive and self.is_there(key):
                self._remove(key)
            elif is_exclusive:
                self._lock_path(key).unlink(missing_ok=True)
        finally:
            os.close(fd)
        return is_exclusive

    def complete(self) -> list[str]:
        """The keys of the complete entries, sorted."""
        return sorted(key for key in self._names() if _ENTRY.fullmatch(key) and self.is_there(key))

    def close(self) -> None:
        """Give up all references and leave the entries as they are, for the next start."""
        with self._mutex:
            entries = list(self._entries.values())
        for entry in entries:
            with entry.mutex:
                if entry.references:
                    entry.references = 0
                    os.close(entry.lock_fd)

    def _names(self) -> Iterator[str]:
        yield from sorted(os.listdir(self._folder))

    def _entry(self, key: str) -> _Entry:
        with self._mutex:
            return self._entries.setdefault(key, _Entry())

    def _pin(self, key: str, make: Make, stop: threading.Event | None) -> int:
        """A descriptor that holds the entry's lock shared; the entry is there and complete."""
        while True:
            fd, is_exclusive = self._lock(key, wait=True, stop=stop)
            try:
                if is_exclusive:
                    if not self.is_there(key):
                        make(self.path(key), fd)
                    # Another process may remove the entry before the lock is shared: look again.
                    fcntl.flock(fd, fcntl.LOCK_SH)
                if self.is_there(key) and _is_same_file(fd, self._lock_path(key)):
                    return fd
            except BaseException:
                if is_exclusive and not self.is_there(key):
                    shutil.rmtree(self.path(key), ignore_errors=True)
                    self._lock_path(key).unlink(missing_ok=True)
                os.close(fd)
                raise
            os.close(fd)

    def _lock_path(self, key: str) -> Path:
        return self._folder / f"{key}.lock"

    def _lock(
        self, key: str, *, wait: bool, stop: threading.Event | None = None
    ) -> tuple[int, bool]:
        """Open and lock the entry's lock file: exclusively if it is free, else shared.

        Nobody ever waits for the exclusive lock: others may use the entry for weeks. The shared
        one is waited for while another process makes or removes; BlockingIOError without wait.
        """
        path = self._lock_path(key)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                is_exclusive = _try_exclusive(fd)
                if not is_exclusive:
                    _share(fd, wait, stop)
                # Whoever removed the entry removed its lock file too: then this one is a ghost.
                if _is_same_file(fd, path):
                    return fd, is_exclusive
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _remove_if_unused(self, key: str, lock_fd: int) -> None:
        # Taking the exclusive lock gives up the shared one for a moment.
        if _try_exclusive(lock_fd) and _is_same_file(lock_fd, self._lock_path(key)):
            self._remove(key)

    def _remove(self, key: str) -> None:
        """Remove an entry and its lock file, whose lock is held exclusively."""
        old = self._folder / f"{key}.old.tmp"
        shutil.rmtree(old, ignore_errors=True)
        # One step, so that nobody ever finds half an entry.
        os.rename(self.path(key), old)
        shutil.rmtree(old, ignore_errors=True)
        self._lock_path(key).unlink(missing_ok=True)
        logger.info("%s: removed %.12s", self._what, key)

    def _remove_leftovers(self) -> None:
        """Remove what processes that died left unfinished; what lives holds its lock."""
        for name in self._names():
            match = _LEFTOVER.fullmatch(name)
            if match is None:
                continue
            key = match[1]
            if name in (key, f"{key}.lock") and self.is_there(key):
                continue
            try:
                lock_fd, is_exclusive = self._lock(key, wait=False)
            except BlockingIOError:
                continue
            if is_exclusive:
                if name != key or not self.is_there(key):
                    shutil.rmtree(self._folder / name, ignore_errors=True)
                if not self.is_there(key):
                    self._lock_path(key).unlink(missing_ok=True)
            os.close(lock_fd)


def make_private(folder: Path) -> None:
    """Code is run from here: nobody else may put files into it. Raises StorageError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise StorageError(
                "The model cache directory belongs to another user. "
                "Set model_cache_dir to a directory of your own."
            )
        folder.chmod(0o700)
    except OSError as error:
        raise StorageError(
            f"The model cache directory cannot be used: {error.strerror}. "
            "Set model_cache_dir to a directory that can be written to."
        ) from error


def _share(fd: int, wait: bool, stop: threading.Event | None) -> None:
    """Lock ``fd`` shared, at once or when it is free; ``stop`` ends the wait with Stopped."""
    if wait and stop is None:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if stop is None:
                raise
        if stop.wait(_LOOK_AGAIN):
            raise Stopped


def _try_exclusive(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
