"""From flambeau's errors to gRPC's status codes and details, which are TorchServe's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from ...model_store.errors import ModelNotFoundError
from ..errors import (
    BadRequestError,
    ConflictError,
    DefaultVersionError,
    ForbiddenError,
    InferenceError,
    InvalidKeyError,
    NoFreeWorkerError,
    NoWorkerError,
    QueueFullError,
    ResourceNotFoundError,
    UnauthenticatedError,
    UnknownModelError,
    UnknownVersionError,
    WorkerStartError,
)

if TYPE_CHECKING:
    from ... import FlambeauError

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    416: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_ARCHIVE = "org.pytorch.serve.archive.model"
_HTTP = "org.pytorch.serve.http"
# What stands behind the message: TorchServe's clients may look for it.
_CLASSES: tuple[tuple[type[FlambeauError], str], ...] = (
    (UnknownModelError, f"{_ARCHIVE}.ModelNotFoundException"),
    (UnknownVersionError, f"{_ARCHIVE}.ModelVersionNotFoundException"),
    (ModelNotFoundError, f"{_ARCHIVE}.ModelNotFoundException"),
    (NoWorkerError, "InternalServerException.()"),
    (BadRequestError, "BadRequestException.()"),
    (InferenceError, f"{_HTTP}.InternalServerException"),
    (WorkerStartError, f"{_HTTP}.InternalServerException"),
)


def code_of(status: int) -> grpc.StatusCode:
    """The code of an error's HTTP status; it is never OK, not even for a handler's error 200."""
    if status in _CODES:
        return _CODES[status]
    if 400 <= status < 500:
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.INTERNAL if 500 <= status < 600 else grpc.StatusCode.UNKNOWN


def of_inference(error: FlambeauError) -> tuple[grpc.StatusCode, str]:
    """Code and details of an error of the inference service.

    What TorchServe finds wrong before it asks a worker is INTERNAL there. A lack of room is not
    here: by UNAVAILABLE or RESOURCE_EXHAUSTED clients know that they may come again.
    """
    if isinstance(error, (QueueFullError, NoFreeWorkerError)):
        return code_of(error.status), _details(error)
    if isinstance(error, InvalidKeyError):
        return grpc.StatusCode.PERMISSION_DENIED, error.message
    if isinstance(error, (UnknownModelError, UnknownVersionError, NoWorkerError, BadRequestError)):
        return grpc.StatusCode.INTERNAL, _details(error)
    return code_of(error.status), _details(error)


def of_management(error: FlambeauError) -> tuple[grpc.StatusCode, str]:
    """Code and details of an error of the management service."""
    if isinstance(error, InvalidKeyError):
        return grpc.StatusCode.PERMISSION_DENIED, error.message
    if isinstance(error, (ConflictError, DefaultVersionError)):
        return grpc.StatusCode.UNKNOWN, error.message
    if isinstance(error, BadRequestError):
        return code_of(error.status), f"{error.message}\n{_HTTP}.BadRequestException"
    return code_of(error.status), _details(error)


def _details(error: FlambeauError) -> str:
    if isinstance(error, (UnauthenticatedError, ForbiddenError, ResourceNotFoundError)):
        return error.message
    name = next((name for kind, name in _CLASSES if isinstance(error, kind)), None)
    return error.message if name is None else f"{error.message}\n{name}"
