"""MAR-INF/MANIFEST.json: what TorchServe's archivers wrote is read, what cannot work is refused."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_bench import manifest_text

from flambeau.model_store.errors import InvalidModelError
from flambeau.model_store.manifest import Manifest, load_manifest, load_model_config

if TYPE_CHECKING:
    from pathlib import Path

ARCHIVER_OUTPUT = """{
  "createdOn": "21/11/2026 07:49:49",
  "runtime": "python",
  "model": {
    "modelName": "mnist",
    "serializedFile": "mnist_cnn.pt",
    "handler": "mnist_handler.py",
    "modelFile": "mnist.py",
    "modelVersion": "1.0",
    "requirementsFile": "requirements.txt",
    "configFile": "model-config.yaml"
  },
  "archiverVersion": "0.12.0"
}"""


def refusal_of(text: str | bytes) -> str:
    with pytest.raises(InvalidModelError) as caught:
        Manifest.parse(text)
    assert caught.value.status == 400
    assert caught.value.type == "InvalidModelException"
    return caught.value.message


def test_every_field_of_the_archivers_manifest_is_read() -> None:
    assert Manifest.parse(ARCHIVER_OUTPUT) == Manifest(
        model_name="mnist",
        model_version="1.0",
        handler="mnist_handler.py",
        serialized_file="mnist_cnn.pt",
        model_file="mnist.py",
        requirements_file="requirements.txt",
        config_file="model-config.yaml",
        runtime="python",
        created_on="21/11/2026 07:49:49",
        archiver_version="0.12.0",
    )


def test_a_manifest_is_written_as_the_archiver_writes_it() -> None:
    assert Manifest.parse(ARCHIVER_OUTPUT).to_json() == ARCHIVER_OUTPUT


def test_what_is_missing_has_torchserves_defaults() -> None:
    manifest = Manifest.parse('{"model": {"modelName": "m"}}')
    assert manifest == Manifest(model_name="m", model_version="1.0", runtime="python")


def test_fields_of_old_archives_are_ignored() -> None:
    old = json.loads(ARCHIVER_OUTPUT)
    old |= {"modelServerVersion": "1.0", "specificationVersion": "1.0", "description": None}
    old["model"] |= {"envelope": "json", "extensions": {"a": [1]}, "sourceVocab": "/v.pt"}
    assert Manifest.parse(json.dumps(old)) == Manifest.parse(ARCHIVER_OUTPUT)


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert Manifest.parse(b"\xef\xbb\xbf" + ARCHIVER_OUTPUT.encode()).model_name == "mnist"


def test_a_version_written_as_a_number_keeps_its_digits() -> None:
    assert Manifest.parse('{"model":{"modelName":"m","modelVersion":1.10}}').model_version == "1.10"


@pytest.mark.parametrize("version", ["1.0", "1.2.1", "v2", "2024-06-01 rc", "ünïcode", "1+cu121"])
def test_versions_are_free_texts(version: str) -> None:
    assert Manifest.parse(manifest_text(modelVersion=version)).model_version == version


@pytest.mark.parametrize(
    "version", ["1/2", "1\\2", "1\n2", "a\x00b", "..", ".", "v" * 129, ["1"], True, "\ud800"]
)
def test_a_version_that_cannot_be_part_of_a_url_is_refused(version: object) -> None:
    message = refusal_of(manifest_text(modelVersion=version))
    assert message.startswith("MAR-INF/MANIFEST.json: modelVersion: ")
    assert "is not allowed; give" in message


@pytest.mark.parametrize(
    "name", ["a/b", "../x", ".hidden", "-rf", "a b", "a\nb", "m" * 129, "naïve", [3], {"a": 1}]
)
def test_a_model_name_with_special_characters_is_refused(name: object) -> None:
    assert refusal_of(manifest_text(modelName=name)).startswith(
        "MAR-INF/MANIFEST.json: modelName: "
    )


def test_a_bad_name_is_told_with_the_remedy() -> None:
    assert refusal_of(manifest_text(modelName="a b")) == (
        "MAR-INF/MANIFEST.json: modelName: 'a b' is not allowed; give letters, digits, '.', '_' "
        "and '-', at most 128 of them, with a letter or digit first"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"runtime": "python"}', "Missing Model entry in manifest file."),
        ('{"model": null}', "Missing Model entry in manifest file."),
        ('{"model": []}', "Missing Model entry in manifest file."),
        ('{"model": {}}', "Model name is not defined."),
        ('{"model": {"modelName": ""}}', "Model name is not defined."),
        ('{"model": {"modelName": "m", "modelVersion": null}}', "Model version is not defined."),
        ('{"model": {"modelName": "m"}, "runtime": "ruby"}', "Runtime is not defined or invalid."),
        ('{"model": {"modelName": "m"}, "runtime": null}', "Runtime is not defined or invalid."),
        ('{"model": {"modelName": "m"}, "runtime": []}', "Runtime is not defined or invalid."),
    ],
)
def test_refusals_have_torchserves_texts(text: str, message: str) -> None:
    assert refusal_of(text) == message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', b"\xff\xfe", "[" * 100_000])
def test_what_is_not_a_json_object_is_refused(text: str | bytes) -> None:
    assert refusal_of(text).startswith("Failed to parse signature.json. MAR-INF/MANIFEST.json ")


def test_a_cpp_archive_is_refused_with_the_way_out() -> None:
    message = refusal_of('{"model": {"modelName": "m"}, "runtime": "LSP"}')
    assert "C++ backend" in message
    assert "--runtime python" in message


@pytest.mark.parametrize("runtime", ["python", "python3"])
def test_both_python_runtimes_are_accepted(runtime: str) -> None:
    text = json.dumps({"model": {"modelName": "m"}, "runtime": runtime})
    assert Manifest.parse(text).runtime == runtime


@pytest.mark.parametrize(
    "key", ["handler", "serializedFile", "modelFile", "configFile", "requirementsFile"]
)
@pytest.mark.parametrize(
    "name", ["../x.py", "/etc/passwd", "a/../../b", "a\\b", "a\x00b", "a\nb", {"file": "x"}, ["x"]]
)
def test_a_file_name_that_leads_out_of_the_archive_is_refused(key: str, name: object) -> None:
    assert refusal_of(manifest_text(**{key: name})).startswith(f"MAR-INF/MANIFEST.json: {key}: ")


@pytest.mark.parametrize(
    "handler", ["image_classifier", "handler.py", "service:handle_request", "pkg/handler.py"]
)
def test_every_form_of_a_handler_is_kept_as_written(handler: str) -> None:
    assert Manifest.parse(manifest_text(handler=handler)).handler == handler


def test_the_named_files_leave_out_a_handlers_function() -> None:
    manifest = Manifest("m", handler="service:run", serialized_file="w.pt")
    assert manifest.named_files() == ("service", "w.pt")


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="/\\"))


@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", fullmatch=True),
    version=printable.filter(lambda text: text not in ("", ".", "..")).map(lambda text: text[:128]),
    handler=st.none() | printable.filter(lambda text: text not in ("", "..")),
)
def test_writing_and_reading_gives_the_same_manifest(
    name: str, version: str, handler: str | None
) -> None:
    manifest = Manifest(name, version, handler)
    assert Manifest.parse(manifest.to_json()) == manifest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
known_fields = st.sampled_from(
    ["modelName", "modelVersion", "handler", "configFile", "serializedFile", "x"]
)


@given(
    st.fixed_dictionaries(
        {"model": st.dictionaries(known_fields, json_values) | json_values},
        optional={"runtime": json_values, "createdOn": json_values},
    )
)
def test_any_json_is_read_or_refused(document: dict[str, object]) -> None:
    try:
        manifest = Manifest.parse(json.dumps(document))
    except InvalidModelError:
        return
    for name in manifest.named_files():
        assert not name.startswith("/")
        assert ".." not in name.split("/")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        Manifest.parse(content)
    except InvalidModelError:
        pass


def test_a_model_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert load_manifest(tmp_path) is None


def test_a_manifest_that_is_a_folder_or_enormous_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "MAR-INF" / "MANIFEST.json"
    place.mkdir(parents=True)
    with pytest.raises(InvalidModelError, match="not a regular file"):
        load_manifest(tmp_path)
    place.rmdir()
    place.write_text(" " * (2 << 20))
    with pytest.raises(InvalidModelError, match="larger than"):
        load_manifest(tmp_path)


def test_a_manifest_or_configuration_that_links_out_of_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("batchSize: 8")
    model = tmp_path / "model"
    (model / "MAR-INF").mkdir(parents=True)
    os.symlink(tmp_path / "secret.yaml", model / "MAR-INF" / "MANIFEST.json")
    os.symlink(tmp_path / "secret.yaml", model / "c.yaml")
    with pytest.raises(InvalidModelError, match="leads out of the model"):
        load_manifest(model)
    with pytest.raises(InvalidModelError, match="leads out of the model"):
        load_model_config(model, Manifest("m", config_file="c.yaml"))


def test_links_that_go_round_in_a_circle_are_refused(tmp_path: Path) -> None:
    os.symlink("c.yaml", tmp_path / "c.yaml")
    with pytest.raises(InvalidModelError, match=r"c\.yaml"):
        load_model_config(tmp_path, Manifest("m", config_file="c.yaml"))


def test_a_configuration_that_is_named_but_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError) as caught:
        load_model_config(tmp_path, Manifest("m", config_file="model-config.yaml"))
    assert caught.value.message == (
        "model-config.yaml is named as configFile in MAR-INF/MANIFEST.json, "
        "but the archive does not hold it."
    )


def test_the_configuration_is_read_from_the_file_that_the_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("batchSize: 8\n")
    config, warnings = load_model_config(tmp_path, Manifest("m", config_file="c.yaml"))
    assert (config.batch_size, warnings) == (8, ())
    (tmp_path / "c.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InvalidModelError, match="not UTF-8 text at byte 3"):
        load_model_config(tmp_path, Manifest("m", config_file="c.yaml"))


def test_without_a_manifest_or_a_configuration_nothing_is_configured(tmp_path: Path) -> None:
    for manifest in (None, Manifest("m")):
        config, warnings = load_model_config(tmp_path, manifest)
        assert (config.batch_size, warnings) == (None, ())
