"""The files that become members of an archive: found, checked, no two of one name."""

from __future__ import annotations

import ast
import filecmp
import glob
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..model_store.workflow_archive import WORKFLOW_MANIFEST_PATH
from .writers import MANIFEST_NAME, ArchiverError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__package__)


def check_file(path: Path, flag: str) -> None:
    """Raise ArchiverError unless ``path``, which ``flag`` names, is a file."""
    if not path.exists():
        raise ArchiverError(f"{flag} does not exist: {path}")
    if not path.is_file():
        raise ArchiverError(f"{flag} is not a regular file: {path}")


def add_source(sources: dict[str, Path], name: str, path: Path) -> None:
    """Let ``path`` become ``name`` in the archive; raises ArchiverError if another one does."""
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


def check_tree(sources: dict[str, Path]) -> None:
    """Refuse a file and a directory of one name: no file system could unpack them."""
    for name, path in sources.items():
        for parent in Path(name).parents:
            taken = sources.get(parent.as_posix())
            if taken is not None:
                raise ArchiverError(
                    f"{taken} is a file, but {path} needs a directory named {parent} "
                    "in the archive: rename one of them."
                )


def extra_files(item: str, target: Path) -> Iterator[tuple[str, Path]]:
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
            check_file(match, "Extra file")
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
            if name in (MANIFEST_NAME, WORKFLOW_MANIFEST_PATH):
                logger.warning("Skipped %s: the archive gets a manifest of its own", path)
            elif not path.is_file():
                logger.warning("Skipped %s: it is not a regular file", path)
            else:
                yield name, path


def parse_python(path: Path, flag: str) -> ast.Module:
    """The syntax tree of a file; raises ArchiverError if it has none."""
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


def module_names(tree: ast.Module) -> set[str]:
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
