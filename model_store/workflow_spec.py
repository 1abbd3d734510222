"""A workflow's specification: its nodes, what each is run with, and which follows which. Pure.

The YAML file has two parts. ``models`` holds settings for all nodes and, by its name, each node
that is a model: its archive's url and settings of its own. ``dag`` says which nodes follow a node;
one that is no model is a function of the workflow's handler. The rules, and the first words of what
is said where they are broken, are TorchServe's.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import InvalidDAGError, InvalidModelError, InvalidWorkflowError, printable
from .strict_yaml import load_yaml, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_NODES = 200
"""Each node is a process at least: more are a slip of the finger."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,126}")
_MAX_INT = 2**31 - 1
_LIMITS = {
    "min-workers": (0, _MAX_INT),
    "max-workers": (0, _MAX_INT),
    "batch-size": (1, _MAX_INT),
    "max-batch-delay": (0, _MAX_INT),
    "retry-attempts": (0, 100),
    "timeout-ms": (1, _MAX_INT),
}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a node is run. The delay is in ms and ``timeout``, for one attempt, is too.

    ``max_workers`` are started; ``retry_attempts`` are made beside the first.
    """

    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1
    max_batch_delay: int = 50
    retry_attempts: int = 1
    timeout_ms: int = 10_000


FUNCTION_SETTINGS = NodeSettings(max_batch_delay=0)
"""A function is served by one worker, one request at a time."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph. ``url`` is that of its model, None for a function of the handler."""

    name: str
    url: str | None
    settings: NodeSettings
    parents: tuple[str, ...]
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkflowSpec:
    """``nodes`` are in an order in which none comes before a parent of its.

    ``settings`` are those for all nodes, and ``dag`` is as the file has it.
    """

    settings: NodeSettings
    dag: Mapping[str, tuple[str, ...]]
    nodes: Mapping[str, Node]
    warnings: tuple[str, ...] = ()

    @property
    def start(self) -> str:
        """The one node without parents."""
        return next(iter(self.nodes))

    @property
    def leaves(self) -> tuple[str, ...]:
        """The nodes without children, whose answers are the workflow's."""
        return tuple(name for name, node in self.nodes.items() if not node.children)


def parse_workflow_spec(text: str, file_name: str, *, has_handler: bool) -> WorkflowSpec:
    """Read a specification; ``has_handler``: there is a file that functions could be in.

    Raises InvalidWorkflowError for a file that cannot be read or has a wrong value, InvalidDAGError
    for a graph that cannot be run.
    """
    try:
        document, warnings = load_yaml(text, file_name)
    except InvalidModelError as error:
        raise InvalidWorkflowError(f"Failed to parse yaml. {error.message}") from error
    try:
        common, models, notes = _read_models(document.get("models"), f"{file_name}: models")
        dag = _read_dag(document.get("dag"), f"{file_name}: dag")
    except InvalidModelError as error:
        raise InvalidWorkflowError(error.message) from error
    order = sort_nodes(dag)
    for name in order:
        if name not in models:
            _check_function(name, has_handler)
    unused = [name for name in models if name not in order]
    notes += [f"{file_name}: the model {name} is no node of the dag" for name in unused]
    notes += _unknown([key for key in document if key not in ("models", "dag")], file_name)
    return WorkflowSpec(common, dag, _nodes(order, dag, models), tuple(warnings + notes))


def _nodes(
    order: list[str],
    dag: Mapping[str, tuple[str, ...]],
    models: Mapping[str, tuple[str, NodeSettings]],
) -> dict[str, Node]:
    parents: dict[str, list[str]] = {name: [] for name in order}
    for name in order:
        for child in dag.get(name, ()):
            parents[child].append(name)
    nodes = {}
    for name in order:
        url, settings = models.get(name, (None, FUNCTION_SETTINGS))
        nodes[name] = Node(name, url, settings, tuple(parents[name]), dag.get(name, ()))
    return nodes


def sort_nodes(dag: Mapping[str, tuple[str, ...]]) -> list[str]:
    """All nodes of ``dag``, each after its parents; the file's order where that leaves a choice.

    Raises InvalidDAGError for one with cycles, or without exactly one node to start from.
    """
    waits_for = dict.fromkeys([*dag, *(child for some in dag.values() for child in some)], 0)
    for name, children in dag.items():
        if name in children:
            raise InvalidDAGError(f"Self loop exception: {name} follows itself.")
        for child in children:
            if children.count(child) > 1:
                raise InvalidDAGError(f"loop exception: {child} follows {name} more than once.")
            waits_for[child] += 1
    starts = [name for name, count in waits_for.items() if count == 0]
    if len(starts) != 1:
        found = " and ".join(starts[:5]) if starts else "none"
        raise InvalidDAGError(f"DAG should have only one start node, and has {found}.")
    if len(waits_for) > MAX_NODES:
        raise InvalidDAGError(f"Not a valid DAG: it has more than {MAX_NODES} nodes.")
    order = starts
    for name in order:
        for child in dag.get(name, ()):
            waits_for[child] -= 1
            if waits_for[child] == 0:
                order.append(child)
    if len(order) < len(waits_for):
        circle = [name for name in waits_for if name not in order]
        raise InvalidDAGError(f"Not a valid DAG: {', '.join(circle[:5])} wait for each other.")
    return order


def _read_models(
    given: object, where: str
) -> tuple[NodeSettings, dict[str, tuple[str, NodeSettings]], list[str]]:
    """Settings for all nodes, url and settings of each model, and warnings."""
    section = _mapping(given, where)
    common = _settings(section, NodeSettings(), where)
    models, warnings = {}, []
    for key, value in section.items():
        if key in _LIMITS:
            continue
        if not isinstance(value, dict):
            raise refusal(where, _text(key), value, _what_instead(key))
        name = _name(key, where)
        url = value.get("url")
        if not isinstance(url, str) or not url:
            allowed = "the name of an archive in the model store, such as my_model.mar"
            raise refusal(f"{where}: {name}", "url", url, allowed)
        models[name] = (url, _settings(value, common, f"{where}: {name}"))
        known = ("url", *_LIMITS)
        warnings += _unknown([each for each in value if each not in known], f"{where}: {name}")
    return common, models, warnings


def _settings(given: Mapping[object, object], common: NodeSettings, where: str) -> NodeSettings:
    found: dict[str, int] = {}
    for key, (low, high) in _LIMITS.items():
        value = given.get(key)
        if value is None:
            continue
        # bool is an int to Python, but `batch-size: yes` is a mistake.
        if type(value) is not int or not low <= value <= high:
            raise refusal(where, key, value, f"a whole number from {low} to {high}")
        found[key.replace("-", "_")] = value
    if "min_workers" in found:
        found.setdefault("max_workers", max(found["min_workers"], common.max_workers))
    settings = replace(common, **found)
    if settings.min_workers > settings.max_workers:
        if "min_workers" in found:
            allowed = f"at most max-workers, which is {settings.max_workers}"
            raise refusal(where, "min-workers", settings.min_workers, allowed)
        settings = replace(settings, min_workers=settings.max_workers)
    return settings


def _read_dag(given: object, where: str) -> dict[str, tuple[str, ...]]:
    section = _mapping(given, where)
    if not section:
        raise InvalidDAGError(
            "Not a valid DAG: the specification names no nodes. Give a dag such as {first: [next]}."
        )
    dag = {}
    for key, value in section.items():
        children = [] if value is None else value
        if not isinstance(children, list):
            raise refusal(where, _text(key), value, "a list of nodes such as [next]")
        dag[_name(key, where)] = tuple(_name(child, f"{where}: {_text(key)}") for child in children)
    return dag


def _check_function(name: str, has_handler: bool) -> None:
    if not has_handler:
        raise InvalidWorkflowError(
            f"Node {name} is not among the models, and the archive has no handler that it could be "
            "a function of. Add it to the models, or package the workflow with a handler."
        )
    if not name.isidentifier():
        raise InvalidWorkflowError(
            f"Node {name} is not among the models, and no function can have its name."
        )


def _mapping(given: object, where: str) -> dict[object, object]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        file_name, _, key = where.rpartition(": ")
        raise refusal(file_name, key, given, "keys with values")
    return given


def _name(given: object, where: str) -> str:
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise refusal(where, "name of a node", given, "letters, digits, '_', '-' and '.'")
    return given


def _what_instead(key: object) -> str:
    nearest = _nearest(key)
    hint = "" if nearest is None else f" (did you mean {nearest}?)"
    return f"a model: its url, and settings{hint}"


def _nearest(key: object) -> str | None:
    plain = str(key)[:64].replace("_", "-").lower()
    return next(iter(difflib.get_close_matches(plain, _LIMITS, n=1, cutoff=0.7)), None)


def _unknown(keys: Iterable[object], where: str) -> list[str]:
    notes = []
    for key in keys:
        nearest = _nearest(key)
        hint = "" if nearest is None else f"; did you mean {nearest!r}?"
        notes.append(f"{where}: the key {_text(key)} is not known and has no effect{hint}")
    return notes


def _text(key: object) -> str:
    return printable(str(key)[:80])
