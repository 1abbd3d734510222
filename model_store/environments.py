"""Environments for models that bring requirements: a layer of packages over the server's own.

An environment is made once for what goes into it: the requirements and the files of the archive
that they name, the Python and the platform, and the packages of the server that it is layered on.
Versions and servers share it. It is a virtual environment of the workers' interpreter which also
sees the server's packages: what those fulfil is not installed again, what they do not comes first.

It is made where it stays, for its scripts hold its path, and counts from the moment when its last
file, ``environment.json``, is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DependencyError, StorageError
from .installation import Say, TooSlowError, is_error, reason, run
from .make_environment import NO_VENV, facts
from .requirements import digest_of_requirements
from .shared_cache import SharedCache, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["TAIL_LINES", "Environment", "Environments", "Say", "Stopped"]

logger = logging.getLogger("flambeau.model_store")

TAIL_LINES = 20
PROOF = "environment.json"
"""Lies in every environment that is complete; workers look for it, too."""
_FORMAT = 1
_PROGRAM = Path(__file__).with_name("make_environment.py")
_FACTS_TIMEOUT = 60.0
_LEADS_ELSEWHERE = frozenset({"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"})
"""Variables that would have pip install into another place than the environment."""
_DESCRIPTIONS = (".dist-info", ".egg-info", ".egg-link")
_INSTALLATION = "Custom pip package installation"


@dataclass(frozen=True, slots=True)
class Environment:
    """One that a model needs; ``python`` is its interpreter, which may have yet to be made.

    ``requirements`` is the name of the file in ``model_dir``, None for a model that wants an
    environment and no packages in it.
    """

    key: str
    python: str
    model_dir: Path
    requirements: str | None


class Environments:
    """The environments below ``folder``, made with the interpreter ``python``.

    ``environ`` is what pip gets, whose own configuration counts. What takes longer than ``timeout``
    seconds to install is given up. When all together are larger than ``most_bytes``, those that
    nobody uses are removed, the longest unused first.

    All methods may be called from any thread; those that make or find an environment block.
    """

    def __init__(
        self,
        folder: Path,
        python: str,
        environ: Mapping[str, str],
        timeout: float,
        most_bytes: int,
    ) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._python = python
        self._environ = {key: text for key, text in environ.items() if key not in _LEADS_ELSEWHERE}
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._mutex = threading.Lock()
        self._known_facts: dict[str, Any] | None = None
        self._opened: SharedCache | None = None
        if self._folder.is_dir():
            # What a server left half made that was killed goes now.
            self._cache()

    def plan(self, model_dir: Path, requirements: str | None) -> Environment:
        """The environment for a requirements file of the unpacked model; nothing is made yet.

        Raises InvalidModelError for requirements that are not allowed, StorageError if the workers'
        interpreter cannot be asked what it is.
        """
        known = self._facts()
        wanted = None if requirements is None else digest_of_requirements(model_dir, requirements)
        packages = [_packages(Path(each)) for each in known["site"]]
        parts = [_FORMAT, known, packages, wanted]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        python = self._folder / key / "bin" / "python"
        return Environment(key, str(python), model_dir, requirements)

    def find(self, environment: Environment) -> bool:
        """Take the environment into use if it is there already."""
        if not self._cache().is_there(environment.key):
            return False
        try:
            self._cache().acquire(environment.key, _refuse_to_make, threading.Event())
        except _NotThereError:
            return False
        self._touch(environment.key)
        return True

    def make(
        self, environment: Environment, model_name: str, say: Say, stop: threading.Event
    ) -> None:
        """Take the environment into use, and make it if it is not there; ``stop`` ends that.

        Raises DependencyError with the reason, StorageError, or Stopped; nothing is left then.
        """

        def make(folder: Path, lock: int) -> None:
            self._make(folder, lock, environment, model_name, say, stop)

        try:
            self._cache().acquire(environment.key, make, stop)
        except OSError as error:
            raise StorageError(
                f"The packages of model {model_name} could not be installed: {error.strerror}"
            ) from error
        self._touch(environment.key)
        self._trim()

    def release(self, environment: Environment) -> None:
        """Give an environment back that was taken into use. It is kept for the next who wants it
        as long as there is room.
        """
        self._touch(environment.key)
        self._cache().release(environment.key, keep=True)
        self._trim()

    def close(self) -> None:
        """Give all back."""
        if self._opened is not None:
            self._opened.close()

    def replaced(self, environment: Environment) -> tuple[str, ...]:
        """The packages of the server that others stand in for, as ``name version (server's)``."""
        inside = next(iter(sorted(Path(environment.python).parents[1].glob("lib/python3*"))), None)
        if inside is None:
            return ()
        layer = dict(_versions(inside / "site-packages"))
        server = {
            name: version
            for folder in reversed(self._facts()["site"])
            for name, version in _versions(Path(folder))
        }
        return tuple(
            f"{name} {version} ({server[name]})"
            for name, version in sorted(layer.items())
            if name in server
        )

    def _cache(self) -> SharedCache:
        """Opened when it is needed: a server without such models leaves no folder."""
        with self._mutex:
            if self._opened is None:
                self._opened = SharedCache(self._folder, "environments", PROOF)
            return self._opened

    def _facts(self) -> dict[str, Any]:
        """What the workers' interpreter is, and the folders of the packages that it has."""
        with self._mutex:
            if self._known_facts is None:
                self._known_facts = self._ask()
            return self._known_facts

    def _ask(self) -> dict[str, Any]:
        if self._python == sys.executable:
            return facts()
        try:
            asked = subprocess.run(
                [self._python, str(_PROGRAM)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                env=self._environ,
                timeout=_FACTS_TIMEOUT,
                check=True,
            )
            told: dict[str, Any] = json.loads(asked.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            logger.error("the interpreter %s does not work: %s", self._python, error)
            raise StorageError(
                "The workers' interpreter does not work. Set workers_python to one that does."
            ) from error
        return told

    def _touch(self, key: str) -> None:
        try:
            os.utime(self._folder / key / PROOF)
        except OSError:
            # It only tells which was used last.
            pass

    def _trim(self) -> None:
        found = []
        for key in self._cache().complete():
            proof = self._folder / key / PROOF
            try:
                found.append((proof.stat().st_mtime, key, json.loads(proof.read_bytes())["bytes"]))
            except (OSError, ValueError, LookupError):
                continue
        total = sum(size for _, _, size in found)
        for _, key, size in sorted(found):
            if total <= self._most_bytes:
                return
            if self._cache().remove_unused(key):
                total -= size

    def _make(
        self,
        folder: Path,
        lock: int,
        environment: Environment,
        model_name: str,
        say: Say,
        stop: threading.Event,
    ) -> None:
        """Make the environment, whose lock is held exclusively, and commit it."""
        # What was left by somebody who died.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        errors: deque[str] = deque(maxlen=TAIL_LINES)

        def hear(line: str) -> None:
            tail.append(line)
            if is_error(line):
                errors.append(line)
            say(line)

        started = time.monotonic()
        command = self._command(environment, folder)
        try:
            code = run(command, self._environ, lock, self._timeout, hear, stop)
        except TooSlowError:
            raise DependencyError(
                f"Custom pip package installation failed for model {model_name}: it took longer "
                f"than {self._timeout:g} s (dependency_timeout).",
                tuple(tail),
            ) from None
        if code:
            what = "Virtual environment creation" if code == NO_VENV else _INSTALLATION
            raise DependencyError(
                f"{what} failed for model {model_name}: {reason(errors or tail)}", tuple(tail)
            )
        _commit(folder, environment.requirements is not None)
        seconds = time.monotonic() - started
        logger.info("environments: made %.12s in %.1f s", environment.key, seconds)

    def _command(self, environment: Environment, folder: Path) -> list[str]:
        """What makes the environment in ``folder``."""
        plan = {
            "folder": str(folder),
            "site": self._facts()["site"],
            "cwd": str(environment.model_dir),
            "requirements": environment.requirements,
        }
        return [self._python, "-I", str(_PROGRAM), json.dumps(plan)]


class _NotThereError(Exception):
    """It was there a moment ago."""


def _refuse_to_make(folder: Path, lock: int) -> None:
    raise _NotThereError


def _commit(folder: Path, has_requirements: bool) -> None:
    """Write the file by which the environment counts, in one step."""
    sizes = [
        os.lstat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(folder)
        for name in names
    ]
    fresh = folder / f"{PROOF}.new"
    proof = {"requirements": has_requirements, "bytes": sum(sizes)}
    fresh.write_text(json.dumps(proof), encoding="utf-8")
    os.rename(fresh, folder / PROOF)


def _packages(folder: Path) -> list[str]:
    """The packages in a folder, with their versions, by the names of their descriptions."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(_DESCRIPTIONS))


def _versions(folder: Path) -> Iterator[tuple[str, str]]:
    for name in _packages(folder):
        if name.endswith(".dist-info"):
            package, _, version = name.removesuffix(".dist-info").partition("-")
            yield package.lower().replace("_", "-"), version
