"""flambeau's keys: named, with scopes and models, kept as hashes, read again when they change.

Keys are entries of a list in YAML or JSON:

    - {name: shop, sha256: 9f86d0..., scopes: [infer], models: [digits]}

``sha256`` is the hash of the key in hexadecimal digits; ``key`` in its place is the key itself.
Without ``models`` a key is for all models.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from .access import Grant, Scope
from .errors import ConfigError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

KEY_PREFIX = "flb_"
KEY_BYTES = 32
SHORTEST_KEY = 22
"""Characters of a key that is given itself: 128 random bits in Base64."""
CHECK_INTERVAL = 1.0
"""Seconds between two looks at whether the file has changed."""
LARGEST_FILE = 2**20

_FIELDS = frozenset({"name", "sha256", "key", "scopes", "models"})
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_HEADER = re.compile(r"bearer +(\S+)", re.ASCII | re.IGNORECASE)
_PROBES = (["ping"], ["livez"], ["readyz"], ["v2", "health", "live"], ["v2", "health", "ready"])

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of one key; ``digest`` is its SHA-256."""

    digest: bytes
    grant: Grant
    was_plain: bool = False


class KeyAccess:
    """Callers bring a key in the header ``Authorization: Bearer <key>``.

    Probes of health are open to everybody: ``/ping``, ``/livez``, ``/readyz``, ``/v2/health``.
    ``given`` are keys that stay; those of ``file`` are read again when it changes.
    """

    def __init__(self, given: Sequence[ApiKey], file: KeyFile | None = None) -> None:
        self._given = tuple(given)
        self._file = file

    def authorize(self, scope: Scope, authorization: str | None) -> Grant:
        found = _HEADER.fullmatch(authorization or "")
        if found is None:
            raise UnauthenticatedError(
                "An API key is needed. Send it in the header Authorization: Bearer <key>."
            )

        key = self._find(hashlib.sha256(found[1].encode(errors="surrogateescape")).digest())
        if key is None:
            raise UnauthenticatedError("The API key is not known here. Ask for a new one.")

        key.grant.require_scope(scope)
        return key.grant

    def leaves_open(self, scope: Scope, segments: list[str]) -> bool:
        return scope is Scope.INFER and segments in _PROBES

    def announce(self) -> None:
        """Holders have their keys."""

    def retire(self) -> None:
        """Holders keep their keys."""

    def _find(self, digest: bytes) -> ApiKey | None:
        """All keys are looked at, so that the time tells nothing."""
        found = None
        for keys in (self._given, self._file.keys() if self._file is not None else ()):
            for key in keys:
                if hmac.compare_digest(key.digest, digest):
                    found = key
        return found


class KeyFile:
    """The keys of a file, which is looked at when keys are asked for, once a second at most.

    A file that is broken or missing leaves the keys as they were; the log tells why, once.
    Raises ConfigError if it is so from the start. ``now`` counts seconds.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._looked = now()
        self._seen = self._stamp()
        self._keys = self._read()

    def keys(self) -> tuple[ApiKey, ...]:
        now = self._now()
        if now - self._looked >= CHECK_INTERVAL:
            self._looked = now
            self._look()
        return self._keys

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return

        self._seen = stamp
        try:
            self._keys = self._read()
        except ConfigError as error:
            logger.error("%s The keys stay as they were.", error)
        else:
            logger.info("%d API keys are read again from %s", len(self._keys), self._path)

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes when the file does; taken before it is read, so that nothing is missed."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[ApiKey, ...]:
        try:
            with self._path.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise ConfigError(
                f"api_keys_file={self._path} cannot be read: {error.strerror}."
            ) from None
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"api_keys_file={self._path} is longer than {LARGEST_FILE} bytes.")
        keys = read_keys(content.decode(errors="replace"), f"api_keys_file={self._path}")
        warn_of_plain_keys(keys, str(self._path))
        return keys


def read_keys(text: str, origin: str) -> tuple[ApiKey, ...]:
    """The keys of a list in YAML or JSON; raises ConfigError, which names ``origin``, not keys."""
    try:
        entries = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, AttributeError, LookupError, TypeError):
        # Text with tags that do not fit raises all of these. The parser's own message quotes the
        # line, and with it perhaps a key.
        raise ConfigError(f"{origin}: must be a list in YAML or JSON.") from None
    if not isinstance(entries, list):
        raise ConfigError(f"{origin}: must be a list of keys, such as {EXAMPLE}.")

    keys: list[ApiKey] = []
    for number, entry in enumerate(entries, 1):
        try:
            key = _read_entry(entry)
            _check_is_new(key, keys)
        except ValueError as error:
            raise ConfigError(f"{origin}: entry {number} {error}.") from None
        keys.append(key)
    return tuple(keys)


def warn_of_plain_keys(keys: Iterable[ApiKey], origin: str) -> None:
    """Tell the log which keys lie about in the open."""
    plain = [key.grant.holder for key in keys if key.was_plain]
    if plain:
        logger.warning(
            "%s holds the keys of %s themselves: put sha256 there instead (flambeau keys hash).",
            origin,
            ", ".join(plain),
        )


def new_key() -> str:
    """A key that nobody can guess."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_text(key: str) -> str:
    """What ``sha256`` holds for ``key``."""
    return hashlib.sha256(key.encode()).hexdigest()


def entry_line(name: str, key: str, scopes: Sequence[str], models: Sequence[str]) -> str:
    """The line of a file of keys that lets ``key`` in; raises ValueError if it would not do."""
    if not _NAME.fullmatch(name):
        name = ""
    if not all(models):
        raise ValueError("is for a model without a name")
    fields = [
        f"name: {name or _quoted(name)}",
        f"sha256: {digest_text(key)!r}",
        f"scopes: [{', '.join(scopes)}]",
    ]
    if models:
        fields.append(f"models: [{', '.join(map(_quoted, models))}]")
    line = "- {" + ", ".join(fields) + "}"
    _read_entry(yaml.safe_load(line)[0])
    return line


EXAMPLE = "- {name: shop, sha256: <hash>, scopes: [infer]}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _read_entry(entry: object) -> ApiKey:
    """Raises ValueError with words that follow "entry 3"."""
    if not isinstance(entry, dict):
        raise ValueError(f"is not like {EXAMPLE}")
    unknown = [str(field) for field in entry if field not in _FIELDS]
    if unknown:
        raise ValueError(f"has the unknown field {unknown[0]!r}; known are {_FIELD_LIST}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("needs a name of letters, digits, '.', '_' and '-'")
    # Only without the field is a key for all models: an empty one is a slip.
    models = frozenset(_texts(entry, "models")) if "models" in entry else None
    scopes = frozenset(_read_scope(scope) for scope in _texts(entry, "scopes"))
    grant = Grant(name, scopes, models)
    return ApiKey(_digest(entry), grant, was_plain="key" in entry)


def _digest(entry: dict[object, object]) -> bytes:
    if ("key" in entry) == ("sha256" in entry):
        raise ValueError("needs either sha256 or key")
    if "sha256" in entry:
        digest = entry["sha256"]
        if not isinstance(digest, str) or not _HASH.fullmatch(digest.lower()):
            raise ValueError("needs a sha256 of 64 hexadecimal digits, in quotes")
        return bytes.fromhex(digest)
    key = entry["key"]
    if not isinstance(key, str) or len(key) < SHORTEST_KEY or not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            f"needs a key of at least {SHORTEST_KEY} printable characters without spaces"
        )
    return hashlib.sha256(key.encode()).digest()


def _texts(entry: dict[object, object], field: str) -> list[str]:
    values = entry.get(field)
    if not isinstance(values, list) or not values:
        raise ValueError(f"needs a list of {field}")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"has {field} that are not text: put quotes around them")
    return values


def _read_scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        known = ", ".join(scope.value for scope in Scope)
        raise ValueError(f"has an unknown scope; known are {known}") from None


def _check_is_new(key: ApiKey, before: Sequence[ApiKey]) -> None:
    if any(other.grant.holder == key.grant.holder for other in before):
        raise ValueError(f"has the name {key.grant.holder}, which another one has")
    if any(hmac.compare_digest(other.digest, key.digest) for other in before):
        raise ValueError("is the same key as another one")


_FIELD_LIST = ", ".join(sorted(_FIELDS))
