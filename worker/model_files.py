"""What an unpacked archive says of itself, as handlers see it: unchecked and untyped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path


def read_manifest(model_dir: Path) -> dict[str, Any] | None:
    """The archive's MANIFEST.json, None if it has none."""
    path = model_dir / "MAR-INF" / "MANIFEST.json"
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    return manifest


def read_model_config(model_dir: Path, manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """The model-config.yaml that the manifest names: {} if it names none, None for an empty one."""
    name = ((manifest or {}).get("model") or {}).get("configFile")
    if not name:
        return {}
    config: dict[str, Any] | None = yaml.safe_load((model_dir / name).read_text())
    return config
