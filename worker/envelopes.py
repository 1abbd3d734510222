"""Request envelopes: other protocols' JSON around what a handler takes and gives.

A server has one for all of its models (``service_envelope``): one of these, or a subclass of
``BaseEnvelope`` in a module of one's own. What each takes and gives is TorchServe's; beyond that,
``kserve`` and ``kservev2`` serve a batch of several requests one by one, where TorchServe answers
none but the first.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from base64 import b64decode
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast

from .errors import EnvelopeError
from .modules import import_module, list_classes_from_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

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


class BaseEnvelope(ABC):
    """An envelope around ``handle_fn(data, context)``; ``context`` is there while it is handled.

    Those of one's own are subclasses with ``parse_input`` and ``format_output``.
    """

    def __init__(self, handle_fn: EntryPoint) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """What the handler makes of the parsed ``data``, formatted; neither if there is nothing."""
        self.context = context
        results = self._handle_fn(self.parse_input(data) if data else data, context)
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: list[Any]) -> Any:
        """What the handler is given in place of ``data``."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """What clients are given in place of the handler's results, one item for each request."""


class BodyEnvelope(BaseEnvelope):
    """The values of the rows, without the rows."""

    def parse_input(self, data: list[Row]) -> list[Any]:
        return [_content(row) for row in data]

    def format_output(self, data: Any) -> Any:
        return data


class JSONEnvelope(BaseEnvelope):
    """The instances of all requests are one batch; each request gets its share of the results."""

    _lengths: Sequence[int] = ()

    def parse_input(self, data: list[Row]) -> list[Any]:
        requests = [_instances(row) for row in data]
        self._lengths = [len(instances) for instances in requests]
        return list(chain.from_iterable(requests))

    def format_output(self, data: Any) -> Any:
        if not isinstance(data, list):
            return data
        rest = iter(data)
        return [json.dumps({"predictions": list(islice(rest, length))}) for length in self._lengths]


class _RowByRow(BaseEnvelope):
    """Each request is a batch of its own; ``row`` is which one it is."""

    row = 0

    def handle(self, data: Any, context: Any) -> Any:
        answers = []
        for self.row, each in enumerate(data):
            results = super().handle([each], context)
            answers.append(results[0] if results else results)
        return answers


class KServeEnvelope(_RowByRow):
    """KServe's protocol V1: ``instances``, and ``predictions`` or ``explanations``."""

    def parse_input(self, data: list[Row]) -> Any:
        return _document(data[0])["instances"]

    def format_output(self, data: Any) -> list[Any]:
        explains = self.context.get_request_header(self.row, "explain") == "True"
        return [{"explanations" if explains else "predictions": data}]


class KServev2Envelope(_RowByRow):
    """KServe's protocol V2, the open inference protocol: tensors in and out."""

    _names: Sequence[str] = ()
    _id = ""

    def parse_input(self, data: list[Row]) -> list[Row]:
        document = _document(data[0])
        self._id = str(document.get("id") or "").strip()
        self._names = [tensor["name"] for tensor in document["inputs"]]
        return [{**tensor, "data": _shaped(tensor)} for tensor in document["inputs"]]

    def format_output(self, data: Any) -> list[Any]:
        model = (self.context.manifest or {}).get("model", {})
        return [
            {
                "id": self._id or self.context.get_request_id(self.row),
                "model_name": model.get("modelName"),
                "model_version": model.get("modelVersion"),
                "outputs": [
                    _output(name, result) for name, result in zip(self._names, data, strict=False)
                ],
            }
        ]


_ENVELOPES: dict[str, type[BaseEnvelope]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}


def wrap(envelope: str | None, entry_point: EntryPoint, folder: Path | None = None) -> EntryPoint:
    """``entry_point`` inside the envelope of that name.

    Beside those here, the name may be that of a module in ``folder`` or on the path of imports,
    with a subclass of BaseEnvelope; without ``folder`` none is looked for. Raises EnvelopeError if
    there is none, and what importing the module raises.
    """
    if not envelope:
        return entry_point
    found = _ENVELOPES.get(envelope) or _own(envelope, folder)
    return found(entry_point).handle


def _own(envelope: str, folder: Path | None) -> type[BaseEnvelope]:
    known = ", ".join(_ENVELOPES)
    if folder is None:
        raise EnvelopeError(f"There is no service_envelope '{envelope}'. Set one of {known}.")
    try:
        module = import_module(envelope, folder)
    except ModuleNotFoundError as error:
        if not f"{envelope}.".startswith(f"{error.name}."):
            raise
        raise EnvelopeError(
            f"There is no service_envelope '{envelope}'. Set one of {known}, or the name of a "
            "module that is in the archive or can be imported by the worker."
        ) from error
    classes = list_classes_from_module(module, BaseEnvelope)
    if len(classes) != 1:
        raise EnvelopeError(
            f"service_envelope '{envelope}': the module must have one subclass of BaseEnvelope "
            f"(from ts.torch_handler.request_envelope.base), and has {len(classes)}."
        )
    return cast("type[BaseEnvelope]", classes[0])


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
