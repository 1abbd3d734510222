"""The run directory: a folder for us alone, with the sockets, logs and state of running servers."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def default_run_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_RUNTIME_DIR/flambeau`` where that is a folder of ours, else a temporary folder."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_our_directory(Path(runtime)):
        return Path(runtime, "flambeau")
    return Path(environ.get("TMPDIR") or tempfile.gettempdir(), f"flambeau-{os.geteuid()}")


def home(environ: Mapping[str, str]) -> Path:
    """The user's home directory."""
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def make_run_dir(path: Path) -> Path:
    """Make ``path`` with mode 0700 unless it is there; raises ConfigError if it is not ours."""
    try:
        check_run_dir(path)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_run_dir(path)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"The run directory {path} cannot be used: {error.strerror}. "
            "Choose another one with --run-dir."
        ) from None
    return path


def check_run_dir(path: Path) -> None:
    """Raise ConfigError if ``path`` exists and is a link, no folder, or somebody else's."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"The run directory {path} cannot be used: {error.strerror}.") from None
    if stat.S_ISLNK(status.st_mode):
        problem = "is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        problem = "is not a folder"
    elif status.st_uid != os.geteuid():
        problem = "belongs to another user"
    else:
        return
    raise ConfigError(f"The run directory {path} {problem}. Choose another one with --run-dir.")


def _is_our_directory(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def process_command(pid: int) -> str:
    """The command line of a running process, empty if there is none that we may see."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    if status.rpartition(")")[2].split()[:1] == ["Z"]:
        return ""
    return words.replace(b"\0", b" ").decode(errors="replace").strip()
