"""What an archive says about itself: MAR-INF/MANIFEST.json, and where its configuration lies.

The file comes from whoever made the archive, so it is bounded in size and checked field by field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from .errors import InvalidModelError
from .model_config import ModelConfig, TorchrunConfig, parse_model_config
from .strict_yaml import MAX_CONFIG_BYTES, load_yaml, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "MANIFEST_PATH",
    "MAX_MANIFEST_BYTES",
    "RUNTIMES",
    "Manifest",
    "ModelConfig",
    "TorchrunConfig",
    "file_name",
    "load_json",
    "load_manifest",
    "load_model_config",
    "parse_model_config",
    "read_inside",
    "read_model_config",
    "text_inside",
    "text_or_none",
]

MANIFEST_PATH = "MAR-INF/MANIFEST.json"
RUNTIMES = ("python", "python3")

MAX_MANIFEST_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_ALLOWED = (
    "letters, digits, '.', '_' and '-', at most 128 of them, with a letter or digit first"
)
_VERSION_ALLOWED = "at most 128 printable characters without slashes, such as '1.0', and not 'all'"


@dataclass(frozen=True, slots=True)
class Manifest:
    """MAR-INF/MANIFEST.json. File names are relative to the model's folder and stay inside it."""

    model_name: str
    model_version: str = "1.0"
    handler: str | None = None
    serialized_file: str | None = None
    model_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None
    runtime: str = "python"
    created_on: str | None = None
    archiver_version: str | None = None

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """Read a manifest; fields that nobody knows are ignored, as in TorchServe.

        Raises InvalidModelError, with TorchServe's texts where it has one.
        """
        document = load_json(text, MANIFEST_PATH)
        model = document.get("model")
        if not isinstance(model, dict):
            raise InvalidModelError("Missing Model entry in manifest file.")
        return cls(
            model_name=_model_name(model),
            model_version=_model_version(model),
            handler=file_name(model, "handler"),
            serialized_file=file_name(model, "serializedFile"),
            model_file=file_name(model, "modelFile"),
            requirements_file=file_name(model, "requirementsFile"),
            config_file=file_name(model, "configFile"),
            runtime=_runtime(document),
            created_on=text_or_none(document, "createdOn"),
            archiver_version=text_or_none(document, "archiverVersion"),
        )

    def to_json(self) -> str:
        """The manifest as the archiver writes it: fields that are None are left out."""
        model = {
            "modelName": self.model_name,
            "serializedFile": self.serialized_file,
            "handler": self.handler,
            "modelFile": self.model_file,
            "modelVersion": self.model_version,
            "requirementsFile": self.requirements_file,
            "configFile": self.config_file,
        }
        document = {
            "createdOn": self.created_on,
            "runtime": self.runtime,
            "model": {key: value for key, value in model.items() if value is not None},
            "archiverVersion": self.archiver_version,
        }
        return json.dumps({k: v for k, v in document.items() if v is not None}, indent=2)

    def named_files(self) -> tuple[str, ...]:
        """Every file name in the manifest; a handler's may be that of a built-in, not a file."""
        handler = None if self.handler is None else self.handler.partition(":")[0]
        names = (
            handler,
            self.serialized_file,
            self.model_file,
            self.requirements_file,
            self.config_file,
        )
        return tuple(name for name in names if name)


def load_manifest(model_dir: Path) -> Manifest | None:
    """The manifest of an unpacked model, None when it has none.

    Raises InvalidModelError for one that is wrong, too large, or a link out of the model's folder.
    """
    content = read_inside(model_dir, MANIFEST_PATH, MAX_MANIFEST_BYTES)
    return None if content is None else Manifest.parse(content)


def load_model_config(
    model_dir: Path, manifest: Manifest | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration that the manifest names, and warnings; an empty one when it names none.

    Raises InvalidModelError when the named file is missing, or as ``parse_model_config`` does.
    """
    if manifest is None or manifest.config_file is None:
        return ModelConfig(), ()
    name = manifest.config_file
    return parse_model_config(_config_text(model_dir, name), name)


def read_model_config(model_dir: Path, name: str) -> dict[object, object]:
    """All of the configuration ``name``, the handler's keys too. Raises InvalidModelError."""
    return load_yaml(_config_text(model_dir, name), name)[0]


def _config_text(model_dir: Path, name: str) -> str:
    return text_inside(model_dir, name, f"configFile in {MANIFEST_PATH}")


def text_inside(folder: Path, name: str, named_as: str) -> str:
    """The text of a YAML file of the archive, which is ``named_as``. Raises InvalidModelError."""
    content = read_inside(folder, name, MAX_CONFIG_BYTES)
    if content is None:
        raise InvalidModelError(f"{name} is named as {named_as}, but the archive does not hold it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidModelError(f"{name}: not UTF-8 text at byte {error.start}") from error


def load_json(text: str | bytes, where: str) -> dict[str, object]:
    """The object in a manifest, numbers as texts. Raises InvalidModelError."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        # A version may be written as a number: 1.10 must not become 1.1.
        document = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidModelError(
            f"Failed to parse signature.json. {where} is not valid JSON: {reason}"
        ) from error
    if not isinstance(document, dict):
        raise InvalidModelError(f"Failed to parse signature.json. {where} must be a JSON object.")
    return document


def text_or_none(fields_: Mapping[str, object], key: str, where: str = MANIFEST_PATH) -> str | None:
    """The text under ``key``, None for an empty one. Raises InvalidModelError for anything else."""
    value = fields_.get(key)
    if value is not None and not isinstance(value, str):
        raise refusal(where, key, value, "a text")
    return value or None


def _model_name(model: Mapping[str, object]) -> str:
    name = text_or_none(model, "modelName")
    if name is None:
        raise InvalidModelError("Model name is not defined.")
    if not _NAME.fullmatch(name):
        raise refusal(MANIFEST_PATH, "modelName", name, _NAME_ALLOWED)
    return name


def _model_version(model: Mapping[str, object]) -> str:
    """A free text upstream; it becomes a segment of urls, so it must fit in one."""
    if "modelVersion" not in model:
        return "1.0"
    version = text_or_none(model, "modelVersion")
    if version is None:
        raise InvalidModelError("Model version is not defined.")
    fits = len(version) <= 128 and version.isprintable() and version not in (".", "..", "all")
    if not fits or "/" in version or "\\" in version:
        raise refusal(MANIFEST_PATH, "modelVersion", version, _VERSION_ALLOWED)
    return version


def _runtime(document: Mapping[str, object]) -> str:
    runtime = document.get("runtime", "python")
    if runtime == "LSP":
        raise InvalidModelError(
            "Runtime LSP is not supported: the archive was made for TorchServe's C++ backend. "
            "Package the model again with a Python handler and --runtime python."
        )
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise InvalidModelError("Runtime is not defined or invalid.")
    return runtime


def file_name(fields_: Mapping[str, object], key: str, where: str = MANIFEST_PATH) -> str | None:
    """The name under ``key``, which stays inside the archive. Raises InvalidModelError."""
    name = text_or_none(fields_, key, where)
    if name is None:
        return None
    path = PurePosixPath(name)
    if not name.isprintable() or "\\" in name or path.is_absolute() or ".." in path.parts:
        raise refusal(where, key, name, "the name of a file inside the archive")
    return name


def read_inside(model_dir: Path, name: str, max_bytes: int) -> bytes | None:
    """The content of a file of the model; None when there is no such file."""
    path = model_dir / name
    try:
        if not path.resolve().is_relative_to(model_dir.resolve()):
            raise InvalidModelError(f"{name} is a link that leads out of the model's folder.")
        if not path.is_file():
            if path.exists():
                raise InvalidModelError(f"{name} is not a regular file.")
            return None
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its links go round in a circle"
        raise InvalidModelError(f"{name} cannot be read: {reason}") from error
    if len(content) > max_bytes:
        raise InvalidModelError(f"{name} is larger than the {max_bytes} bytes that it may have.")
    return content
