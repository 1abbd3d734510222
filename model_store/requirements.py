"""What a model's requirements file asks for, as far as the server must know it. Nothing is run.

The text goes to pip as it is. Read here are the files that it names: they must lie in the archive,
and their content belongs to what the requirements are. Lines that lead elsewhere on this machine,
or that would tie the environment to the archive's own folder, are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidModelError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODING = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
MAX_BYTES = 1 << 20
_MAX_FILES = 32
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_URL = re.compile(r"(?:https?|(?:git|hg|svn|bzr)\+(?:https?|ssh|git))://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_COMMENT = re.compile(r"(?:^|\s+)#.*$")
_CHUNK = 1 << 20

_INCLUDES = ("-r", "--requirement", "-c", "--constraint")
_PLACES = ("-f", "--find-links")
_INDEXES = ("-i", "--index-url", "--extra-index-url")
_WITH_VALUE = (
    *_INCLUDES,
    *_PLACES,
    *_INDEXES,
    "--trusted-host",
    "--no-binary",
    "--only-binary",
    "--use-feature",
    "--hash",
    "-C",
    "--config-settings",
)
_ALONE = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")


def digest_of_requirements(model_dir: Path, name: str) -> str:
    """SHA-256, in hex, of the requirements file ``name`` and of all files that it names.

    Raises InvalidModelError that names file, line and what is wrong with it.
    """
    reader = _Reader(model_dir.resolve())
    reader.read(name, "the manifest")
    return reader.sha.hexdigest()


class _Reader:
    """Reads a requirements file, those that it includes, and the packages that it names."""

    def __init__(self, root: Path) -> None:
        self.sha = hashlib.sha256()
        self._root = root
        self._seen: set[Path] = set()

    def read(self, name: str, where: str) -> None:
        """The file at ``name``, relative to the archive; pip reads it the same way."""
        path = self._inside(name, where)
        if path in self._seen:
            return
        self._seen.add(path)
        if len(self._seen) > _MAX_FILES:
            raise InvalidModelError(f"{where}: more than {_MAX_FILES} files include each other.")
        text = _text(path, name, where)
        self._note(name, text.encode())
        for number, line in _lines(text):
            self._line(line, Path(name), f"{printable(name)}: line {number}")

    def _line(self, line: str, name: Path, where: str) -> None:
        try:
            requirement, options = _taken_apart(line)
        except ValueError as error:
            raise InvalidModelError(f"{where}: {error}") from None
        if requirement:
            self._requirement(requirement, where)
        for option, value in options:
            if option in _INCLUDES:
                # pip looks for these beside the file that names them.
                self._refuse_elsewhere(value, where)
                self.read(os.path.normpath(name.parent / value), where)
            elif _URL.match(value):
                continue
            elif option in _INDEXES:
                raise InvalidModelError(f"{where}: an index must be an http or https URL.")
            elif option in _PLACES:
                self._refuse_elsewhere(value, where)
                beside = os.path.normpath(name.parent / value)
                is_beside = (self._root / beside).exists()
                self._content(beside if is_beside else value, where)

    def _requirement(self, text: str, where: str) -> None:
        place = text.partition(";")[0].rpartition(" @ ")[2].strip()
        if _URL.match(place):
            return
        self._refuse_elsewhere(place, where)
        place = re.sub(r"\[[^\]]*\]$", "", place)
        if place.startswith(".") or "/" in place or place.lower().endswith(_ARCHIVES):
            self._content(place, where)

    def _refuse_elsewhere(self, place: str, where: str) -> None:
        """What pip makes of a scheme or a variable is another place than the text says."""
        if _SCHEME.match(place) or "${" in place or "\\" in place:
            raise InvalidModelError(f"{where}: {_LEADS_OUT}")

    def _content(self, place: str, where: str) -> None:
        """Take the content of a file, or of all files in a folder, into the digest."""
        path = self._inside(place, where)
        files = [path]
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.is_file())
        for file in files:
            inside = self._inside(str(file.relative_to(self._root)), where)
            self._note(str(file.relative_to(self._root)), b"")
            with inside.open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    self.sha.update(chunk)

    def _inside(self, place: str, where: str) -> Path:
        path = Path(os.path.realpath(self._root / place))
        if Path(place).is_absolute() or not path.is_relative_to(self._root):
            raise InvalidModelError(f"{where}: {_LEADS_OUT}")
        if not path.exists():
            raise InvalidModelError(f"{where}: {printable(place)} is not in the archive.")
        return path

    def _note(self, name: str, content: bytes) -> None:
        self.sha.update(f"\0{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)


_LEADS_OUT = (
    "it leads out of the archive. Name packages of an index, URLs, or files inside the archive."
)


def _text(path: Path, name: str, where: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidModelError(f"{printable(name)} is larger than {MAX_BYTES} bytes.")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidModelError(f"{printable(name)} is not UTF-8 text.") from None
    except OSError as error:
        raise InvalidModelError(
            f"{where}: {printable(name)} cannot be read: {error.strerror}."
        ) from None
    for line in text.splitlines()[:2]:
        # pip would read the file in that encoding, and find other lines in it than are checked.
        coding = _CODING.match(line)
        if coding is not None and coding[1].lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise InvalidModelError(
                f"{printable(name)} names the encoding {printable(coding[1])}; write it in UTF-8."
            )
    return text


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, joined and without comments, as pip sees them."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        is_comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not is_comment:
            joined += line[:-1]
            continue
        joined += f" {line}" if is_comment else line
        yield first, _COMMENT.sub("", joined).strip()
        joined, first = "", 0
    yield first, _COMMENT.sub("", joined).strip()


def _taken_apart(line: str) -> tuple[str, list[tuple[str, str]]]:
    """The requirement and the options of a line; raises ValueError for options not in the lists.

    pip understands more: abbreviations, and options that lead elsewhere. Only what is understood
    here in full is let through.
    """
    words = line.strip().split(" ")
    start = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    requirement = " ".join(words[:start]).strip()
    rest = shlex.split(" ".join(words[start:]))
    options = []
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if not word.startswith("--") and word[:2] in _WITH_VALUE and len(word) > 2:
            name, has_value, value = word[:2], "=", word[2:]
        if name in _ALONE and not has_value:
            options.append((name, ""))
        elif name in _WITH_VALUE and (has_value or rest):
            options.append((name, value if has_value else rest.pop(0)))
        else:
            raise ValueError(_not_allowed(name))
    return requirement, options


def _not_allowed(name: str) -> str:
    if name in ("-e", "--editable"):
        return "an editable package would be tied to this archive's folder. Leave out -e."
    return (
        f"{printable(name)[:40]} is not allowed. Options are {', '.join((*_WITH_VALUE, *_ALONE))}."
    )
