"""Workflows by name: register, describe, list, unregister.

A workflow is a graph of models. Each node is a model of the registry, called ``workflow__node``:
what holds for models (workers, queues, metrics, access) holds for nodes. Texts and fields are
TorchServe's. A registration that fails leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .. import FlambeauError
from ..model_store.workflow_archive import open_workflow
from .catalog import a_page
from .errors import (
    BadRequestError,
    ConflictError,
    DrainingError,
    UnknownModelError,
    UnknownWorkflowError,
    WorkerStartError,
    WorkflowError,
)
from .precedence import Registration
from .records import NAME, check_name
from .registry import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..model_store.store import ModelStore
    from ..model_store.workflow_archive import StoredWorkflow
    from ..model_store.workflow_spec import Node, WorkflowSpec
    from .registry import Registry

logger = logging.getLogger("flambeau.registry")


@dataclass(frozen=True, slots=True)
class WorkflowRegistration:
    """``POST /workflows``. None: not said. Times, which are for each node, are in seconds."""

    url: str
    workflow_name: str | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    sha256: str | None = None
    s3_sse_kms: bool = False


@dataclass(eq=False, slots=True)
class Workflow:
    """A registered workflow."""

    name: str
    archive: StoredWorkflow
    asked: WorkflowRegistration
    _uses: set[asyncio.Future[None]] = field(default_factory=set)

    @property
    def spec(self) -> WorkflowSpec:
        return self.archive.spec

    def model_of(self, node: str) -> str:
        """The name of the model that a node is."""
        return f"{self.name}__{node}"

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """A request is on its way: the nodes stay until it is over, if that is soon enough."""
        use: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._uses.add(use)
        try:
            yield
        finally:
            self._uses.discard(use)
            use.set_result(None)

    async def unused(self, timeout: float) -> None:
        """Wait until no request is on its way, at most ``timeout`` seconds."""
        if self._uses:
            await asyncio.wait(self._uses, timeout=timeout)


class Workflows:
    """The registered workflows, over the models of ``registry``; ``store`` has their archives.

    Unregistering waits up to ``patience`` seconds for requests on their way.
    """

    def __init__(self, registry: Registry, store: ModelStore | None, patience: float) -> None:
        self._registry = registry
        self._store = store
        self._patience = patience
        self._workflows: dict[str, Workflow] = {}
        self._taken: set[str] = set()
        """Names of workflows that come or go."""

    def resolve(self, name: str) -> Workflow:
        """The workflow of that name; raises UnknownWorkflowError."""
        if name not in self._workflows:
            raise UnknownWorkflowError(name)
        return self._workflows[name]

    def registrations(self) -> list[WorkflowRegistration]:
        """What was asked for, by which the same workflows can be registered elsewhere."""
        return [
            replace(workflow.asked, workflow_name=name)
            for name, workflow in sorted(self._workflows.items())
        ]

    def list_workflows(self, limit: int = 100, offset: int = 0) -> dict[str, object]:
        """A page of the workflows, sorted by name, in TorchServe's form."""
        entries = [
            {"workflowName": name, "workflowUrl": workflow.archive.stored.url}
            for name, workflow in sorted(self._workflows.items())
        ]
        return a_page("workflows", entries, limit, offset)

    def describe(self, name: str) -> list[dict[str, object]]:
        """The workflow's settings and graph, in TorchServe's form."""
        workflow = self.resolve(name)
        settings = workflow.spec.settings
        dag = (f"{node}=[{', '.join(after)}]" for node, after in workflow.spec.dag.items())
        return [
            {
                "workflowName": name,
                "workflowUrl": workflow.archive.stored.url,
                "minWorkers": settings.min_workers,
                "maxWorkers": settings.max_workers,
                "batchSize": settings.batch_size,
                "maxBatchDelay": settings.max_batch_delay,
                "workflowDag": f"{{{', '.join(dag)}}}",
            }
        ]

    async def register(self, asked: WorkflowRegistration) -> Reply:
        """Register a workflow and the models of its nodes, and start their workers.

        Raises a FlambeauError that says what is wrong; then nothing stays registered.
        """
        if self._store is None:
            raise BadRequestError(
                "Workflow store has not been configured. Start flambeau with --workflow-store DIR, "
                "or --model-store DIR."
            )
        archive = await asyncio.to_thread(
            open_workflow, self._store, asked.url, asked.sha256, asked.s3_sse_kms
        )
        try:
            workflow = Workflow(
                asked.workflow_name or archive.manifest.workflow_name, archive, asked
            )
            with self._claimed(workflow.name):
                self._check_names(workflow)
                for warning in archive.spec.warnings:
                    logger.warning("workflow %s: %s", workflow.name, warning)
                await self._register_nodes(workflow, asked)
                self._workflows[workflow.name] = workflow
        except BaseException:
            await asyncio.to_thread(self._store.release, archive.stored)
            raise
        logger.info("workflow %s registered from %s", workflow.name, archive.stored.url)
        return Reply(200, f"Workflow {workflow.name} has been registered and scaled successfully.")

    async def unregister(self, name: str) -> Reply:
        """Serve the requests on their way, then unregister the models of the nodes.

        Raises UnknownWorkflowError, and WorkflowError for nodes that are still there: asking once
        more tries once more.
        """
        workflow = self.resolve(name)
        del self._workflows[name]
        with self._claimed(name):
            await workflow.unused(self._patience)
            failures = await self._remove_nodes(workflow, list(workflow.spec.nodes))
            if failures:
                self._workflows[name] = workflow
                raise WorkflowError(
                    f"Workflow {name} is still there, since some of its nodes are: "
                    f"[{', '.join(failures)}]. Unregister it once more."
                )
            if self._store is not None:
                await asyncio.to_thread(self._store.release, workflow.archive.stored)
        logger.info("workflow %s unregistered", name)
        return Reply(200, f'Workflow "{name}" unregistered')

    async def unused(self, timeout: float) -> None:
        """Wait until no request of any workflow is on its way, at most ``timeout`` seconds."""
        waits = (workflow.unused(timeout) for workflow in self._workflows.values())
        await asyncio.gather(*waits)

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[None]:
        """Keep others from registering a workflow of that name meanwhile."""
        if name in self._workflows or name in self._taken:
            raise ConflictError(f"Workflow {name} is already registered.")
        self._taken.add(name)
        try:
            yield
        finally:
            self._taken.discard(name)

    def _check_names(self, workflow: Workflow) -> None:
        """Raise BadRequestError for names that models cannot have, ConflictError for taken ones."""
        check_name("workflow_name", workflow.name)
        for model in map(workflow.model_of, workflow.spec.nodes):
            if not NAME.fullmatch(model):
                raise BadRequestError(
                    f"The names of workflow and node are too long together: {model}. A model's "
                    "name has at most 128 characters."
                )
            with contextlib.suppress(UnknownModelError):
                self._registry.resolve(model, None)
                raise ConflictError(
                    f"A model named {model} is already registered. Unregister it, or give another "
                    "workflow_name."
                )

    async def _register_nodes(self, workflow: Workflow, asked: WorkflowRegistration) -> None:
        """All of them at the same time; raises WorkflowError, with none left, if one fails."""
        nodes = workflow.spec.nodes
        results = await asyncio.gather(
            *(
                self._registry.register(_registration(workflow, node, asked))
                for node in nodes.values()
            ),
            return_exceptions=True,
        )
        by_node = dict(zip(nodes, results, strict=True))
        failures = {name: end for name, end in by_node.items() if isinstance(end, BaseException)}
        if not failures:
            return
        await self._remove_nodes(workflow, [name for name in nodes if name not in failures])
        for failure in failures.values():
            if isinstance(failure, DrainingError) or not isinstance(failure, FlambeauError):
                raise failure
        texts = [_said(workflow.model_of(name), error) for name, error in failures.items()]
        raise WorkflowError(
            f"Workflow {workflow.name} has failed to register. Failures: [{', '.join(texts)}]"
        )

    async def _remove_nodes(self, workflow: Workflow, nodes: list[str]) -> list[str]:
        """What went wrong, in words. A node that somebody has unregistered is gone already."""
        ends = await asyncio.gather(
            *(self._registry.unregister(workflow.model_of(node), None) for node in nodes),
            return_exceptions=True,
        )
        failures = []
        for node, end in zip(nodes, ends, strict=True):
            if isinstance(end, BaseException) and not isinstance(end, UnknownModelError):
                said = end.message if isinstance(end, FlambeauError) else type(end).__name__
                failures.append(f"{workflow.model_of(node)}: {said}")
                logger.error("%s could not be unregistered: %s", workflow.model_of(node), end)
        return failures


def _registration(workflow: Workflow, node: Node, asked: WorkflowRegistration) -> Registration:
    settings, archive = node.settings, workflow.archive
    common = Registration(
        url=node.url or "",
        model_name=workflow.model_of(node.name),
        batch_size=settings.batch_size,
        max_batch_delay=settings.max_batch_delay,
        initial_workers=settings.max_workers,
        response_timeout=asked.response_timeout,
        startup_timeout=asked.startup_timeout,
        of_workflow=True,
    )
    if node.url is not None:
        return common
    return replace(
        common,
        handler=f"{archive.manifest.handler}:{node.name}",
        borrowed=replace(archive.stored, url=""),
    )


def _said(model: str, error: BaseException) -> str:
    """In TorchServe's words, which differ for workers that do not start."""
    message = error.message if isinstance(error, FlambeauError) else type(error).__name__
    if isinstance(error, WorkerStartError):
        return message
    return f"Workflow Node {model} failed to register. Details: {message}"
