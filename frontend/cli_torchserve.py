"""The command ``torchserve``: TorchServe's flags, texts and exit codes, over flambeau's server.

Its defaults are TorchServe's where flambeau's own command is more open or less: tokens are asked
for, models cannot be registered, and what is registered is written down in snapshots.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .. import FlambeauError, __version__
from .cli_config import show_warnings
from .cli_server import refuse_second
from .config import TORCHSERVE_DEFAULTS, load_config, prepare_run_dir
from .run_dir import process_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .config import Config

TORCHSERVE_VERSION = "0.12.0"
STOP_LIMIT = 60.0
_POLL = 0.05


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console command ``torchserve``."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    try:
        if options.version:
            print(f"TorchServe Version is {TORCHSERVE_VERSION} (flambeau {__version__})")
        elif options.stop:
            _stop(options.foreground)
        else:
            sys.exit(_start(options, words))
    except FlambeauError as error:
        _fail(error.message)
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchserve", description="Serve models as TorchServe does. The server is flambeau."
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("-v", "--version", action="store_true", help="print the version")
    action.add_argument("--start", action="store_true", help="start the server")
    action.add_argument("--stop", action="store_true", help="stop the server")
    parser.add_argument("--ts-config", metavar="FILE", help="configuration file")
    parser.add_argument("--model-store", metavar="DIR", help="folder of model archives")
    parser.add_argument("--workflow-store", metavar="DIR", help="folder of workflow archives")
    parser.add_argument(
        "--models", nargs="+", metavar="[NAME=]ARCHIVE", help="models to serve from the start"
    )
    parser.add_argument("--log-config", metavar="FILE", help="log4j file; has no effect")
    parser.add_argument("--cpp-log-config", metavar="FILE", help="has no effect")
    parser.add_argument("--foreground", action="store_true", help="do not return")
    parser.add_argument(
        "--no-config-snapshots", "--ncs", action="store_true", help="no snapshots, read or written"
    )
    parser.add_argument("--plugins-path", "--ppath", metavar="DIR", help="has no effect")
    parser.add_argument(
        "--disable-token-auth", "--dt", action="store_true", help="ask nobody for a token"
    )
    parser.add_argument(
        "--enable-model-api", action="store_true", help="let models be registered and removed"
    )
    return parser


def _start(options: argparse.Namespace, words: list[str]) -> int:
    pid_file = _pid_file()
    running = _read_pid(pid_file)
    if running is not None and running != os.getpid():
        if _is_ours(running):
            _fail("TorchServe is already running, please use torchserve --stop to stop TorchServe.")
        print("Removing orphan pid file.")
        pid_file.unlink(missing_ok=True)
    config = _read(options)
    if options.foreground:
        return _serve(config, pid_file)
    _say_what_is_ignored(options, config)
    # As with TorchServe's own launcher, the server writes to this command's output.
    process = subprocess.Popen(
        [sys.executable, "-m", "flambeau.frontend.cli_torchserve", *words, "--foreground"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    _write_pid(pid_file, process.pid)
    return 0


def _read(options: argparse.Namespace) -> Config:
    _check_paths(options)
    flags: dict[str, object] = {
        "config": options.ts_config,
        "model_store": options.model_store,
        "workflow_store": options.workflow_store,
        "load_models": ",".join(options.models) if options.models else None,
        "snapshots": False if options.no_config_snapshots else None,
        "disable_token_authorization": True if options.disable_token_auth else None,
        "enable_model_api": True if options.enable_model_api else None,
    }
    defaults = {**TORCHSERVE_DEFAULTS, **_log_folders(os.environ)}
    config = load_config(flags, os.environ, Path.cwd(), defaults, obey_switch=True)
    if config.model_store is None:
        _fail("Missing mandatory parameter --model-store")
    return config


def _log_folders(environ: Mapping[str, str]) -> dict[str, str]:
    """TorchServe's files lie in ``logs`` unless the environment says where."""
    folders = {}
    for key in ("log_location", "metrics_location"):
        folder = Path(environ.get(key.upper()) or "logs")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _warn(f"There are no log files: {folder} cannot be made ({error.strerror}).")
            continue
        if os.access(folder, os.W_OK):
            folders[key] = str(folder)
        else:
            _warn(f"There are no log files: {folder} cannot be written to.")
    return folders


def _check_paths(options: argparse.Namespace) -> None:
    scratch = os.environ.get("TEMP")
    if scratch and not Path(scratch).is_dir():
        _fail(f"Invalid temp directory: {scratch}, please check TEMP environment variable.")
    for name in ("ts_config", "log_config", "cpp_log_config"):
        path = getattr(options, name)
        if path is not None and not Path(path).is_file():
            _fail(f"--{name.replace('_', '-')} file not found: {path}")
    for name in ("model_store", "workflow_store"):
        path = getattr(options, name)
        if path is not None and not Path(path).is_dir():
            _fail(f"--{name.replace('_', '-')} directory not found: {path}")


def _say_what_is_ignored(options: argparse.Namespace, config: Config) -> None:
    for name in ("log_config", "cpp_log_config", "plugins_path"):
        if getattr(options, name) is not None:
            _warn(f"--{name.replace('_', '-')} has no effect in flambeau.")
    try:
        found = metadata.version("torchserve")
    except metadata.PackageNotFoundError:
        pass
    else:
        _warn(
            f"The package torchserve {found} is installed here too; this is flambeau's command. "
            "Uninstall one of them, so that it is clear which one runs."
        )
    show_warnings(config)


def _serve(config: Config, pid_file: Path) -> int:
    from .serve import run

    prepare_run_dir(config)
    refuse_second(config)
    _write_pid(pid_file, os.getpid())
    # TorchServe logs to stdout, which is where scripts look for its words.
    with contextlib.suppress(OSError):
        os.dup2(1, 2)
    try:
        return run(config)
    finally:
        if _read_pid(pid_file) == os.getpid():
            pid_file.unlink(missing_ok=True)


def _stop(wait: bool) -> None:
    pid_file = _pid_file()
    pid = _read_pid(pid_file)
    if pid is None:
        print("TorchServe is not currently running.")
        return
    if not _is_ours(pid):
        print("TorchServe already stopped.")
    else:
        os.kill(pid, signal.SIGTERM)
        if not wait:
            print("TorchServe has stopped.")
        elif not _is_gone(pid, STOP_LIMIT):
            print("Stopping TorchServe took too long.")
    pid_file.unlink(missing_ok=True)
    Path("key_file.json").unlink(missing_ok=True)


def _is_gone(pid: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while _is_ours(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _pid_file() -> Path:
    return Path(tempfile.gettempdir(), ".model_server.pid")


def _read_pid(pid_file: Path) -> int | None:
    try:
        text = pid_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() else None


def _write_pid(pid_file: Path, pid: int) -> None:
    """The folder is everybody's: a link or another user's file in the way is not written to."""
    draft = pid_file.with_name(f"{pid_file.name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(draft, flags, 0o600), "w", encoding="ascii") as file:
            file.write(str(pid))
        draft.replace(pid_file)
    except OSError as error:
        _warn(f"The pid file {pid_file} cannot be written ({error.strerror}): use flambeau stop.")
    finally:
        draft.unlink(missing_ok=True)


def _is_ours(pid: int) -> bool:
    """The process runs, and runs this command: a pid may have gone to another program."""
    command = process_command(pid)
    return "flambeau" in command or "torchserve" in command


def _warn(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    print(message)
    sys.exit(1)


if __name__ == "__main__":
    main()
