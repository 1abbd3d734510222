"""Archives of the cases: files below ``cases``, and weights that are the same on each machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau.archiver.packager import BUILT_IN_HANDLERS, ArchiveSpec, build_archive

if TYPE_CHECKING:
    from compat.case import Case

FILES = Path(__file__).parent / "cases"
REAL_ARCHIVES = Path(__file__).parent / "real_archives"
"""What the real torch-model-archiver has written."""


def build(case: Case, store: Path) -> str:
    """Make the archive of ``case`` in the folder ``store``; its name there."""
    with tempfile.TemporaryDirectory(prefix="compat") as folder:
        generated = Path(folder)
        for name, write in case.generated.items():
            write(generated / name)

        def found(name: str | None) -> Path | None:
            if name is None:
                return None
            return generated / name if name in case.generated else FILES / name

        listed = {case.model_file, case.serialized_file}
        extras = [*case.extra_files, *(name for name in case.generated if name not in listed)]
        built_in = case.handler in BUILT_IN_HANDLERS
        spec = ArchiveSpec(
            model_name=case.id,
            version="1.0",
            handler=case.handler if built_in else str(FILES / case.handler),
            model_file=found(case.model_file),
            serialized_file=found(case.serialized_file),
            config_file=found(case.config_file),
            extra_files=tuple(str(found(name)) for name in extras),
            export_path=store,
        )
        return build_archive(spec).name
