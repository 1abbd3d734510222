"""flambeau: serve PyTorch models with TorchServe's archives, handlers, commands and clients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .handlers.handler import Handler
    from .worker.errors import PredictionException

__version__ = "0.1.0"

__all__ = ["FlambeauError", "Handler", "PredictionException", "__version__", "without_folders"]

_ABSOLUTE_FOLDER = re.compile(r"(?<![\w./-])/(?!/)(?:[^\s'\":,;()\[\]/]+/)+")


class FlambeauError(Exception):
    """Root of every error that flambeau raises on purpose.

    ``status`` is the HTTP status that the error is answered with, ``type`` the name in the
    answer's ``type`` field (TorchServe's exception names, which its clients match on), and the
    message is safe to show to a client: no path, socket or secret.
    """

    status: int = 500
    type: str = "InternalServerException"
    reason: str | None = None
    """Why the request was refused, in a word for programs: ``queue_full``, ``draining`` ..."""
    clock: str | None = None
    """Which time ran out: startup, queue, response, drain, client, request, or a workflow node."""
    timing: str | None = None
    """The value of ``Server-Timing``, where the request got as far as a queue."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def without_folders(text: str) -> str:
    """``text`` with absolute paths cut down to their last part: for words that others have written
    and clients see. The folders of a server are none of their business, names of files are.
    """
    return _ABSOLUTE_FOLDER.sub("", text)


def __getattr__(name: str) -> object:
    """``Handler`` and ``PredictionException``, for handlers; nobody else waits for their import."""
    if name == "Handler":
        from .handlers.handler import Handler

        return Handler
    if name == "PredictionException":
        from .worker.errors import PredictionException

        return PredictionException
    raise AttributeError(f"module 'flambeau' has no attribute {name!r}")
