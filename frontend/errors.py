"""The frontend's branch of the error tree.

::

    FlambeauError                       500 InternalServerException
    ├── BadRequestError                 400 BadRequestException
    ├── InvalidKeyError                 400 InvalidKeyException
    ├── UnauthenticatedError            401 UnauthorizedException
    ├── ForbiddenError                  403 ForbiddenException
    ├── ResourceNotFoundError           404 ResourceNotFoundException
    ├── UnknownModelError               404 ModelNotFoundException
    ├── UnknownVersionError             404 ModelVersionNotFoundException
    ├── UnknownWorkflowError            404 WorkflowNotFoundException
    ├── MethodNotAllowedError           405 MethodNotAllowedException
    ├── RequestTimeoutError             408 RequestTimeoutException
    ├── ConflictError                   409 ConflictStatusException
    ├── DefaultVersionError             403 InvalidModelVersionException
    ├── MalformedPathError              403 IllegalArgumentException
    ├── PayloadTooLargeError            413 PayloadTooLargeException
    ├── ExpectationFailedError          417 BadRequestException
    ├── InvalidInputError               422 InvalidInputException
    ├── WorkerStartError                500 InternalServerException  (507 when out of memory)
    ├── WorkflowError                   500 WorkflowException
    ├── InferenceError                  status of the worker's answer
    ├── ServiceUnavailableError         503 ServiceUnavailableException  (429 if so configured)
    │   ├── ModelLoadingError           the server has just started
    │   ├── NoWorkerError               nobody can take the request
    │   ├── NoDescribeWorkerError       nobody can describe the model
    │   ├── QueueFullError              too many requests wait already
    │   ├── DeadlineUnreachableError    it would be answered too late
    │   ├── SequenceClosedError         what the request belongs to is over
    │   ├── NoFreeWorkerError           all are busy, and nobody may wait
    │   ├── ModelFailedError            the model could not be started
    │   ├── InstallingError             the model's packages are being installed
    │   └── DrainingError               the server or the version is going away
    ├── DeadlineExceededError           504 RequestTimeoutException
    ├── HandoverError                   a server does not take, or does not give, another's place
    ├── ConfigError                     a setting that cannot work: the server does not start
    └── IllegalTransition               a bug: an object was asked for an impossible step

``http/middlewares.py`` renders them, nothing else does. Names and texts that TorchServe's clients
match on are TorchServe's.
"""

from __future__ import annotations

from .. import FlambeauError


def sentence(text: str) -> str:
    """The text, such that another sentence may follow it."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


class BadRequestError(FlambeauError):
    """The request cannot be understood; the message names the offending parameter."""

    status = 400
    type = "BadRequestException"


class InvalidKeyError(FlambeauError):
    """No token, or not the right one: TorchServe's answer, which is not 401."""

    status = 400
    type = "InvalidKeyException"

    def __init__(self, what: str = "Authorization") -> None:
        super().__init__(
            f"Token {what} failed. Token either incorrect, expired, or not provided correctly"
        )


class UnauthenticatedError(FlambeauError):
    """The request brings no API key, or one that nobody has."""

    status = 401
    type = "UnauthorizedException"


class ForbiddenError(FlambeauError):
    """The request's API key is good for other things."""

    status = 403
    type = "ForbiddenException"


class DefaultVersionError(FlambeauError):
    """The default version of a model cannot be removed while others exist."""

    status = 403
    type = "InvalidModelVersionException"


class MalformedPathError(FlambeauError):
    """The path cannot be percent-decoded. Status, type and text are TorchServe's."""

    status = 403
    type = "IllegalArgumentException"


class ResourceNotFoundError(FlambeauError):
    """No such route."""

    status = 404
    type = "ResourceNotFoundException"

    def __init__(self) -> None:
        super().__init__("Requested resource is not found, please refer to API document.")


class UnknownModelError(FlambeauError):
    """No model of that name is registered."""

    status = 404
    type = "ModelNotFoundException"

    def __init__(self, model_name: str) -> None:
        super().__init__(f"Model not found: {model_name}")


class UnknownVersionError(FlambeauError):
    """The model is registered, but not in that version."""

    status = 404
    type = "ModelVersionNotFoundException"

    def __init__(self, model_name: str, version: str) -> None:
        super().__init__(f"Model version: {version} does not exist for model: {model_name}")


class UnknownWorkflowError(FlambeauError):
    """No workflow of that name is registered."""

    status = 404
    type = "WorkflowNotFoundException"

    def __init__(self, name: str) -> None:
        super().__init__(f"Workflow not found: {name}")


class MethodNotAllowedError(FlambeauError):
    """The route exists, the method does not."""

    status = 405
    type = "MethodNotAllowedException"

    def __init__(self) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")


class RequestTimeoutError(FlambeauError):
    """A management request could not be finished in the time that it was given."""

    status = 408
    type = "RequestTimeoutException"


class ConflictError(FlambeauError):
    """What was asked for exists already."""

    status = 409
    type = "ConflictStatusException"


class PayloadTooLargeError(FlambeauError):
    """The request body exceeds ``max_request_size``."""

    status = 413
    type = "PayloadTooLargeException"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Request body exceeds the limit of {limit} bytes. "
            "Send less, or raise max_request_size in the server's configuration."
        )


class InvalidInputError(FlambeauError):
    """The request does not fit what the model's handler says of its input."""

    status = 422
    type = "InvalidInputException"

    def __init__(self, faults: str) -> None:
        super().__init__(f"The request does not fit the model's input: {faults}")


class ExpectationFailedError(FlambeauError):
    """The client expects something other than ``100-continue``."""

    status = 417
    type = "BadRequestException"

    def __init__(self) -> None:
        super().__init__("Only the expectation 100-continue is supported.")


class WorkerStartError(FlambeauError):
    """No worker of the version could be started; carries the status that says why."""

    def __init__(self, message: str, status: int = 500, clock: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.clock = clock


class WorkflowError(FlambeauError):
    """Nodes of a workflow could not be registered; none of the others stays either."""

    type = "WorkflowException"


class InferenceError(FlambeauError):
    """The worker, or its death, answered the request with an error."""

    def __init__(self, message: str, status: int, clock: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.clock = clock


class ServiceUnavailableError(FlambeauError):
    """Not now; ``retry_after`` seconds from now may do. ``pending`` is how many wait already."""

    status = 503
    type = "ServiceUnavailableException"
    retry_after = 1
    pending: int | None = None


class ModelLoadingError(ServiceUnavailableError):
    """The model is not there yet: the server has just started, or nobody had asked for it."""

    reason = "loading"

    def __init__(self, name: str, why: str = "the server has just started") -> None:
        super().__init__(f'Model "{name}" is being loaded, since {why}.')


class NoWorkerError(ServiceUnavailableError):
    """The version has no worker. The text is TorchServe's, its stray quote included."""

    reason = "no_workers"

    def __init__(self, model_name: str, version: str | None) -> None:
        which = f'"{model_name}"' if version is None else f'"{model_name}" Version {version}"'
        super().__init__(
            f"Model {which} has no worker to serve inference request. "
            "Please use scale workers API to add workers. If this is a sequence inference, please "
            "check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
        )


class NoDescribeWorkerError(ServiceUnavailableError):
    """The version has no worker that could describe itself. The text is TorchServe's."""

    reason = "no_workers"

    def __init__(self, model_name: str) -> None:
        super().__init__(
            f'Model "{model_name}" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        )


class QueueFullError(NoWorkerError):
    """As many requests wait as the queue may hold. TorchServe has one text for both causes.

    ``retry_after`` is in about how many seconds there should be room, ``status`` 503 or 429.
    """

    reason = "queue_full"

    def __init__(
        self,
        model_name: str,
        version: str | None,
        retry_after: int = 1,
        pending: int | None = None,
        status: int = 503,
    ) -> None:
        super().__init__(model_name, version)
        self.retry_after = retry_after
        self.pending = pending
        self.status = status


class DeadlineUnreachableError(ServiceUnavailableError):
    """By what is known, the request's time would be over before it is answered."""

    reason = "deadline_unreachable"

    def __init__(self, model_name: str, retry_after: int, pending: int) -> None:
        super().__init__(
            f'Model "{model_name}" cannot answer in the time that this request has: '
            f"{pending} requests wait already. Give it more time, or try again later."
        )
        self.retry_after = retry_after
        self.pending = pending


class SequenceClosedError(NoWorkerError):
    """The request's sequence was closed while it waited. TorchServe has the same text for this."""

    reason = "sequence_closed"


class NoFreeWorkerError(NoWorkerError):
    """Every worker is busy, and the model's requests do not wait (``useJobTicket``)."""

    reason = "no_free_worker"

    def __init__(self, model_name: str, version: str | None, retry_after: int = 1) -> None:
        super().__init__(model_name, version)
        self.retry_after = retry_after


class ModelFailedError(ServiceUnavailableError):
    """The version's workers cannot serve; the message carries the reason."""

    reason = "model_failed"

    def __init__(self, message: str, retry_after: int = 30) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InstallingError(ServiceUnavailableError):
    """The version's packages are being installed; its workers start after that."""

    reason = "installing"
    retry_after = 10

    def __init__(self, model_name: str) -> None:
        super().__init__(f'Model "{model_name}" is not ready: its packages are being installed.')


class DrainingError(ServiceUnavailableError):
    """The server, or this version, takes no new requests."""

    reason = "draining"


class DeadlineExceededError(FlambeauError):
    """The request outlived a time that it, its model or the server sets; ``clock`` says which."""

    status = 504
    type = "RequestTimeoutException"

    def __init__(self, message: str, clock: str) -> None:
        super().__init__(message)
        self.clock = clock


class ConfigError(FlambeauError):
    """A setting that cannot work; the message names key, value, source and what is allowed."""


class HandoverError(FlambeauError):
    """A server is not replaced by another one; the one that serves goes on."""


class IllegalTransition(FlambeauError):
    """A state machine was asked for a step that its table does not list: a bug in flambeau."""
