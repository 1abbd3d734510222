"""What a prediction says and what it is answered, in HTTP's terms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from multidict import CIMultiDict, istr

from ..errors import BadRequestError, InferenceError
from .middlewares import Answer

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from ..jobs import Outcome

# What the server itself says about a response, whatever the handler sets. Framing is in the list:
# a handler's Transfer-Encoding would contradict the body that is really sent.
_SERVER_HEADERS = frozenset(
    {
        "cache-control",
        "connection",
        "content-length",
        "expires",
        "keep-alive",
        "pragma",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
X_REQUEST_TIMEOUT_MS = istr("X-Request-Timeout-Ms")
_MILLISECONDS = re.compile("[0-9]{1,9}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def added_headers(rest: list[str], *, explain: bool) -> dict[str, str]:
    """What a handler sees beside the client's headers; ``rest``: the path behind the model."""
    return {"url_path": "/".join(rest[1:]), "explain": str(explain)}


def check_outcome(outcome: Outcome) -> None:
    """Raise InferenceError if the handler has set what HTTP cannot carry."""
    fault = None
    if not 200 <= outcome.status <= 999:
        fault = f"status {outcome.status}"
    elif outcome.reason and _NOT_IN_HEADERS.search(outcome.reason):
        fault = "a status phrase with control characters"
    for name, value in outcome.headers:
        if not _HEADER_NAME.fullmatch(name) or _NOT_IN_HEADERS.search(value):
            fault = f"a response header {name!r} that HTTP does not allow"
    if fault is not None:
        raise InferenceError(f"The model's handler set {fault}.", 500)


def answer_of(outcome: Outcome) -> Answer:
    answer = Answer(outcome.body, outcome.status, outcome.reason)
    if outcome.headers:
        answer.headers.update(handlers_headers(outcome.headers))
    return answer


def handlers_headers(headers: list[tuple[str, str]]) -> CIMultiDict[str]:
    """The headers that a handler may set. Of one name in several spellings the last counts, but
    ``content-type`` as the context's own call spells it: TorchServe sends the other.
    """
    found: CIMultiDict[str] = CIMultiDict()
    for name, value in sorted(headers, key=lambda header: header[0] != "content-type"):
        if name.lower() not in _SERVER_HEADERS:
            found[name] = value
    return found


def time_limit(headers: CIMultiDictProxy[str]) -> float | None:
    """Seconds from the client's ``X-Request-Timeout-Ms``; raises BadRequestError for nonsense."""
    given = headers.get(X_REQUEST_TIMEOUT_MS)
    if given is None:
        return None
    if not _MILLISECONDS.fullmatch(given) or not int(given):
        raise BadRequestError(
            "X-Request-Timeout-Ms must be a whole number of milliseconds from 1 to 999999999."
        )
    return int(given) / 1000
