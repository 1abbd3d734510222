"""Who may do what: scopes, what a key grants, and how every protocol asks.

A protocol calls ``authorize`` with the scope that a call needs and the ``authorization`` header
(or metadata) as it came, and keeps the ``Grant`` until it knows which model is meant:

    grant = access.authorize(Scope.INFER, authorization)
    grant.require_model(name)

There are three kinds of access: ``OpenAccess`` here, TorchServe's ``tokens.TokenAccess``, and
flambeau's own ``api_keys.KeyAccess``. All are synchronous, and cheap enough for each request.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from .errors import ForbiddenError


class Scope(enum.Enum):
    """What a call needs to be allowed: to ask models, to manage them, to read the metrics."""

    INFER = "infer"
    MANAGE = "manage"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do: ``scopes``, on ``models`` only (None: on all of them)."""

    holder: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None

    def require_scope(self, scope: Scope) -> None:
        """Raise ForbiddenError without ``scope``."""
        if scope not in self.scopes:
            raise ForbiddenError(
                f"The key {self.holder} lacks the scope {scope.value}; use one that has it."
            )

    def require_model(self, name: str) -> None:
        """Raise ForbiddenError if the grant is for other models."""
        if self.models is not None and name not in self.models:
            raise ForbiddenError(f"The key {self.holder} is not for model {name}; use one that is.")

    def require_all_models(self) -> None:
        """Raise ForbiddenError if the grant is for some models only."""
        if self.models is not None:
            raise ForbiddenError(
                f"The key {self.holder} is for some models only; name one of them, or use a key "
                "for all models."
            )


EVERYTHING = Grant("everybody", frozenset(Scope))
NOTHING = Grant("nobody", frozenset(), frozenset())


class Access(Protocol):
    """Decides about calls."""

    def authorize(self, scope: Scope, authorization: str | None) -> Grant:
        """What the caller may do, ``scope`` at least; raises a FlambeauError if not even that."""
        ...

    def leaves_open(self, scope: Scope, segments: list[str]) -> bool:
        """The path needs no key, though others of its scope do."""
        ...

    def announce(self) -> None:
        """Tell the holders of keys what they need; raises ConfigError if that cannot be."""
        ...

    def retire(self) -> None:
        """Take back what was announced: the server ends."""
        ...


class OpenAccess:
    """Everybody may do everything."""

    def authorize(self, scope: Scope, authorization: str | None) -> Grant:
        return EVERYTHING

    def leaves_open(self, scope: Scope, segments: list[str]) -> bool:
        return True

    def announce(self) -> None:
        """There is nothing to tell."""

    def retire(self) -> None:
        """There is nothing to take back."""
