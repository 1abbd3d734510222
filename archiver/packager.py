"""Builds model archives: the inverse of ``model_store/archive.py``.

Everything that can be wrong is found before the first byte is written, and the result appears
under its name in one step, so that nobody ever sees a partial archive.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..model_store.errors import InvalidModelError
from ..model_store.manifest import Manifest, parse_model_config
from .sources import (
    add_source,
    check_file,
    check_tree,
    extra_files,
    module_names,
    parse_python,
)
from .writers import ArchiverError, Member, write_directory, write_tar, write_zip

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BUILT_IN_HANDLERS",
    "FORMATS",
    "RUNTIMES",
    "ArchiveSpec",
    "ArchiverError",
    "already_exists",
    "build_archive",
    "publish",
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
_OWN_HANDLERS = frozenset({"densenet_handler", "text_handler", "vision_handler"})
"""Built in as well; TorchServe's archiver takes them for files, as we do where there are some."""
REFUSED_HANDLERS = frozenset({"dali_image_classifier", "trt_llm_handler", "vllm_handler"})
"""Those of them that flambeau does not serve; they are packaged for TorchServe."""
_SERVED_HANDLERS = sorted((BUILT_IN_HANDLERS | _OWN_HANDLERS) - REFUSED_HANDLERS)
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
    writers = {"tgz": write_tar, "no-archive": write_directory}
    write = writers.get(spec.archive_format, write_zip)
    publish(
        spec.target,
        members,
        lambda: write(
            spec.target, members, manifest.to_json().encode(), force=spec.force, progress=progress
        ),
    )
    return spec.target


def publish(target: Path, members: list[Member], write: Callable[[], None]) -> None:
    """Have ``members`` written to ``target``; raises ArchiverError if that cannot be."""
    folder = target.parent
    try:
        if not folder.is_dir():
            logger.warning("Export directory (%s) does not exist. Creating...", folder)
            folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            logger.warning("Overwriting %s ...", target)
        write()
    except FileExistsError as exc:
        raise already_exists(target) from exc
    except OSError as exc:
        # The target was open under a temporary name, which would tell the user nothing.
        sources = {str(member.path) for member in members}
        path = exc.filename if exc.filename in sources else target
        raise ArchiverError(f"{path}: {exc.strerror or exc}") from exc


def already_exists(target: Path) -> ArchiverError:
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
        raise already_exists(spec.target)


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
            check_file(path, flag)
            add_source(sources, path.name, path)
    if spec.model_file is not None:
        parse_python(spec.model_file, "Model file")
    if spec.config_file is not None:
        _check_config(spec.config_file)
    for item in spec.extra_files:
        for name, path in extra_files(item, spec.target):
            add_source(sources, name, path)
    check_tree(sources)
    weights = spec.serialized_file.name if spec.serialized_file else None
    return [Member.of(name, path, name == weights) for name, path in sources.items()]


def _handler_file(handler: str) -> Path | None:
    """The handler's source file after it was checked; None for a built-in handler."""
    if handler in _OWN_HANDLERS and not Path(f"{handler}.py").exists():
        return None
    if handler in BUILT_IN_HANDLERS:
        if handler in REFUSED_HANDLERS:
            logger.warning(
                "Handler %s is TorchServe's; flambeau cannot serve it, only %s",
                handler,
                ", ".join(_SERVED_HANDLERS),
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
            f"handlers ({', '.join(_SERVED_HANDLERS)})."
        )
    check_file(path, "Handler")
    tree = parse_python(path, "Handler")
    if function and not module_names(tree) & {function, "*"}:
        raise ArchiverError(f"Handler {path} has no function {function} at module level.")
    return path


def _check_config(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        _, notes = parse_model_config(text, path.name)
    except UnicodeDecodeError as exc:
        raise ArchiverError(f"Config file is not UTF-8 text: {path}") from exc
    for note in notes:
        logger.warning("%s", note)
