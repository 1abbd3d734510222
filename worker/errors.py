"""Errors that handlers and the worker share."""

from __future__ import annotations

from .. import FlambeauError


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
