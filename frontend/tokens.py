"""TorchServe's token authorization: three keys in ``key_file.json``, two of which expire."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .access import Grant, Scope
from .errors import ConfigError, InvalidKeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

KEY_FILE = "key_file.json"
KEY_BYTES = 24
"""Random bytes of a key. TorchServe's have 6, too few to withstand guessing."""

_HEADER = re.compile(r"Bearer\s+(\S+)", re.ASCII)
_NAMES = {Scope.INFER: "inference", Scope.MANAGE: "management"}
_GRANTS = {scope: Grant(f"of {name}", frozenset({scope})) for scope, name in _NAMES.items()}
_METRICS = Grant("everybody", frozenset({Scope.METRICS}))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """A key, and when it ends in seconds since the epoch (None: never)."""

    key: str
    ends: float | None = None

    def matches(self, given: str) -> bool:
        """``given`` is this key; takes the same time however much of it is right."""
        return hmac.compare_digest(self.key.encode(), given.encode(errors="surrogateescape"))


class TokenAccess:
    """The inference key opens the inference API, the management key the management API.

    The metrics API asks for none, and neither do ``/livez`` and ``/readyz``, which TorchServe does
    not have. The third key, named API, is for ``refresh`` alone. ``folder`` is where the key file
    goes; ``lifetime`` is in seconds.
    """

    def __init__(self, folder: Path, lifetime: float, now: Callable[[], float] = time.time) -> None:
        self._path = folder / KEY_FILE
        self._lifetime = lifetime
        self._now = now
        self._api = Token(_new_key())
        self._tokens = {scope: self._new_token() for scope in (Scope.MANAGE, Scope.INFER)}
        self._written = ""

    def authorize(self, scope: Scope, authorization: str | None) -> Grant:
        token = self._tokens.get(scope)
        if token is None:
            return _METRICS

        if not self._is_valid(token, authorization):
            raise InvalidKeyError
        return _GRANTS[scope]

    def leaves_open(self, scope: Scope, segments: list[str]) -> bool:
        match segments:
            case ["livez"] | ["readyz"]:
                return True
            case ["token"]:
                # It asks for the key named API.
                return scope is Scope.MANAGE
            case _:
                return False

    def refresh(self, kind: str | None, authorization: str | None) -> None:
        """Replace the key of ``kind``, inference or management, for the holder of the API key.

        The old key ends at once. Raises InvalidKeyError.
        """
        scope = next((scope for scope, name in _NAMES.items() if name == kind), None)
        if scope is None or not self._is_valid(self._api, authorization):
            raise InvalidKeyError("Authentication")

        before = self._tokens[scope]
        self._tokens[scope] = self._new_token()
        try:
            self._write()
        except OSError:
            # Nobody could read the new key.
            self._tokens[scope] = before
            raise

    def keys(self) -> dict[str, tuple[str, float | None]]:
        """All keys with their ends, for the server that goes on in this one's place."""
        tokens = {"API": self._api, **{_NAMES[each]: self._tokens[each] for each in self._tokens}}
        return {name: (token.key, token.ends) for name, token in tokens.items()}

    def adopt(self, keys: Mapping[str, Sequence[Any]]) -> None:
        """Go on with the keys of the server before."""
        self._api = Token(*keys["API"])
        self._tokens = {scope: Token(*keys[name]) for scope, name in _NAMES.items()}

    def announce(self) -> None:
        try:
            self._write()
        except OSError as error:
            raise ConfigError(
                f"{KEY_FILE} cannot be written in the current folder ({error.strerror}). "
                "Start the server in a folder of yours, or set disable_token_authorization=true."
            ) from None
        logger.info("Tokens are asked for; the keys are in %s", self._path)

    def retire(self) -> None:
        """Remove the key file, unless another server's is in its place."""
        with contextlib.suppress(OSError):
            if self._path.read_text(encoding="ascii") == self._written:
                self._path.unlink()

    def _is_valid(self, token: Token, authorization: str | None) -> bool:
        found = _HEADER.fullmatch(authorization or "")
        is_right = found is not None and token.matches(found[1])
        return is_right and (token.ends is None or self._now() < token.ends)

    def _new_token(self) -> Token:
        return Token(_new_key(), self._now() + self._lifetime)

    def _write(self) -> None:
        """Write the key file, readable for its owner only, whole or not at all."""
        content: dict[str, dict[str, str]] = {
            _NAMES[scope]: {"key": token.key, "expiration time": _instant(token.ends or 0.0)}
            for scope, token in self._tokens.items()
        }
        content["API"] = {"key": self._api.key}
        text = json.dumps(content, indent=2)
        draft = self._path.with_name(f".{KEY_FILE}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(draft, flags, 0o600), "w", encoding="ascii") as file:
                file.write(text)
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
        self._written = text


def _new_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)


def _instant(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
