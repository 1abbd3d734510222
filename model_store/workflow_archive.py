"""Workflow archives: ``.war`` files, which the model store's machinery finds, checks and unpacks.

What they say about themselves is in WAR-INF/MANIFEST.json: a name, the specification's file, and
the handler's, whose functions can be nodes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import (
    InvalidModelError,
    InvalidWorkflowError,
    ModelNotFoundError,
    WorkflowNotFoundError,
)
from .manifest import (
    MAX_MANIFEST_BYTES,
    file_name,
    load_json,
    read_inside,
    text_inside,
    text_or_none,
)
from .workflow_spec import WorkflowSpec, parse_workflow_spec

if TYPE_CHECKING:
    from pathlib import Path

    from .store import ModelStore, StoredModel

WORKFLOW_MANIFEST_PATH = "WAR-INF/MANIFEST.json"


@dataclass(frozen=True, slots=True)
class WorkflowManifest:
    """WAR-INF/MANIFEST.json. File names are relative to the archive and stay inside it."""

    workflow_name: str
    spec_file: str
    handler: str | None = None
    created_on: str | None = None
    archiver_version: str | None = None

    @classmethod
    def parse(cls, text: str | bytes) -> WorkflowManifest:
        """Read a manifest. Raises InvalidModelError, with TorchServe's texts where it has one."""
        where = WORKFLOW_MANIFEST_PATH
        document = load_json(text, where)
        workflow = document.get("workflow")
        fields = workflow if isinstance(workflow, dict) else {}
        name = text_or_none(fields, "workflowName", where)
        if name is None:
            raise InvalidModelError("Workflow name is not defined.")
        archiver_version = text_or_none(document, "archiverVersion", where)
        if archiver_version is None:
            raise InvalidModelError("Workflow archive version is not defined.")
        created_on = text_or_none(document, "createdOn", where)
        if created_on is None:
            raise InvalidModelError("Workflow archive createdOn is not defined.")
        spec_file = file_name(fields, "specFile", where)
        if spec_file is None:
            raise InvalidModelError("Workflow specification file (specFile) is not defined.")
        handler = file_name(fields, "handler", where)
        return cls(name, spec_file, handler, created_on, archiver_version)

    def to_json(self) -> str:
        """The manifest as the archiver writes it: a handler that is None is left out."""
        workflow = {
            "workflowName": self.workflow_name,
            "specFile": self.spec_file,
            "handler": self.handler,
        }
        document = {
            "createdOn": self.created_on,
            "workflow": {key: value for key, value in workflow.items() if value is not None},
            "archiverVersion": self.archiver_version,
        }
        return json.dumps(document, indent=2)


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A workflow that is on this machine, unpacked and checked.

    ``stored`` is to be released to the store that it is from.
    """

    stored: StoredModel
    manifest: WorkflowManifest
    spec: WorkflowSpec


def open_workflow(
    store: ModelStore, url: str, sha256: str | None = None, sign: bool = False
) -> StoredWorkflow:
    """Find, unpack if need be, and check the workflow; see ModelStore.acquire.

    Raises WorkflowNotFoundError and InvalidWorkflowError where that raises the like for a model.
    """
    try:
        stored = store.acquire(url, sha256, sign)
        try:
            return _read(stored)
        except BaseException:
            store.release(stored)
            raise
    except ModelNotFoundError as error:
        raise WorkflowNotFoundError(_of_workflow(error.message)) from error
    except InvalidModelError as error:
        raise InvalidWorkflowError(error.message) from error


def _read(stored: StoredModel) -> StoredWorkflow:
    folder = stored.model_dir
    content = read_inside(folder, WORKFLOW_MANIFEST_PATH, MAX_MANIFEST_BYTES)
    if content is None:
        raise InvalidModelError(
            f"Workflow name is not defined. The archive holds no {WORKFLOW_MANIFEST_PATH}: make it "
            "with torch-workflow-archiver."
        )
    manifest = WorkflowManifest.parse(content)
    handler = manifest.handler
    if handler is not None and not _is_inside(folder, handler):
        raise InvalidModelError(f"{handler} is named as handler, but the archive does not hold it.")
    name = manifest.spec_file
    text = text_inside(folder, name, f"specFile in {WORKFLOW_MANIFEST_PATH}")
    spec = parse_workflow_spec(text, name, has_handler=handler is not None)
    return StoredWorkflow(stored, manifest, spec)


def _is_inside(folder: Path, name: str) -> bool:
    """The archive has that file, and not a link that leads elsewhere."""
    path = (folder / name).resolve()
    return path.is_file() and path.is_relative_to(folder.resolve())


def _of_workflow(message: str) -> str:
    """TorchServe's text, which has other first words for a workflow."""
    return message.replace("Model not found at:", "Workflow not found in workflow store:")
