"""The management API: register, scale, describe, list, unregister, set the default version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from ..access import Scope
from ..errors import BadRequestError, MethodNotAllowedError, ResourceNotFoundError
from ..registry import Registration
from ..tokens import TokenAccess
from . import schema
from .gate import granted
from .middlewares import Answer, json_answer, path_segments
from .parameters import LIST, REGISTER, SCALE, json_body, query, read_parameters, read_registration
from .payload import headers_of

if TYPE_CHECKING:
    from ..access import Access
    from ..config import Config
    from ..registry import Registry, Reply
    from ..shielded import ShieldedCalls
    from .workflows import WorkflowManagement


class ManagementAPI:
    """The route of the management listener.

    What changes the server's state is one of ``calls``: finished even if the client leaves.
    """

    def __init__(
        self,
        registry: Registry,
        workflows: WorkflowManagement,
        config: Config,
        access: Access,
        calls: ShieldedCalls,
    ) -> None:
        self._registry = registry
        self._workflows = workflows
        self._tokens = access if isinstance(access, TokenAccess) else None
        self._model_api = config.enable_model_api
        self._limit = config.max_request_size
        self._calls = calls

    async def __call__(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        segments = path_segments(request.raw_path)
        match segments:
            case []:
                if request.method != "OPTIONS":
                    raise MethodNotAllowedError
                return json_answer(schema.management_document())
            case ["api-description"]:
                return json_answer(schema.management_document())
            case ["token"] if self._tokens is not None:
                return _refreshed(self._tokens, request)
            case ["models"]:
                return await self._models(request)
            case ["models", model]:
                return await self._version(request, request_id, model, None)
            case ["models", model, version]:
                return await self._version(request, request_id, model, version)
            case ["v1", "models", name]:
                return self._kserve_ready(request, name.partition(":")[0])
            case ["workflows"]:
                return await self._workflows.all(request)
            case ["workflows", name, *_]:
                return await self._workflows.one(request, name)
            case ["models", model, version, "set-default"]:
                if request.method != "PUT":
                    raise MethodNotAllowedError
                granted(Scope.MANAGE).require_model(model)
                self._calls.admit()
                return _rendered(self._registry.set_default(model, version))
            case _:
                raise ResourceNotFoundError

    async def _models(self, request: web.BaseRequest) -> Answer:
        grant = granted(Scope.MANAGE)
        match request.method:
            case "GET" | "HEAD":
                grant.require_all_models()
                page = read_parameters(LIST, query(request))
                return json_answer(
                    self._registry.list_models(page["limit"], page["next_page_token"])
                )
            case "POST" if self._model_api:
                return await self._register(request)
            case _:
                raise MethodNotAllowedError

    def _kserve_ready(self, request: web.BaseRequest, model: str) -> Answer:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowedError
        granted(Scope.MANAGE).require_model(model)
        return json_answer({"name": model, "ready": self._registry.is_ready(model, None)})

    async def _describe(
        self, request: web.BaseRequest, request_id: str, model: str, version: str | None
    ) -> Answer:
        described = self._registry.describe(model, version)
        asked = str(query(request).get("customized", "")).lower() == "true"
        if asked and version != "all":
            said = await self._registry.customized(model, version, headers_of(request), request_id)
            described[0]["customizedMetadata"] = said
        return json_answer(described)

    async def _version(
        self, request: web.BaseRequest, request_id: str, model: str, version: str | None
    ) -> Answer:
        granted(Scope.MANAGE).require_model(model)
        match request.method:
            case "GET" | "HEAD":
                return await self._describe(request, request_id, model, version)
            case "PUT":
                return await self._scale(request, model, version)
            case "DELETE" if self._model_api:
                return _rendered(
                    await self._calls.finish(self._registry.unregister(model, version))
                )
            case "OPTIONS":
                self._registry.resolve(model, version)
                return json_answer(schema.managed_model_document(model, version))
            case _:
                raise MethodNotAllowedError

    async def _register(self, request: web.BaseRequest) -> Answer:
        values = await read_registration(request, REGISTER, "model_name", self._limit)
        return _rendered(await self._calls.finish(self._registry.register(Registration(**values))))

    async def _scale(self, request: web.BaseRequest, model: str, version: str | None) -> Answer:
        # TorchServe reads the query only, so a JSON body adds to it and does not replace it.
        body = await json_body(request, self._limit)
        values = read_parameters(SCALE, {**query(request), **(body or {})})
        min_worker, max_worker = values["min_worker"], values["max_worker"]
        if max_worker is not None and max_worker < min_worker:
            raise BadRequestError("max_worker cannot be less than min_worker.")

        return _rendered(
            await self._calls.finish(
                self._registry.scale(
                    model,
                    version or values["model_version"],
                    min_worker,
                    max_worker,
                    values["synchronous"],
                    values["timeout"],
                )
            )
        )


def _refreshed(tokens: TokenAccess, request: web.BaseRequest) -> Answer:
    """TorchServe's answer to a new key is an empty line: the key is in the key file."""
    kind = query(request).get("type")
    tokens.refresh(str(kind), request.headers.get(hdrs.AUTHORIZATION))
    answer = Answer(b"\n")
    answer.headers[hdrs.CONTENT_TYPE] = "application/json"
    return answer


def _rendered(reply: Reply) -> Answer:
    return json_answer({"status": reply.message}, reply.status)
