"""How a worker's process ends: at once, whatever its handler has left running."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERRUPTED = 130


def run_and_leave(run: Callable[[], int]) -> NoReturn:
    """End the process with what ``run`` returns or raises, as Python does.

    After a failure nothing is waited for: a thread that a handler has started would keep a worker
    that serves no more, and those whose requests it had would not be told.
    """
    code = _code(run)
    if code == 0:
        sys.exit(0)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # Closed by the handler.
            continue
    os._exit(code)


def _code(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        _say(str(error.code))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException:
        _say(traceback.format_exc())
    return 1


def _say(text: str) -> None:
    """Last words, past whatever the handler has made of ``sys.stderr``."""
    try:
        os.write(2, f"{text.rstrip()}\n".encode(errors="replace"))
    except OSError:
        # Closed, too.
        return
