"""Whose archives are served: lists of their SHA-256, and signatures that minisign makes.

``minisign -S -m model.mar`` writes ``model.mar.minisig`` beside the archive. Its format, from
minisign's documentation: a key is ``"Ed"``, its id (8 bytes) and an Ed25519 public key (32), in
base64; a signature file has an untrusted comment, then in base64 ``"ED"`` (or ``"Ed"``), the key's
id and a signature over the file's BLAKE2b-512 hash (or over the file itself), then a trusted
comment, and a signature over the first signature and that comment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .errors import InvalidModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_LIST_BYTES = 4 << 20
_MAX_SIGNATURE_BYTES = 64 << 10
_LISTED = re.compile(r"([0-9A-Fa-f]{64})(?:\s+\S.*)?")
_CHUNK = 1 << 20


class Verify(Protocol):
    """Whether ``signature`` of ``message`` was made with the Ed25519 key ``public``."""

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that archives may be signed with."""

    id: bytes
    public: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key in minisign's form, ``RW...``; raises ValueError."""
        raw = _decode(text, 42)
        if raw[:2] != b"Ed":
            raise ValueError("it is no Ed25519 key of minisign")
        return cls(raw[2:10], raw[10:])


@dataclass(frozen=True, slots=True)
class _Signature:
    algorithm: bytes
    key_id: bytes
    signature: bytes
    trusted_comment: bytes
    comment_signature: bytes

    @classmethod
    def parse(cls, content: bytes) -> _Signature:
        lines = content.decode().splitlines()
        mark = "trusted comment: "
        if len(lines) < 4 or not lines[2].startswith(mark):
            raise ValueError("it is not in minisign's form")
        raw = _decode(lines[1], 74)
        comment = lines[2].removeprefix(mark).encode()
        return cls(raw[:2], raw[2:10], raw[10:], comment, _decode(lines[3], 64))


class Signatures:
    """What archives must be to be trusted: signed with one of ``keys``, or listed in ``listing``.

    ``listing`` is a file as ``sha256sum`` writes it; it is read anew for each archive. ``verify``
    checks Ed25519 signatures and is needed where there are keys.
    """

    def __init__(
        self, keys: Sequence[PublicKey], listing: Path | None, verify: Verify | None
    ) -> None:
        self._keys = {key.id: key for key in keys}
        self._listing = listing
        self._verify = verify

    def require(self, source: Path, content: str) -> None:
        """Raises InvalidModelError unless the archive ``source`` is trusted.

        ``content`` is its SHA-256, by which what is unpacked later is held to be the same.
        StorageError when the list cannot be read, OSError when the archive cannot.
        """
        if source.is_dir():
            raise InvalidModelError(
                f"{source.name} is a folder, which nobody can sign (require_signed=true). "
                "Package it as an archive."
            )
        if self._listing is not None and content in _listed(self._listing):
            return
        refusal = f"{source.name} is refused (require_signed=true): "
        if not self._keys or self._verify is None:
            raise InvalidModelError(refusal + "its SHA-256 is not in trusted_archives.")
        try:
            reason = self._why_not(source, content, self._verify)
        except ValueError as error:
            reason = f"its signature cannot be read: {error}"
        if reason is not None:
            raise InvalidModelError(f"{refusal}{reason}.")

    def _why_not(self, source: Path, content: str, verify: Verify) -> str | None:
        path = source.with_name(f"{source.name}.minisig")
        try:
            with path.open("rb") as file:
                signature = _Signature.parse(file.read(_MAX_SIGNATURE_BYTES))
        except FileNotFoundError:
            return f"there is no {path.name} beside it"
        key = self._keys.get(signature.key_id)
        if key is None:
            return "it is signed with a key that is not one of trusted_keys"
        if signature.algorithm != b"ED":
            return "its signature is of an old kind; sign it with minisign -S -H"
        sha, blake = _hashes(source)
        if sha != content:
            return "it changed while it was being read"
        if not verify(key.public, signature.signature, blake):
            return "its signature is not that of its content"
        signed = signature.signature + signature.trusted_comment
        if not verify(key.public, signature.comment_signature, signed):
            return "the comment of its signature is not the signed one"
        return None


def _listed(listing: Path) -> set[str]:
    try:
        with listing.open("rb") as file:
            text = file.read(MAX_LIST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        raise StorageError(
            "The file trusted_archives cannot be read; make it one that sha256sum wrote."
        ) from None
    matches = (_LISTED.fullmatch(line.strip()) for line in text.splitlines())
    return {match[1].lower() for match in matches if match is not None}


def _hashes(source: Path) -> tuple[str, bytes]:
    sha, blake = hashlib.sha256(), hashlib.blake2b()
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
            blake.update(chunk)
    return sha.hexdigest(), blake.digest()


def _decode(text: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not in minisign's form") from None
    if len(raw) != size:
        raise ValueError("it is not in minisign's form")
    return raw
