"""The management API: register, scale, describe, list, unregister, set the default version."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from aiohttp import hdrs, web

from ..access import Scope
from ..errors import BadRequestError, MethodNotAllowedError, ResourceNotFoundError
from ..registry import Registration
from ..tokens import TokenAccess
from . import schema
from .gate import granted
from .middlewares import Answer, json_answer, path_segments
from .payload import client_headers, read_body, request_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..access import Access
    from ..config import Config
    from ..registry import Registry, Reply
    from ..shielded import ShieldedCalls

MAX_COUNT = 2**31 - 1
MAX_PAGE = 100
RUNTIMES = ("python", "python3", "LSP")

_LONGEST_LENIENT = 64 * 1024
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a management call: ``read`` checks and converts what the client sent."""

    name: str
    read: Callable[[str, object], Any]
    default: object = None


def _count(minimum: int = 0, unset: int | None = None) -> Callable[[str, object], int | None]:
    """Reads a whole number of at least ``minimum``; ``unset`` is TorchServe's word for absent."""

    def read(name: str, given: object) -> int | None:
        number = _whole_number(name, given)
        if number == unset:
            return None

        if number < minimum:
            raise BadRequestError(f"Parameter {name} must be at least {minimum}, got {number}.")

        return number

    return read


def _whole_number(name: str, given: object) -> int:
    text = str(int(given)) if isinstance(given, float) and given.is_integer() else str(given)
    if isinstance(given, bool) or not _INTEGER.fullmatch(text):
        raise BadRequestError(f"Parameter {name} must be a whole number, got {_shown(given)}.")

    number = int(text)
    if abs(number) > MAX_COUNT:
        raise BadRequestError(f"Parameter {name} must be at most {MAX_COUNT}, got {number}.")

    return number


def _truth(name: str, given: object) -> bool:
    text = str(given).lower()
    if text not in ("true", "false"):
        raise BadRequestError(f"Parameter {name} must be true or false, got {_shown(given)}.")

    return text == "true"


def _text(name: str, given: object) -> str | None:
    if not isinstance(given, str):
        raise BadRequestError(f"Parameter {name} must be a string, got {_shown(given)}.")

    if not given.isprintable():
        raise BadRequestError(f"Parameter {name} has characters that cannot be printed.")

    return given or None


def _url(name: str, given: object) -> str:
    return _text(name, given) or ""


def _runtime(name: str, given: object) -> str | None:
    runtime = _text(name, given)
    if runtime is not None and runtime not in RUNTIMES:
        raise BadRequestError(f"Invalid RuntimeType value: {runtime}")

    return runtime


def _sha256(name: str, given: object) -> str | None:
    text = _text(name, given)
    if text is not None and not re.fullmatch("[0-9A-Fa-f]{64}", text):
        raise BadRequestError(f"Parameter {name} must be 64 hexadecimal digits.")

    return text


def _page_size(name: str, given: object) -> int:
    """As in TorchServe, a size that is out of range is the largest."""
    number = _whole_number(name, given)
    return number if 0 <= number <= MAX_PAGE else MAX_PAGE


def _offset(name: str, given: object) -> int:
    return max(0, _whole_number(name, given))


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 60 else text[:60] + "..."


REGISTER = (
    Parameter("url", _url),
    Parameter("model_name", _text),
    Parameter("handler", _text),
    Parameter("runtime", _runtime),
    Parameter("batch_size", _count(1, unset=-1)),
    Parameter("max_batch_delay", _count(unset=-100)),
    Parameter("initial_workers", _count()),
    Parameter("response_timeout", _count(1, unset=-1)),
    Parameter("startup_timeout", _count(1, unset=-1)),
    Parameter("synchronous", _truth, True),
    Parameter("sha256", _sha256),
    Parameter("s3_sse_kms", _truth, False),
)
SCALE = (
    Parameter("min_worker", _count(), 1),
    Parameter("max_worker", _count()),
    Parameter("model_version", _text),
    Parameter("synchronous", _truth, False),
    Parameter("timeout", _count(unset=-1)),
)
LIST = (
    Parameter("limit", _page_size, MAX_PAGE),
    Parameter("next_page_token", _offset, 0),
)


def read_parameters(table: tuple[Parameter, ...], given: Mapping[str, object]) -> dict[str, Any]:
    """The table's parameters from what the client sent; ``None`` and "" count as not sent.

    Unknown names are ignored, as TorchServe does. Raises BadRequestError that names the parameter.
    """
    values = {}
    for parameter in table:
        sent = given.get(parameter.name)
        if sent == "" and parameter.read is not _url:
            # What a script leaves behind whose variable is empty.
            sent = None
        values[parameter.name] = (
            parameter.default if sent is None else parameter.read(parameter.name, sent)
        )
    return values


class ManagementAPI:
    """The route of the management listener.

    What changes the server's state is one of ``calls``: finished even if the client leaves.
    """

    def __init__(
        self, registry: Registry, config: Config, access: Access, calls: ShieldedCalls
    ) -> None:
        self._registry = registry
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
            case ["models", model, version, "set-default"]:
                if request.method != "PUT":
                    raise MethodNotAllowedError
                granted(Scope.MANAGE).require_model(model)
                return _rendered(self._registry.set_default(model, version))
            case _:
                raise ResourceNotFoundError

    async def _models(self, request: web.BaseRequest) -> Answer:
        grant = granted(Scope.MANAGE)
        match request.method:
            case "GET" | "HEAD":
                grant.require_all_models()
                page = read_parameters(LIST, _query(request))
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
        asked = str(_query(request).get("customized", "")).lower() == "true"
        if asked and version != "all":
            said = await self._registry.customized(
                model, version, client_headers(request), request_id
            )
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
        given = await self._json_body(request)
        values = read_parameters(REGISTER, _query(request) if given is None else given)
        if values["url"] is None:
            raise BadRequestError("Parameter url is required.")

        grant = granted(Scope.MANAGE)
        if values["model_name"] is None:
            # The archive names the model; by then it would be too late to ask.
            grant.require_all_models()
        else:
            grant.require_model(values["model_name"])
        return _rendered(await self._calls.finish(self._registry.register(Registration(**values))))

    async def _scale(self, request: web.BaseRequest, model: str, version: str | None) -> Answer:
        # TorchServe reads the query only, so a JSON body adds to it and does not replace it.
        body = await self._json_body(request)
        values = read_parameters(SCALE, {**_query(request), **(body or {})})
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

    async def _json_body(self, request: web.BaseRequest) -> dict[str, object] | None:
        """The parameters of a JSON body, ``None`` if the request has none."""
        mime_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
        if mime_type != "application/json":
            return None

        body = await read_body(request, self._limit)
        if not body:
            return None

        given = _lenient_json(body)
        if not isinstance(given, dict):
            raise BadRequestError("The request body must be a JSON object.")

        return given


def _lenient_json(body: bytes) -> object:
    """TorchServe's parser takes texts in single quotes, too; YAML has a name for such JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    if len(body) <= _LONGEST_LENIENT and body.lstrip().startswith(b"{"):
        try:
            return yaml.safe_load(body)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError, TypeError):
            # Texts with tags that do not fit raise all of these.
            pass
    raise BadRequestError("The request body is not valid JSON.")


def _query(request: web.BaseRequest) -> dict[str, object]:
    """The query parameters; the first of equal names counts, as in TorchServe."""
    return dict(reversed(request_query(request)))


def _refreshed(tokens: TokenAccess, request: web.BaseRequest) -> Answer:
    """TorchServe's answer to a new key is an empty line: the key is in the key file."""
    kind = _query(request).get("type")
    tokens.refresh(str(kind), request.headers.get(hdrs.AUTHORIZATION))
    answer = Answer(b"\n")
    answer.headers[hdrs.CONTENT_TYPE] = "application/json"
    return answer


def _rendered(reply: Reply) -> Answer:
    return json_answer({"status": reply.message}, reply.status)
