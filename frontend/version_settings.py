"""What the configuration says of single versions: the ``models={...}`` block, and snapshots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class VersionSettings:
    """What the ``models={...}`` block says of one version; times in ms (delay) and s (timeouts).

    ``None``: not said. ``unknown`` lists keys that mean nothing here.
    """

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    parallel_level: int | None = None
    runtime_type: str | None = None
    mar_name: str | None = None
    default_version: bool | None = None
    unknown: tuple[str, ...] = ()


VERSION_KEYS: Mapping[str, tuple[str, type]] = {
    "minWorkers": ("min_workers", int),
    "maxWorkers": ("max_workers", int),
    "batchSize": ("batch_size", int),
    "maxBatchDelay": ("max_batch_delay", int),
    "responseTimeout": ("response_timeout", int),
    "startupTimeout": ("startup_timeout", int),
    "parallelLevel": ("parallel_level", int),
    "runtimeType": ("runtime_type", str),
    "marName": ("mar_name", str),
    "defaultVersion": ("default_version", bool),
}
_JSON_TYPES = {int: "a whole number", str: "a string", bool: "true or false"}


def parse_models(text: str) -> dict[str, dict[str, VersionSettings]]:
    try:
        block = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be JSON: {error}") from None
    return {
        name: {
            version: _parse_version(f"{name} {version}", settings)
            for version, settings in _object(f"{name}", versions).items()
        }
        for name, versions in _object("the block", block).items()
    }


def parse_snapshot(text: str) -> dict[str, dict[str, VersionSettings]]:
    try:
        summary = _object("it", json.loads(text))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON: {error}") from None
    return parse_models(json.dumps(summary.get("models", {})))


def _parse_version(where: str, settings: object) -> VersionSettings:
    known: dict[str, Any] = {}
    unknown = []
    for key, value in _object(where, settings).items():
        if key not in VERSION_KEYS:
            unknown.append(key)
            continue
        name, wanted = VERSION_KEYS[key]
        if type(value) is not wanted:
            wish = _JSON_TYPES[wanted]
            raise ValueError(f"{key} of {where} must be {wish}, not {json.dumps(value)}")
        # TorchServe's files hold zeros and negative numbers for "not set".
        if not isinstance(value, int) or wanted is bool or value > 0:
            known[name] = value
    return VersionSettings(**known, unknown=tuple(unknown))


def _object(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object {{...}}, not {json.dumps(value)}")
    return value
