"""Builds model archives: the inverse of ``model_store/archive.py``.

Everything that can be wrong is found before the first byte is written, and the result appears
under its name in one step, so that nobody ever sees a partial archive.
"""

from __future__ import annotations

import ast
import filecmp
import glob
import logging
import os
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..model_store.errors import InvalidModelError
from ..model_store.manifest import Manifest, parse_model_config
from .writers import (
    MANIFEST_NAME,
    ArchiverError,
    Member,
    write_directory,
    write_tar,
    write_zip,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "BUILT_IN_HANDLERS",
    "FORMATS",
    "RUNTIMES",
    "ArchiveSpec",
    "ArchiverError",
    "build_archive",
]

logger = logging.getLogger(__name__)

BUILT_IN_HANDLERS = frozenset(
    {
        "base_handler",
        "dali_image_classifier",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "trt_llm_handler",
        "vllm_handler",
    }
)
REFUSED_HANDLERS = frozenset({"dali_image_classifier", "trt_llm_handler", "vllm_handler"})
"""Those of them that flambeau does not serve; they are packaged for TorchServe."""
RUNTIMES = ("python", "python3", "LSP")
FORMATS = ("default", "tgz", "no-archive", "zip-store")

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_\-.]*$"


@dataclass(frozen=True)
class ArchiveSpec:
    """What to package; the fields are the flags of ``torch-model-archiver``.

    ``extra_files`` holds files, directories (their contents go to the archive's root) and glob
    patterns. ``archive_format`` is one of ``FORMATS``; ``zip-store`` means ``default``.
    """

    model_name: str
    version: str
    handler: str
    model_file: Path | None = None
    serialized_file: Path | None = None
    extra_files: tuple[str, ...] = ()
    runtime: str = "python"
    export_path: Path = Path()
    archive_format: str = "default"
    force: bool = False
    requirements_file: Path | None = None
    config_file: Path | None = None

    @property
    def target(self) -> Path:
        """The file or directory that the archive becomes."""
        suffix = {"tgz": ".tar.gz", "no-archive": ""}.get(self.archive_format, ".mar")
        return self.export_path / (self.model_name + suffix)


def build_archive(spec: ArchiveSpec, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the archive and return its path; on any error nothing is left behind.

    ``progress`` is called with the bytes packed so far and the total. Things that are odd but
    not wrong are logged as warnings. Raises ``ArchiverError``.
    """
    try:
        _check_spec(spec)
        members = _collect_members(spec)
        manifest = _manifest(spec)
    except InvalidModelError as exc:
        raise ArchiverError(exc.message) from exc
    except OSError as exc:
        raise ArchiverError(f"{exc.filename}: {exc.strerror}") from exc
    try:
        _write(spec, members, manifest.to_json().encode(), progress)
    except FileExistsError as exc:
        raise _exists(spec.target) from exc
    except OSError as exc:
        # The target was open under a temporary name, which would tell the user nothing.
        sources = {str(member.path) for member in members}
        path = exc.filename if exc.filename in sources else spec.target
        raise ArchiverError(f"{path}: {exc.strerror or exc}") from exc
    return spec.target


def _write(
    spec: ArchiveSpec,
    members: list[Member],
    manifest: bytes,
    progress: Callable[[int, int], None] | None,
) -> None:
    if not spec.export_path.is_dir():
        logger.warning("Export directory (%s) does not exist. Creating...", spec.export_path)
        spec.export_path.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(spec.target):
        logger.warning("Overwriting %s ...", spec.target)
    writers = {"tgz": write_tar, "no-archive": write_directory}
    write = writers.get(spec.archive_format, write_zip)
    write(spec.target, members, manifest, force=spec.force, progress=progress)


def _exists(target: Path) -> ArchiverError:
    return ArchiverError(f"{target} already exists. Use --force/-f to overwrite it.")


def _check_spec(spec: ArchiveSpec) -> None:
    if not re.fullmatch(MODEL_NAME, spec.model_name):
        raise ArchiverError(
            f"Model name {spec.model_name!r} contains special characters. "
            f"The allowed regular expression for a model name is: {MODEL_NAME}"
        )
    if not spec.version.strip():
        raise ArchiverError("The version is empty: give one with --version, such as 1.0.")
    if spec.archive_format not in FORMATS:
        raise ArchiverError(f"Archive format must be one of {', '.join(FORMATS)}.")
    if spec.runtime not in RUNTIMES:
        raise ArchiverError(f"Runtime must be one of {', '.join(RUNTIMES)}.")
    if spec.runtime == "LSP":
        raise ArchiverError(
            "Runtime LSP is TorchServe's C++ backend, which flambeau does not run: "
            "use python with a TorchScript model instead."
        )
    if spec.export_path.exists() and not spec.export_path.is_dir():
        raise ArchiverError(f"Export path {spec.export_path} is not a directory.")
    if os.path.lexists(spec.target) and not spec.force:
        raise _exists(spec.target)


def _manifest(spec: ArchiveSpec) -> Manifest:
    def base_name(path: Path | None) -> str | None:
        return None if path is None else path.name

    manifest = Manifest(
        model_name=spec.model_name,
        model_version=spec.version,
        # What stands before a function's colon may be a path: the worker imports by base name.
        handler=os.path.basename(spec.handler),
        serialized_file=base_name(spec.serialized_file),
        model_file=base_name(spec.model_file),
        requirements_file=base_name(spec.requirements_file),
        config_file=base_name(spec.config_file),
        runtime=spec.runtime,
        created_on=time.strftime("%d/%m/%Y %H:%M:%S"),
        archiver_version=__version__,
    )
    # What a server would refuse is refused here, where it is easier to mend.
    return Manifest.parse(manifest.to_json())


def _collect_members(spec: ArchiveSpec) -> list[Member]:
    """Check every file that was named; the archive's members in a stable order."""
    sources: dict[str, Path] = {}
    handler = _handler_file(spec.handler)
    named = {
        "Model file": spec.model_file,
        "Serialized file": spec.serialized_file,
        "Handler": handler,
        "Requirements file": spec.requirements_file,
        "Config file": spec.config_file,
    }
    for flag, path in named.items():
        if path is not None:
            _check_file(path, flag)
            _add(sources, path.name, path)
    if spec.model_file is not None:
        _parse_python(spec.model_file, "Model file")
    if spec.config_file is not None:
        _check_config(spec.config_file)
    for item in spec.extra_files:
        for name, path in _extra_files(item, spec.target):
            _add(sources, name, path)
    _check_tree(sources)
    weights = spec.serialized_file.name if spec.serialized_file else None
    return [Member.of(name, path, name == weights) for name, path in sources.items()]


def _check_file(path: Path, flag: str) -> None:
    if not path.exists():
        raise ArchiverError(f"{flag} does not exist: {path}")
    if not path.is_file():
        raise ArchiverError(f"{flag} is not a regular file: {path}")


def _add(sources: dict[str, Path], name: str, path: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise ArchiverError(f"File name is not valid UTF-8: {name!a}") from exc
    known = sources.setdefault(name, path)
    if known == path or os.path.samefile(known, path):
        return
    if not filecmp.cmp(known, path, shallow=False):
        raise ArchiverError(
            f"{known} and {path} differ and would both become {name} in the archive: "
            "rename one of them."
        )


def _check_tree(sources: dict[str, Path]) -> None:
    """Refuse a file and a directory of one name: no file system could unpack them."""
    for name, path in sources.items():
        for parent in Path(name).parents:
            taken = sources.get(parent.as_posix())
            if taken is not None:
                raise ArchiverError(
                    f"{taken} is a file, but {path} needs a directory named {parent} "
                    "in the archive: rename one of them."
                )


def _extra_files(item: str, target: Path) -> Iterator[tuple[str, Path]]:
    """The (archive name, file) pairs that one item of ``--extra-files`` stands for."""
    if os.path.exists(item):
        matches = [item]
    elif glob.has_magic(item):
        matches = sorted(glob.glob(item, recursive=True))
        if not matches:
            logger.warning("Given wildcard pattern did not match any file: %s", item)
    else:
        raise ArchiverError(f"Extra file does not exist: {item}")
    for match in map(Path, matches):
        if match.is_dir():
            yield from _directory_files(match, target)
        else:
            _check_file(match, "Extra file")
            yield match.name, match


def _directory_files(top: Path, target: Path) -> Iterator[tuple[str, Path]]:
    def fail(error: OSError) -> None:
        raise error

    # With --export-path inside an extra directory, an earlier archive must not end up in this one.
    output = os.path.realpath(target)
    for folder, subfolders, files in os.walk(top, onerror=fail):
        kept = []
        for subfolder in sorted(subfolders):
            path = Path(folder, subfolder)
            if subfolder in ("__pycache__", "__MACOSX") or subfolder.startswith("."):
                continue
            if path.is_symlink():
                logger.warning("Skipped %s: links to directories are not followed", path)
            elif os.path.realpath(path) != output:
                kept.append(subfolder)
        subfolders[:] = kept
        for file in sorted(files):
            path = Path(folder, file)
            name = path.relative_to(top).as_posix()
            if os.path.realpath(path) == output:
                continue
            if name == MANIFEST_NAME:
                logger.warning("Skipped %s: the archive gets a manifest of its own", path)
            elif not path.is_file():
                logger.warning("Skipped %s: it is not a regular file", path)
            else:
                yield name, path


def _handler_file(handler: str) -> Path | None:
    """The handler's source file after it was checked; None for a built-in handler."""
    if handler in BUILT_IN_HANDLERS:
        if handler in REFUSED_HANDLERS:
            logger.warning(
                "Handler %s is TorchServe's; flambeau cannot serve it, only %s",
                handler,
                ", ".join(sorted(BUILT_IN_HANDLERS - REFUSED_HANDLERS)),
            )
        return None
    file, colon, function = handler.rpartition(":")
    if not colon or "/" in function:
        file, function = handler, ""
    elif not function.isidentifier():
        raise ArchiverError(f"Handler {handler} must end in the name of a function after the ':'.")
    path = Path(file if file.endswith(".py") else file + ".py")
    if not path.exists():
        raise ArchiverError(
            f"Handler does not exist: {path} is no file, and {handler} is not one of the built-in "
            f"handlers ({', '.join(sorted(BUILT_IN_HANDLERS))})."
        )
    _check_file(path, "Handler")
    tree = _parse_python(path, "Handler")
    if function and not _module_names(tree) & {function, "*"}:
        raise ArchiverError(f"Handler {path} has no function {function} at module level.")
    return path


def _parse_python(path: Path, flag: str) -> ast.Module:
    source = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in strings are the author's business
            return ast.parse(source, filename=str(path))
    except SyntaxError as exc:
        raise ArchiverError(
            f"{flag} is not valid Python: {path}, line {exc.lineno or 1}: {exc.msg}"
        ) from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        raise ArchiverError(f"{flag} is not valid Python: {path}: {exc}") from exc


def _module_names(tree: ast.Module) -> set[str]:
    """The names that the module binds when it runs; ``*`` after a star import."""
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending.extend(ast.iter_child_nodes(node))
    return names


def _check_config(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        _, notes = parse_model_config(text, path.name)
    except UnicodeDecodeError as exc:
        raise ArchiverError(f"Config file is not UTF-8 text: {path}") from exc
    for note in notes:
        logger.warning("%s", note)
