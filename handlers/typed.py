"""Types of what a ``Handler`` takes and gives: read from its annotations, checked by pydantic.

A type may be what pydantic knows: dataclasses, ``TypedDict``, named tuples, pydantic's models,
``list[float]``, ``Literal`` and so on, with ``Annotated`` constraints. ``str`` and ``bytes`` take a
body as it is. ``Any``, and a type that pydantic does not know, are not checked.
"""

from __future__ import annotations

import collections.abc
import json
import logging
import types
import typing
from typing import TYPE_CHECKING, Any

from ..worker.errors import PredictionException

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_FAULTS_NAMED = 3
_LONGEST_SCHEMA = 64 * 1024
_CHECKED_HERE = "x-checked-by-worker"
"""Tells the frontend, which knows the schema only, to leave the check to the worker."""
_FUNCTIONS = frozenset({"function-before", "function-wrap", "function-plain"})
_JSON_TYPES = frozenset({Any, dict, list, str, int, float, bool, type(None)})


class Shape:
    """The type of one item. ``schema`` is its JSON Schema as text, None for a body as it is."""

    def __init__(self, annotation: Any, adapter: Any, mode: str) -> None:
        self._annotation = annotation
        self._adapter = adapter
        self.schema: str | None = None
        if adapter is not None:
            schema = adapter.json_schema(mode=mode)
            if mode == "validation" and _takes_more(adapter.core_schema):
                schema[_CHECKED_HERE] = True
            text = json.dumps(schema)
            self.schema = text if len(text) <= _LONGEST_SCHEMA else None

    def read(self, value: Any) -> Any:
        """``value`` as the type; raises PredictionException 422, naming the field."""
        if self._adapter is None:
            return self._read_whole(value)
        from pydantic import ValidationError

        try:
            if isinstance(value, (bytes, bytearray)):
                return self._adapter.validate_json(bytes(value), strict=True)
            if isinstance(value, str) or _is_form(value):
                return self._adapter.validate_python(_texts(value))
            # As JSON, in which "3" is no number: that is what the schema says, too.
            return self._adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise PredictionException(
                f"The request does not fit the model's input: {_faults(error)}", 422
            ) from error

    def _read_whole(self, value: Any) -> Any:
        is_bytes = isinstance(value, (bytes, bytearray))
        try:
            if self._annotation is str and is_bytes:
                return bytes(value).decode()
            if self._annotation is bytes and isinstance(value, str):
                return value.encode()
        except UnicodeError as error:
            raise PredictionException(
                "The request does not fit the model's input: it must be text in UTF-8", 422
            ) from error
        if is_bytes or isinstance(value, str):
            return bytes(value) if is_bytes else value
        raise PredictionException(
            "The request does not fit the model's input: it must be "
            + ("a text" if self._annotation is str else "the bytes themselves, not JSON"),
            422,
        )

    def write(self, answer: Any) -> Any:
        """``answer`` as JSON's types, or the error that its client gets if it has another type."""
        if self._adapter is None:
            return answer
        from pydantic import ValidationError

        if callable(getattr(answer, "tolist", None)):
            answer = answer.tolist()
        try:
            return self._adapter.dump_python(self._adapter.validate_python(answer), mode="json")
        except ValidationError as error:
            logger.error("An answer does not have the type that predict declares: %s", error)
            return PredictionException(
                "The model's answer does not have the type that its handler declares", 500
            )


def shapes_of(predict: Callable[..., Any]) -> tuple[Shape | None, Shape | None]:
    """The types of an item that ``predict`` takes and of one that it gives, as far as declared.

    Raises RuntimeError when a type needs pydantic and that is not installed.
    """
    try:
        hints = typing.get_type_hints(predict, include_extras=True)
    except Exception as error:
        # Names that only a type checker imports, for one.
        logger.warning("The types of predict cannot be read and are not checked: %s", error)
        return None, None
    gives = hints.pop("return", None)
    takes = next(iter(hints.values()), None)
    return _shape(_item_type(takes), "validation"), _shape(_item_type(gives), "serialization")


def _item_type(annotation: Any) -> Any:
    """The type of the items of a list; Any if nothing is said of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    is_list = isinstance(origin, type) and issubclass(origin, collections.abc.Sequence)
    return arguments[0] if is_list and len(arguments) == 1 else Any


def _shape(annotation: Any, mode: str) -> Shape | None:
    if annotation is Any:
        return None
    if annotation in (str, bytes, bytearray):
        return Shape(bytes if annotation is bytearray else annotation, None, mode)
    try:
        import pydantic
    except ImportError:
        if _is_json(annotation):
            logger.warning(
                "The types of predict are not checked: pip install 'flambeau[typed]' to have it"
            )
            return None
        raise RuntimeError(
            "The types of predict are read with pydantic: pip install 'flambeau[typed]' in the "
            "worker's environment, or leave the types off"
        ) from None
    try:
        return Shape(annotation, pydantic.TypeAdapter(annotation), mode)
    except (pydantic.PydanticUserError, pydantic.errors.PydanticSchemaGenerationError) as error:
        reason = str(error).partition("\n")[0]
        logger.warning("%r in predict's types is not checked: %s", annotation, reason)
        return None


def _is_json(annotation: Any) -> bool:
    """Whether decoded JSON is of this type, or not, without anything being made of it."""
    if annotation in _JSON_TYPES:
        return True
    origin = typing.get_origin(annotation)
    known = origin in (dict, list, types.UnionType, typing.Union)
    return known and all(map(_is_json, typing.get_args(annotation)))


def _takes_more(node: Any) -> bool:
    """Whether functions or aliases of the author's take what the JSON Schema does not tell of."""
    if isinstance(node, (list, tuple)):
        return any(map(_takes_more, node))
    if not isinstance(node, dict):
        return False
    if node.get("type") in _FUNCTIONS or isinstance(node.get("validation_alias"), (list, tuple)):
        return True
    if node.get("validate_by_name") or node.get("populate_by_name"):
        return True
    return any(map(_takes_more, node.values()))


def _is_form(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(each, bytearray) for each in value.values())


def _texts(value: Any) -> Any:
    """The fields of a form as text where they are that, so that numbers can be read from them."""
    if not isinstance(value, dict):
        return value
    return {name: _text(each) for name, each in value.items()}


def _text(value: Any) -> Any:
    if not isinstance(value, bytearray):
        return value
    try:
        return value.decode()
    except UnicodeError:
        return bytes(value)


def _faults(error: Any) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    named = [
        f"{_place(fault['loc'])}: {fault['msg']}" if fault["loc"] else str(fault["msg"])
        for fault in faults[:_FAULTS_NAMED]
    ]
    more = len(faults) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def _place(location: Sequence[str | int]) -> str:
    """``("items", 0, "age")`` as ``items[0].age``."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")
