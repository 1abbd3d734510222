"""The Python modules that an archive brings: they win over every other module of the same name.

Old handlers are called ``handler.py``, ``model.py`` or ``metrics.py`` and import their siblings by
such names. The process may know other modules by them already: these are forgotten first, except
where Python could not live on without them.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)


def put_first(folder: Path) -> None:
    """Make ``folder`` the first place where imports look, also for names that are imported already.

    A module of the standard library that is loaded stays what it is, and so does a package with
    compiled parts, which cannot be loaded twice; the latter is logged as a warning.
    """
    place = str(folder)
    sys.path[:] = [place, *(entry for entry in sys.path if entry != place)]
    importlib.invalidate_caches()
    for name in module_names(folder):
        _forget(name, folder)


def module_names(folder: Path) -> list[str]:
    """The names under which modules and packages of ``folder`` can be imported, sorted."""
    names = set()
    for entry in folder.iterdir():
        is_package = entry.is_dir() and (entry / "__init__.py").is_file()
        if is_package or entry.suffix == ".py" or entry.name.endswith(tuple(EXTENSION_SUFFIXES)):
            names.add(entry.name.split(".")[0])
    return sorted(name for name in names if name.isidentifier())


def has_module(name: str, folder: Path) -> bool:
    """Whether ``folder`` holds the module or package ``name`` (dots lead into packages)."""
    path = folder.joinpath(*name.split("."))
    return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


def import_module(name: str, folder: Path) -> ModuleType:
    """Import ``name``: the module of ``folder`` if there is one, else whatever Python finds.

    Raises whatever the module's own code raises, and ModuleNotFoundError when there is none.
    """
    path = folder / f"{name}.py"
    if not path.is_file():
        return importlib.import_module(name)
    _forget(name, folder)
    loaded = sys.modules.get(name)
    if loaded is not None and _comes_from(loaded, folder):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    # A loaded module of the standard library keeps its place: others go on to import it.
    if loaded is None:
        sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        raise
    # As the import statement does: a module may have put another object in its place.
    return module if loaded is not None else sys.modules.get(name, module)


def list_classes_from_module(
    module: ModuleType, parent_class: type | None = None
) -> list[type[object]]:
    """The classes defined in ``module`` itself, by name; only subclasses of ``parent_class``."""
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and (parent_class is None or issubclass(member, parent_class))
    ]


def _forget(name: str, folder: Path) -> None:
    """Drop the loaded module ``name`` and its submodules, unless it is the one of ``folder``."""
    module = sys.modules.get(name)
    protected = name in sys.stdlib_module_names or name in {"__main__", __name__.split(".")[0]}
    if module is None or protected or _comes_from(module, folder):
        return
    family = [key for key in sys.modules if key == name or key.startswith(f"{name}.")]
    if any(_is_compiled(sys.modules[key]) for key in family):
        logger.warning(
            "The archive's own %s is not used: the worker has loaded another one, with compiled "
            "parts that cannot be loaded twice.",
            name,
        )
        return
    for key in family:
        del sys.modules[key]


def _comes_from(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return False
    # The file itself is not resolved: it may be a link in a folder that is no unpacked archive.
    parent, place = Path(file).parent.resolve(), folder.resolve()
    return parent in {place, place / module.__name__}


def _is_compiled(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and file.endswith(tuple(EXTENSION_SUFFIXES))
