"""What a file is, told by what is in it: plain data, tensors, code, or code in disguise.

What a file is called decides only where its content leaves a doubt. Loaders do not go by names
either: torch finds a zip from its end, and joblib looks through compression.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import stat
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .pickles import UNREADABLE, Budget, beyond_tensors, imported_names

if TYPE_CHECKING:
    from collections.abc import Iterator

_PYTHON = (".py", ".pyc", ".pyo", ".pyw")
_NATIVE = (".so", ".pyd", ".dll", ".dylib")
_TEXTS = (
    *(".json", ".jsonl", ".txt", ".yaml", ".yml", ".csv", ".tsv", ".md", ".toml", ".cfg", ".ini"),
    *(".xml", ".html", ".properties", ".vocab", ".log"),
)
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".pth", ".pt", ".bin", ".ckpt", ".sav", ".p")
_OPCODES = frozenset(opcode.code for opcode in pickletools.opcodes)
_NATIVE_MAGIC = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_MEDIA_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"%PDF")
_COMPRESSED_MAGIC = (
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"),
    # zlib, which joblib writes.
    *(b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"),
)
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_RAW_TENSOR = re.compile(r"[^/]+/(data/[0-9]+|version|byteorder|\.format_version|\.data/.*)")
_EXPORTED = re.compile(r"(.*/)?(models/[^/]+|serialized_exported_program)\.json")
_LONGEST_HEADER = 100 << 20
_MOST_MEMBERS = 10_000
_PIECE = 1 << 20


class Danger(Enum):
    """How much of a surprise it is that something runs."""

    DATA = "data"
    """Nothing of it runs."""
    TENSORS = "tensors"
    """Weights in a form that can hold code, and does not."""
    UNKNOWN = "unknown"
    """Whether something of it runs depends on who reads it."""
    CODE = "code"
    """Code that can be read."""
    HIDDEN = "hidden code"
    """Code where one would look for data, or what cannot be looked into."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: ``file`` is its name in the archive, ``what`` says it to a person."""

    file: str
    danger: Danger
    what: str


def inspect_file(path: Path, name: str, budget: Budget) -> Iterator[Finding]:
    """What the file is, unless it is plain data; ``name`` is what to call it."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            yield Finding(name, Danger.HIDDEN, "a link, or no file at all")
            return
        with path.open("rb") as file:
            finding = _judge(path, name, file, budget)
    except OSError as error:
        finding = Finding(name, Danger.HIDDEN, f"it cannot be read ({error.strerror})")
    if finding.danger is not Danger.DATA:
        yield finding


def is_safetensors(path: Path) -> bool:
    """A length, a JSON object of that length, and numbers: nothing that could run."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
            return False
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except (ValueError, RecursionError):
            return False


def is_text(path: Path) -> bool:
    """UTF-8 without control characters, and no script."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if file.read(2) == "#!":
                return False
            file.seek(0)
            return all(
                _CONTROL.search(piece) is None for piece in iter(lambda: file.read(_PIECE), "")
            )
    except UnicodeDecodeError:
        return False


def _judge(path: Path, name: str, file: IO[bytes], budget: Budget) -> Finding:
    suffixes = [each.lower() for each in Path(name).suffixes]
    suffix = suffixes[-1] if suffixes else ""
    head = file.read(512)
    file.seek(0)
    if suffix in _PYTHON:
        return Finding(name, Danger.CODE, "Python code")
    if head.startswith(_NATIVE_MAGIC) or any(each in _NATIVE for each in suffixes):
        return Finding(name, Danger.HIDDEN, "machine code")
    if head.startswith(b"#!"):
        return Finding(name, Danger.CODE, "a script")
    if suffix == ".safetensors":
        if is_safetensors(path):
            return Finding(name, Danger.DATA, "safetensors")
        return Finding(name, Danger.HIDDEN, "no safetensors, though it is called so")
    if zipfile.is_zipfile(file) or head.startswith(b"PK\x03\x04"):
        return _judge_zip(file, name, head, budget)
    file.seek(0)
    if head.startswith(b"\x93NUMPY"):
        return _of_array(name, head)
    if head[257:262] == b"ustar" or head.startswith(_COMPRESSED_MAGIC):
        return Finding(name, Danger.HIDDEN, "an archive or a compressed file, not looked into")
    if head.startswith(_MEDIA_MAGIC) or not head:
        return Finding(name, Danger.DATA, "media")
    return _judge_rest(path, name, suffix, file, head, budget)


def _judge_rest(
    path: Path, name: str, suffix: str, file: IO[bytes], head: bytes, budget: Budget
) -> Finding:
    """Pickles have no sure sign: whatever could be one is followed."""
    text = is_text(path)
    named = suffix in _PICKLES
    if head[:1].decode("latin-1") in _OPCODES and not (text and suffix in _TEXTS):
        imported = imported_names(file, budget)
        # Any bytes may be followed for a while; what imports something is no accident.
        imports = any(map(_IDENTIFIER.fullmatch, imported - {UNREADABLE}))
        if named or head[:1] == b"\x80" or UNREADABLE not in imported or imports:
            return _of_pickle(name, imported)
    if text:
        return Finding(name, Danger.DATA, "text")
    if suffix == ".onnx":
        return Finding(name, Danger.UNKNOWN, "an ONNX model, which may read files beside it")
    return Finding(name, Danger.UNKNOWN, "binary data of a kind that is not known here")


def _judge_zip(file: IO[bytes], name: str, head: bytes, budget: Budget) -> Finding:
    """Files of torch are zips: a state dict, a whole model, or a program."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _judge_members(archive, name, head, budget)
    except Exception:
        # Broken archives make zipfile raise nearly anything.
        return Finding(name, Danger.HIDDEN, "a zip that cannot be read")


def _judge_members(archive: zipfile.ZipFile, name: str, head: bytes, budget: Budget) -> Finding:
    members = archive.infolist()
    names = [each.filename.lower() for each in members]
    if len(names) > _MOST_MEMBERS:
        return Finding(name, Danger.HIDDEN, "a zip of too many files")
    if not head.startswith(b"PK\x03\x04") or len(set(names)) < len(names):
        # Readers differ in what they make of it.
        return Finding(name, Danger.HIDDEN, "a zip that can be read in several ways")
    is_program = any(each.endswith("constants.pkl") for each in names)
    is_exported = any(map(_EXPORTED.fullmatch, names))
    found, imported = False, set[str]()
    for member, lower in zip(members, names, strict=True):
        suffix = os.path.splitext(lower)[1]
        if suffix in _NATIVE:
            return Finding(name, Danger.HIDDEN, f"machine code in a zip ({member.filename})")
        if suffix in _PYTHON and not is_program:
            return Finding(name, Danger.HIDDEN, f"code in a zip ({member.filename})")
        if _RAW_TENSOR.fullmatch(lower):
            continue
        with archive.open(member) as content:
            start = content.read(512)
        budget.spend(size=len(start))
        if start.startswith(_NATIVE_MAGIC):
            return Finding(name, Danger.HIDDEN, f"machine code in a zip ({member.filename})")
        if start.startswith(b"\x93NUMPY"):
            array = _of_array(name, start)
            if array.danger is not Danger.DATA:
                return array
        elif suffix in _PICKLES or start[:1] == b"\x80":
            found = True
            with archive.open(member) as content:
                imported |= imported_names(content, budget)
    if is_exported:
        what = "a program of torch.export, of which torch runs parts as Python"
        return Finding(name, Danger.HIDDEN, what)
    if is_program:
        return Finding(name, Danger.CODE, "a TorchScript program")
    if found:
        return _of_pickle(name, imported)
    return Finding(name, Danger.TENSORS, "a zip without pickles or code")


def _of_array(name: str, head: bytes) -> Finding:
    """Arrays of objects are pickled; the header says what its elements are."""
    header = head[6:].decode("latin-1")
    descr = re.search(r"'descr':\s*(.+?),\s*'(fortran_order|shape)'", header, re.DOTALL)
    if descr is None or "O" in descr[1]:
        return Finding(name, Danger.HIDDEN, "a NumPy array of pickled objects")
    return Finding(name, Danger.DATA, "a NumPy array")


def _of_pickle(name: str, imported: set[str]) -> Finding:
    beyond = sorted(beyond_tensors(imported))
    if not beyond:
        return Finding(name, Danger.TENSORS, "pickled tensors")
    if UNREADABLE in beyond:
        return Finding(name, Danger.HIDDEN, "a pickle that cannot be read to its end")
    more = f" and {len(beyond) - 4} more" if len(beyond) > 4 else ""
    shown = ", ".join(each[:80] for each in beyond[:4])
    return Finding(name, Danger.HIDDEN, f"a pickle that calls {shown}{more}")
