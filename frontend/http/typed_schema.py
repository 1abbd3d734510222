"""What a handler says of its input and output, put into the OpenAPI document of its model."""

from __future__ import annotations

import json
from typing import Any

Document = dict[str, Any]

_DEFINITIONS = "#/$defs/"
_COMPONENTS = "#/components/schemas/"


def add_types(document: Document, input_schema: str | None, output_schema: str | None) -> None:
    """Put both JSON Schemas, as far as there are any, into the operations of ``document``."""
    for name, text in (("Input", input_schema), ("Output", output_schema)):
        if text is None:
            continue
        schema = _with_components(json.loads(text), document, name)
        for path in document["paths"].values():
            for operation in path.values():
                if isinstance(operation, dict) and "responses" in operation:
                    _put(operation, name, schema)
        # JSON Schema as it is, with null as a type and so on, is what 3.1 has.
        document["openapi"] = "3.1.0"


def _put(operation: Document, name: str, schema: Document) -> None:
    content = {"application/json": {"schema": schema}}
    if name == "Output":
        operation["responses"]["200"] = {"description": "The model's answer", "content": content}
    elif "requestBody" in operation:
        operation["requestBody"] = {"required": True, "content": content}
        operation["responses"]["422"] = {"description": "The input does not fit; names the field"}


def _with_components(schema: Document, document: Document, prefix: str) -> Document:
    """``schema`` with its definitions moved to the document's components, each with ``prefix``:
    a class may look different as an input and as an output.
    """
    definitions = schema.pop("$defs", {})
    # Copied, since all documents share them.
    components = dict(document.get("components", {}))
    components["schemas"] = dict(components.get("schemas", {}))
    for name, definition in definitions.items():
        components["schemas"][f"{prefix}.{name}"] = _moved(definition, prefix)
    document["components"] = components
    moved: Document = _moved(schema, prefix)
    return moved


def _moved(node: Any, prefix: str) -> Any:
    if isinstance(node, list):
        return [_moved(each, prefix) for each in node]
    if not isinstance(node, dict):
        return node
    moved = {name: _moved(each, prefix) for name, each in node.items()}
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith(_DEFINITIONS):
        moved["$ref"] = f"{_COMPONENTS}{prefix}.{reference.removeprefix(_DEFINITIONS)}"
    return moved
