"""Opens archives that strangers made: a .mar or .tar.gz becomes a folder, or nothing happens.

Everything that an archive claims is doubted. Names are checked before they touch the disk, entries
that are not plain files or folders are refused, and bytes are counted as they are decompressed.
The folder appears under its name by one rename, complete, or not at all.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, cast

from .errors import InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
_MAX_NAME_BYTES = 1024
_MAX_COMPONENT_BYTES = 255
_MAX_DEPTH = 64
# What a tar may spend on the headers of one entry (long names come as extra headers).
_MAX_HEADER_BYTES = 64 << 10
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1 | 0x40

# What zipfile, tarfile and gzip raise for bytes that are not what they should be.
_UNREADABLE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to. Sizes are in bytes.

    The total is held to ``max_ratio`` times the archive's own size, but an archive may always grow
    to ``min_allowance``: small models made of zeros compress a thousandfold and harm nobody.
    """

    max_entries: int = 10_000
    max_total_bytes: int = 64 << 30
    max_ratio: int = 100
    min_allowance: int = 100 << 20

    def allowance(self, archive_bytes: int) -> int:
        """How many bytes an archive of that size may become."""
        return min(self.max_total_bytes, max(self.min_allowance, archive_bytes * self.max_ratio))


DEFAULT_LIMITS = Limits()


def digest(source: Path) -> str:
    """SHA-256, in hex, of a file's content or of a folder's state.

    A folder is served in place and never cached, so its digest only has to tell whether somebody
    changed it: it covers the names, sizes and modification times of its files and not their
    content, which may be gigabytes. ``__pycache__`` does not count, a worker writes it.
    Raises OSError when the source cannot be read.
    """
    return _tree_digest(source) if source.is_dir() else _file_digest(source)


def unpack(source: Path, target: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack the zip or gzip-compressed tar ``source`` to the new folder ``target``.

    A tar loses its root folder, as in TorchServe, unless ``MAR-INF`` is at its root already.
    Files become 0644 and folders 0755, whatever the archive says.
    Raises InvalidModelError for an archive that is unsafe or broken, FileExistsError when the
    target exists, OSError when the disk fails; then nothing is left behind.
    """
    if os.path.lexists(target):
        raise FileExistsError(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        folder = _Folder(staging / "all", source, limits)
        try:
            unpacked = _unpack_by_content(source, folder, limits)
        except _UNREADABLE as error:
            raise _unreadable(source, error) from error
        if folder.is_empty:
            raise InvalidModelError(f"{source.name} is not a readable archive: it holds no files")
        os.rename(unpacked, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _file_digest(source: Path) -> str:
    sha = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _tree_digest(root: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(_files_below(root)):
        status = os.stat(path) if os.path.exists(path) else os.lstat(path)
        name = os.path.relpath(path, root)
        facts = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"
        sha.update(facts.encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def _files_below(root: Path) -> Iterator[str]:
    def fail(error: OSError) -> NoReturn:
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (os.path.join(folder, name) for name in files)


def _unreadable(source: Path, error: Exception) -> InvalidModelError:
    reason = str(error) or type(error).__name__
    return InvalidModelError(f"{source.name} is not a readable archive: {reason}")


def _unpack_by_content(source: Path, folder: _Folder, limits: Limits) -> Path:
    """Unpack into ``folder``; where the model's root is then."""
    if not source.is_file():
        raise InvalidModelError(f"{source.name} is not a readable archive: not a regular file")
    with source.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"PK":
        _unpack_zip(source, folder, limits)
        return folder.root
    if magic[:2] == b"\x1f\x8b":
        _unpack_tar(source, folder)
        return folder.without_root_folder()
    raise InvalidModelError(
        f"{source.name} is not a readable archive: "
        "it is neither a zip (.mar) nor a gzip-compressed tar (.tar.gz)"
    )


class _Folder:
    """The folder being filled: it admits only safe names and counts every byte it is given."""

    def __init__(self, root: Path, archive: Path, limits: Limits) -> None:
        self.root = root
        self._archive = archive.name
        self._max_entries = limits.max_entries
        self._allowance = limits.allowance(archive.stat().st_size)
        self._bytes = 0
        # Names in NFC, for a file system may not tell é from e + ´. Folders -> their spelling.
        self._files: set[str] = set()
        self._folders: dict[str, str] = {}
        self._is_rootless = False
        self._create_folder(root)

    @property
    def entry_count(self) -> int:
        return len(self._files) + len(self._folders)

    @property
    def is_empty(self) -> bool:
        return not self._files

    def refuse(self, reason: str) -> InvalidModelError:
        return InvalidModelError(f"{self._archive} is refused: {reason}")

    def expect(self, entries: int, total_bytes: int) -> None:
        """Refuse early what the archive itself announces to be too much."""
        if entries > self._max_entries:
            raise self.refuse(f"it has more than {self._max_entries} entries")
        if self._bytes + total_bytes > self._allowance:
            raise self.refuse(
                f"it unpacks to more than the {self._allowance} bytes allowed for its size"
            )

    def add_folder(self, name: str) -> None:
        parts = self._checked(name)
        for depth in range(1, len(parts) + 1):
            self._claim_folder("/".join(parts[:depth]), name)

    def add_file(self, name: str, size: int, content: IO[bytes]) -> None:
        """Write a file of exactly ``size`` bytes."""
        parts = self._checked(name)
        if not parts:
            raise self.refuse(f"{name!r} names no file")
        for depth in range(1, len(parts)):
            self._claim_folder("/".join(parts[:depth]), name)
        path = "/".join(parts)
        if _normal(path) in self._files or _normal(path) in self._folders:
            raise self.refuse(f"{path!r} is there twice")
        self.expect(self.entry_count + 1, size)
        self._files.add(_normal(path))
        if self._write(self.root / path, content) != size:
            raise InvalidModelError(
                f"{self._archive} is not a readable archive: {path!r} ends before its size"
            )

    def without_root_folder(self) -> Path:
        """The content one level up, unless the archive was made without a root folder."""
        if self._is_rootless or "MAR-INF" in self._folders:
            return self.root
        lifted = self.root.with_name("lifted")
        self._create_folder(lifted)
        for top in sorted(self.root.iterdir()):
            for path in sorted(top.iterdir()) if top.is_dir() else [top]:
                if os.path.lexists(lifted / path.name):
                    raise self.refuse(f"{path.name!r} is there twice without the root folders")
                path.rename(lifted / path.name)
        return lifted

    def _checked(self, name: str) -> list[str]:
        """The name's components; refuses a name that is not a plain relative path."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        # `tar -C model -czf model.tar.gz .` writes ./handler.py: there is no root folder to drop.
        self._is_rootless |= name == "." or name.startswith("./")
        if name.startswith("/") or _DRIVE.match(name):
            raise self.refuse(f"{name!r} is an absolute name")
        if ".." in parts:
            raise self.refuse(f"{name!r} leads out of the archive")
        if "\\" in name or any(ord(char) < 32 or ord(char) == 127 for char in name):
            raise self.refuse(f"{name!r} has a backslash or a control character in its name")
        try:
            sizes = [len(part.encode()) for part in parts]
        except UnicodeEncodeError as error:
            raise self.refuse(f"{name!r} is not UTF-8") from error
        too_long = sum(sizes) + len(sizes) > _MAX_NAME_BYTES or len(parts) > _MAX_DEPTH
        if too_long or any(size > _MAX_COMPONENT_BYTES for size in sizes):
            raise self.refuse(f"the name {name[:40]!r}... is too long or too deep")
        return parts

    def _claim_folder(self, path: str, name: str) -> None:
        if _normal(path) in self._files:
            raise self.refuse(f"{name!r} uses the file {path!r} as a folder")
        spelling = self._folders.get(_normal(path))
        if spelling is None:
            self.expect(self.entry_count + 1, 0)
            self._folders[_normal(path)] = path
            self._create_folder(self.root / path)
        elif spelling != path:
            raise self.refuse(f"the folder {path!r} is there twice, spelt differently")

    def _create_folder(self, path: Path) -> None:
        path.mkdir()
        path.chmod(0o755)

    def _write(self, path: Path, content: IO[bytes]) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        before = self._bytes
        with open(os.open(path, flags, 0o600), "wb") as file:
            while chunk := content.read(_CHUNK):
                self.expect(0, len(chunk))
                self._bytes += len(chunk)
                file.write(chunk)
            # Workers map weights that nobody may write into their memory.
            os.fchmod(file.fileno(), 0o444 if path.suffix in _WEIGHTS else 0o644)
        return self._bytes - before


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path)


class _BoundedReader(io.FileIO):
    """A file that refuses to give much at once: zipfile reads a zip's whole directory in one go."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path, "rb")
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        asked = self._limit + 1 if size is None or size < 0 else min(size, self._limit + 1)
        data = super().read(asked) or b""
        if len(data) > self._limit:
            raise zipfile.BadZipFile("its directory is too large")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        # The system would answer EINVAL, which reads like a failing disk.
        if whence == os.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile("an entry lies outside the archive")
        return super().seek(offset, whence)


def _unpack_zip(source: Path, folder: _Folder, limits: Limits) -> None:
    # An entry's directory record is 46 bytes, its name, and a few extra fields.
    largest_read = 2 * _CHUNK + limits.max_entries * 512
    with _BoundedReader(source, largest_read) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        folder.expect(len(members), sum(member.file_size for member in members))
        for member in members:
            # zipfile cuts ``filename`` at a NUL byte; this is what the archive really says.
            name = member.orig_filename
            _check_zip_member(folder, member, name)
            if name.endswith("/"):
                folder.add_folder(name)
            else:
                with archive.open(member) as content:
                    folder.add_file(name, member.file_size, content)


def _check_zip_member(folder: _Folder, member: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    # Archivers that know no Unix leave the kind 0.
    if kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        raise folder.refuse(f"{name!r} is a link or another special file")
    if member.flag_bits & _ENCRYPTED:
        raise folder.refuse(f"{name!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise folder.refuse(
            f"{name!r} is compressed in a way that is not supported; use deflate or store"
        )


class _TarStream:
    """The decompressed tar, readable forwards only and never beyond what was allowed last.

    tarfile reads extended headers whole, whatever size they claim; the allowance bounds them.
    """

    def __init__(self, content: IO[bytes], folder: _Folder) -> None:
        self._content = content
        self._folder = folder
        self._position = 0
        self._allowed = 0

    def allow(self, count: int) -> None:
        """From now on, ``count`` bytes may be read."""
        self._allowed = count

    def read(self, size: int = -1) -> bytes:
        asked = self._allowed + 1 if size < 0 else min(size, self._allowed + 1)
        chunks = []
        while asked > 0 and (chunk := self._content.read(min(asked, _CHUNK))):
            chunks.append(chunk)
            asked -= len(chunk)
        data = b"".join(chunks)
        if len(data) > self._allowed:
            raise self._folder.refuse("its headers, or what follows its end, are too large")
        self._allowed -= len(data)
        self._position += len(data)
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise tarfile.ReadError("its entries overlap")
        while self._position < position and self.read(min(_CHUNK, position - self._position)):
            pass
        return self._position


def _unpack_tar(source: Path, folder: _Folder) -> None:
    with gzip.open(source) as content:
        stream = _TarStream(cast("IO[bytes]", content), folder)
        stream.allow(_MAX_HEADER_BYTES)
        with tarfile.TarFile(
            fileobj=cast("IO[bytes]", stream), mode="r", encoding="utf-8", errors="surrogateescape"
        ) as archive:
            while (member := archive.next()) is not None:
                # An entry's data is padded to whole blocks.
                stream.allow(max(member.size, 0) + tarfile.BLOCKSIZE + _MAX_HEADER_BYTES)
                _unpack_tar_member(folder, archive, member)
                stream.allow(tarfile.BLOCKSIZE + _MAX_HEADER_BYTES)
            # gzip's checksum is verified at the very end, after the padding.
            stream.allow(_CHUNK)
            stream.read()


def _unpack_tar_member(folder: _Folder, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if member.isdir():
        folder.add_folder(member.name)
        return
    if not member.isreg() or member.issparse():
        raise folder.refuse(f"{member.name!r} is a link or another special file")
    content = archive.extractfile(member)
    if content is None:
        raise folder.refuse(f"{member.name!r} has no content")
    with content:
        folder.add_file(member.name, member.size, content)
