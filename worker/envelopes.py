"""Request envelopes: other protocols' JSON around what a handler takes and gives.

A server has one for all of its models (``service_envelope``). What each takes and gives is
TorchServe's; beyond that, ``kserve`` and ``kservev2`` serve a batch of several requests one by
one, where TorchServe answers none but the first.
"""

from __future__ import annotations

import json
from base64 import b64decode
from itertools import chain
from typing import TYPE_CHECKING, Any

from .errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    EntryPoint = Callable[[list[Any], Any], Any]
    Row = dict[str, Any]

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


def wrap(envelope: str | None, entry_point: EntryPoint) -> EntryPoint:
    """``entry_point`` inside the envelope of that name; raises EnvelopeError if there is none."""
    if not envelope:
        return entry_point
    if envelope not in _ENVELOPES:
        raise EnvelopeError(
            f"There is no service_envelope '{envelope}'. Set one of {', '.join(_ENVELOPES)}."
        )
    around = _ENVELOPES[envelope]
    return lambda data, context: around(entry_point, data, context)


def _body(handle: EntryPoint, data: list[Row], context: Any) -> Any:
    return handle([_content(row) for row in data], context)


def _json(handle: EntryPoint, data: list[Row], context: Any) -> Any:
    """The instances of all requests are one batch; each request gets its share of the results."""
    requests = [_instances(row) for row in data]
    results = handle(list(chain.from_iterable(requests)), context)
    if not isinstance(results, list) or not results:
        return results
    answers, start = [], 0
    for instances in requests:
        end = start + len(instances)
        answers.append(json.dumps({"predictions": results[start:end]}))
        start = end
    return answers


def _kserve(handle: EntryPoint, data: list[Row], context: Any) -> Any:
    answers = []
    for index, row in enumerate(data):
        instances = _document(row)["instances"]
        results = handle(instances, context)
        explains = context.get_request_header(index, "explain") == "True"
        key = "explanations" if explains else "predictions"
        answers.append({key: results} if results else results)
    return answers


def _kservev2(handle: EntryPoint, data: list[Row], context: Any) -> Any:
    answers = []
    for index, row in enumerate(data):
        document = _document(row)
        inputs = [{**each, "data": _shaped(each)} for each in document["inputs"]]
        results = handle(inputs, context)
        model = (context.manifest or {}).get("model", {})
        given = str(document.get("id") or "").strip()
        answers.append(
            {
                "id": given or context.get_request_id(index),
                "model_name": model.get("modelName"),
                "model_version": model.get("modelVersion"),
                "outputs": [
                    _output(each["name"], result)
                    for each, result in zip(inputs, results, strict=False)
                ],
            }
        )
    return answers


_ENVELOPES = {"body": _body, "json": _json, "kserve": _kserve, "kservev2": _kservev2}


def _content(row: Row) -> Any:
    return row.get("data") or row.get("body")


def _document(row: Row) -> Any:
    content = _content(row)
    return json.loads(content) if isinstance(content, (bytes, bytearray, str)) else content


def _instances(row: Row) -> list[Any]:
    """Instances with what is written as ``{"b64": ...}`` decoded, where the first is an object."""
    instances: list[Any] = (_content(row) or row)["instances"]
    if not isinstance(instances[0], dict):
        return instances
    return [_decoded(instance) for instance in instances]


def _decoded(instance: Row) -> Any:
    if _is_base64(instance):
        return b64decode(instance["b64"])
    return {
        name: b64decode(value["b64"]) if _is_base64(value) else value
        for name, value in instance.items()
    }


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def _shaped(tensor: Row) -> Any:
    """The data of an input: its first element for BYTES, else nested lists of its shape."""
    data = tensor["data"]
    if tensor["datatype"] == "BYTES":
        return data[0]
    flat = list(_flatten(data))
    shape = tensor["shape"]
    size = 1
    for length in shape:
        size *= length
    if size != len(flat):
        raise ValueError(f"{len(flat)} values do not fill the shape {shape} of {tensor['name']}")
    for length in reversed(shape[1:]):
        flat = [flat[at : at + length] for at in range(0, len(flat), length)] if length else []
    return flat if shape else flat[0]


def _output(name: str, result: Any) -> dict[str, Any]:
    """A result as a tensor of one dimension, its type the narrowest that holds every value."""
    dtype = str(getattr(result, "dtype", "")).removeprefix("torch.")
    values = list(_flatten(result.tolist() if hasattr(result, "tolist") else result))
    return {
        "name": name,
        "datatype": _DATATYPES.get(dtype) or _datatype(values),
        "data": values,
        "shape": [len(values)],
    }


def _datatype(values: list[Any]) -> str:
    if all(isinstance(value, bool) for value in values) and values:
        return "BOOL"
    if all(isinstance(value, int) for value in values) and values:
        return "INT64"
    if all(isinstance(value, (int, float)) for value in values):
        return "FP64"
    return "BYTES"


def _flatten(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        return chain.from_iterable(map(_flatten, value))
    return (value,)
