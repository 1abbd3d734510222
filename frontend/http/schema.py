"""OpenAPI 3 documents of what the listeners serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ... import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

Document = dict[str, Any]

_STRING: Document = {"type": "string"}
_INTEGER: Document = {"type": "integer"}
_BOOLEAN: Document = {"type": "boolean"}
_MODEL = ("model_name", _STRING, "Name of the model")
_WORKFLOW = ("workflow_name", _STRING, "Name of the workflow")
_VERSION = ("model_version", _STRING, "Version of the model")
_ANY_METHOD = ("get", "put", "post", "delete", "head", "patch")
_INPUT: Document = {"$ref": "#/components/requestBodies/Input"}


def inference_document() -> Document:
    """The inference API."""
    prediction = _operation(
        "predictions", "Predictions of the model's default version", _predicted(), path=[_MODEL]
    )
    of_version = _operation(
        "version_predictions", "Predictions of one version", _predicted(), path=[_MODEL, _VERSION]
    )
    ping = _operation(
        "ping",
        "Health of the server",
        {"200": _status("Healthy"), "500": _status("Unhealthy")},
        is_open=True,
    )
    invocation = _operation(
        "invocations",
        "Predictions of the named model, or of the only one",
        _predicted(),
        query=[("model_name", _STRING, "Name of the model", None)],
    )
    workflow = _operation("wfpredict", "The workflow's answer", _predicted(), path=[_WORKFLOW])
    invoke = _operation("invoke", "As predictions, with query inputs", _predicted(), path=[_MODEL])
    predict = _operation("predict", "As invoke", _predicted(), path=[_MODEL])
    predict_version = _operation(
        "version_predict", "As invoke, on one version", _predicted(), path=[_MODEL, _VERSION]
    )
    return _document(
        {
            **_own_paths(),
            "/ping": _each_method(ping, plain="get"),
            "/predictions/{model_name}": _each_method(prediction, _INPUT),
            "/predictions/{model_name}/{model_version}": _each_method(of_version, _INPUT),
            "/wfpredict/{workflow_name}": _each_method(workflow, _INPUT),
            "/invocations": _each_method(invocation, _INPUT),
            "/models/{model_name}/invoke": _each_method(invoke, _INPUT),
            "/{model_name}/predict": _each_method(predict, _INPUT),
            "/{model_name}/{model_version}/predict": _each_method(predict_version, _INPUT),
            **_explanation_paths(),
            **_kserve_paths(),
            **_probe_paths(),
        }
    )


def _explanation_paths() -> Document:
    explanation = _operation(
        "explanations", "What the default version's predictions rest on", _predicted(), [_MODEL]
    )
    of_version = _operation(
        "version_explanations", "As explanations, of one version", _predicted(), [_MODEL, _VERSION]
    )
    return {
        "/explanations/{model_name}": _each_method(explanation, _INPUT),
        "/explanations/{model_name}/{model_version}": _each_method(of_version, _INPUT),
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
        path: {"post": {**_operation(name, text, _predicted(), within), "requestBody": _INPUT}}
        for path, name, text, within in named
    }


def _probe_paths() -> Document:
    """Probes: of the server, and of its models."""
    live = {"200": _json("The server answers", {"type": "object"})}
    ready = {
        "200": _json("Ready", {"type": "object"}),
        "503": _json("Not ready, and why", {"type": "object"}),
    }
    of_model = {**ready, **_errors(404)}
    known = {"200": _json("What is known of it", {"type": "object"}), **_errors(404)}
    return {
        "/livez": {"get": _operation("livez", "The server is alive", live, is_open=True)},
        "/readyz": {
            "get": _operation("readyz", "The server and its models are ready", ready, is_open=True)
        },
        "/v2": {"get": _operation("v2_server", "Metadata of the server", live)},
        "/v2/health/live": {"get": _operation("v2_live", "As livez", live, is_open=True)},
        "/v2/health/ready": {"get": _operation("v2_ready", "As readyz", ready, is_open=True)},
        "/v2/models/{model_name}": {
            "get": _operation("v2_model", "Metadata of the model", known, [_MODEL])
        },
        "/v2/models/{model_name}/ready": {
            "get": _operation("v2_model_ready", "The model is ready", of_model, [_MODEL])
        },
        "/v2/models/{model_name}/versions/{model_version}": {
            "get": _operation("v2_version", "Metadata of the version", known, [_MODEL, _VERSION])
        },
        "/v2/models/{model_name}/versions/{model_version}/ready": {
            "get": _operation(
                "v2_version_ready", "The version is ready", of_model, [_MODEL, _VERSION]
            )
        },
    }


def management_document() -> Document:
    """The management API."""
    listing = _operation(
        "listModels",
        "Registered models, sorted by name",
        {"200": _json("A page of models", _MODEL_LIST), **_errors(400)},
        query=_PAGE,
    )
    register = _operation(
        "registerModel",
        "Register a model. A JSON object as the body may take the place of the query",
        {
            "200": _status("Registered"),
            "202": _status("Workers are being started"),
            "206": _status("Not all workers have started yet"),
            **_errors(400, 404, 409, 500, 507),
        },
        query=_REGISTER,
    )
    return _document(
        {
            **_own_paths(),
            "/models": {"get": listing, "post": register},
            "/models/{model_name}": _managed([_MODEL], ""),
            "/models/{model_name}/{model_version}": _managed([_MODEL, _VERSION], "version_"),
            "/v1/models/{model_name}": {
                "get": _operation(
                    "v1_ready",
                    "Whether the model is ready, KServe's protocol v1",
                    {"200": _json("Its name, and ready", {"type": "object"}), **_errors(404)},
                    path=[_MODEL],
                )
            },
            "/models/{model_name}/{model_version}/set-default": {
                "put": _operation(
                    "setDefault",
                    "Make this version the default one",
                    {"200": _status("Done"), **_errors(404)},
                    path=[_MODEL, _VERSION],
                )
            },
            **_workflow_paths(),
        }
    )


def _workflow_paths() -> Document:
    listing = _operation(
        "listWorkflows",
        "Registered workflows, sorted by name",
        {"200": _json("A page of workflows", {"type": "object"}), **_errors(400)},
        query=_PAGE,
    )
    register = _operation(
        "registerWorkflow",
        "Register a workflow. A JSON object as the body may take the place of the query",
        {"200": _status("Registered"), **_errors(400, 404, 409, 500)},
        query=_REGISTER_WORKFLOW,
    )
    describe = _operation(
        "describeWorkflow",
        "Settings and graph of the workflow",
        {"200": _json("One description", {"type": "array", "items": {}}), **_errors(404)},
        path=[_WORKFLOW],
    )
    unregister = _operation(
        "unregisterWorkflow",
        "Remove the workflow and the models of its nodes",
        {"200": _status("Removed"), **_errors(404)},
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
    metrics = _operation(
        "metrics",
        "Metrics in Prometheus text format 0.0.4",
        {"200": {"description": "Metrics", "content": {"text/plain": {"schema": _STRING}}}},
        query=[("name[]", {"type": "array", "items": _STRING}, "Families to return", None)],
    )
    return _document({"/metrics": {"get": metrics}})


def model_document(model: str, version: str | None) -> Document:
    """How to ask one model for predictions."""
    operation = _operation("predictions", f"Predictions of {model}", _predicted())
    path = f"/predictions/{_quoted(model, version)}"
    return _document({path: _each_method(operation, _INPUT)}, f"RESTful API for: {model}", "1.0.0")


def managed_model_document(model: str, version: str | None) -> Document:
    """How to manage one model."""
    prefix = "" if version is None else "version_"
    return _document(
        {f"/models/{_quoted(model, version)}": _managed([], prefix)},
        f"RESTful Management API for: {model}",
        "1.0.0",
    )


def _quoted(model: str, version: str | None) -> str:
    return "/".join(quote(part, safe="") for part in (model, version) if part is not None)


def _managed(path: Sequence[tuple[str, Document, str]], prefix: str) -> Document:
    describe = _operation(
        f"{prefix}describeModel",
        "Settings, workers and queue of the model",
        {
            "200": _json("One description per version", {"type": "array", "items": {}}),
            **_errors(404, 503),
        },
        path=path,
        query=[("customized", _BOOLEAN, "Ask the model's handler about itself, too", False)],
    )
    scale = _operation(
        f"{prefix}setAutoScale",
        "Set the number of workers",
        {
            "200": _status("Scaled"),
            "202": _status("Workers are being started or stopped"),
            "206": _status("Not all workers have started yet"),
            **_errors(400, 404, 500),
        },
        path=path,
        query=_SCALE,
    )
    unregister = _operation(
        f"{prefix}unregisterModel",
        "Remove the version and stop its workers",
        {"200": _status("Removed"), **_errors(403, 404, 408)},
        path=path,
    )
    return {"get": describe, "put": scale, "delete": unregister}


_PAGE = [
    ("limit", _INTEGER, "Largest number of entries to return", 100),
    ("next_page_token", _INTEGER, "Token of an earlier answer", 0),
]
_REGISTER_WORKFLOW = [
    ("url", _STRING, "Name of the archive in the workflow store (required)", None),
    ("workflow_name", _STRING, "Name to serve it under, instead of the manifest's", None),
    ("response_timeout", _INTEGER, "Seconds that a batch of a node may take", None),
    ("startup_timeout", _INTEGER, "Seconds that a worker of a node may take to load", None),
    ("s3_sse_kms", _BOOLEAN, "Sign the request for the archive, for buckets with KMS", False),
    ("sha256", _STRING, "What an archive that is fetched from a URL must have", None),
]
_REGISTER = [
    ("url", _STRING, "Name of the archive in the model store (required)", None),
    ("model_name", _STRING, "Name to serve it under, instead of the manifest's", None),
    ("handler", _STRING, "Handler, instead of the manifest's", None),
    ("runtime", {**_STRING, "enum": ["python", "python3", "LSP"]}, "Runtime", None),
    ("batch_size", _INTEGER, "Largest batch", None),
    ("max_batch_delay", _INTEGER, "Milliseconds to wait for a batch to fill", None),
    ("initial_workers", _INTEGER, "Workers to start", None),
    ("response_timeout", _INTEGER, "Seconds that a batch may take", None),
    ("startup_timeout", _INTEGER, "Seconds that a worker may take to load", None),
    ("synchronous", _BOOLEAN, "Answer when the workers are ready", True),
    ("s3_sse_kms", _BOOLEAN, "Sign the request for the archive, for buckets with KMS", False),
    ("sha256", _STRING, "What an archive that is fetched from a URL must have", None),
]
_SCALE = [
    ("min_worker", _INTEGER, "Smallest number of workers", 1),
    ("max_worker", _INTEGER, "Largest number of workers, min_worker if not given", None),
    ("synchronous", _BOOLEAN, "Answer when the workers are ready", False),
    ("timeout", _INTEGER, "Seconds to wait for them", None),
]
_MODEL_LIST: Document = {
    "type": "object",
    "properties": {
        "nextPageToken": _STRING,
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"modelName": _STRING, "modelUrl": _STRING},
            },
        },
    },
}


def _own_paths() -> Document:
    described = {"200": _json("This document", {"type": "object"})}
    names = {"/": ("options", "apiDescription"), "/api-description": ("get", "api-description")}
    return {
        path: {method: _operation(name, "This document", described, is_open=True)}
        for path, (method, name) in names.items()
    }


def _document(
    paths: Document, title: str = "flambeau APIs", version: str = __version__
) -> Document:
    return {
        "openapi": "3.0.1",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": _COMPONENTS,
        # A server may ask for keys or not.
        "security": [{}, {"key": []}],
    }


def _operation(
    operation_id: str,
    description: str,
    responses: Document,
    path: Sequence[tuple[str, Document, str]] = (),
    query: Sequence[tuple[str, Document, str, object]] = (),
    *,
    is_open: bool = False,
) -> Document:
    """``is_open``: nobody is asked for a key."""
    parameters = [
        {"in": "path", "name": name, "required": True, "description": text, "schema": kind}
        for name, kind, text in path
    ]
    for name, kind, text, default in query:
        schema = kind if default is None else {**kind, "default": default}
        parameters.append(
            {"in": "query", "name": name, "required": False, "description": text, "schema": schema}
        )
    operation: Document = {
        "description": description,
        "operationId": operation_id,
        "parameters": parameters,
        "responses": responses if is_open else {**_errors(401, 403), **responses},
    }
    return {**operation, "security": []} if is_open else operation


def _each_method(
    operation: Document, body: Document | None = None, plain: str = "post"
) -> Document:
    """The operation under every method; ids must be unique, so one method has the plain one."""
    methods = {}
    for method in _ANY_METHOD:
        entry = dict(operation)
        if method != plain:
            entry["operationId"] = f"{operation['operationId']}_{method}"
        if body is not None and method in ("post", "put", "patch"):
            entry["requestBody"] = body
        methods[method] = entry
    return methods


def _predicted() -> Document:
    return {
        "200": {"$ref": "#/components/responses/Prediction"},
        **_errors(400, 404, 413, 500, 503, 504, 507),
    }


def _status(description: str) -> Document:
    return _json(description, {"type": "object", "properties": {"status": _STRING}})


def _errors(*codes: int) -> Document:
    return {str(code): {"$ref": f"#/components/responses/Error{code}"} for code in codes}


def _json(description: str, schema: Document) -> Document:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_REASONS = {
    400: "The request is malformed; the message names what is wrong",
    401: "The server asks for keys, and there is none, or one that it does not know",
    403: "The key is good for other things; or the default version cannot be removed",
    404: "Unknown model, version or archive",
    408: "Not finished in time",
    409: "That version is registered already",
    413: "The body exceeds max_request_size",
    500: "The worker died, or could not be started",
    503: "No worker, a full queue, or a handler that failed",
    504: "The request outlived its deadline",
    507: "Out of memory",
}
_BYTES: Document = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_COMPONENTS: Document = {
    "schemas": {
        "Error": {
            "type": "object",
            "required": ["code", "type", "message"],
            "properties": {"code": _INTEGER, "type": _STRING, "message": _STRING},
        }
    },
    "responses": {
        "Prediction": {
            "description": "What the handler answered; its content type is the handler's",
            "content": {"*/*": {}},
        },
        **{
            f"Error{code}": _json(reason, {"$ref": "#/components/schemas/Error"})
            for code, reason in _REASONS.items()
        },
    },
    "securitySchemes": {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key, or a token"}
    },
    "requestBodies": {
        "Input": {
            "description": "Any body, JSON, text, or a form with one field per input of the model",
            "content": _BYTES,
        }
    },
}
