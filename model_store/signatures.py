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
import os
import re
import stat
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from .errors import InvalidModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_LIST_BYTES = 4 << 20
_MAX_SIGNATURE_BYTES = 64 << 10
_LISTED = re.compile(r"([0-9A-Fa-f]{64})(?: [ *].*)?", re.DOTALL)
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
        self._keys = tuple(keys)
        self._listing = listing
        self._verify = verify

    def copy_trusted(self, source: Path, target: Path) -> str:
        """Copy the archive ``source`` to ``target`` if it is trusted; its SHA-256.

        What is checked is the copy. Who may write to the model store can swap files, folders and
        bytes while they are read; nobody else may write to where ``target`` is.
        Raises InvalidModelError for an archive that is not trusted, StorageError when the list
        cannot be read, OSError when the disk fails; there may be a part of a copy then.
        """
        sha, blake = _copy(source, target)
        if self._listing is not None and sha in _listed(self._listing):
            return sha
        refusal = f"{source.name} is refused (require_signed=true): "
        if not self._keys or self._verify is None:
            raise InvalidModelError(refusal + "its SHA-256 is not in trusted_archives.")
        try:
            reason = self._why_not(source, blake, self._verify)
        except ValueError as error:
            reason = f"its signature cannot be read: {error}"
        if reason is not None:
            raise InvalidModelError(f"{refusal}{reason}.")
        return sha

    def _why_not(self, source: Path, blake: bytes, verify: Verify) -> str | None:
        path = source.with_name(f"{source.name}.minisig")
        try:
            with _opened(path) as file:
                signature = _Signature.parse(file.read(_MAX_SIGNATURE_BYTES))
        except FileNotFoundError:
            return f"there is no {path.name} beside it"
        keys = [key for key in self._keys if key.id == signature.key_id]
        if not keys:
            return "it is signed with a key that is not one of trusted_keys"
        if signature.algorithm != b"ED":
            return "its signature is of an old kind; sign it with minisign -S -H"
        signer = next((k for k in keys if verify(k.public, signature.signature, blake)), None)
        if signer is None:
            return "its signature is not that of its content"
        signed = signature.signature + signature.trusted_comment
        if not verify(signer.public, signature.comment_signature, signed):
            return "the comment of its signature is not the signed one"
        return None


def _opened(path: Path) -> IO[bytes]:
    """A regular file, open for reading; raises ValueError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no file")
    return open(descriptor, "rb")


def _copy(source: Path, target: Path) -> tuple[str, bytes]:
    """SHA-256 and BLAKE2b-512 of what was copied."""
    sha, blake = hashlib.sha256(), hashlib.blake2b()
    try:
        reading = _opened(source)
    except ValueError:
        raise InvalidModelError(
            f"{source.name} is a folder, which nobody can sign (require_signed=true). "
            "Package it as an archive."
        ) from None
    with reading, target.open("xb") as writing:
        while chunk := reading.read(_CHUNK):
            sha.update(chunk)
            blake.update(chunk)
            writing.write(chunk)
    return sha.hexdigest(), blake.digest()


def _listed(listing: Path) -> set[str]:
    try:
        with listing.open("rb") as file:
            text = file.read(MAX_LIST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        raise StorageError(
            "The file trusted_archives cannot be read; make it one that sha256sum wrote."
        ) from None
    # A name may hold what splitlines takes for the end of a line; sha256sum escapes only \n and \r.
    matches = (_LISTED.fullmatch(line.rstrip("\r")) for line in text.split("\n"))
    return {match[1].lower() for match in matches if match is not None}


def _decode(text: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not in minisign's form") from None
    if len(raw) != size:
        raise ValueError("it is not in minisign's form")
    return raw
