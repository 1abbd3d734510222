"""Errors that handlers and the worker share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import FlambeauError

if TYPE_CHECKING:
    from collections.abc import Iterator


class PredictionException(Exception):
    """A handler's own answer to a request that it refuses: HTTP status and text for the client.

    Raised, it answers the whole batch; as an item of the returned list, it answers that row alone.
    """

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


class EnvelopeError(FlambeauError):
    """``service_envelope`` names none that there is."""


class WarmUpError(FlambeauError):
    """A request that a new worker must be able to answer was answered with an error."""


def words(error: BaseException) -> str:
    """Type and message, if the error can tell it."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and those that led to it: handlers wrap what they catch in errors of their own."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
