"""Writes an archive's members in one of three forms, each appearing whole or not at all.

ArchiverError: what was given cannot become an archive, or the archive cannot be written.
"""

from __future__ import annotations

import gzip
import io
import os
import secrets
import shutil
import tarfile
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from .. import FlambeauError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Progress = Callable[[int, int], None] | None

MANIFEST_NAME = "MAR-INF/MANIFEST.json"

_WEIGHTS = {".bin", ".onnx", ".pt", ".pt2", ".pth", ".safetensors", ".so"}
_COMPRESSED = {
    *(".7z", ".bz2", ".gz", ".mar", ".npz", ".tgz", ".whl", ".xz", ".zip", ".zst"),
    *(".gif", ".jpeg", ".jpg", ".mp3", ".mp4", ".ogg", ".png", ".webp"),
}
_BIG = 1 << 20
_CHUNK = 1 << 20


class ArchiverError(FlambeauError):
    """No archive was written, and the message says in one line what to change."""

    status = 400
    type = "InvalidModelException"


@dataclass(frozen=True)
class Member:
    """One file of the archive. ``stored`` members are not worth the time to compress."""

    name: str
    path: Path
    size: int
    mode: int
    stored: bool

    @classmethod
    def of(cls, name: str, path: Path, is_weights: bool) -> Member:
        status = path.stat()
        suffix = path.suffix.lower()
        big_weights = suffix in _WEIGHTS and status.st_size > _BIG
        # Owner and umask of the machine that packed must not keep a server from reading.
        mode = 0o755 if status.st_mode & 0o100 else 0o644
        stored = is_weights or big_weights or suffix in _COMPRESSED
        return cls(name, path, status.st_size, mode, stored)


def _changed(member: Member) -> ArchiverError:
    return ArchiverError(f"{member.path} changed while it was being packed: try again.")


class _Meter:
    """Opens members for reading and reports how many bytes were read of how many."""

    def __init__(self, members: Sequence[Member], progress: Progress) -> None:
        self._total = sum(member.size for member in members)
        self._done = 0
        self._progress = progress

    @contextmanager
    def open(self, member: Member) -> Iterator[_MeteredFile]:
        with member.path.open("rb") as raw:
            yield _MeteredFile(raw, member, self._advance)
            if raw.read(1):
                raise _changed(member)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


class _MeteredFile:
    """Exactly as many bytes as the member had: one that keeps growing has an end here."""

    def __init__(self, raw: IO[bytes], member: Member, advance: Callable[[int], None]) -> None:
        self._raw = raw
        self._member = member
        self._advance = advance
        self._left = member.size

    def read(self, size: int = _CHUNK) -> bytes:
        data = self._raw.read(min(size, self._left))
        if self._left and not data:
            raise _changed(self._member)
        self._left -= len(data)
        self._advance(len(data))
        return data


def write_zip(
    target: Path,
    members: Sequence[Member],
    manifest: bytes,
    *,
    force: bool,
    progress: Progress,
    manifest_name: str = MANIFEST_NAME,
) -> None:
    """Write a ``.mar`` or ``.war``: weights as they are, everything else deflated.

    Raises FileExistsError when ``target`` is there without ``force``, ArchiverError, OSError.
    """
    meter = _Meter(members, progress)
    with _new_file(target, force) as raw, zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(_zip_entry(manifest_name, time.localtime(), 0o644), manifest)
        for member in members:
            modified = time.localtime(member.path.stat().st_mtime)
            entry = _zip_entry(member.name, modified, member.mode)
            entry.file_size = member.size
            if member.stored:
                entry.compress_type = zipfile.ZIP_STORED
            with meter.open(member) as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)


def _zip_entry(name: str, modified: time.struct_time, mode: int) -> zipfile.ZipInfo:
    # A zip entry cannot be older than 1980 or younger than 2107.
    moment = min(max(modified[:6], (1980, 1, 1, 0, 0, 0)), (2107, 12, 31, 23, 59, 59))
    entry = zipfile.ZipInfo(name, moment)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o100000 | mode) << 16
    return entry


def write_tar(
    target: Path,
    members: Sequence[Member],
    manifest: bytes,
    *,
    force: bool,
    progress: Progress,
) -> None:
    """Write a ``.tar.gz`` with one root directory, named as the model. Raises as write_zip."""
    root = target.name.removesuffix(".tar.gz")
    meter = _Meter(members, progress)

    def entry(name: str, size: int, mode: int, modified: float) -> tarfile.TarInfo:
        info = tarfile.TarInfo(f"{root}/{name}")
        info.size, info.mode, info.mtime = size, mode, int(modified)
        return info

    with (
        _new_file(target, force) as raw,
        # Level 1, since weights hardly shrink and a higher level takes minutes for a gigabyte.
        gzip.GzipFile(f"{root}.tar", "wb", compresslevel=1, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.addfile(
            entry(MANIFEST_NAME, len(manifest), 0o644, time.time()), io.BytesIO(manifest)
        )
        for member in members:
            modified = member.path.stat().st_mtime
            with meter.open(member) as source:
                archive.addfile(entry(member.name, member.size, member.mode, modified), source)


def write_directory(
    target: Path,
    members: Sequence[Member],
    manifest: bytes,
    *,
    force: bool,
    progress: Progress,
) -> None:
    """Write the members as plain files under ``target``. Raises as write_zip.

    An existing directory is replaced as a whole, and only if it is a packaged model itself.
    """
    meter = _Meter(members, progress)
    temporary = _temporary_name(target)
    temporary.mkdir()
    try:
        for member in members:
            path = temporary / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with meter.open(member) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
                _flush(sink)
            path.chmod(member.mode)
        path = temporary / MANIFEST_NAME
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as sink:
            sink.write(manifest)
            _flush(sink)
        _publish_directory(temporary, target, force)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish_directory(temporary: Path, target: Path, force: bool) -> None:
    if not force or not os.path.lexists(target):
        try:
            temporary.rename(target)  # fails if a directory with something in it is there
        except OSError as exc:
            if os.path.lexists(target):
                raise FileExistsError(str(target)) from exc
            raise
        return
    if target.is_symlink() or not (target / MANIFEST_NAME).is_file():
        # Never destroy what is not ours: --model-name src --export-path . would be fatal.
        raise ArchiverError(
            f"{target} exists and is not a packaged model: remove it or use another name."
        )
    old = _temporary_name(target)
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _new_file(target: Path, force: bool) -> Iterator[IO[bytes]]:
    """A file to write, which becomes ``target`` when the block ends without an error."""
    temporary = _temporary_name(target)
    try:
        with temporary.open("xb") as raw:
            yield raw
            _flush(raw)
        _publish_file(temporary, target, force)
    finally:
        temporary.unlink(missing_ok=True)


def _publish_file(temporary: Path, target: Path, force: bool) -> None:
    if not force:
        # Of two archivers that write the same name at the same time, one must lose.
        try:
            os.link(temporary, target)
            return
        except FileExistsError:
            raise
        except OSError:
            # No hard links on this file system: take the name, then put the file in its place.
            target.open("xb").close()
    os.replace(temporary, target)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
