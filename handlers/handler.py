"""``Handler``: the short way to serve something; a class with ``predict`` is enough.

::

    import flambeau

    class Lengths(flambeau.Handler):
        def predict(self, batch):
            return [len(text) for text in batch]
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from ..worker.errors import PredictionException
from ..worker.streaming import send_intermediate_predict_response
from .typed import Shape, shapes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_WHOLE_BODY = frozenset({"body", "data"})


class Handler:
    """Base of handlers that are written for flambeau.

    ``predict`` gets one item for each request and returns a list with one answer for each. An item
    is what the client sent: decoded JSON, ``str`` for text, ``bytearray`` for anything else; a form
    is a dict of its fields. An answer is anything that a handler may return; a generator streams
    its answer, and an exception as an answer fails that request alone.

    ``predict`` may be ``async``, and it may be a generator itself: each list that it yields holds
    the next piece of each answer, None for those that have none this time. With a second parameter
    it gets the batch's context, too.

    Where the batch's items have a type (``batch: list[Review]``), requests are checked against it
    and arrive as that type; one that does not fit is answered 422 with the name of the field. A
    type of the answers (``-> list[Score]``) is kept to as well. Both stand in the API's
    description. See ``typed`` for what a type may be.
    """

    context: Any = None
    device = "cpu"
    """Where the model belongs: ``cpu``, or ``cuda:0`` and so on."""
    _takes: Shape | None = None
    _gives: Shape | None = None
    _wants_context = False

    def load(self, context: Any) -> None:
        """Load the model, once, before the first batch."""

    def predict(self, batch: list[Any]) -> Any:
        """One answer for each item of ``batch``, in a list."""
        raise NotImplementedError(f"{type(self).__name__} has no predict")

    def explain(self, batch: list[Any]) -> Any:
        """Answers for requests to ``/explanations``."""
        raise PredictionException("This model gives no explanations", 501)

    def describe(self) -> Any:
        """What the model's description shows as ``customizedMetadata``."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "predict" in cls.__dict__ and "handle" not in cls.__dict__:
            predict = cls.__dict__["predict"]
            is_async = inspect.iscoroutinefunction(predict) or inspect.isasyncgenfunction(predict)
            cls.handle = Handler._handle_async if is_async else Handler._handle  # type: ignore[method-assign]

    def initialize(self, context: Any) -> None:
        """Learn the device and the types, then ``load``."""
        self.context = context
        gpu = context.system_properties.get("gpu_id")
        self.device = "cpu" if gpu is None else f"cuda:{gpu}"
        self._wants_context = len(inspect.signature(self.predict).parameters) > 1
        self._takes, self._gives = shapes_of(self.predict)
        context.input_schema = self._takes and self._takes.schema
        context.output_schema = self._gives and self._gives.schema
        self.load(context)

    def handle(self, data: list[dict[str, Any]], context: Any) -> Any:
        """Answer a batch in TorchServe's form."""
        return self._handle(data, context)

    def _handle(self, data: list[dict[str, Any]], context: Any) -> Any:
        if context.get_request_header(0, "describe") == "True":
            return [self.describe()]
        batch = _Batch(data, context, self._takes)
        if batch.items:
            self.context = batch.context
            answers = self._ask(batch)
            if inspect.isgenerator(answers):
                for pieces in answers:
                    batch.send(pieces)
                answers = [b""] * len(batch.items)
            batch.fill(answers, self._gives)
        return batch.answers

    async def _handle_async(self, data: list[dict[str, Any]], context: Any) -> Any:
        if context.get_request_header(0, "describe") == "True":
            return [self.describe()]
        batch = _Batch(data, context, self._takes)
        if batch.items:
            answers = self._ask(batch)
            if inspect.isasyncgen(answers):
                async for pieces in answers:
                    batch.send(pieces)
                answers = [b""] * len(batch.items)
            elif inspect.isawaitable(answers):
                answers = await answers
            batch.fill(answers, self._gives)
        return batch.answers

    def _ask(self, batch: _Batch) -> Any:
        if batch.context.get_request_header(0, "explain") == "True":
            return self.explain(batch.items)
        if self._wants_context:
            return self.predict(batch.items, batch.context)  # type: ignore[call-arg]
        return self.predict(batch.items)


class _Batch:
    """The requests of a batch that can be read, and the answers of all."""

    def __init__(self, data: list[dict[str, Any]], context: Any, shape: Shape | None) -> None:
        self.answers: list[Any] = [None] * len(data)
        self.items: list[Any] = []
        self._rows: list[int] = []
        for row, fields in enumerate(data):
            item = _item(fields)
            try:
                self.items.append(item if shape is None else shape.read(item))
                self._rows.append(row)
            except PredictionException as refusal:
                self.answers[row] = refusal
        is_whole = len(self._rows) == len(data)
        self.context = context if is_whole else context.of_rows(self._rows)

    def send(self, pieces: Any) -> None:
        """Send the next piece of each answer that has one."""
        if len(pieces) != len(self.items):
            raise ValueError(f"predict yielded {len(pieces)} pieces for {len(self.items)} requests")
        sent: Any = {
            row: piece for row, piece in zip(self._rows, pieces, strict=True) if piece is not None
        }
        send_intermediate_predict_response(sent, dict.fromkeys(sent, ""), "", 200)

    def fill(self, answers: Any, shape: Shape | None) -> None:
        """Put the answers where they belong; what is no list of them is the service's to refuse."""
        if not isinstance(answers, list) or len(answers) != len(self.items):
            # A list of as many as there are requests would be taken for theirs.
            is_whole = len(self.items) == len(self.answers)
            self.answers = answers if is_whole else []
            return
        for row, answer in zip(self._rows, answers, strict=True):
            if shape is not None and not _is_special(answer):
                answer = shape.write(answer)
            self.answers[row] = answer


def _item(fields: Mapping[str, Any]) -> Any:
    """What a client sent: the whole body, or the fields of a form."""
    if len(fields) == 1:
        name, value = next(iter(fields.items()))
        if name in _WHOLE_BODY:
            return value
    return dict(fields)


def _is_special(answer: Any) -> bool:
    is_in_pieces = inspect.isgenerator(answer) or inspect.isasyncgen(answer)
    return is_in_pieces or isinstance(answer, Exception)
