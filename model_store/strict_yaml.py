"""YAML that somebody else has written: read without running anything, within bounds.

What it says of a file that is not as it should be names the file, the key and the remedy.
"""

from __future__ import annotations

import reprlib

import yaml

from .errors import InvalidModelError

MAX_CONFIG_BYTES = 256 << 10
# How many values a configuration may have once its aliases are expanded.
_MAX_CONFIG_VALUES = 200_000

# Values in messages are cut short: they may be as long as the file.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def refusal(where: str, key: str, value: object, allowed: str) -> InvalidModelError:
    """The error for a value that a file must not have: names file, key, value and remedy."""
    return InvalidModelError(f"{where}: {key}: {shown(value)} is not allowed; give {allowed}")


def shown(value: object) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:
        # Python refuses to print integers of thousands of digits.
        return "so large a number"


def load_yaml(text: str, file_name: str) -> tuple[dict[object, object], list[str]]:
    """The mapping in ``text``, and warnings. Raises InvalidModelError.

    ``yaml.safe_load`` with its two halves apart, so that the tree is checked in between.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise InvalidModelError(f"{file_name}: larger than {MAX_CONFIG_BYTES} characters")
    warnings: list[str] = []
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}, warnings
        _count_values(node, {}, warnings, file_name)
        document = loader.construct_document(node)
    except InvalidModelError:
        raise
    except RecursionError as error:
        raise InvalidModelError(f"{file_name}: nested too deeply") from error
    # A scalar with an odd tag (`!!bool maybe`) makes PyYAML raise KeyError, AttributeError, ...
    except Exception as error:
        raise InvalidModelError(f"{file_name}: {_yaml_reason(error)}") from error
    if document is None:
        return {}, warnings
    if not isinstance(document, dict):
        raise InvalidModelError(
            f"{file_name}: {shown(document)} is not allowed at the top; give keys and "
            "values such as 'batchSize: 8'"
        )
    return document, warnings


def _count_values(
    node: yaml.Node, counted: dict[int, int], warnings: list[str], file_name: str
) -> int:
    """The number of values below ``node`` with aliases expanded; notes keys given twice.

    A few lines of aliases of aliases stand for billions of values: whoever copies or prints the
    result would never end, and merge keys copy while loading.
    """
    if id(node) in counted:
        if counted[id(node)] == 0:
            raise InvalidModelError(f"{file_name}: an alias contains itself")
        return counted[id(node)]
    counted[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _note_repeated_keys(node, warnings, file_name)
        children = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count_values(each, counted, warnings, file_name) for each in children)
    if total > _MAX_CONFIG_VALUES:
        raise InvalidModelError(
            f"{file_name}: more than {_MAX_CONFIG_VALUES} values once its aliases are expanded"
        )
    counted[id(node)] = total
    return total


def _note_repeated_keys(node: yaml.MappingNode, warnings: list[str], file_name: str) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            warnings.append(
                f"{file_name}: line {key.start_mark.line + 1}: the key {shown(key.value)} "
                "is given more than once; the last one counts"
            )
        seen.add((key.tag, key.value))


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}: "
        return place + ", ".join(filter(None, (error.context, error.problem)))
    if isinstance(error, yaml.YAMLError):
        return f"not valid YAML: {str(error).partition(chr(10))[0]}"
    return "not valid YAML"
