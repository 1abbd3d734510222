"""What in an unpacked archive is code, or makes the server run code.

An archive looks like data and mostly is not: handlers are code, pickled weights may call anything,
a TorchScript program is a program, and keys of its configuration can switch on more. ``inspect``
names it all. ``refuse_code`` is for servers with ``allow_archive_code=false``, and does not rely on
recognising code: it admits the few kinds of files that cannot hold any.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import InvalidModelError, printable
from .file_kinds import Danger, Finding, inspect_file, is_safetensors, is_text
from .manifest import MANIFEST_PATH, Manifest, read_model_config
from .pickles import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Danger", "Finding", "inspect", "refuse_code"]

ADMITTED_TEXTS = (".json", ".txt", ".yaml", ".yml", ".csv", ".tsv", ".md")
"""Kinds of files that a server without code admits beside ``.safetensors``."""
_SWITCHES = {"trust_remote_code": True, "weights_only": False, "useVenv": True}
"""Keys of a configuration that let more code in, and the value with which they do."""


def inspect(model_dir: Path, manifest: Manifest | None) -> list[Finding]:
    """What is code in the unpacked archive, by file name. Files that are plain data are left out.

    Nothing is run or loaded. Raises InvalidModelError for a configuration that cannot be read.
    """
    findings = []
    requirements = _requirements(manifest)
    budget = Budget()
    for name in sorted(_files(model_dir)):
        if name == MANIFEST_PATH:
            continue
        if name in requirements:
            what = "Python packages that the model wants installed"
            findings.append(Finding(name, Danger.CODE, what))
        else:
            findings += inspect_file(model_dir / name, name, budget)
    return findings + _switches(model_dir, manifest)


def refuse_code(model_dir: Path, manifest: Manifest | None) -> None:
    """Raises InvalidModelError that names what in the archive is code, or could hold some.

    What is left are settings, labels, vocabularies, and weights as safetensors.
    """
    found = [(each.file, each.what) for each in _switches(model_dir, manifest)]
    if manifest is not None:
        found += [(name, what) for name, what in _named(manifest) if name is not None]
    requirements = _requirements(manifest)
    for name in sorted(_files(model_dir)):
        if name == MANIFEST_PATH or (name not in requirements and _is_admitted(model_dir / name)):
            continue
        if not any(name == each for each, _ in found):
            found.append((name, "it could be code"))
    if found:
        listed = "; ".join(f"{printable(name)}: {what}" for name, what in found[:5])
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise InvalidModelError(
            f"This server runs no code of archives (allow_archive_code=false). {listed}{more}. "
            "Use a built-in handler, weights as .safetensors, and texts "
            f"({', '.join(ADMITTED_TEXTS)}) beside them."
        )


def _named(manifest: Manifest) -> Iterator[tuple[str | None, str]]:
    """What the manifest names that only code can be."""
    yield manifest.model_file, "the model's definition"
    yield manifest.requirements_file, "Python packages that the model wants installed"
    weights = manifest.serialized_file
    if weights is not None and not weights.endswith(".safetensors"):
        yield weights, "weights that are no safetensors"


def _requirements(manifest: Manifest | None) -> set[str]:
    named = None if manifest is None else manifest.requirements_file
    return {"requirements.txt"} | ({PurePosixPath(named).as_posix()} if named else set())


def _is_admitted(path: Path) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    if path.suffix == ".safetensors":
        return is_safetensors(path)
    return path.suffix in ADMITTED_TEXTS and is_text(path)


def _files(model_dir: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(model_dir):
        # A link to a folder is not followed, and counts as a file that cannot be read.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            yield os.path.relpath(os.path.join(folder, name), model_dir)


def _switches(model_dir: Path, manifest: Manifest | None) -> list[Finding]:
    name = None if manifest is None else manifest.config_file
    if name is None:
        return []
    config = read_model_config(model_dir, name)
    findings = [
        Finding(name, Danger.CODE, f"{key}: {str(value).lower()}")
        for key, value in _keys(config)
        if key in _SWITCHES and value is _SWITCHES[key]
    ]
    if any(key == "options" for key, _ in _keys(config.get("pt2"))):
        # Those of inductor name the compiler that it starts, among others.
        findings.append(Finding(name, Danger.CODE, "pt2 options, which may name programs to run"))
    return findings


def _keys(value: Any) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _keys(each)
