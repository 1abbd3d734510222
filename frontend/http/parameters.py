"""The parameters of management calls: from the query, or from a JSON body.

Each call has a table of what it takes, with how each value is checked and converted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from aiohttp import hdrs, web

from ..access import Scope
from ..errors import BadRequestError
from .gate import granted
from .payload import read_body, request_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    Parameter("replace", _truth, False),
    Parameter("keep_old", _truth, False),
)
SCALE = (
    Parameter("min_worker", _count(), 1),
    Parameter("max_worker", _count()),
    Parameter("model_version", _text),
    Parameter("synchronous", _truth, False),
    Parameter("timeout", _count(unset=-1)),
)
REGISTER_WORKFLOW = (
    Parameter("url", _url),
    Parameter("workflow_name", _text),
    Parameter("response_timeout", _count(1, unset=-1)),
    Parameter("startup_timeout", _count(1, unset=-1)),
    Parameter("sha256", _sha256),
    Parameter("s3_sse_kms", _truth, False),
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


async def json_body(request: web.BaseRequest, limit: int) -> dict[str, object] | None:
    """The parameters of a JSON body of at most ``limit`` bytes, None if the request has none.

    Raises PayloadTooLargeError and BadRequestError.
    """
    mime_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if mime_type != "application/json":
        return None

    body = await read_body(request, limit)
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


def query(request: web.BaseRequest) -> dict[str, object]:
    """The query parameters; the first of equal names counts, as in TorchServe."""
    return dict(reversed(request_query(request)))


async def read_registration(
    request: web.BaseRequest, table: tuple[Parameter, ...], name: str, limit: int
) -> dict[str, Any]:
    """The parameters of a registration, from a JSON body or else the query; ``name`` is the one
    that names what is registered.

    Raises BadRequestError, and ForbiddenError where the caller may not register that.
    """
    given = await json_body(request, limit)
    values = read_parameters(table, query(request) if given is None else given)
    if values["url"] is None:
        raise BadRequestError("Parameter url is required.")
    grant = granted(Scope.MANAGE)
    if values[name] is None:
        # The archive gives the name; by then it would be too late to ask.
        grant.require_all_models()
    else:
        grant.require_model(values[name])
    return values
