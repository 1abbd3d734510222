"""TorchServe's inference service: Ping, Predictions, and the two streams."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ... import FlambeauError
from ..errors import BadRequestError
from ..jobs import Part
from ..server_timing import timing_of
from .call import SERVER_TIMING, new_request_id, priority_header, time_left
from .messages import INFERENCE, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..access import Grant
    from ..jobs import Outcome
    from ..predictor import Predictor
    from ..registry import Registry
    from .call import Caller

_Health = message(f"{INFERENCE}.TorchServeHealthResponse")
_Response = message(f"{INFERENCE}.PredictionResponse")
SEQUENCE_ID = "ts_request_sequence_id"


class InferenceService:
    """The methods of ``InferenceAPIsService``."""

    NAME = f"{INFERENCE}.InferenceAPIsService"

    def __init__(
        self,
        predictor: Predictor,
        registry: Registry,
        caller: Caller,
        is_draining: Callable[[], bool],
    ) -> None:
        self._is_draining = is_draining
        self._predictor = predictor
        self._registry = registry
        self._caller = caller

    def handlers(self) -> Any:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {
            "Ping": self.ping,
            "Predictions": self.predictions,
            "StreamPredictions": self.stream_predictions,
            "StreamPredictions2": self.stream_predictions2,
        }
        return self._caller.handlers(self.NAME, methods)

    async def ping(self, request: Any, context: Any) -> Any:
        """Health as TorchServe words it; a server that is not well is OK all the same."""
        if not self._caller.leaves_open(["ping"]):
            self._caller.admit(context)
        healthy = self._registry.is_healthy() and not self._is_draining()
        status = {"status": "Healthy" if healthy else "Unhealthy"}
        return _Health(health=json.dumps(status, indent=2))

    async def predictions(self, request: Any, context: Any) -> Any:
        """One answer; the pieces of a model that streams are put together."""
        outcome = await self._predict(request, context, self._caller.admit(context))
        if outcome.stream is None:
            return _Response(prediction=bytes(outcome.body))
        pieces = [bytes(piece) async for piece in _read(outcome)]
        return _Response(prediction=b"".join(pieces))

    async def stream_predictions(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The pieces of an answer; that of a model that does not stream is the only one."""
        outcome = await self._predict(request, context, self._caller.admit(context))
        async for piece in _read(outcome):
            yield _Response(prediction=bytes(piece))

    async def stream_predictions2(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """Requests of a sequence, answered in their order; an error is an answer and ends nothing.

        Models that keep a sequence's state find its id in the header ``ts_request_sequence_id``.
        """
        grant = self._caller.admit(context)
        async for request in requests:
            sequence = request.sequence_id
            try:
                if not sequence:
                    raise BadRequestError("Parameter sequenceId is required.")
                outcome = await self._predict(request, context, grant)
                async for piece in _read(outcome):
                    yield _Response(prediction=bytes(piece), sequence_id=sequence)
            except FlambeauError as error:
                code, details = self._caller.explain(error)
                response = _Response(sequence_id=sequence)
                response.status.code = code.value[0]
                response.status.message = details
                yield response

    async def _predict(self, request: Any, context: Any, grant: Grant) -> Outcome:
        model = request.model_name
        if not model:
            raise BadRequestError("Parameter model_name is required.")
        grant.require_model(model)

        async def read_input() -> tuple[dict[str, str], list[Part]]:
            headers = priority_header(context)
            if request.sequence_id:
                headers[SEQUENCE_ID] = request.sequence_id
            parts = [Part(name, "", bytes(value)) for name, value in request.input.items()]
            return headers, parts

        outcome = await self._predictor.predict(
            new_request_id(),
            model,
            request.model_version or None,
            read_input,
            _accept,
            time_left(context),
        )
        if self._predictor.timing:
            context.set_trailing_metadata(((SERVER_TIMING, timing_of(outcome)),))
        return outcome


def _accept(outcome: Outcome) -> None:
    """Status and headers of an answer do not travel over gRPC: whatever they are, they fit."""


async def _read(outcome: Outcome) -> AsyncIterator[Any]:
    if outcome.stream is None:
        yield outcome.body
        return
    try:
        async for piece in outcome.stream:
            yield piece
    finally:
        # After the end this does nothing; before it, nobody wants the rest.
        outcome.stream.abandon()
