"""``torch-workflow-archiver`` and ``flambeau archive-workflow``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flambeau.archiver import cli
from flambeau.model_store.store import ModelStore
from flambeau.model_store.workflow_archive import open_workflow

SPEC = "models: {m: {url: m.mar}}\ndag: {pre: [m]}\n"
MINIMAL = ("--workflow-name", "w", "--spec-file", "spec.yaml")
FULL = (*MINIMAL, "--handler", "h.py")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    Path("h.py").write_text("def pre(data, context): ...\n")


def run(*arguments):
    return CliRunner().invoke(cli.archive_workflow, arguments)


def manifest():
    with zipfile.ZipFile("w.war") as archive:
        return json.loads(archive.read("WAR-INF/MANIFEST.json"))


def test_an_archive_has_the_files_and_a_manifest(tmp_path):
    Path("a.txt").write_text("a")
    Path("more").mkdir()
    Path("more", "b.txt").write_text("b")
    result = run(*FULL, "--extra-files", "a.txt,more")
    assert (result.exit_code, result.output) == (0, "")
    with zipfile.ZipFile("w.war") as archive:
        names = sorted(archive.namelist())
    assert names == ["WAR-INF/MANIFEST.json", "a.txt", "b.txt", "h.py", "spec.yaml"]
    found = manifest()
    assert list(found) == ["createdOn", "workflow", "archiverVersion"]
    assert found["workflow"] == {
        "workflowName": "w",
        "specFile": "spec.yaml",
        "handler": "h.py",
    }


def test_a_server_opens_what_was_packed(tmp_path):
    run(*FULL)
    store = ModelStore(tmp_path, tmp_path / "cache")
    workflow = open_workflow(store, "w.war")
    assert list(workflow.spec.nodes) == ["pre", "m"]
    store.release(workflow.stored)


def test_a_graph_of_models_needs_no_handler():
    Path("spec.yaml").write_text("models: {m: {url: m.mar}}\ndag: {m: []}\n")
    assert run(*MINIMAL).exit_code == 0
    assert manifest()["workflow"] == {"workflowName": "w", "specFile": "spec.yaml"}


def test_flambeaus_own_command_says_what_it_wrote():
    group = click.Group("flambeau", commands={"archive-workflow": cli.archive_workflow})
    result = CliRunner().invoke(group, ["archive-workflow", *FULL])
    assert result.output.startswith("Wrote w.war (")


def test_what_has_no_effect_is_said():
    Path("spec.yaml").write_text(SPEC + "more: 1\n")
    result = run(*FULL)
    assert result.exit_code == 0
    assert result.output == "WARNING - spec.yaml: the key more is not known and has no effect\n"


def test_an_archive_is_replaced_only_when_that_is_asked_for():
    assert run(*FULL).exit_code == 0
    result = run(*FULL)
    assert result.exit_code == 1
    assert result.output == ("ERROR - w.war already exists. Use --force/-f to overwrite it.\n")
    assert run(*FULL, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workflow-name", "a/b", "--spec-file", "spec.yaml"),
         "ERROR - Workflow name 'a/b' contains special characters."),
        (("--workflow-name", "w", "--spec-file", "no.yaml"),
         "ERROR - Spec file does not exist: no.yaml"),
        ((*MINIMAL, "--handler", "no.py"), "ERROR - Handler does not exist: no.py"),
        ((*MINIMAL, "--handler", "spec.yaml"), "ERROR - Handler spec.yaml has no function pre"),
        (MINIMAL, "ERROR - Node pre is not among the models, and the archive has no handler"),
        ((*FULL, "--extra-files", "no"), "ERROR - Extra file does not exist: no"),
        ((*FULL, "--export-path", "h.py"), "ERROR - Export path h.py is not a directory."),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_said_in_one_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith(message)
    assert result.output.count("\n") == 1
    assert not list(Path().glob("*.war"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dag: {pre: [pre]}", "Self loop exception"),
        ("dag: [", "Failed to parse yaml."),
        ("dag: {other: []}", "Handler h.py has no function other at module level"),
    ],
)
def test_a_specification_that_no_server_would_take_is_refused(spec, message):
    Path("spec.yaml").write_text(spec)
    result = run(*FULL)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("missing", ["--workflow-name", "--spec-file"])
def test_two_flags_are_needed(missing):
    flags = dict(zip(MINIMAL[::2], MINIMAL[1::2], strict=True))
    del flags[missing]
    result = run(*(word for pair in flags.items() for word in pair))
    assert result.exit_code == 2
    assert missing in result.output


def test_a_folder_of_the_archives_name_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    assert run(*FULL).exit_code == 0
    assert (folder / "precious").read_text() == "mine"
