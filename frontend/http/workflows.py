"""Workflows over HTTP: the management API's ``/workflows``, the inference API's ``/wfpredict``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..access import Scope
from ..errors import MethodNotAllowedError
from ..workflows import WorkflowRegistration
from .gate import granted
from .middlewares import Answer, json_answer
from .parameters import (
    LIST,
    REGISTER_WORKFLOW,
    query,
    read_parameters,
    read_registration,
)
from .payload import headers_of, read_parts

if TYPE_CHECKING:
    from aiohttp import web

    from ..config import Config
    from ..jobs import Outcome, Part
    from ..registry import Reply
    from ..shielded import ShieldedCalls
    from ..workflow_predictor import WorkflowPredictor
    from ..workflows import Workflows


class WorkflowManagement:
    """Routes of the management listener.

    What changes the server's state is one of ``calls``: finished even if the client leaves. A
    server that lets no models be registered lets no workflows be, which are made of models.
    """

    def __init__(self, workflows: Workflows, config: Config, calls: ShieldedCalls) -> None:
        self._workflows = workflows
        self._model_api = config.enable_model_api
        self._limit = config.max_request_size
        self._calls = calls

    async def all(self, request: web.BaseRequest) -> Answer:
        """``/workflows``"""
        grant = granted(Scope.MANAGE)
        match request.method:
            case "GET" | "HEAD":
                grant.require_all_models()
                page = read_parameters(LIST, query(request))
                return json_answer(
                    self._workflows.list_workflows(page["limit"], page["next_page_token"])
                )
            case "POST" if self._model_api:
                return await self._register(request)
            case _:
                raise MethodNotAllowedError

    async def one(self, request: web.BaseRequest, name: str) -> Answer:
        """``/workflows/{workflow}``"""
        granted(Scope.MANAGE).require_model(name)
        match request.method:
            case "GET" | "HEAD":
                return json_answer(self._workflows.describe(name))
            case "DELETE" if self._model_api:
                return _rendered(await self._calls.finish(self._workflows.unregister(name)))
            case _:
                raise MethodNotAllowedError

    async def _register(self, request: web.BaseRequest) -> Answer:
        values = await read_registration(request, REGISTER_WORKFLOW, "workflow_name", self._limit)
        asked = WorkflowRegistration(**values)
        return _rendered(await self._calls.finish(self._workflows.register(asked)))


class WorkflowInference:
    """The route of the inference listener. A key for a model of that name is one for a workflow."""

    def __init__(self, predictor: WorkflowPredictor, config: Config) -> None:
        self._predictor = predictor
        self._limit = config.max_request_size

    async def predict(
        self, request: web.BaseRequest, request_id: str, name: str, time_limit: float | None
    ) -> Outcome:
        """``/wfpredict/{workflow}``, by any method.

        The answer is JSON unless its handler says otherwise.
        """
        granted(Scope.INFER).require_model(name)

        async def read_input() -> tuple[dict[str, str], list[Part]]:
            parts = await read_parts(request, self._limit, with_query=False)
            return headers_of(request), parts

        outcome = await self._predictor.predict(request_id, name, read_input, time_limit)
        headers = outcome.headers
        if all(header.lower() != "content-type" for header, _ in headers):
            headers = [("Content-Type", "application/json"), *headers]
        # The phrase is the standard one here, which it is not for predictions.
        return replace(outcome, headers=headers, reason=outcome.reason or None)


def _rendered(reply: Reply) -> Answer:
    return json_answer({"status": reply.message}, reply.status)
