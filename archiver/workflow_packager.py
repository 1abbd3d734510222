"""Builds workflow archives: a specification, and the file with the functions that it names."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..model_store.errors import InvalidModelError, InvalidWorkflowError
from ..model_store.workflow_archive import WORKFLOW_MANIFEST_PATH, WorkflowManifest
from ..model_store.workflow_spec import WorkflowSpec, parse_workflow_spec
from .packager import MODEL_NAME, already_exists, publish
from .sources import add_source, check_file, check_tree, extra_files, module_names, parse_python
from .writers import ArchiverError, Member, write_zip

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkflowArchiveSpec:
    """What to package; the fields are the flags of ``torch-workflow-archiver``."""

    workflow_name: str
    spec_file: Path
    handler: Path | None = None
    extra_files: tuple[str, ...] = ()
    export_path: Path = Path()
    force: bool = False

    @property
    def target(self) -> Path:
        """The file that the archive becomes."""
        return self.export_path / f"{self.workflow_name}.war"


def build_workflow_archive(
    spec: WorkflowArchiveSpec, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the archive and return its path; on any error nothing is left behind.

    What a server would refuse is refused here. ``progress`` and warnings are as for
    ``build_archive``. Raises ``ArchiverError``.
    """
    try:
        _check(spec)
        manifest = _manifest(spec).to_json().encode()
        members = _collect_members(spec)
    except (InvalidModelError, InvalidWorkflowError) as exc:
        raise ArchiverError(exc.message) from exc
    except OSError as exc:
        raise ArchiverError(f"{exc.filename}: {exc.strerror}") from exc
    publish(
        spec.target,
        members,
        lambda: write_zip(
            spec.target,
            members,
            manifest,
            force=spec.force,
            progress=progress,
            manifest_name=WORKFLOW_MANIFEST_PATH,
        ),
    )
    return spec.target


def _check(spec: WorkflowArchiveSpec) -> None:
    if not re.fullmatch(MODEL_NAME, spec.workflow_name):
        raise ArchiverError(
            f"Workflow name {spec.workflow_name!r} contains special characters. "
            f"The allowed regular expression for a workflow name is: {MODEL_NAME}"
        )
    if spec.export_path.exists() and not spec.export_path.is_dir():
        raise ArchiverError(f"Export path {spec.export_path} is not a directory.")
    if os.path.lexists(spec.target) and not spec.force:
        raise already_exists(spec.target)


def _manifest(spec: WorkflowArchiveSpec) -> WorkflowManifest:
    manifest = WorkflowManifest(
        workflow_name=spec.workflow_name,
        spec_file=spec.spec_file.name,
        handler=None if spec.handler is None else spec.handler.name,
        created_on=time.strftime("%d/%m/%Y %H:%M:%S"),
        archiver_version=__version__,
    )
    return WorkflowManifest.parse(manifest.to_json())


def _collect_members(spec: WorkflowArchiveSpec) -> list[Member]:
    sources: dict[str, Path] = {}
    check_file(spec.spec_file, "Spec file")
    add_source(sources, spec.spec_file.name, spec.spec_file)
    workflow = _read_spec(spec)
    if spec.handler is not None:
        check_file(spec.handler, "Handler")
        add_source(sources, spec.handler.name, spec.handler)
        _check_functions(spec.handler, workflow)
    for item in spec.extra_files:
        for name, path in extra_files(item, spec.target):
            add_source(sources, name, path)
    check_tree(sources)
    return [Member.of(name, path, False) for name, path in sources.items()]


def _read_spec(spec: WorkflowArchiveSpec) -> WorkflowSpec:
    try:
        text = spec.spec_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ArchiverError(f"Spec file is not UTF-8 text: {spec.spec_file}") from exc
    workflow = parse_workflow_spec(text, spec.spec_file.name, has_handler=spec.handler is not None)
    for warning in workflow.warnings:
        logger.warning("%s", warning)
    return workflow


def _check_functions(handler: Path, workflow: WorkflowSpec) -> None:
    names = module_names(parse_python(handler, "Handler"))
    if "*" in names:
        return
    missing = [node.name for node in workflow.nodes.values() if node.url is None]
    missing = [name for name in missing if name not in names]
    if missing:
        raise ArchiverError(
            f"Handler {handler} has no function {missing[0]} at module level, and the "
            "specification names no model of that name."
        )
