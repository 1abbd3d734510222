"""TorchServe's management service, over the same registry as the HTTP API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import BadRequestError, ForbiddenError
from ..registry import Registration
from .call import new_request_id
from .messages import MANAGEMENT, message

if TYPE_CHECKING:
    from ..access import Grant
    from ..registry import Registry
    from ..shielded import ShieldedCalls
    from .call import Caller

_Response = message(f"{MANAGEMENT}.ManagementResponse")
RUNTIMES = ("python", "python3", "LSP")
MAX_PAGE = 100


class ManagementService:
    """The methods of ``ManagementAPIsService``: numbers that are not positive, and texts that are
    empty, count as not given.

    What changes the server's state is one of ``calls``: finished even if the client leaves.
    """

    NAME = f"{MANAGEMENT}.ManagementAPIsService"

    def __init__(
        self, registry: Registry, caller: Caller, calls: ShieldedCalls, model_api: bool
    ) -> None:
        self._registry = registry
        self._caller = caller
        self._calls = calls
        self._model_api = model_api

    def handlers(self) -> Any:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {
            "DescribeModel": self.describe_model,
            "ListModels": self.list_models,
            "RegisterModel": self.register_model,
            "ScaleWorker": self.scale_worker,
            "SetDefault": self.set_default,
            "UnregisterModel": self.unregister_model,
        }
        return self._caller.handlers(self.NAME, methods)

    async def describe_model(self, request: Any, context: Any) -> Any:
        name, version = self._named(request, context)
        described = self._registry.describe(name, version)
        if request.customized and version != "all":
            said = await self._registry.customized(name, version, {}, new_request_id())
            if said is not None:
                described[0]["customizedMetadata"] = said
        return _json(described)

    async def list_models(self, request: Any, context: Any) -> Any:
        self._caller.admit(context).require_all_models()
        limit = request.limit if 0 < request.limit <= MAX_PAGE else MAX_PAGE
        return _json(self._registry.list_models(limit, max(0, request.next_page_token)))

    async def register_model(self, request: Any, context: Any) -> Any:
        grant = self._caller.admit(context)
        self._require_model_api()
        if not request.url:
            raise BadRequestError("Parameter url is required.")
        if request.runtime and request.runtime not in RUNTIMES:
            raise BadRequestError(f"Invalid RuntimeType value: {request.runtime}")
        _require(grant, request.model_name)
        registration = Registration(
            request.url,
            model_name=request.model_name or None,
            handler=request.handler or None,
            runtime=request.runtime or None,
            batch_size=_positive(request.batch_size),
            max_batch_delay=_positive(request.max_batch_delay),
            initial_workers=_positive(request.initial_workers),
            response_timeout=_positive(request.response_timeout),
            startup_timeout=_positive(request.startup_timeout),
            synchronous=request.synchronous,
            s3_sse_kms=request.s3_sse_kms,
        )
        reply = await self._calls.finish(self._registry.register(registration))
        return _Response(msg=reply.message)

    async def scale_worker(self, request: Any, context: Any) -> Any:
        name, version = self._named(request, context)
        minimum = _positive(request.min_worker) or 1
        maximum = _positive(request.max_worker)
        reply = await self._calls.finish(
            self._registry.scale(
                name, version, minimum, maximum, request.synchronous, _positive(request.timeout)
            )
        )
        return _Response(msg=reply.message)

    async def set_default(self, request: Any, context: Any) -> Any:
        name, version = self._named(request, context)
        self._calls.admit()
        return _Response(msg=self._registry.set_default(name, version or "").message)

    async def unregister_model(self, request: Any, context: Any) -> Any:
        grant = self._caller.admit(context)
        self._require_model_api()
        if not request.model_name:
            # TorchServe's own words.
            raise BadRequestError("Parameter url is required.")
        grant.require_model(request.model_name)
        version = request.model_version or None
        reply = await self._calls.finish(self._registry.unregister(request.model_name, version))
        return _Response(msg=reply.message)

    def _named(self, request: Any, context: Any) -> tuple[str, str | None]:
        grant = self._caller.admit(context)
        grant.require_model(request.model_name)
        return request.model_name, request.model_version or None

    def _require_model_api(self) -> None:
        if not self._model_api:
            raise ForbiddenError(
                "Model API disabled\norg.pytorch.serve.archive.model.ModelException"
            )


def _require(grant: Grant, name: str) -> None:
    """A key for some models must name the one that it registers."""
    if name:
        grant.require_model(name)
    else:
        grant.require_all_models()


def _positive(number: int) -> int | None:
    return number if number > 0 else None


def _json(value: object) -> Any:
    return _Response(msg=json.dumps(value, indent=2, ensure_ascii=False))
