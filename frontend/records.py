"""From an archive and a call to the record of a version: its name, handler, runtime, settings."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..model_store.errors import InvalidModelError
from ..model_store.store import default_model_name
from ..model_store.warm_up import read_warm_up
from ..worker.messages import Part
from .describe import Record
from .errors import BadRequestError
from .precedence import Registration, make_spec
from .samples import Sample

if TYPE_CHECKING:
    from ..model_store.environments import Environment
    from ..model_store.store import StoredModel
    from .config import Config

logger = logging.getLogger("flambeau.registry")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def make_record(
    registration: Registration,
    stored: StoredModel,
    environment: Environment | None,
    config: Config,
    at_startup: bool,
) -> Record:
    """The version that ``registration`` makes of the archive, whose warnings go to the log.

    Raises BadRequestError for a name that cannot be, InvalidModelError for an archive without a
    handler or for another backend.
    """
    manifest = stored.manifest
    name = registration.model_name or (manifest.model_name if manifest else None)
    name = name or default_model_name(registration.url)
    check_name("model_name", name)
    version = manifest.model_version if manifest else "1.0"
    handler = registration.handler or (manifest.handler if manifest else None)
    handler = handler or stored.handler or config.default_service_handler
    if not handler:
        raise InvalidModelError(
            "The archive names no handler. Give the handler parameter, or set "
            "default_service_handler in the configuration."
        )
    runtime = registration.runtime or (manifest.runtime if manifest else "python")
    if runtime == "LSP":
        raise InvalidModelError("Runtime LSP (the C++ backend) is not available in flambeau.")
    for warning in stored.warnings:
        logger.warning("model %s: %s", name, warning)
    python = None if environment is None else environment.python
    spec = make_spec((name, version), handler, registration, stored, config, python)
    spec = replace(spec, warm_up=_warm_up(stored))
    return Record(spec, stored, runtime, at_startup, registration, registration.of_workflow)


def _warm_up(stored: StoredModel) -> tuple[Sample, ...]:
    given = read_warm_up(stored.model_dir, stored.config.warm_up or ())
    return tuple(
        Sample(
            f"request {number} of warmUp",
            {"Content-Type": each.content_type},
            [Part("body", each.content_type.partition(";")[0].strip(), each.body)],
            each.times,
        )
        for number, each in enumerate(given, 1)
    )


def check_name(parameter: str, name: str) -> None:
    """Raise BadRequestError for what cannot be the name of a model or of a workflow."""
    if not NAME.fullmatch(name):
        raise BadRequestError(
            f"Parameter {parameter} is not valid: {name[:128]!r}. Use letters, digits, '_', '-' "
            "and '.', at most 128 of them, with a letter or digit first."
        )
