"""One request on its way through a workflow: which node is next, and what it gets. Pure.

The start node gets the parts of the client's request. A node with one parent gets its answer as
``body``, a node with several gets one part for each, named after it. These have no content type, so
that handlers see bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .errors import InferenceError
from .jobs import Outcome, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model_store.workflow_spec import WorkflowSpec
    from .jobs import Body

FAILED = 400
"""A node whose handler sets this status or a higher one has failed, and what it says is the answer
of the workflow.
"""


class WorkflowRun:
    """Ask the nodes of ``begin``, then those that each ``answered`` gives, until there is a
    ``result``.
    """

    def __init__(self, spec: WorkflowSpec) -> None:
        self._spec = spec
        self._answers: dict[str, Body] = {}
        self._waiting = {name: len(node.parents) for name, node in spec.nodes.items()}
        self._failure: Outcome | None = None
        self._last = Outcome()

    def begin(self, parts: list[Part]) -> dict[str, list[Part]]:
        """The first node, and what it gets."""
        return {self._spec.start: parts}

    def answered(self, name: str, outcome: Outcome) -> dict[str, list[Part]]:
        """The nodes that can be asked now, with what they get."""
        if outcome.status >= FAILED:
            self._failure = outcome
            return {}
        self._answers[name] = outcome.body
        self._last = outcome
        ready = {}
        for child in self._spec.nodes[name].children:
            self._waiting[child] -= 1
            if self._waiting[child] == 0:
                ready[child] = self._parts(child)
        for child in ready:
            for parent in self._spec.nodes[child].parents:
                if self._is_spent(parent):
                    del self._answers[parent]
        return ready

    @property
    def has_failed(self) -> bool:
        """A node has, and the others need not go on."""
        return self._failure is not None

    @property
    def leaves(self) -> Mapping[str, Body]:
        """The answers of the end nodes, in the order of the specification."""
        return {name: self._answers[name] for name in self._spec.leaves}

    def result(self) -> Outcome:
        """The workflow's answer once there is nothing more to ask.

        That of the one end node, with its status and headers; or of several as one JSON object.
        Raises InferenceError if the answer of one of several is no JSON.
        """
        if self._failure is not None:
            return self._failure
        if len(self._spec.leaves) == 1:
            return self._last
        return Outcome(body=combine(self.leaves))

    def _parts(self, name: str) -> list[Part]:
        parents = self._spec.nodes[name].parents
        if len(parents) == 1:
            return [Part("body", "", self._answers[parents[0]])]
        return [Part(parent, "", self._answers[parent]) for parent in parents]

    def _is_spent(self, name: str) -> bool:
        """Every child has been given the answer of ``name``, which need not be kept."""
        children = self._spec.nodes[name].children
        return name in self._answers and all(self._waiting[child] == 0 for child in children)


def combine(answers: Mapping[str, Body]) -> bytes:
    """A JSON object with an answer under the name of each node; raises InferenceError."""
    values = {}
    for name, body in answers.items():
        try:
            values[name] = json.loads(bytes(body))
        except (ValueError, RecursionError):
            raise InferenceError(
                f"The answer of {name} is not JSON. A workflow that ends in several nodes answers "
                "with one JSON object; let them answer with JSON, or put one node after them.",
                500,
            ) from None
    return json.dumps(values, indent=2).encode() + b"\n"
