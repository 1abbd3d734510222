"""A model store for tests, real archives to put in it, and a way to see that nothing changed."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau.model_store.store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Members = Mapping[str, "bytes | str"]

HANDLER = "def handle(data, context):\n    return data\n"


def manifest_text(**model: object) -> str:
    entry = {"modelName": "noop", "handler": "handler.py", "modelVersion": "1.0", **model}
    return json.dumps({"runtime": "python", "model": entry, "archiverVersion": "0.12.0"})


def model_members(**model: object) -> dict[str, bytes | str]:
    return {"MAR-INF/MANIFEST.json": manifest_text(**model), "handler.py": HANDLER}


def below(folder: str, members: Members) -> dict[str, bytes | str]:
    return {f"{folder}/{name}": content for name, content in members.items()}


def write_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: Members | Iterable[tarfile.TarInfo]) -> Path:
    """A gzip-compressed tar; a bare TarInfo gets as many bytes as its size says."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                content = b"x" * member.size
                archive.addfile(member, io.BytesIO(content))
            else:
                value = members[member]  # type: ignore[index]
                content = value.encode() if isinstance(value, str) else value
                header = tarfile.TarInfo(member)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    return path


def snapshot(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every name below ``root`` with its mode and its content or link target."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            content: bytes | str = ""
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (mode, content)
    return found


class Bench:
    """A store folder, a cache folder, and the models that a test puts there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "store"
        self.cache = base / "cache"
        self.root.mkdir()
        self._opened: list[ModelStore] = []

    def open(self, root: Path | None = None, cache: Path | None = None) -> ModelStore:
        """A server's store; every one that was opened is closed with the bench."""
        store = ModelStore(root or self.root, cache or self.cache)
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def mar(self, name: str = "noop.mar", members: Members | None = None) -> Path:
        return write_zip(self.root / name, model_members() if members is None else members)

    def folder(self, name: str, members: Members | None = None) -> Path:
        for file_name, content in (model_members() if members is None else members).items():
            path = self.root / name / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self.root / name

    def cached(self) -> list[str]:
        """The digests that are unpacked in the cache."""
        return sorted(path.name for path in self.cache.iterdir() if path.is_dir())
