"""The OpenAPI documents, and that they say what is served."""

from __future__ import annotations

import re

import pytest
from openapi_spec_validator import validate

from flambeau.frontend.http import schema
from flambeau.frontend.http.parameters import LIST, REGISTER, REGISTER_WORKFLOW, SCALE

DOCUMENTS = {
    "inference": schema.inference_document(),
    "management": schema.management_document(),
    "metrics": schema.metrics_document(),
}


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolved(document, value):
    """``value``, or what its reference points to."""
    if "$ref" not in value:
        return value

    for step in value["$ref"].removeprefix("#/").split("/"):
        document = document[step]
    return document


@pytest.mark.parametrize("listener", DOCUMENTS)
@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "/"), ("GET", "/api-description")])
def test_each_listener_describes_itself(house, listener, method, target):
    reply = house.ask(method, target, listener=listener)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == DOCUMENTS[listener]


def test_the_documents_have_torchserves_paths_and_operations():
    found = {name: {path for path, _, _ in operations(d)} for name, d in DOCUMENTS.items()}
    assert found["inference"] >= {
        "/",
        "/ping",
        "/predictions/{model_name}",
        "/predictions/{model_name}/{model_version}",
        "/api-description",
    }
    assert found["management"] == {
        "/",
        "/v1/models/{model_name}",
        "/models",
        "/models/{model_name}",
        "/models/{model_name}/{model_version}",
        "/models/{model_name}/{model_version}/set-default",
        "/workflows",
        "/workflows/{workflow_name}",
        "/api-description",
    }
    assert found["metrics"] == {"/metrics"}
    ids = {
        op["operationId"] for document in DOCUMENTS.values() for _, _, op in operations(document)
    }
    assert ids >= {
        "apiDescription", "api-description", "ping", "predictions", "version_predictions",
        "listModels", "registerModel", "describeModel", "setAutoScale", "unregisterModel",
        "version_describeModel", "version_setAutoScale", "version_unregisterModel", "setDefault",
        "metrics",
    }  # fmt: skip


@pytest.mark.parametrize("listener", DOCUMENTS)
def test_a_validator_accepts_the_document(listener):
    validate(DOCUMENTS[listener])


@pytest.mark.parametrize("listener", DOCUMENTS)
def test_a_document_is_well_formed(listener):
    document = DOCUMENTS[listener]
    assert document["openapi"] == "3.0.1"
    assert document["info"]["title"]
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, _, operation in operations(document):
        named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))
        for response in operation["responses"].values():
            assert resolved(document, response)["description"]
        if "requestBody" in operation:
            assert resolved(document, operation["requestBody"])["content"]


@pytest.mark.parametrize(
    ("listener", "path", "method"),
    [(name, path, m) for name, d in DOCUMENTS.items() for path, m, _ in operations(d)],
)
def test_what_is_described_is_served(house, listener, path, method):
    target = path.format(model_name="m", model_version="2.0", workflow_name="m")
    if "workflow" in path:
        house.add_workflow("m", {"pre": []})
    queries = {"/models": "?url=a.mar", "/workflows": "?url=m.war&workflow_name=n"}
    query = queries.get(path, "") if method == "post" else ""
    reply = house.ask(method.upper(), target + query, listener=listener)
    assert reply.status == 200


def test_the_parameters_described_are_those_that_are_read():
    described = {
        op["operationId"]: {p["name"] for p in op["parameters"] if p["in"] == "query"}
        for _, _, op in operations(DOCUMENTS["management"])
    }
    assert described["listModels"] == {parameter.name for parameter in LIST}
    assert described["registerModel"] == {parameter.name for parameter in REGISTER}
    assert described["listWorkflows"] == {parameter.name for parameter in LIST}
    assert described["registerWorkflow"] == {parameter.name for parameter in REGISTER_WORKFLOW}
    assert described["version_setAutoScale"] == {p.name for p in SCALE} - {"model_version"}


@pytest.mark.parametrize(
    ("listener", "target", "title", "path"),
    [
        ("inference", "/predictions/m", "RESTful API for: m", "/predictions/m"),
        ("inference", "/predictions/m/2.0", "RESTful API for: m", "/predictions/m/2.0"),
        ("inference", "/m/predict", "RESTful API for: m", "/predictions/m"),
        ("management", "/models/m", "RESTful Management API for: m", "/models/m"),
        ("management", "/models/m/2.0", "RESTful Management API for: m", "/models/m/2.0"),
    ],
)
def test_a_model_is_described_by_options(house, listener, target, title, path):
    reply = house.ask("OPTIONS", target, listener=listener)
    assert reply.json["info"] == {"title": title, "version": "1.0.0"}
    assert list(reply.json["paths"]) == [path]
    assert house.engine.jobs == []


@pytest.mark.parametrize(
    ("listener", "target"), [("inference", "/predictions/x"), ("management", "/models/m/7")]
)
def test_options_of_an_unknown_model_is_404(house, listener, target):
    assert house.ask("OPTIONS", target, listener=listener).status == 404
