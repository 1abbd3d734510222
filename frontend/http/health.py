"""Health: TorchServe's ping, Kubernetes' probes, and those of the open inference protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import __version__
from ..access import Scope
from .gate import granted
from .middlewares import Answer, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..registry import Registry

NOT_READY = 503


class HealthAPI:
    """Answers from the state of this moment; nothing is remembered between two questions.

    ``is_draining`` and ``is_starting`` tell of the server's own life.
    """

    def __init__(
        self, registry: Registry, is_draining: Callable[[], bool], is_starting: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._is_draining = is_draining
        self._is_starting = is_starting

    def answer(self, segments: list[str]) -> Answer | None:
        """The answer of the route, None if it is not about health.

        Raises ForbiddenError, UnknownModelError or UnknownVersionError.
        """
        match segments:
            case ["ping", *_]:
                return self._ping()
            case ["livez"] | ["v2", "health", "live"]:
                return json_answer({"live": True})
            case ["readyz"] | ["v2", "health", "ready"]:
                return self._server_ready()
            case ["v2"]:
                return json_answer({"name": "flambeau", "version": __version__, "extensions": []})
            case ["v2", "models", model]:
                return self._metadata(model, None)
            case ["v2", "models", model, "ready"]:
                return self._model_ready(model, None)
            case ["v2", "models", model, "versions", version]:
                return self._metadata(model, version)
            case ["v2", "models", model, "versions", version, "ready"]:
                return self._model_ready(model, version)
            case _:
                return None

    def _ping(self) -> Answer:
        """TorchServe's health; a server that is draining says that it wants no more requests."""
        if self._registry.is_healthy() and not self._is_draining():
            return json_answer({"status": "Healthy"})

        return json_answer({"status": "Unhealthy"}, 500)

    def _server_ready(self) -> Answer:
        """Ready when every model that is meant to have workers can be asked right now."""
        if self._is_draining():
            return json_answer({"ready": False, "reason": "draining"}, NOT_READY)

        unready = self._registry.unready()
        if not unready and not self._is_starting():
            return json_answer({"ready": True})

        reason = "starting" if self._is_starting() else "models"
        return json_answer({"ready": False, "reason": reason, "models": unready}, NOT_READY)

    def _model_ready(self, model: str, version: str | None) -> Answer:
        granted(Scope.INFER).require_model(model)
        ready = self._registry.is_ready(model, version) and not self._is_draining()
        return json_answer({"name": model, "ready": ready}, 200 if ready else NOT_READY)

    def _metadata(self, model: str, version: str | None) -> Answer:
        granted(Scope.INFER).require_model(model)
        versions = [version] if version else self._registry.versions(model)
        self._registry.resolve(model, version)
        fields = {"name": model, "versions": versions, "platform": "pytorch"}
        return json_answer({**fields, "inputs": [], "outputs": []})
