"""The template: a process that imports what workers need once, and is copied for each of them.

A copy (fork) has in milliseconds what a new process takes seconds to import, and shares the memory
of it with its siblings. It must never touch a GPU, whose state cannot be copied.

The frontend sends orders over a socket of packets, JSON with two descriptors for the worker's
output; it is told ``{"started": pid}`` and ``{"exited": pid, "code": n}``. When the socket ends,
so has the frontend: the template kills its copies and leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

from .leaving import run_and_leave
from .link import end_with_parent
from .main import main as worker_main
from .modules import module_names

READY = b"{}"
MAX_ORDER = 64 * 1024


def main() -> int:
    """Serve until the frontend goes; in a copy, be a worker. The process's exit code."""
    arguments = _arguments()
    control = socket.socket(fileno=arguments.control_fd)
    # While it imports, it does not look at its socket.
    end_with_parent(True)
    before = set(sys.modules)
    for name in filter(None, arguments.modules.split(",")):
        importlib.import_module(name.strip())
    ahead = {name.partition(".")[0] for name in set(sys.modules) - before}
    if _has_touched_a_gpu():
        print(  # noqa: T201
            "A module of preload uses a GPU: workers start without the template.", file=sys.stderr
        )
        return 1
    # What is here stays, and is not looked through in each copy, which would copy it indeed.
    gc.collect()
    gc.freeze()
    end_with_parent(False)
    control.send(READY)
    order = _Template(control).serve()
    if order is None:
        return 0
    return _work(order, ahead)


class _Template:
    """The loop: orders come, copies end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()
        self._ended, self._ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._ends, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self._ended, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """An order, in the copy that has to carry it out; None when there is nothing more to do."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._ended:
                    self._report()
                    continue
                try:
                    packet, descriptors, _, _ = socket.recv_fds(self._control, MAX_ORDER, 2)
                except ConnectionError:
                    packet, descriptors = b"", []
                if not packet:
                    self._kill_all()
                    return None
                order = json.loads(packet)
                if self._copy(descriptors):
                    return dict(order)

    def _copy(self, descriptors: list[int]) -> bool:
        """Fork; True in the copy, whose output goes to ``descriptors`` from now on."""
        with warnings.catch_warnings():
            # Libraries of algebra keep threads, and know themselves what to do with them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid:
            for each in descriptors:
                os.close(each)
            self._children.add(pid)
            self._tell({"started": pid})
            return False
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        self._control.close()
        os.close(self._ended)
        os.close(self._ends)
        for target, each in zip((1, 2), descriptors, strict=True):
            os.dup2(each, target)
            os.close(each)
        return True

    def _report(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._ended, 4096):
                pass
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._children.discard(pid)
                self._tell({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, int]) -> None:
        # A frontend that is gone is noticed in the loop.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(message).encode())

    def _kill_all(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def _work(order: dict[str, Any], ahead: set[str]) -> int:
    """Be the worker that was ordered."""
    os.environ.update(order["environ"])
    words = [str(word) for word in order["arguments"]]
    if ahead.intersection(module_names(Path(order["model_dir"]))):
        # The archive brings a module in place of one that is imported already: start from nothing.
        command = [sys.executable, "-m", "flambeau.worker", *words]
        os.execv(sys.executable, command)  # noqa: S606 - no shell is what is wanted
    _tell_libraries()
    sys.argv[1:] = words
    return worker_main(is_copy=True)


def _tell_libraries() -> None:
    """What they read from the environment long ago; and random numbers of this copy's own."""
    torch, random = sys.modules.get("torch"), sys.modules.get("numpy.random")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    if torch is not None:
        torch.default_generator.seed()
    if random is not None:
        random.seed()


def _has_touched_a_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flambeau.worker.template", description=__doc__)
    parser.add_argument("--control-fd", required=True, type=int, help="socket of the frontend")
    parser.add_argument("--modules", default="", help="what to import, separated by commas")
    return parser.parse_args()


if __name__ == "__main__":
    run_and_leave(main)
