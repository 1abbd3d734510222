"""The configurations of the servers that the cases are served by: the same file for both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVELOPES = ("json", "body", "kserve", "kservev2")

PROFILES: Mapping[str, Mapping[str, object]] = {
    "plain": {
        "metrics_mode": "prometheus",
        "metrics_config": Path(__file__).with_name("metrics.yaml"),
        "model_metrics_auto_detect": "true",
    },
    **{name: {"service_envelope": name} for name in ENVELOPES},
}
