"""The registered versions, and every question about them that changes nothing."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from .describe import describe_version, summarise
from .errors import ModelLoadingError, UnknownModelError, UnknownVersionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .dependencies import Dependencies
    from .describe import Record
    from .engine import Engine
    from .lifecycle import VersionKey
    from .roster import Schemas


class Catalog:
    """What is known of the registered models. Registry changes it, nobody else."""

    def __init__(
        self, engine: Engine, dependencies: Dependencies, gpu_usage: Callable[[int], str]
    ) -> None:
        self._engine = engine
        self._dependencies = dependencies
        self._gpu_usage = gpu_usage
        self._records: dict[str, dict[str, Record]] = {}
        self._defaults: dict[str, str] = {}
        self.awaited: set[str] = set()
        """Models that the server is to start with and that are not registered yet."""

    def resolve(self, name: str, version: str | None) -> VersionKey:
        """The key of a version, of the default one for None.

        Raises UnknownModelError or UnknownVersionError, ModelLoadingError for an awaited model.
        """
        if name not in self._records:
            if name in self.awaited:
                raise ModelLoadingError(name)
            raise UnknownModelError(name)
        if version is None:
            return (name, self._defaults[name])
        if version not in self._records[name]:
            raise UnknownVersionError(name, version)
        return (name, version)

    def snapshot(self) -> dict[str, dict[str, dict[str, object]]]:
        """Versions by model and version, in the form of TorchServe's snapshots, which leave out
        the nodes of workflows.
        """
        kept = {
            name: {
                version: summarise(
                    record, self._engine.version(record.spec.key), self._defaults[name] == version
                )
                for version, record in records.items()
                if not record.of_workflow
            }
            for name, records in sorted(self._records.items())
        }
        return {name: versions for name, versions in kept.items() if versions}

    def describe(self, name: str, version: str | None) -> list[dict[str, object]]:
        """The version, the default one for None, every one for ``all``."""
        if version == "all":
            if name not in self._records:
                raise UnknownModelError(name)
            keys = [(name, each) for each in self._records[name]]
        else:
            keys = [self.resolve(name, version)]
        now = monotonic()
        described = []
        for key in keys:
            current = self._engine.version(key)
            if current is not None:
                record = self._records[key[0]][key[1]]
                fields = describe_version(
                    record, current, now, self._gpu_usage, self._engine.pids_of_ranks
                )
                described.append({**fields, **self._dependencies.describe(key)})
        return described

    def list_models(self, limit: int = 100, offset: int = 0) -> dict[str, object]:
        """A page of the default versions, sorted by name, in TorchServe's form. Functions of
        workflows are not among them.
        """
        entries = [
            {"modelName": name, "modelUrl": self._records[name][version].stored.url}
            for name, version in sorted(self._defaults.items())
            if not self._records[name][version].is_function
        ]
        return a_page("models", entries, limit, offset)

    def defaults(self) -> dict[str, str]:
        """The default version of each model that is not a node of a workflow."""
        return {
            name: version
            for name, version in sorted(self._defaults.items())
            if not self._records[name][version].of_workflow
        }

    def has(self, name: str, version: str) -> bool:
        """That version is registered."""
        return version in self._records.get(name, {})

    def versions(self, name: str) -> list[str]:
        """The registered versions of a model; raises UnknownModelError."""
        if name not in self._records:
            raise UnknownModelError(name)
        return list(self._records[name])

    def is_ready(self, name: str, version: str | None) -> bool:
        """A worker of the version has its model loaded, or will when somebody asks; raises as
        ``resolve``.
        """
        current = self._engine.version(self.resolve(name, version))
        return current is not None and (bool(current.ready_workers) or current.is_asleep)

    def places(self) -> dict[VersionKey, tuple[Path, str | None]]:
        """Versions that are served in place: the folder, and the handler file if that is all."""
        return {
            record.spec.key: (record.stored.model_dir, record.stored.handler)
            for records in self._records.values()
            for record in records.values()
            if record.stored.is_in_place
        }

    def schemas(self, name: str, version: str | None) -> Schemas:
        """What the version's handler says of its input and output; raises as ``resolve``."""
        current = self._engine.version(self.resolve(name, version))
        return (None, None) if current is None else current.schemas

    def unready(self) -> dict[str, str]:
        """Default versions that should have workers and have none that is ready: their state."""
        states = {}
        for name, version in self._defaults.items():
            current = self._engine.version((name, version))
            if current is None or current.is_asleep:
                continue
            if current.min_workers and not current.ready_workers:
                states[f"{name}/{version}"] = current.state.value
        return states

    def is_healthy(self) -> bool:
        """TorchServe's /ping rule: each default version has its workers, or may still get them.

        TorchServe itself does not listen before the models are there that it is to start with.
        """
        if self.awaited:
            return False
        now = monotonic()
        for name, version in self._defaults.items():
            current = self._engine.version((name, version))
            if current is not None and not current.is_healthy(now):
                return False
        return True


def a_page(key: str, entries: list[dict[str, str]], limit: int, offset: int) -> dict[str, object]:
    """``limit`` of the entries, in TorchServe's form: it names a next page for a full last one."""
    page: dict[str, object] = {key: entries[offset : offset + limit]}
    if offset + limit <= len(entries):
        return {"nextPageToken": str(offset + limit), **page}
    return page
