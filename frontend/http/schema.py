"""OpenAPI 3 documents of what the listeners serve."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from .openapi import (
    BOOLEAN,
    INPUT,
    INTEGER,
    STRING,
    Document,
    each_method,
    errors,
    json_body,
    openapi,
    operation,
    predicted,
    status_body,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODEL = ("model_name", STRING, "Name of the model")
_WORKFLOW = ("workflow_name", STRING, "Name of the workflow")
_VERSION = ("model_version", STRING, "Version of the model")


def inference_document() -> Document:
    """The inference API."""
    prediction = operation(
        "predictions", "Predictions of the model's default version", predicted(), path=[_MODEL]
    )
    of_version = operation(
        "version_predictions", "Predictions of one version", predicted(), path=[_MODEL, _VERSION]
    )
    ping = operation(
        "ping",
        "Health of the server",
        {"200": status_body("Healthy"), "500": status_body("Unhealthy")},
        is_open=True,
    )
    invocation = operation(
        "invocations",
        "Predictions of the named model, or of the only one",
        predicted(),
        query=[("model_name", STRING, "Name of the model", None)],
    )
    workflow = operation("wfpredict", "The workflow's answer", predicted(), path=[_WORKFLOW])
    invoke = operation("invoke", "As predictions, with query inputs", predicted(), path=[_MODEL])
    predict = operation("predict", "As invoke", predicted(), path=[_MODEL])
    predict_version = operation(
        "version_predict", "As invoke, on one version", predicted(), path=[_MODEL, _VERSION]
    )
    return openapi(
        {
            **_own_paths(),
            "/ping": each_method(ping, plain="get"),
            "/predictions/{model_name}": each_method(prediction, INPUT),
            "/predictions/{model_name}/{model_version}": each_method(of_version, INPUT),
            "/wfpredict/{workflow_name}": each_method(workflow, INPUT),
            "/invocations": each_method(invocation, INPUT),
            "/models/{model_name}/invoke": each_method(invoke, INPUT),
            "/{model_name}/predict": each_method(predict, INPUT),
            "/{model_name}/{model_version}/predict": each_method(predict_version, INPUT),
            **_explanation_paths(),
            **_kserve_paths(),
            **_probe_paths(),
        }
    )


def _explanation_paths() -> Document:
    explanation = operation(
        "explanations", "What the default version's predictions rest on", predicted(), [_MODEL]
    )
    of_version = operation(
        "version_explanations", "As explanations, of one version", predicted(), [_MODEL, _VERSION]
    )
    return {
        "/explanations/{model_name}": each_method(explanation, INPUT),
        "/explanations/{model_name}/{model_version}": each_method(of_version, INPUT),
    }


def _kserve_paths() -> Document:
    """Predictions and explanations as KServe's two protocols call them; POST is what they use."""
    calls = (
        ("/v1/models/{model_name}:predict", "v1_predict", "Predictions, KServe's protocol v1"),
        ("/v1/models/{model_name}:explain", "v1_explain", "Explanations, KServe's protocol v1"),
        ("/v2/models/{model_name}/infer", "v2_infer", "Predictions, KServe's protocol v2"),
        ("/v2/models/{model_name}/explain", "v2_explain", "Explanations, KServe's protocol v2"),
    )
    versions = "/v2/models/{model_name}/versions/{model_version}"
    named = [(*call, [_MODEL]) for call in calls] + [
        (f"{versions}/{verb}", f"v2_version_{verb}", f"As v2_{verb}", [_MODEL, _VERSION])
        for verb in ("infer", "explain")
    ]
    return {
        path: {"post": {**operation(name, text, predicted(), within), "requestBody": INPUT}}
        for path, name, text, within in named
    }


def _probe_paths() -> Document:
    """Probes: of the server, and of its models."""
    live = {"200": json_body("The server answers", {"type": "object"})}
    ready = {
        "200": json_body("Ready", {"type": "object"}),
        "503": json_body("Not ready, and why", {"type": "object"}),
    }
    of_model = {**ready, **errors(404)}
    known = {"200": json_body("What is known of it", {"type": "object"}), **errors(404)}
    return {
        "/livez": {"get": operation("livez", "The server is alive", live, is_open=True)},
        "/readyz": {
            "get": operation("readyz", "The server and its models are ready", ready, is_open=True)
        },
        "/v2": {"get": operation("v2_server", "Metadata of the server", live)},
        "/v2/health/live": {"get": operation("v2_live", "As livez", live, is_open=True)},
        "/v2/health/ready": {"get": operation("v2_ready", "As readyz", ready, is_open=True)},
        "/v2/models/{model_name}": {
            "get": operation("v2_model", "Metadata of the model", known, [_MODEL])
        },
        "/v2/models/{model_name}/ready": {
            "get": operation("v2_model_ready", "The model is ready", of_model, [_MODEL])
        },
        "/v2/models/{model_name}/versions/{model_version}": {
            "get": operation("v2_version", "Metadata of the version", known, [_MODEL, _VERSION])
        },
        "/v2/models/{model_name}/versions/{model_version}/ready": {
            "get": operation(
                "v2_version_ready", "The version is ready", of_model, [_MODEL, _VERSION]
            )
        },
    }


def management_document() -> Document:
    """The management API."""
    listing = operation(
        "listModels",
        "Registered models, sorted by name",
        {"200": json_body("A page of models", _MODEL_LIST), **errors(400)},
        query=_PAGE,
    )
    register = operation(
        "registerModel",
        "Register a model. A JSON object as the body may take the place of the query",
        {
            "200": status_body("Registered"),
            "202": status_body("Workers are being started"),
            "206": status_body("Not all workers have started yet"),
            **errors(400, 404, 409, 500, 507),
        },
        query=_REGISTER,
    )
    return openapi(
        {
            **_own_paths(),
            "/models": {"get": listing, "post": register},
            "/models/{model_name}": _managed([_MODEL], ""),
            "/models/{model_name}/{model_version}": _managed([_MODEL, _VERSION], "version_"),
            "/v1/models/{model_name}": {
                "get": operation(
                    "v1_ready",
                    "Whether the model is ready, KServe's protocol v1",
                    {"200": json_body("Its name, and ready", {"type": "object"}), **errors(404)},
                    path=[_MODEL],
                )
            },
            "/models/{model_name}/{model_version}/set-default": {
                "put": operation(
                    "setDefault",
                    "Make this version the default one",
                    {"200": status_body("Done"), **errors(404)},
                    path=[_MODEL, _VERSION],
                )
            },
            **_workflow_paths(),
        }
    )


def _workflow_paths() -> Document:
    listing = operation(
        "listWorkflows",
        "Registered workflows, sorted by name",
        {"200": json_body("A page of workflows", {"type": "object"}), **errors(400)},
        query=_PAGE,
    )
    register = operation(
        "registerWorkflow",
        "Register a workflow. A JSON object as the body may take the place of the query",
        {"200": status_body("Registered"), **errors(400, 404, 409, 500)},
        query=_REGISTER_WORKFLOW,
    )
    describe = operation(
        "describeWorkflow",
        "Settings and graph of the workflow",
        {"200": json_body("One description", {"type": "array", "items": {}}), **errors(404)},
        path=[_WORKFLOW],
    )
    unregister = operation(
        "unregisterWorkflow",
        "Remove the workflow and the models of its nodes",
        {"200": status_body("Removed"), **errors(404)},
        path=[_WORKFLOW],
    )
    return {
        "/workflows": {"get": listing, "post": register},
        "/workflows/{workflow_name}": {"get": describe, "delete": unregister},
    }


def shared_document() -> Document:
    """The APIs of a listener that serves them all."""
    document = inference_document()
    for other in (management_document(), metrics_document()):
        document["paths"] = {**other["paths"], **document["paths"]}
    return document


def metrics_document() -> Document:
    """The metrics API."""
    metrics = operation(
        "metrics",
        "Metrics in Prometheus text format 0.0.4",
        {"200": {"description": "Metrics", "content": {"text/plain": {"schema": STRING}}}},
        query=[("name[]", {"type": "array", "items": STRING}, "Families to return", None)],
    )
    return openapi({"/metrics": {"get": metrics}})


def model_document(model: str, version: str | None) -> Document:
    """How to ask one model for predictions."""
    prediction = operation("predictions", f"Predictions of {model}", predicted())
    path = f"/predictions/{_quoted(model, version)}"
    return openapi({path: each_method(prediction, INPUT)}, f"RESTful API for: {model}", "1.0.0")


def managed_model_document(model: str, version: str | None) -> Document:
    """How to manage one model."""
    prefix = "" if version is None else "version_"
    return openapi(
        {f"/models/{_quoted(model, version)}": _managed([], prefix)},
        f"RESTful Management API for: {model}",
        "1.0.0",
    )


def _quoted(model: str, version: str | None) -> str:
    return "/".join(quote(part, safe="") for part in (model, version) if part is not None)


def _managed(path: Sequence[tuple[str, Document, str]], prefix: str) -> Document:
    describe = operation(
        f"{prefix}describeModel",
        "Settings, workers and queue of the model",
        {
            "200": json_body("One description per version", {"type": "array", "items": {}}),
            **errors(404, 503),
        },
        path=path,
        query=[("customized", BOOLEAN, "Ask the model's handler about itself, too", False)],
    )
    scale = operation(
        f"{prefix}setAutoScale",
        "Set the number of workers",
        {
            "200": status_body("Scaled"),
            "202": status_body("Workers are being started or stopped"),
            "206": status_body("Not all workers have started yet"),
            **errors(400, 404, 500),
        },
        path=path,
        query=_SCALE,
    )
    unregister = operation(
        f"{prefix}unregisterModel",
        "Remove the version and stop its workers",
        {"200": status_body("Removed"), **errors(403, 404, 408)},
        path=path,
    )
    return {"get": describe, "put": scale, "delete": unregister}


_PAGE = [
    ("limit", INTEGER, "Largest number of entries to return", 100),
    ("next_page_token", INTEGER, "Token of an earlier answer", 0),
]
_REGISTER_WORKFLOW = [
    ("url", STRING, "Name of the archive in the workflow store (required)", None),
    ("workflow_name", STRING, "Name to serve it under, instead of the manifest's", None),
    ("response_timeout", INTEGER, "Seconds that a batch of a node may take", None),
    ("startup_timeout", INTEGER, "Seconds that a worker of a node may take to load", None),
    ("s3_sse_kms", BOOLEAN, "Sign the request for the archive, for buckets with KMS", False),
    ("sha256", STRING, "What an archive that is fetched from a URL must have", None),
]
_REGISTER = [
    ("url", STRING, "Name of the archive in the model store (required)", None),
    ("model_name", STRING, "Name to serve it under, instead of the manifest's", None),
    ("handler", STRING, "Handler, instead of the manifest's", None),
    ("runtime", {**STRING, "enum": ["python", "python3", "LSP"]}, "Runtime", None),
    ("batch_size", INTEGER, "Largest batch", None),
    ("max_batch_delay", INTEGER, "Milliseconds to wait for a batch to fill", None),
    ("initial_workers", INTEGER, "Workers to start", None),
    ("response_timeout", INTEGER, "Seconds that a batch may take", None),
    ("startup_timeout", INTEGER, "Seconds that a worker may take to load", None),
    ("synchronous", BOOLEAN, "Answer when the workers are ready", True),
    ("s3_sse_kms", BOOLEAN, "Sign the request for the archive, for buckets with KMS", False),
    ("replace", BOOLEAN, "Take the place of the default version once ready", False),
    ("keep_old", BOOLEAN, "With replace: leave the old version registered", False),
    ("sha256", STRING, "What an archive that is fetched from a URL must have", None),
]
_SCALE = [
    ("min_worker", INTEGER, "Smallest number of workers", 1),
    ("max_worker", INTEGER, "Largest number of workers, min_worker if not given", None),
    ("synchronous", BOOLEAN, "Answer when the workers are ready", False),
    ("timeout", INTEGER, "Seconds to wait for them", None),
]
_MODEL_LIST: Document = {
    "type": "object",
    "properties": {
        "nextPageToken": STRING,
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"modelName": STRING, "modelUrl": STRING},
            },
        },
    },
}


def _own_paths() -> Document:
    described = {"200": json_body("This document", {"type": "object"})}
    names = {"/": ("options", "apiDescription"), "/api-description": ("get", "api-description")}
    return {
        path: {method: operation(name, "This document", described, is_open=True)}
        for path, (method, name) in names.items()
    }
