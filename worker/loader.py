"""From an unpacked archive and a handler's name to the callable that answers batches.

The rules are TorchServe's (``ts/model_loader.py``), with these differences: the first import error
is the one reported; a file may define several classes if only one of them is a handler; the part
after ``:`` may name a class; a handler in a folder of the archive is found there.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import FlambeauError, without_folders
from .coroutines import event_loop, finished, is_async
from .modules import has_module, import_module, list_classes_from_module, module_names, put_first
from .refused_handlers import REFUSED_HANDLERS
from .torchvision_ops import install as watch_torchvision

if TYPE_CHECKING:
    from types import ModuleType

    from .context import Context

logger = logging.getLogger(__name__)

EntryPoint = Callable[[list[dict[str, Any]], Any], Any]

_BUILT_IN = {
    "base_handler": ("base", "BaseHandler"),
    "densenet_handler": ("densenet_handler", "DenseNetHandler"),
    "image_classifier": ("image_classifier", "ImageClassifier"),
    "image_segmenter": ("image_segmenter", "ImageSegmenter"),
    "object_detector": ("object_detector", "ObjectDetector"),
    "text_classifier": ("text_classifier", "TextClassifier"),
    "text_handler": ("text_handler", "TextHandler"),
    "vision_handler": ("vision", "VisionHandler"),
}
_WITH_CODE = frozenset({"text_classifier", "text_handler"})
"""Those of them whose models only an archive's own file can define."""
_LONGEST_REASON = 1000
ENVIRONMENT_PROOF = "environment.json"
"""Lies in environments that the frontend has made for a model, and says whether with packages."""


class HandlerLoadError(FlambeauError):
    """The archive's handler cannot be brought to work; the cause is kept in ``__cause__``.

    ``status`` is 507 when memory ran out, as TorchServe answers, else 500.
    """

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class _Handler(NamedTuple):
    """A handler string, taken apart: ``folder/module.py:function``."""

    text: str
    folder: str
    module: str
    function: str | None

    @classmethod
    def parse(cls, text: str) -> _Handler:
        place, _, function = text.partition(":")
        path = PurePosixPath(place)
        module = path.name.removesuffix(".py")
        if not module or module.startswith(".") or module.endswith("."):
            raise HandlerLoadError(f"'{text}' names no handler: give a built-in name or a file.")
        return cls(text, str(path.parent), module, function or None)


def load_entry_point(handler: str, model_dir: Path, context: Context) -> EntryPoint:
    """Import ``handler``, initialise it with ``context``, return what answers ``(data, context)``.

    An ``async def`` returns a coroutine; that of ``initialize`` is awaited here.
    ``model_dir`` becomes the first place where imports look. Raises HandlerLoadError; SystemExit
    of a handler counts as a failure too.
    """
    parsed = _Handler.parse(handler)
    return _initialized(
        lambda: _find(parsed, model_dir, context.manifest), handler, model_dir, context
    )


def load_built_in(handler: str, model_dir: Path, context: Context) -> EntryPoint:
    """As ``load_entry_point``, for the handlers that flambeau brings and no others.

    Nothing is imported from ``model_dir``, nor from elsewhere by a name that a client chose, and
    weights are safetensors.
    """
    module = _Handler.parse(handler).module
    allowed = sorted(set(_BUILT_IN) - _WITH_CODE)
    if module not in allowed:
        fault = "needs a model file" if module in _WITH_CODE else "is not one of flambeau's"
        raise HandlerLoadError(
            f"Handler '{handler}' {fault}, and this server runs no code of archives "
            f"(allow_archive_code=false). Give one of {', '.join(allowed)}."
        )
    _refuse_code(context.manifest)
    return _initialized(lambda: _built_in(module), handler, model_dir, context)


def _refuse_code(manifest: Any) -> None:
    """The frontend has looked at the whole archive; this is what a handler would load of it."""
    named = manifest["model"] if manifest else {}
    weights = named.get("serializedFile")
    if named.get("modelFile") or (weights and not weights.endswith(".safetensors")):
        raise HandlerLoadError(
            "This server runs no code of archives (allow_archive_code=false): weights must be "
            ".safetensors, and there can be no model file."
        )


def _initialized(
    find: Callable[[], tuple[EntryPoint, Callable[[Context], object]]],
    handler: str,
    model_dir: Path,
    context: Context,
) -> EntryPoint:
    watch_torchvision()
    try:
        entry_point, initialize = find()
        if is_async(entry_point):
            # What initialize makes for the event loop belongs to the one that will run.
            event_loop()
        finished(initialize(context))
    except FlambeauError:
        raise
    except (Exception, SystemExit) as error:
        raise _failure(f"Handler '{handler}' failed to initialize", error, model_dir) from error
    return entry_point


def _built_in(module: str) -> tuple[EntryPoint, Callable[[Context], object]]:
    file, name = _BUILT_IN[module]
    root = __name__.partition(".")[0]
    return _class_entry_point(getattr(importlib.import_module(f"{root}.handlers.{file}"), name))


def _find(
    handler: _Handler, model_dir: Path, manifest: Any
) -> tuple[EntryPoint, Callable[[Context], object]]:
    place = _make_importable(handler, model_dir)
    if handler.module in _BUILT_IN and not has_module(handler.module, place):
        return _built_in(handler.module)
    module = _import(handler, place, model_dir, manifest)
    name = handler.function or "handle"
    if not hasattr(module, name):
        return _class_entry_point(_handler_class(handler, module))
    found = getattr(module, name)
    if inspect.isclass(found):
        return _class_entry_point(found)
    if not callable(found):
        raise HandlerLoadError(f"Handler '{handler.text}': '{name}' cannot be called.")
    # TorchServe's contract: a function is called once without data, to load its model.
    return found, lambda context: found(None, context)


def _make_importable(handler: _Handler, model_dir: Path) -> Path:
    """Put the archive on the import path; the folder in it where the handler's module should be."""
    put_first(model_dir)
    folder = (model_dir / handler.folder).resolve()
    inside = folder.is_relative_to(model_dir.resolve()) and folder.is_dir()
    if inside and handler.folder != "." and has_module(handler.module, folder):
        put_first(folder)
        return folder
    return model_dir


def _import(handler: _Handler, place: Path, model_dir: Path, manifest: Any) -> ModuleType:
    try:
        return import_module(handler.module, place)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if f"{handler.module}.".startswith(f"{missing}."):
            raise HandlerLoadError(_not_found(handler, model_dir)) from error
        if missing.startswith("ts."):
            raise HandlerLoadError(
                f"Handler '{handler.text}' imports {missing}, which flambeau does not have (yet); "
                "docs/migrating.md lists what it has."
            ) from error
        raise HandlerLoadError(
            f"Handler '{handler.text}' needs the Python package '{missing}', which is not "
            f"installed in the worker's environment. {_remedy(manifest)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise _failure(
            f"Handler '{handler.text}' failed to be imported", error, model_dir
        ) from error


def _remedy(manifest: Any) -> str:
    """What to do about a package that is missing."""
    named = manifest["model"].get("requirementsFile") if manifest else None
    if not named:
        return "Install it there and register the model again."
    proof = Path(sys.prefix, ENVIRONMENT_PROOF)
    if proof.is_file() and json.loads(proof.read_bytes())["requirements"]:
        return f"Add it to the archive's {named}."
    return (
        f"The archive's {named} is not installed: set install_py_dep_per_model=true in the "
        "server's configuration, or install the package there, and register the model again."
    )


def _not_found(handler: _Handler, model_dir: Path) -> str:
    if handler.module in REFUSED_HANDLERS:
        return f"flambeau has no handler '{handler.module}': {REFUSED_HANDLERS[handler.module]}."
    present = ", ".join(module_names(model_dir)) or "none"
    return (
        f"Handler '{handler.text}' was not found: the archive has no module '{handler.module}'. "
        f"Modules in the archive: {present}. Built-in handlers: {', '.join(sorted(_BUILT_IN))}."
    )


def _handler_class(handler: _Handler, module: ModuleType) -> type[object]:
    """The module's one class; among several, the only one with ``initialize`` and ``handle``."""
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        handlers = [cls for cls in classes if hasattr(cls, "initialize") and hasattr(cls, "handle")]
        if len(handlers) != 1:
            raise HandlerLoadError(_nothing_to_call(handler, module, classes))
        classes = handlers
    if handler.function is not None:
        logger.warning(
            "Handler '%s': there is no '%s' in the module, so its class %s is used",
            handler.text,
            handler.function,
            classes[0].__name__,
        )
    return classes[0]


def _nothing_to_call(handler: _Handler, module: ModuleType, classes: list[type[object]]) -> str:
    functions = [
        name
        for name, member in inspect.getmembers(module, inspect.isfunction)
        if member.__module__ == module.__name__
    ]
    return (
        "Expected only one class in custom service code or a function entry point "
        f"[{', '.join(cls.__name__ for cls in classes)}]. Handler '{handler.text}' has no function "
        f"'{handler.function or 'handle'}'. Functions: {', '.join(functions) or 'none'}. "
        f"Name one as '{handler.module}:function', or define one class with initialize and handle."
    )


def _class_entry_point(cls: type[object]) -> tuple[EntryPoint, Callable[[Context], object]]:
    service = cls()
    for name in ("handle", "initialize"):
        if not callable(getattr(service, name, None)):
            raise HandlerLoadError(f"Expect {name} method in class {cls.__name__}")
    # Read once, now: a handler may put any callable in its place while it is being made.
    entry_point: EntryPoint = service.handle  # type: ignore[attr-defined]
    return entry_point, service.initialize  # type: ignore[attr-defined]


def _failure(what: str, error: BaseException, model_dir: Path) -> HandlerLoadError:
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "CUDA out of memory" in str(error)
    ):
        return HandlerLoadError("System out of memory", status=507)
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return HandlerLoadError(f"{what}: {without_paths(reason, model_dir)}")


def without_paths(text: str, model_dir: Path) -> str:
    """Paths of this server are no business of a client; file names are, for finding the fault."""
    for folder in {str(model_dir), str(model_dir.resolve())}:
        text = text.replace(f"{folder}/", "").replace(folder, "the archive")
    text = without_folders(text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."
