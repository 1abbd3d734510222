"""Class numbers to names people can read: the archive's ``index_to_name.json``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)


def load_label_mapping(mapping_file_path: str | Path) -> dict[str, str] | None:
    """Read class number (as str) to label; None, with a warning, when there is no such file.

    A label may be a list, whose last item is the label (``["n01440764", "tench"]``); the names may
    also lie in one list under ``object_type_names``. Raises ValueError for any other content.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        logger.warning(
            "%r is missing. Inference output will not include class name.", str(mapping_file_path)
        )
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError('index->name JSON mapping should be in "class": "label" format.')
    names = content.get("object_type_names")
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    return {index: _label(value) for index, value in content.items()}


def _label(value: object) -> str:
    label = value[-1] if isinstance(value, list) and value else value
    if not isinstance(label, str):
        raise ValueError("labels in index->name mapping must be either str or List[str]")
    return label


def map_class_to_label(
    probs: list[list[float]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Iterable[object]] | None = None,
) -> list[dict[str, float]]:
    """For each row, label to probability, in the order given.

    Without ``lbl_classes`` a row holds classes 0 to n-1; without ``mapping`` the class number is
    the label. Raises ValueError when ``probs`` is no list or ``mapping`` no dict, and KeyError for
    a class that has no label.
    """
    if not isinstance(probs, list):
        raise ValueError("Convert classes to list before doing mapping")
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError("Mapping must be a dict")
    if lbl_classes is None:
        lbl_classes = [range(len(row)) for row in probs]
    return [
        {
            (str(number) if mapping is None else mapping[str(number)]): probability
            for number, probability in zip(numbers, row, strict=False)
        }
        for numbers, row in zip(lbl_classes, probs, strict=False)
    ]
