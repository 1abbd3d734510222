"""Which modules ``ts`` has, and where in flambeau each name of theirs is.

A name is ``module:attribute``, relative to flambeau's package; a ``Constant`` is the value itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TORCHSERVE_VERSION = "0.12.0"
"""Handlers parse it, so it is TorchServe's last."""


@dataclass(frozen=True)
class Constant:
    """A value that a module has."""

    value: object


_VERSION = Constant(TORCHSERVE_VERSION)
_YES, _NO = Constant(True), Constant(False)
_BASE: dict[str, str | Constant] = {
    "BaseHandler": "handlers.base:BaseHandler",
    "logger": "handlers.base:logger",
    # What the handler can do here, whatever is installed.
    "PROFILER_AVAILABLE": _YES,
    "PT2_AVAILABLE": _YES,
    "PT230_AVAILABLE": _YES,
    "XLA_AVAILABLE": _NO,
    "IPEX_AVAILABLE": _NO,
    "ONNX_AVAILABLE": _NO,
}
_ENVELOPE = "worker.envelopes:BaseEnvelope"
_METRICS: dict[str, str | Constant] = {
    "Dimension": "worker.metrics:Dimension",
    "MetricTypes": "worker.metrics:MetricTypes",
}

MODULES: Mapping[str, Mapping[str, str | Constant]] = {
    "ts": {"__version__": _VERSION},
    "ts.version": {"__version__": _VERSION},
    "ts.context": {
        "Context": "worker.context:Context",
        "RequestProcessor": "worker.context:RequestProcessor",
    },
    "ts.service": {
        "PREDICTION_METRIC": Constant("PredictionTime"),
        "PredictionException": "worker.errors:PredictionException",
        "emit_metrics": "worker.compat.functions:emit_metrics",
    },
    "ts.utils": {},
    "ts.utils.util": {
        "CLEANUP_REGEX": "worker.compat.functions:CLEANUP_REGEX",
        "PT2Backend": "worker.compat.functions:PT2Backend",
        "PredictionException": "worker.errors:PredictionException",
        "check_valid_pt2_backend": "worker.compat.functions:check_valid_pt2_backend",
        "deprecated": "worker.compat.functions:deprecated",
        "get_yaml_config": "worker.compat.functions:get_yaml_config",
        "list_classes_from_module": "worker.modules:list_classes_from_module",
        "load_label_mapping": "handlers.labels:load_label_mapping",
        "map_class_to_label": "handlers.labels:map_class_to_label",
    },
    "ts.handler_utils": {},
    "ts.handler_utils.timer": {"timed": "handlers.timer:timed"},
    "ts.handler_utils.utils": {
        "Context": "worker.context:Context",
        "import_class": "worker.compat.functions:import_class",
        "send_intermediate_predict_response": "worker.streaming:send_intermediate_predict_response",
    },
    "ts.protocol": {},
    "ts.protocol.otf_message_handler": {
        "send_intermediate_predict_response": (
            "worker.compat.functions:old_send_intermediate_predict_response"
        ),
    },
    "ts.metrics": {},
    "ts.metrics.dimension": {"Dimension": _METRICS["Dimension"]},
    "ts.metrics.metric_type_enum": {"MetricTypes": _METRICS["MetricTypes"]},
    "ts.metrics.caching_metric": {"CachingMetric": "worker.metrics:CachingMetric", **_METRICS},
    "ts.metrics.metric": {"Metric": "worker.compat.old_metrics:Metric"},
    "ts.metrics.metrics_store": {
        "MetricsStore": "worker.compat.old_metrics:MetricsStore",
        "Metric": "worker.compat.old_metrics:Metric",
        "Dimension": _METRICS["Dimension"],
    },
    "ts.torch_handler": {},
    "ts.torch_handler.base_handler": _BASE,
    "ts.torch_handler.vision_handler": {
        "VisionHandler": "handlers.vision:VisionHandler",
        "BaseHandler": _BASE["BaseHandler"],
    },
    "ts.torch_handler.image_classifier": {
        "ImageClassifier": "handlers.image_classifier:ImageClassifier",
        "VisionHandler": "handlers.vision:VisionHandler",
        "map_class_to_label": "handlers.labels:map_class_to_label",
    },
    "ts.torch_handler.request_envelope": {},
    "ts.torch_handler.request_envelope.base": {"BaseEnvelope": _ENVELOPE},
    "ts.torch_handler.request_envelope.body": {
        "BaseEnvelope": _ENVELOPE,
        "BodyEnvelope": "worker.envelopes:BodyEnvelope",
    },
    "ts.torch_handler.request_envelope.json": {
        "BaseEnvelope": _ENVELOPE,
        "JSONEnvelope": "worker.envelopes:JSONEnvelope",
    },
    "ts.torch_handler.request_envelope.kserve": {
        "BaseEnvelope": _ENVELOPE,
        "KServeEnvelope": "worker.envelopes:KServeEnvelope",
    },
    "ts.torch_handler.request_envelope.kservev2": {
        "BaseEnvelope": _ENVELOPE,
        "KServev2Envelope": "worker.envelopes:KServev2Envelope",
    },
}
