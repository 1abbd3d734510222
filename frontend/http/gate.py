"""Asks for keys in front of a listener, and keeps what the caller may do for the routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import hdrs

from ..access import EVERYTHING, NOTHING, Grant, OpenAccess, Scope
from .middlewares import Answer, path_segments

if TYPE_CHECKING:
    from aiohttp import web

    from ..access import Access

ScopeOf = Callable[[list[str]], Scope]
"""What the segments of a path need."""

# One per request: each connection is served by a task of its own, one request after the other.
# Without a default, so that a route that no gate stands before fails rather than opens.
_GRANT: ContextVar[Grant] = ContextVar("grant")


class Gate:
    """Stands before a listener. ``scope_of`` says what a path's segments need.

    The documents at ``/`` and ``/api-description`` are for everybody. A browser sends its key only
    after a question without one, the preflight: ``answers_preflight`` says yes to that.
    """

    def __init__(
        self, access: Access, scope_of: ScopeOf, *, answers_preflight: bool = False
    ) -> None:
        self._access = access
        self._answers_preflight = answers_preflight
        self._is_open = isinstance(access, OpenAccess)
        self._scope_of = scope_of

    def admit(self, request: web.BaseRequest) -> Answer | None:
        """Let the request in, answer it in the route's place, or raise what is to be answered."""
        if self._is_open:
            _GRANT.set(EVERYTHING)
            return None

        if (
            self._answers_preflight
            and request.method == hdrs.METH_OPTIONS
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        ):
            return Answer()

        _GRANT.set(self.grant(request.raw_path, request.headers))
        return None

    def grant(self, raw_path: str, headers: Mapping[str, str]) -> Grant:
        """What the caller of a request may do; raises a FlambeauError for who may nothing."""
        if self._is_open:
            return EVERYTHING
        segments = path_segments(raw_path)
        scope = self._scope_of(segments)
        if segments in ([], ["api-description"]) or self._access.leaves_open(scope, segments):
            return NOTHING

        return self._access.authorize(scope, headers.get(hdrs.AUTHORIZATION))


def granted(scope: Scope) -> Grant:
    """What the caller of the request at hand may do; raises ForbiddenError without ``scope``."""
    grant = _GRANT.get()
    grant.require_scope(scope)
    return grant


def inference_scope(segments: list[str]) -> Scope:
    return Scope.INFER


def management_scope(segments: list[str]) -> Scope:
    return Scope.MANAGE


def metrics_scope(segments: list[str]) -> Scope:
    return Scope.METRICS


def shared_scope(segments: list[str]) -> Scope:
    """Of a listener for all APIs, where the inference API is asked first."""
    match segments:
        case ["metrics", *_]:
            return Scope.METRICS
        case ["models", _, "invoke"]:
            return Scope.INFER
        case ["v1", "models", call] if ":predict" in call or ":explain" in call:
            return Scope.INFER
        case ["models" | "token" | "workflows", *_] | ["v1", "models", *_]:
            return Scope.MANAGE
        case _:
            return Scope.INFER
