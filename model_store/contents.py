"""What in an unpacked archive is code, or makes the server run code.

An archive looks like data and mostly is not: handlers are code, pickled weights may call anything,
a TorchScript program is a program, and keys of its configuration can switch on more. ``inspect``
names it all; ``refuse_code`` is for servers with ``allow_archive_code=false``.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import InvalidModelError
from .manifest import MANIFEST_PATH, Manifest, read_model_config
from .pickles import UNREADABLE, beyond_tensors, imported_names

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Danger", "Finding", "inspect", "refuse_code"]

_PYTHON = (".py", ".pyc", ".pyo", ".pyw")
_NATIVE = (".so", ".pyd", ".dll", ".dylib")
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".pth", ".pt", ".bin", ".ckpt")
_OPCODES = frozenset(opcode.code for opcode in pickletools.opcodes)
_NATIVE_MAGIC = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_SWITCHES = {"trust_remote_code": True, "weights_only": False, "useVenv": True}
"""Keys of a configuration that let more code in, and the value with which they do."""


class Danger(Enum):
    """How much of a surprise it is that something runs."""

    DATA = "data"
    """Nothing of it runs."""
    TENSORS = "tensors"
    """Weights in a form that can hold code, and does not."""
    CODE = "code"
    """Code that can be read."""
    HIDDEN = "hidden code"
    """Code where one would look for data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: ``file`` is its name in the archive, ``what`` says it to a person."""

    file: str
    danger: Danger
    what: str


def inspect(model_dir: Path, manifest: Manifest | None) -> list[Finding]:
    """What is code in the unpacked archive, by file name. Files that are plain data are left out.

    Nothing is run or loaded. Raises InvalidModelError for a configuration that cannot be read.
    """
    findings = []
    requirements = None if manifest is None else manifest.requirements_file
    for name in sorted(_files(model_dir)):
        if name == MANIFEST_PATH:
            continue
        if name == requirements:
            findings.append(
                Finding(name, Danger.CODE, "Python packages that the model wants installed")
            )
        else:
            findings += _inspect_file(model_dir / name, name)
    return findings + _switches(model_dir, manifest)


def refuse_code(model_dir: Path, manifest: Manifest | None) -> None:
    """Raises InvalidModelError that names what in the archive is code, or could hold some.

    What is left are settings, labels, vocabularies, and weights as safetensors.
    """
    found = [each for each in inspect(model_dir, manifest) if each.danger is not Danger.DATA]
    if manifest is not None and manifest.model_file is not None:
        named = Finding(manifest.model_file, Danger.CODE, "the model's definition")
        found = [named, *(each for each in found if each.file != named.file)]
    if found:
        listed = "; ".join(f"{each.file}: {each.what}" for each in found[:5])
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise InvalidModelError(
            f"This server runs no code of archives (allow_archive_code=false). {listed}{more}. "
            "Use a built-in handler, and weights as .safetensors."
        )


def _files(model_dir: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(model_dir):
        # A link to a folder is not followed, and counts as a file that cannot be read.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            yield os.path.relpath(os.path.join(folder, name), model_dir)


def _inspect_file(path: Path, name: str) -> list[Finding]:
    suffixes = Path(name.lower()).suffixes
    if any(each in _PYTHON for each in suffixes[-1:]):
        return [Finding(name, Danger.CODE, "Python code")]
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            if head.startswith(_NATIVE_MAGIC) or any(each in _NATIVE for each in suffixes):
                return [Finding(name, Danger.HIDDEN, "machine code")]
            if head.startswith(b"#!"):
                return [Finding(name, Danger.CODE, "a script")]
            if head.startswith(b"PK\x03\x04"):
                return _inspect_zip(file, name)
            if head[:1] == b"\x80" or _may_be_pickle(head, suffixes):
                return [_of_pickle(name, imported_names(file, several=True))]
    except OSError as error:
        return [Finding(name, Danger.HIDDEN, f"it cannot be read ({error.strerror})")]
    return []


def _may_be_pickle(head: bytes, suffixes: list[str]) -> bool:
    """Old pickles begin with any opcode, so only a name can tell."""
    named = bool(suffixes) and suffixes[-1] in _PICKLES
    return named and head[:1].decode("latin-1") in _OPCODES


def _inspect_zip(file: IO[bytes], name: str) -> list[Finding]:
    """Files of torch are zips: a state dict, a whole model, or a program."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            programs = [each for each in members if each.endswith((".py", ".pyc"))]
            if any(each.endswith("constants.pkl") for each in members):
                return [Finding(name, Danger.CODE, "a TorchScript program")]
            if programs:
                return [Finding(name, Danger.HIDDEN, f"Python code in a zip ({programs[0]})")]
            imported: set[str] = set()
            pickles = [each for each in members if each.endswith((".pkl", ".pickle"))]
            for member in pickles:
                with archive.open(member) as content:
                    imported |= imported_names(content)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
        return [Finding(name, Danger.HIDDEN, "a zip that cannot be read")]
    if pickles:
        return [_of_pickle(name, imported)]
    return [Finding(name, Danger.TENSORS, "a zip without pickles or Python code")]


def _of_pickle(name: str, imported: set[str]) -> Finding:
    beyond = sorted(beyond_tensors(imported))
    if not beyond:
        return Finding(name, Danger.TENSORS, "pickled tensors")
    if UNREADABLE in beyond:
        return Finding(name, Danger.HIDDEN, "a pickle that cannot be read to its end")
    more = f" and {len(beyond) - 4} more" if len(beyond) > 4 else ""
    shown = ", ".join(each[:80] for each in beyond[:4])
    return Finding(name, Danger.HIDDEN, f"a pickle that calls {shown}{more}")


def _switches(model_dir: Path, manifest: Manifest | None) -> list[Finding]:
    name = None if manifest is None else manifest.config_file
    if name is None:
        return []
    return [
        Finding(name, Danger.CODE, f"{key}: {str(value).lower()}")
        for key, value in _keys(read_model_config(model_dir, name))
        if key in _SWITCHES and value is _SWITCHES[key]
    ]


def _keys(value: Any) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _keys(each)
