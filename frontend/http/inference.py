"""The inference API: health, predictions, and the documents that describe them."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from ... import FlambeauError
from ..access import Scope
from ..errors import BadRequestError, MethodNotAllowedError, ResourceNotFoundError
from ..server_timing import timing_of, total_only
from . import schema
from .gate import granted
from .middlewares import SERVER_TIMING, Answer, json_answer, path_segments
from .payload import headers_of, read_parts
from .predictions import added_headers, answer_of, check_outcome, handlers_headers, time_limit
from .streaming import send_stream
from .typed_schema import add_types

if TYPE_CHECKING:
    from aiohttp import web

    from ..config import Config
    from ..jobs import Part
    from ..predictor import Predictor
    from ..registry import Registry
    from .health import HealthAPI
    from .workflows import WorkflowInference


class InferenceAPI:
    """The route of the inference listener.

    Beyond TorchServe: a request to ``/predictions`` with a query string and no body at all takes
    the query parameters as its inputs. TorchServe ignores them there, as this does where there is
    a body; on ``/invocations``, ``/models/{model}/invoke`` and ``/{model}/predict`` they are inputs
    beside the body.
    """

    def __init__(
        self,
        predictor: Predictor,
        registry: Registry,
        workflows: WorkflowInference,
        config: Config,
        health: HealthAPI,
    ) -> None:
        self._predictor = predictor
        self._registry = registry
        self._workflows = workflows
        self._limit = config.max_request_size
        self._timing = config.server_timing
        self._health = health

    async def __call__(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        segments = path_segments(request.raw_path)
        match segments:
            case ["predictions", model, *rest]:
                return await self._predictions(request, request_id, model, rest)
            case ["explanations", model, *rest]:
                return await self._predictions(request, request_id, model, rest, explain=True)
            case [first, name, *_] if first.lower() == "wfpredict":
                # As in TorchServe, whatever follows the name does not matter.
                return await self._workflow(request, request_id, name)
            case ["v1", "models", call] if ":predict" in call or ":explain" in call:
                # As in TorchServe, whatever follows the verb does not matter.
                model, _, verb = call.partition(":")
                explain = verb.startswith("explain")
                return await self._kserve(request, request_id, model, None, explain)
            case ["v2", "models", model, "infer" | "explain" as verb]:
                return await self._kserve(request, request_id, model, None, verb == "explain")
            case ["v2", "models", model, "versions", version, "infer" | "explain" as verb]:
                return await self._kserve(request, request_id, model, version, verb == "explain")
            case []:
                if request.method != "OPTIONS":
                    raise MethodNotAllowedError
                return json_answer(schema.inference_document())
            case ["api-description"]:
                return json_answer(schema.inference_document())
            case ["invocations"]:
                return await self._invocations(request, request_id)
            case ["models", "predict"]:
                # The management API's, where both have one address.
                raise ResourceNotFoundError
            case ["models", model, "invoke"] | [model, "predict"]:
                return await self._legacy(request, request_id, model, None)
            case [model, version, "predict"]:
                return await self._legacy(request, request_id, model, version)
            case _:
                health = self._health.answer(segments)
                if health is None:
                    raise ResourceNotFoundError
                return health

    async def _workflow(
        self, request: web.BaseRequest, request_id: str, name: str
    ) -> web.StreamResponse:
        started = monotonic()
        try:
            outcome = await self._workflows.predict(
                request, request_id, name, time_limit(request.headers)
            )
            check_outcome(outcome)
        except FlambeauError as error:
            # It may be that of a node, and say where its time went.
            error.timing = None
            raise
        answer = answer_of(outcome)
        if self._timing:
            answer.headers.add(SERVER_TIMING, total_only(monotonic() - started))
        return answer

    async def _predictions(
        self,
        request: web.BaseRequest,
        request_id: str,
        model: str,
        rest: list[str],
        *,
        explain: bool = False,
    ) -> web.StreamResponse:
        version = rest[0] if rest else None
        if request.method == "OPTIONS":
            return self._describe(model, version)

        added = added_headers(rest, explain=explain)
        return await self._predict(request, request_id, model, version, added)

    async def _kserve(
        self,
        request: web.BaseRequest,
        request_id: str,
        model: str,
        version: str | None,
        explain: bool,
    ) -> web.StreamResponse:
        """KServe's calls; what the body means is up to the service envelope."""
        if request.method == "OPTIONS":
            return self._describe(model, version)

        added = {"explain": str(explain)}
        return await self._predict(request, request_id, model, version, added)

    async def _legacy(
        self, request: web.BaseRequest, request_id: str, model: str, version: str | None
    ) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return self._describe(model, version)

        return await self._predict(request, request_id, model, version, {}, with_query=True)

    async def _invocations(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        """The model is named by the query or a form field, or is the only one there is."""
        self._predictor.refuse_if_draining()
        parts = await read_parts(request, self._limit, with_query=True)
        named = (
            bytes(part.body).decode(errors="replace") for part in parts if part.name == "model_name"
        )
        model = next(named, "") or self._only_model()
        if not model:
            raise BadRequestError("Parameter model_name is required.")

        return await self._predict(request, request_id, model, None, {}, parts=parts)

    def _only_model(self) -> str:
        models = self._registry.list_models(2, 0)["models"]
        if isinstance(models, list) and len(models) == 1:
            return str(models[0]["modelName"])

        return ""

    def _describe(self, model: str, version: str | None) -> Answer:
        granted(Scope.INFER).require_model(model)
        document = schema.model_document(model, version)
        add_types(document, *self._registry.schemas(model, version))
        return json_answer(document)

    async def _predict(
        self,
        request: web.BaseRequest,
        request_id: str,
        model: str,
        version: str | None,
        added: dict[str, str],
        *,
        with_query: bool = False,
        parts: list[Part] | None = None,
    ) -> web.StreamResponse:
        granted(Scope.INFER).require_model(model)

        async def read_input() -> tuple[dict[str, str], list[Part]]:
            given = parts
            if given is None:
                given = await read_parts(request, self._limit, with_query=with_query)
            return {**headers_of(request), **added}, given

        limit = time_limit(request.headers)
        outcome = await self._predictor.predict(
            request_id, model, version, read_input, check_outcome, limit
        )
        if outcome.stream is None:
            answer = answer_of(outcome)
            if self._timing:
                answer.headers.add(SERVER_TIMING, timing_of(outcome))
            return answer
        headers = list(handlers_headers(outcome.headers).items())
        if self._timing:
            headers.append((SERVER_TIMING, timing_of(outcome)))
        return await send_stream(
            request, request_id, outcome.status, outcome.reason, headers, outcome.stream
        )
