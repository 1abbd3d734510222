"""Whether a request fits what a model's handler says of its input, before it waits for a worker.

The schema comes from a worker, whose code is the archive's: what could make a check run away
(references in a circle, patterns) is left to the worker, which checks everything once more.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .jobs import Part

logger = logging.getLogger("flambeau.server")

LARGE_BODY = 16 * 1024
"""Bytes from which on a check is no work for the event loop."""

_WHOLE_BODY = ("body", "data")
_LARGEST_SCHEMA = 5_000
_LEFT_OUT = frozenset({"pattern", "patternProperties"})
_FAULTS_NAMED = 3
_LONGEST_FAULT = 200


def checked_body(parts: Sequence[Part]) -> Part | None:
    """The part that a schema is about: a whole body that is JSON or may be; None for a form."""
    if len(parts) != 1 or parts[0].name not in _WHOLE_BODY:
        return None
    kind = parts[0].content_type
    return parts[0] if kind in ("application/json", "application/octet-stream", "") else None


def refuse_misfit(schema: str, body: Part) -> None:
    """Raise InvalidInputError, naming the field, for what does not fit ``schema`` (JSON text)."""
    find = _checker(schema)
    if find is None:
        return
    try:
        value = json.loads(bytes(body.body))
    except (ValueError, RecursionError):
        raise InvalidInputError("it is not JSON") from None
    faults = [_words(error) for error, _ in zip(find(value), range(_FAULTS_NAMED), strict=False)]
    if faults:
        raise InvalidInputError("; ".join(faults))


@lru_cache(maxsize=256)
def _checker(schema: str) -> Callable[[Any], Iterable[Any]] | None:
    """What finds the faults of a value; None where that is left to the worker."""
    try:
        from jsonschema import Draft202012Validator
        from referencing import Registry
    except ImportError:
        return None
    try:
        document = json.loads(schema)
        _measure(document, document, ())
        bare = _without_patterns(document)
        # With a registry of its own, a reference to elsewhere is never fetched.
        validator = Draft202012Validator(bare, registry=Registry())
        Draft202012Validator.check_schema(bare)
    except Exception as error:
        logger.info("A handler's input is checked by its workers only: %s", error)
        return None
    found: Callable[[Any], Iterable[Any]] = validator.iter_errors
    return found


def _measure(node: Any, document: Any, within: tuple[str, ...]) -> int:
    """How much there is below ``node`` with references expanded; ValueError when too much."""
    if isinstance(node, list):
        size = 1 + sum(_measure(each, document, within) for each in node)
    elif isinstance(node, dict):
        size = 1 + sum(_measure(each, document, within) for each in node.values())
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference in within:
                raise ValueError("its schema refers to itself")
            size += _measure(_target(reference, document), document, (*within, reference))
    else:
        size = 1
    if size > _LARGEST_SCHEMA:
        raise ValueError("its schema is too large")
    return size


def _target(reference: str, document: Any) -> Any:
    start, *steps = reference.split("/")
    if start != "#":
        raise ValueError("its schema refers to another")
    for step in steps:
        document = document[step]
    return document


def _without_patterns(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_patterns(each) for each in node]
    if isinstance(node, dict):
        return {
            name: _without_patterns(each)
            for name, each in node.items()
            if name not in _LEFT_OUT or isinstance(each, dict)
        }
    return node


def _words(error: Any) -> str:
    place = str(error.json_path).removeprefix("$").removeprefix(".")
    text = str(error.message)
    text = text if len(text) <= _LONGEST_FAULT else f"{text[:_LONGEST_FAULT]} ..."
    return f"{place}: {text}" if place else text
