"""Whether a request fits what a model's handler says of its input, before it waits for a worker.

The schema comes from a worker, whose code is the archive's. One with what could make a check run
away (references in a circle, patterns, uniqueness) is left to the worker, which checks everything
once more.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from itertools import islice
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
CHECKED_BY_WORKER = "x-checked-by-worker"
"""A worker puts this into a schema that does not say all of what it takes."""
_COSTLY = frozenset(
    {
        "pattern",
        "patternProperties",
        "uniqueItems",
        "multipleOf",
        "$dynamicRef",
        "$recursiveRef",
        CHECKED_BY_WORKER,
    }
)
"""What may take long, or what libraries judge differently."""
_NAMED = frozenset({"properties", "$defs", "dependentSchemas"})
"""Keywords below which names are those of the schema's author."""
_DATA = frozenset({"const", "enum", "default", "examples"})
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
    try:
        faults = [_words(fault) for fault in islice(find(value), _FAULTS_NAMED)]
    except (ArithmeticError, RecursionError, ValueError):
        # Numbers without end, or deeper than can be looked into here: for the worker to judge.
        return
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
        Draft202012Validator.check_schema(document)
        # With a registry of its own, a reference to elsewhere is never fetched.
        validator = Draft202012Validator(document, registry=Registry())
    except Exception as error:
        logger.info("A handler's input is checked by its workers only: %s", error)
        return None
    found: Callable[[Any], Iterable[Any]] = validator.iter_errors
    return found


def _measure(node: Any, document: Any, within: tuple[str, ...], *, is_named: bool = False) -> int:
    """How much there is below ``node`` with references expanded; ValueError for too much.

    ``is_named``: the keys of ``node`` are names, not keywords.
    """
    size = 1
    if isinstance(node, list):
        size += sum(_measure(each, document, within) for each in node)
    elif isinstance(node, dict):
        for key, each in node.items():
            if not is_named and key in _COSTLY:
                raise ValueError(f"its schema has {key}")
            if is_named or key not in _DATA:
                below = not is_named and key in _NAMED
                size += _measure(each, document, within, is_named=below)
        reference = None if is_named else node.get("$ref")
        if isinstance(reference, str):
            if reference in within:
                raise ValueError("its schema refers to itself")
            size += _measure(_target(reference, document), document, (*within, reference))
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


def _words(error: Any) -> str:
    place = str(error.json_path).removeprefix("$").removeprefix(".")
    text = str(error.message)
    text = text if len(text) <= _LONGEST_FAULT else f"{text[:_LONGEST_FAULT]} ..."
    return f"{place}: {text}" if place else text
