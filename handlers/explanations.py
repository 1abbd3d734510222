"""What explanations need beside the model: captum, which is an extra, and the class to explain."""

from __future__ import annotations

import importlib
from typing import Any

from ..worker.errors import PredictionException


def captum_attr() -> Any:
    """The module ``captum.attr``; raises PredictionException, 501, where captum is missing.

    Imported late, because it takes longer than the other imports of a worker together.
    """
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise PredictionException(
            "Explanations need the Python package captum in the worker's environment: "
            "pip install 'flambeau[explain]'",
            501,
        ) from error


def class_to_explain(target: Any) -> Any:
    """A request's ``target`` as captum takes it: form fields come as text.

    Raises PredictionException, 400, for text that is no number.
    """
    if not isinstance(target, (bytes, bytearray, str)):
        return target
    try:
        return int(target)
    except ValueError:
        raise PredictionException(
            "The request's 'target' must be a whole number: the class to explain", 400
        ) from None
