"""What frontend and workers say to each other: the messages, and what they are made of.

Frontend to worker: Load, Work, Cancel, Ping, Stop. Worker to frontend: Hello, Loaded, LoadFailed,
Chunk, Result, Pong, Bye.

Messages are never changed once made. Those made for each request are not declared frozen: that
would triple the cost of making one. How they cross the wire is ``protocol``'s business; a new field
goes last and has a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Body = bytes | bytearray | memoryview


@dataclass(slots=True)
class Part:
    """One named input of a request: ``body`` for a raw body, a form field's name otherwise.

    ``content_type`` is the media type without its parameters, ``""`` when the client sent none.
    """

    name: str
    content_type: str
    body: Body


class RequestLike(Protocol):
    """What goes into Work: a Request, or the frontend's Job, which has the same three fields."""

    @property
    def id(self) -> str: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def parts(self) -> list[Part]: ...


@dataclass(slots=True)
class Request:
    """One client's request as the worker sees it."""

    id: str
    headers: dict[str, str]
    parts: list[Part]


@dataclass(slots=True)
class Answer:
    """One client's answer. With ``is_error`` the body is the message of an error envelope."""

    status: int = 200
    reason: str | None = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Body = b""
    is_error: bool = False


@dataclass(slots=True, frozen=True)
class Load:
    """Load this model; answered by Loaded or LoadFailed.

    The worker gets up to ``concurrency`` batches at once: as ``asynchronous`` tasks, or with
    ``continuous``, where each is one request, as the rows of its rounds.
    """

    model_name: str
    model_version: str
    model_dir: str
    handler: str
    batch_size: int = 1
    gpu_id: int | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    name_content_types: bool = False
    envelope: str | None = None
    archive_code: bool = True
    concurrency: int = 1
    asynchronous: bool = False
    continuous: bool = False
    metrics: list[list[Any]] = field(default_factory=list)
    """Those of ``metrics.yaml``: name, type, unit, dimension names."""
    rank: int = 0
    """Which process of its worker this is; only the first one's answers count."""
    warm_up: list[list[Any]] = field(default_factory=list)
    """Requests to answer before Loaded: name, headers, parts, how often, whether one that fails
    fails the start."""
    response_timeout: float = 0.0
    """Seconds in which a batch must be answered; 0: not said."""
    isolate_failures: bool = False
    """A batch that the handler fails is divided, to find out which requests make it fail."""
    retries_lost: bool = False
    """The requests of a batch that is lost with its worker are tried again, each alone."""


@dataclass(slots=True)
class Work:
    """A batch of requests; answered by one Result with as many answers, in the same order."""

    batch_id: int
    requests: Sequence[RequestLike]


@dataclass(slots=True, frozen=True)
class Cancel:
    """Nobody waits for request ``index`` of a batch any more; None: for any of them.

    The batch is answered by its Result all the same. One that has been answered is none of it.
    """

    batch_id: int
    index: int | None = None


@dataclass(slots=True, frozen=True)
class Stop:
    """Finish and leave: answered by Bye."""


@dataclass(slots=True, frozen=True)
class Ping:
    """Are you there? Asked of a worker that has nothing to do; answered by Pong."""


@dataclass(slots=True, frozen=True)
class Hello:
    """A worker's first message."""

    major: int
    minor: int
    pid: int


@dataclass(slots=True, frozen=True)
class Loaded:
    """The model is ready; the worker accepts ``credits`` batches at a time.

    The schemas are JSON Schema of one request's JSON and of its answer's, where the handler says.
    """

    credits: int = 1
    seconds: float = 0.0
    input_schema: str | None = None
    output_schema: str | None = None
    samples: list[list[Any]] = field(default_factory=list)
    """What the handler reported meanwhile, as in Result."""


@dataclass(slots=True, frozen=True)
class LoadFailed:
    """The model could not be loaded: ``kind`` classifies, ``message`` tells the operator why."""

    status: int
    kind: str
    message: str


@dataclass(slots=True)
class Result:
    """The answers of one batch.

    ``samples`` are the handler's metrics: name, type, unit, value, dimensions, the requests' ids;
    help and buckets of those that the handler has declared itself. ``safe_batch`` is how many
    requests fit into memory at once, where that is less than a batch may have, else 0;
    ``shortages`` how often memory ran out in this batch. With ``is_spoilt`` the worker leaves: its
    GPU context is unusable.
    """

    batch_id: int
    handler_seconds: float
    answers: list[Answer]
    samples: list[list[Any]] = field(default_factory=list)
    safe_batch: int = 0
    shortages: int = 0
    is_spoilt: bool = False


@dataclass(slots=True)
class Chunk:
    """A piece of the answer to request ``index`` of a batch that is being worked on.

    The Result that follows holds the last piece. Status and headers are those of the first one.
    """

    batch_id: int
    index: int
    piece: Answer


@dataclass(slots=True, frozen=True)
class Pong:
    """The worker waits for work: said by the loop that would take it."""


@dataclass(slots=True, frozen=True)
class Bye:
    """The worker leaves of its own accord; nothing follows."""


Message = (
    Load | Work | Cancel | Ping | Stop
    | Hello | Loaded | LoadFailed | Result | Chunk | Pong | Bye
)  # fmt: skip
