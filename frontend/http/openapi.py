"""What OpenAPI documents are made of: operations, answers, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

Document = dict[str, Any]

STRING: Document = {"type": "string"}
INTEGER: Document = {"type": "integer"}
BOOLEAN: Document = {"type": "boolean"}
ANY_METHOD = ("get", "put", "post", "delete", "head", "patch")
INPUT: Document = {"$ref": "#/components/requestBodies/Input"}


def openapi(paths: Document, title: str = "flambeau APIs", version: str = __version__) -> Document:
    """A whole document. Its components are shared: who adds to them, copies them first."""
    return {
        "openapi": "3.0.1",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": _COMPONENTS,
        # A server may ask for keys or not.
        "security": [{}, {"key": []}],
    }


def operation(
    operation_id: str,
    description: str,
    responses: Document,
    path: Sequence[tuple[str, Document, str]] = (),
    query: Sequence[tuple[str, Document, str, object]] = (),
    *,
    is_open: bool = False,
) -> Document:
    """One operation, with ``path`` and ``query`` parameters: name, type, meaning (and default).

    ``is_open``: nobody is asked for a key.
    """
    parameters = [
        {"in": "path", "name": name, "required": True, "description": text, "schema": kind}
        for name, kind, text in path
    ]
    for name, kind, text, default in query:
        schema = kind if default is None else {**kind, "default": default}
        parameters.append(
            {"in": "query", "name": name, "required": False, "description": text, "schema": schema}
        )
    made: Document = {
        "description": description,
        "operationId": operation_id,
        "parameters": parameters,
        "responses": responses if is_open else {**errors(401, 403), **responses},
    }
    return {**made, "security": []} if is_open else made


def each_method(operation: Document, body: Document | None = None, plain: str = "post") -> Document:
    """The operation under every method; ids must be unique, so one method has the plain one."""
    methods = {}
    for method in ANY_METHOD:
        entry = dict(operation)
        if method != plain:
            entry["operationId"] = f"{operation['operationId']}_{method}"
        if body is not None and method in ("post", "put", "patch"):
            entry["requestBody"] = body
        methods[method] = entry
    return methods


def predicted() -> Document:
    """The answers to a prediction."""
    return {
        "200": {"$ref": "#/components/responses/Prediction"},
        **errors(400, 404, 413, 500, 503, 504, 507),
    }


def status_body(description: str) -> Document:
    """An answer that is a sentence in ``status``."""
    return json_body(description, {"type": "object", "properties": {"status": STRING}})


def errors(*codes: int) -> Document:
    """The answers with these statuses."""
    return {str(code): {"$ref": f"#/components/responses/Error{code}"} for code in codes}


def json_body(description: str, schema: Document) -> Document:
    """An answer in JSON."""
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
            "properties": {"code": INTEGER, "type": STRING, "message": STRING},
        }
    },
    "responses": {
        "Prediction": {
            "description": "What the handler answered; its content type is the handler's",
            "content": {"*/*": {}},
        },
        **{
            f"Error{code}": json_body(reason, {"$ref": "#/components/schemas/Error"})
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
