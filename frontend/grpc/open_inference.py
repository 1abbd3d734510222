"""The open inference protocol: a model is asked with tensors, as JSON to its handler.

Handlers see and give what TorchServe's do: the request as a JSON body, BYTES as base64. Beyond
TorchServe, tensors may come as raw contents, which is how most clients send them.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from ... import __version__
from ..errors import BadRequestError, InferenceError
from ..jobs import Part
from ..server_timing import timing_of
from .call import SERVER_TIMING, new_request_id, priority_header, time_left
from .messages import OPEN_INFERENCE, message

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs import Outcome
    from ..predictor import Predictor
    from ..registry import Registry
    from .call import Caller

# Of each datatype: the field of its contents, and the format of one element in raw contents.
_DATATYPES = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP16": ("fp32_contents", "e"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    "BYTES": ("bytes_contents", ""),
}


def _response(call: str, /, **fields: Any) -> Any:
    return message(f"{OPEN_INFERENCE}.{call}Response")(**fields)


class OpenInferenceService:
    """The methods of ``GRPCInferenceService``; they say of health what HTTP's probes say.

    ``is_starting``: the models of the start are not all there yet.
    """

    NAME = f"{OPEN_INFERENCE}.GRPCInferenceService"

    def __init__(
        self,
        predictor: Predictor,
        registry: Registry,
        caller: Caller,
        is_starting: Callable[[], bool],
        is_draining: Callable[[], bool],
    ) -> None:
        self._is_draining = is_draining
        self._predictor = predictor
        self._registry = registry
        self._caller = caller
        self._is_starting = is_starting

    def handlers(self) -> Any:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        return self._caller.handlers(self.NAME, methods)

    async def server_live(self, request: Any, context: Any) -> Any:
        self._probe(context)
        return _response("ServerLive", live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:
        self._probe(context)
        is_busy = self._is_draining() or self._is_starting()
        ready = not is_busy and not self._registry.unready()
        return _response("ServerReady", ready=ready)

    async def server_metadata(self, request: Any, context: Any) -> Any:
        self._probe(context)
        return _response("ServerMetadata", name="flambeau", version=__version__)

    async def model_ready(self, request: Any, context: Any) -> Any:
        name = _required("name", request.name)
        self._caller.admit(context).require_model(name)
        ready = self._registry.is_ready(name, request.version or None)
        ready = ready and not self._is_draining()
        return _response("ModelReady", ready=ready)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        name = _required("name", request.name)
        self._caller.admit(context).require_model(name)
        self._registry.resolve(name, request.version or None)
        versions = self._registry.versions(name)
        return _response("ModelMetadata", name=name, versions=versions)

    async def model_infer(self, request: Any, context: Any) -> Any:
        name = _required("model_name", request.model_name)
        self._caller.admit(context).require_model(name)
        body = json.dumps(_document(request)).encode()

        async def read_input() -> tuple[dict[str, str], list[Part]]:
            return priority_header(context), [Part("body", "application/json", body)]

        outcome = await self._predictor.predict(
            new_request_id(),
            name,
            request.model_version or None,
            read_input,
            _refuse_stream,
            time_left(context),
        )
        if self._predictor.timing:
            context.set_trailing_metadata(((SERVER_TIMING, timing_of(outcome)),))
        return _inferred(bytes(outcome.body))

    def _probe(self, context: Any) -> None:
        if not self._caller.leaves_open(["v2", "health", "ready"]):
            self._caller.admit(context)


def _required(name: str, value: str) -> str:
    if not value:
        raise BadRequestError(f"Parameter {name} is required.")
    return value


def _refuse_stream(outcome: Outcome) -> None:
    if outcome.stream is not None:
        outcome.stream.abandon()
        raise InferenceError("The model streams its answer: call StreamPredictions.", 501)


def _document(request: Any) -> dict[str, Any]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError("raw_input_contents must hold one item for each input.")
    inputs = []
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype not in _DATATYPES:
            known = ", ".join(_DATATYPES)
            raise BadRequestError(f"datatype of input {index} must be one of {known}.")
        data = _unpacked(tensor.datatype, raw[index]) if raw else _contents(tensor)
        inputs.append(
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": tensor.datatype,
                "data": [_jsonable(value) for value in data],
            }
        )
    return {"id": request.id, "model_name": request.model_name, "inputs": inputs}


def _contents(tensor: Any) -> list[Any]:
    field, _ = _DATATYPES[tensor.datatype]
    return list(getattr(tensor.contents, field))


def _unpacked(datatype: str, raw: bytes) -> list[Any]:
    """The elements of raw contents: little-endian, BYTES with their lengths before them."""
    form = _DATATYPES[datatype][1]
    if form:
        size = struct.calcsize(f"<{form}")
        if len(raw) % size:
            raise BadRequestError(f"raw_input_contents are no whole number of {datatype}.")
        return list(struct.unpack(f"<{len(raw) // size}{form}", raw))
    items, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw.ljust(at + 4, b"\0"), at)
        items.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(raw):
        raise BadRequestError("raw_input_contents end within an element of BYTES.")
    return items


def _jsonable(value: Any) -> Any:
    return b64encode(value).decode("ascii") if isinstance(value, bytes) else value


def _inferred(body: bytes) -> Any:
    """The handler's JSON as a response; raises InferenceError for what is none."""
    try:
        document = json.loads(body)
        response = _response(
            "ModelInfer",
            model_name=document["model_name"] or "",
            model_version=document.get("model_version") or "",
            id=document.get("id") or "",
        )
        for output in document["outputs"]:
            tensor = response.outputs.add()
            tensor.name, tensor.datatype = output["name"], output["datatype"]
            tensor.shape.extend(output["shape"])
            field, _ = _DATATYPES[output["datatype"]]
            data = output["data"]
            if field == "bytes_contents":
                # As in TorchServe the bytes are the element's JSON, a string's quotes included.
                data = [json.dumps(value).encode() for value in data]
            getattr(tensor.contents, field).extend(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InferenceError(
            "The model's answer is no response of the open inference protocol: it must be JSON "
            f"with model_name and outputs ({type(error).__name__}).",
            500,
        ) from None
    return response
