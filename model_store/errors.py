"""The model store's branch of the error tree.

::

    FlambeauError                 500 InternalServerException
    ├── ModelNotFoundError        404 ModelNotFoundException    the url names nothing to serve
    ├── WorkflowNotFoundError     404 WorkflowNotFoundException the same, of a workflow
    ├── DownloadError             400 DownloadArchiveException  it cannot be had from there
    ├── InvalidModelError         400 InvalidModelException     found, but unsafe, broken or wrong
    ├── InvalidWorkflowError      400 InvalidWorkflowException  the same, of a workflow
    │   └── InvalidDAGError       400 InvalidDAGException       its graph cannot be run
    └── StorageError              500 InternalServerException   the server's disk said no
"""

from __future__ import annotations

from .. import FlambeauError


class ModelNotFoundError(FlambeauError):
    """The url names no model that this server may serve; the text is TorchServe's."""

    status = 404
    type = "ModelNotFoundException"


class InvalidModelError(FlambeauError):
    """The model is there, but its archive, manifest or configuration cannot be accepted."""

    status = 400
    type = "InvalidModelException"


class WorkflowNotFoundError(FlambeauError):
    """The url, or the name, is that of no workflow; the text is TorchServe's."""

    status = 404
    type = "WorkflowNotFoundException"


class InvalidWorkflowError(FlambeauError):
    """The workflow is there, but its archive, manifest or specification cannot be accepted."""

    status = 400
    type = "InvalidWorkflowException"


class InvalidDAGError(InvalidWorkflowError):
    """The graph of the workflow cannot be run; the message begins with TorchServe's."""

    type = "InvalidDAGException"


class StorageError(FlambeauError):
    """The archive may be fine, but it could not be read or unpacked on this machine."""


class DownloadError(FlambeauError):
    """The archive is not to be had from its URL; the message begins with TorchServe's."""

    status = 400
    type = "DownloadArchiveException"


class DependencyError(FlambeauError):
    """A model's packages cannot be installed; the message begins with TorchServe's.

    ``output`` are the last lines of what pip said.
    """

    status = 400
    type = "ModelException"

    def __init__(self, message: str, output: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.output = output


def printable(text: str) -> str:
    """``text`` for a message: without characters that a terminal would obey or that end a line."""
    return text if text.isprintable() else ascii(text)[1:-1]
