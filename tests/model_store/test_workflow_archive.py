"""Workflow archives in a store: found, checked and read, or refused with TorchServe's words."""

from __future__ import annotations

import json
import zipfile

import pytest

from flambeau.model_store.errors import InvalidWorkflowError, WorkflowNotFoundError
from flambeau.model_store.store import ModelStore
from flambeau.model_store.workflow_archive import WorkflowManifest, open_workflow

SPEC = "models: {m: {url: m.mar}}\ndag: {pre: [m]}\n"
MANIFEST = {
    "createdOn": "today",
    "archiverVersion": "0.2.15",
    "workflow": {"workflowName": "w", "specFile": "spec.yaml", "handler": "h.py"},
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def store(root, tmp_path):
    return ModelStore(root, tmp_path / "cache")


def write(root, manifest=MANIFEST, **files):
    files = {"spec.yaml": SPEC, "h.py": "def pre(data, context): ...", **files}
    with zipfile.ZipFile(root / "w.war", "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
        if manifest is not None:
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            archive.writestr("WAR-INF/MANIFEST.json", text)


def without(key):
    return {name: value for name, value in MANIFEST.items() if name != key}


def with_workflow(**fields):
    workflow = {**MANIFEST["workflow"], **fields}
    return {**MANIFEST, "workflow": {k: v for k, v in workflow.items() if v is not None}}


def test_a_workflow_is_unpacked_and_read(root, store, tmp_path):
    write(root)
    workflow = open_workflow(store, "w.war")
    assert workflow.manifest == WorkflowManifest("w", "spec.yaml", "h.py", "today", "0.2.15")
    assert list(workflow.spec.nodes) == ["pre", "m"]
    assert (workflow.stored.model_dir / "h.py").is_file()
    store.release(workflow.stored)
    assert not workflow.stored.model_dir.exists()


def test_a_manifest_reads_what_it_writes():
    manifest = WorkflowManifest("w", "spec.yaml", None, "today", "1")
    assert WorkflowManifest.parse(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gone.war", "Workflow not found in workflow store: gone.war"),
        ("../w.war", "Relative path is not allowed in url: ../w.war"),
        ("ftp://h/w.war", "Given URL ftp://h/w.war does not match any allowed URL(s)"),
    ],
)
def test_a_url_that_is_no_workflows_is_not_found(store, url, message):
    with pytest.raises(WorkflowNotFoundError) as caught:
        open_workflow(store, url)
    assert (caught.value.status, caught.value.message) == (404, message)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "Workflow name is not defined. The archive holds no WAR-INF/MANIFEST.json"),
        ("{", "Failed to parse signature.json. WAR-INF/MANIFEST.json is not valid JSON"),
        (without("workflow"), "Workflow name is not defined."),
        (without("archiverVersion"), "Workflow archive version is not defined."),
        (without("createdOn"), "Workflow archive createdOn is not defined."),
        (with_workflow(workflowName=None), "Workflow name is not defined."),
        (with_workflow(specFile=None), "Workflow specification file (specFile) is not defined."),
        (with_workflow(specFile="../spec.yaml"), "WAR-INF/MANIFEST.json: specFile: "),
        (with_workflow(specFile="no.yaml"), "no.yaml is named as specFile in WAR-INF"),
        (with_workflow(handler="/etc/passwd"), "WAR-INF/MANIFEST.json: handler: "),
        (with_workflow(handler="no.py"), "no.py is named as handler, but the archive does not"),
        (with_workflow(handler=None), "Node pre is not among the models, and the archive has no"),
    ],
)
def test_a_wrong_manifest_is_refused_and_nothing_stays(root, store, tmp_path, manifest, message):
    write(root, manifest)
    with pytest.raises(InvalidWorkflowError) as caught:
        open_workflow(store, "w.war")
    assert caught.value.message.startswith(message)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unsafe_archive_is_refused(root, store):
    write(root, **{"../h.py": "x"})
    with pytest.raises(InvalidWorkflowError, match="leads out of the archive"):
        open_workflow(store, "w.war")


def test_without_code_only_graphs_of_models_are_served(root, tmp_path):
    store = ModelStore(root, tmp_path / "cache", allow_code=False)
    write(root)
    with pytest.raises(InvalidWorkflowError, match=r"runs no code of archives .* h.py"):
        open_workflow(store, "w.war")
    spec = "models: {m: {url: m.mar}}\ndag: {m: []}\n"
    write(root, with_workflow(handler=None), **{"h.py": None, "spec.yaml": spec})
    workflow = open_workflow(store, "w.war")
    assert workflow.spec.leaves == ("m",)
    store.release(workflow.stored)
