"""The model store: urls to archives, archives to unpacked folders that are shared and counted.

An archive is unpacked once per content, under ``cache_dir/<digest>/``, which is an entry of a
SharedCache. A rename commits it, so what is there is complete. Folders in the store are used in
place, and so are handler files.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .archive import DEFAULT_LIMITS, Limits, digest, unpack
from .contents import refuse_code
from .errors import InvalidModelError, ModelNotFoundError, StorageError, printable
from .manifest import ModelConfig, load_manifest, load_model_config
from .shared_cache import SharedCache

if TYPE_CHECKING:
    from .manifest import Manifest
    from .remote import RemoteArchives
    from .signatures import Signatures

logger = logging.getLogger("flambeau.model_store")

_HANDLER_SUFFIX = ".py"
_ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz")
_COPY, _COPY_AGE = "signed-", 86_400.0
"""Copies of signed archives are there for minutes; one of a process that was killed is older."""


def default_model_name(url: str) -> str:
    """The name of a model that was given none: the file's, non-word characters replaced by "_".

    The last extension is dropped from ``.mar`` and ``.model`` files, as in TorchServe, and from
    handler files.
    """
    name = url.rstrip("/").rpartition("/")[2]
    if ".mar" in name or ".model" in name or name.endswith(_HANDLER_SUFFIX):
        name = name.rpartition(".")[0]
    return re.sub(r"\W", "_", name, flags=re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is on this machine, unpacked and checked, until it is released."""

    url: str
    digest: str
    model_dir: Path
    manifest: Manifest | None
    config: ModelConfig
    warnings: tuple[str, ...]
    fetched: Path | None = None
    """The file in the store that is there for this model only, and goes with it."""
    handler: str | None = None
    """The handler of a model that is nothing but a handler file."""
    is_in_place: bool = False
    """Served from where its author works, not from the cache."""


# What tells one state of a file from another without reading it.
_FileState = tuple[str, int, int, int, int, int]


class ModelStore:
    """Finds models by url below ``root`` and keeps them unpacked in ``cache_dir``.

    ``remote`` fetches archives from elsewhere, ``signatures`` says which may be served. Without
    ``allow_code`` those that bring code are refused.

    All methods may be called from any thread; ``acquire`` and ``release`` block on the disk.
    Several processes may share a ``cache_dir``; it is made private (0700) to their user.
    """

    def __init__(
        self,
        root: Path,
        cache_dir: Path,
        limits: Limits = DEFAULT_LIMITS,
        remote: RemoteArchives | None = None,
        signatures: Signatures | None = None,
        allow_code: bool = True,
    ) -> None:
        self._root = Path(os.path.realpath(root))
        self._cache_dir = Path(os.path.realpath(cache_dir))
        self._limits = limits
        self._remote = remote
        self._signatures = signatures
        self._allow_code = allow_code
        self._digests: dict[_FileState, str] = {}
        self._cache = SharedCache(self._cache_dir, "model store")
        self._remove_old_copies()

    def archives(self) -> list[str]:
        """The urls of everything in the store that can be served, sorted; no hidden files."""
        try:
            names = sorted(os.listdir(self._root))
        except OSError as error:
            logger.warning("cannot list the model store: %s", error.strerror)
            return []
        return [name for name in names if self._is_servable(name)]

    def acquire(self, url: str, sha256: str | None = None, sign: bool = False) -> StoredModel:
        """Find, unpack if need be, and check the model; the caller must release what it gets.

        An archive at an allowed URL is fetched into the store first; ``sha256`` is what it must
        have, ``sign`` lets the request be signed for S3. See RemoteArchives.fetch for what that
        raises.

        Raises ModelNotFoundError for a url outside the store, InvalidModelError for a model that
        cannot be accepted, StorageError when the disk fails; store and cache are then unchanged.
        """
        if "://" in url and ".." not in url and self._remote is not None:
            fetched = self._remote.fetch(url, self._root, sha256, sign)
            return self._acquire_fetched(url, fetched)
        source = self._locate(url)
        try:
            if self._signatures is not None:
                return self._acquire_signed(self._signatures, url, source)
            if source.is_dir():
                model_dir = self._descend(source, url)
                model = self._describe(url, digest(model_dir), model_dir)
                return replace(model, is_in_place=True)
            if source.suffix == _HANDLER_SUFFIX:
                return self._describe_handler(url, source)
            return self._acquire_archive(url, source, self._digest(source))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StorageError(f"Failed to save model: {_printable(url)} ({reason})") from error

    def _acquire_archive(self, url: str, source: Path, content: str) -> StoredModel:
        model_dir = self._add_reference(content, source)
        try:
            return self._describe(url, content, model_dir)
        except BaseException:
            self._cache.release(content)
            raise

    def _acquire_signed(self, signatures: Signatures, url: str, source: Path) -> StoredModel:
        """Work on a copy that nobody else can write to: what is checked is what is unpacked."""
        with tempfile.TemporaryDirectory(prefix=_COPY, dir=self._cache_dir) as folder:
            copy = Path(folder, source.name)
            content = signatures.copy_trusted(source, copy)
            self._digests[_file_state(copy)] = content
            try:
                return self._acquire_archive(url, copy, content)
            finally:
                self._digests.pop(_file_state(copy), None)

    def _acquire_fetched(self, url: str, fetched: Path) -> StoredModel:
        try:
            return replace(self.acquire(fetched.name), url=url, fetched=fetched)
        except BaseException:
            fetched.unlink(missing_ok=True)
            raise

    def find_fetched(self, url: str, name: str) -> StoredModel:
        """Like ``acquire`` for an archive that a server before has fetched, to a file ``name``."""
        return replace(self.acquire(name), url=url, fetched=self._root / Path(name).name)

    def release(self, model: StoredModel) -> None:
        """Give a reference back; with the last one in all processes, the cache entry goes.

        A file that was fetched for the model is removed from the store, as in TorchServe.
        """
        if model.fetched is not None:
            model.fetched.unlink(missing_ok=True)
        # What lies in the store is nobody's to remove.
        if not model.is_in_place:
            self._cache.release(model.digest)

    def close(self) -> None:
        """Give up all references and leave the cache as it is, for the next start."""
        self._cache.close()

    def _locate(self, url: str) -> Path:
        """The real path of what the url names, inside the store or not at all."""
        if not url:
            raise ModelNotFoundError("empty url")
        if ".." in url:
            raise ModelNotFoundError(f"Relative path is not allowed in url: {_printable(url)}")
        if "://" in url:
            raise ModelNotFoundError(
                f"Given URL {_printable(url)} does not match any allowed URL(s)"
            )
        # As in TorchServe, a url is a name: folders before it do not matter. A full path that
        # really lies in the store is taken at its word.
        candidates = [self._root / (url.rstrip("/").rpartition("/")[2] or ".")]
        if url.startswith("/"):
            candidates.insert(0, Path(url))
        for candidate in candidates:
            path = self._inside(candidate)
            if path is not None:
                return path
        raise ModelNotFoundError(f"Model not found at: {_printable(url)}")

    def _inside(self, candidate: Path) -> Path | None:
        """The file or folder behind ``candidate``, links resolved, if it is the store's own."""
        try:
            path = Path(os.path.realpath(candidate))
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            # Missing, a circle of links, a name too long, a NUL byte, a lone surrogate.
            return None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return None
        if path == self._root or not path.is_relative_to(self._root):
            return None
        return None if path.is_relative_to(self._cache_dir) else path

    def _is_servable(self, name: str) -> bool:
        path = None if name.startswith(".") else self._inside(self._root / name)
        return path is not None and (path.is_dir() or name.endswith(_ARCHIVE_SUFFIXES))

    def _descend(self, folder: Path, url: str) -> Path:
        """The folder itself, or the only thing in it if that is a folder (SageMaker's layout)."""
        inside = os.listdir(folder)
        if len(inside) != 1 or inside == ["MAR-INF"] or not (folder / inside[0]).is_dir():
            return folder
        inner = self._inside(folder / inside[0])
        if inner is None:
            raise ModelNotFoundError(f"Model not found at: {_printable(url)}")
        return inner

    def _describe(self, url: str, content: str, model_dir: Path) -> StoredModel:
        manifest = load_manifest(model_dir)
        if manifest is not None:
            for name in manifest.named_files():
                path = Path(os.path.realpath(model_dir / name))
                if not (path.is_relative_to(model_dir) or path.is_relative_to(self._root)):
                    raise InvalidModelError(f"{name} is a link that leads out of the model store.")
        if not self._allow_code:
            if model_dir.parent != self._cache_dir:
                # What is checked now could be another tomorrow, when a worker starts.
                raise InvalidModelError(
                    f"{_printable(url)} is a folder, and this server runs no code of archives "
                    "(allow_archive_code=false). Package it as an archive."
                )
            refuse_code(model_dir, manifest)
        config, warnings = load_model_config(model_dir, manifest)
        return StoredModel(url, content, model_dir, manifest, config, warnings)

    def _describe_handler(self, url: str, source: Path) -> StoredModel:
        """A handler file that somebody is still writing: no archive yet, and no settings."""
        if not self._allow_code:
            raise InvalidModelError(
                f"{_printable(url)} is a handler file, and this server runs no code of archives "
                "(allow_archive_code=false)."
            )
        content, folder = digest(source), source.parent
        return StoredModel(
            url, content, folder, None, ModelConfig(), (), handler=source.name, is_in_place=True
        )

    def _digest(self, source: Path) -> str:
        """The file's digest, computed once for each state that the file is seen in."""
        state = _file_state(source)
        known = self._digests.get(state)
        if known is None:
            known = digest(source)
            if _file_state(source) != state:
                raise _changed(source)
            self._digests[state] = known
        return known

    def _add_reference(self, content: str, source: Path) -> Path:
        self._cache.acquire(content, lambda target, _: self._unpack(content, source, target))
        return self._cache.path(content)

    def _unpack(self, content: str, source: Path, target: Path) -> None:
        """Unpack and commit; called with the entry's lock held exclusively."""
        fresh = self._cache_dir / f"{content}.new.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        unpack(source, fresh, self._limits)
        if self._digests.get(_file_state(source)) != content:
            shutil.rmtree(fresh)
            raise _changed(source)
        os.rename(fresh, target)
        logger.info("model store: unpacked %s as %.12s", source.name, content)

    def _remove_old_copies(self) -> None:
        """Remove copies that processes left which were killed."""
        for path in self._cache_dir.glob(f"{_COPY}*"):
            if path.stat().st_mtime < time.time() - _COPY_AGE:
                shutil.rmtree(path, ignore_errors=True)


def _file_state(path: Path) -> _FileState:
    status = path.stat()
    return (
        str(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _changed(source: Path) -> InvalidModelError:
    return InvalidModelError(
        f"{source.name} changed while it was being read. Register it again when it is complete."
    )


def _printable(url: str) -> str:
    """The url for a message: cut short, and without characters that could forge a log line."""
    return printable(url)[:256]
