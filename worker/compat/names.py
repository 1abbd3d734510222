"""Which modules ``ts`` has, and where in flambeau each name of theirs is.

A name is ``module:attribute``, relative to flambeau's package; a ``Constant`` is the value itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..refused_handlers import REFUSED_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Mapping

TORCHSERVE_VERSION = "0.12.0"
"""Handlers parse it, so it is TorchServe's last."""


@dataclass(frozen=True)
class Constant:
    """A value that a module has."""

    value: object


_VERSION = Constant(TORCHSERVE_VERSION)
_BASE: dict[str, str | Constant] = {
    "BaseHandler": "handlers.base:BaseHandler",
    "logger": "handlers.base:logger",
    "setup_ort_session": "handlers.onnx:setup_ort_session",
    "PROFILER_AVAILABLE": "handlers.profiler:PROFILER_AVAILABLE",
    "PT2_AVAILABLE": "handlers.compile:PT2_AVAILABLE",
    "PT230_AVAILABLE": "handlers.compile:PT230_AVAILABLE",
    "XLA_AVAILABLE": "handlers.devices:XLA_AVAILABLE",
    "IPEX_AVAILABLE": "handlers.devices:IPEX_AVAILABLE",
    "ONNX_AVAILABLE": "handlers.onnx:ONNX_AVAILABLE",
}
_ENVELOPE = "worker.envelopes:BaseEnvelope"
_CACHING = "worker.metrics:CachingMetric"
_METRIC = "worker.compat.old_metrics:Metric"
_UNITS = {
    "MetricUnit": "worker.compat.metric_files:METRIC_UNIT",
    "Units": "worker.compat.metric_files:Units",
}
_METRICS: dict[str, str | Constant] = {
    "Dimension": "worker.metrics:Dimension",
    "MetricTypes": "worker.metrics:MetricTypes",
}
_TOKENS: dict[str, str | Constant] = {
    "get_tokenizer": "handlers.tokens:get_tokenizer",
    "ngrams_iterator": "handlers.tokens:ngrams_iterator",
}
_CONTRACTIONS = "handlers.contractions:CONTRACTION_MAP"

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
        "Service": "worker.compat.rig:Service",
        "emit_metrics": "worker.compat.functions:emit_metrics",
    },
    "ts.model_loader": {
        "ModelLoader": "worker.compat.rig:ModelLoader",
        "ModelLoaderFactory": "worker.compat.rig:ModelLoaderFactory",
        "TsModelLoader": "worker.compat.rig:ModelLoader",
    },
    "ts.model_service": {},
    "ts.model_service.model_service": {
        "ModelService": "worker.compat.model_service:ModelService",
        "SingleNodeService": "worker.compat.model_service:SingleNodeService",
    },
    "ts.utils": {},
    "ts.utils.hf_utils": {"download_model": "worker.compat.functions:download_model"},
    "ts.utils.timeit_decorator": {"timeit": "worker.compat.functions:timeit"},
    "ts.utils.util": {
        "CLEANUP_REGEX": "handlers.markup:CLEANUP_REGEX",
        "PT2Backend": "handlers.compile:PT2Backend",
        "PredictionException": "worker.errors:PredictionException",
        "check_valid_pt2_backend": "handlers.compile:check_valid_pt2_backend",
        "deprecated": "worker.compat.functions:deprecated",
        "get_yaml_config": "worker.compat.functions:get_yaml_config",
        "list_classes_from_module": "worker.modules:list_classes_from_module",
        "load_label_mapping": "handlers.labels:load_label_mapping",
        "map_class_to_label": "handlers.labels:map_class_to_label",
    },
    "ts.handler_utils": {},
    "ts.handler_utils.distributed": {},
    "ts.handler_utils.distributed.deepspeed": {
        "create_checkpoints_json": "handlers.deepspeed:create_checkpoints_json",
        "get_ds_engine": "handlers.deepspeed:get_ds_engine",
    },
    "ts.handler_utils.hf_batch_streamer": {
        "TextIteratorStreamerBatch": "handlers.hf_batch_streamer:TextIteratorStreamerBatch",
    },
    "ts.handler_utils.micro_batching": {
        "HANDLER_METHODS": "handlers.micro_batching:HANDLER_METHODS",
        "MicroBatching": "handlers.micro_batching:MicroBatching",
        "WorkerThread": "handlers.micro_batching:WorkerThread",
        "execute_call": "handlers.micro_batching:execute_call",
    },
    "ts.handler_utils.text_utils": _TOKENS,
    "ts.handler_utils.preprocess": {},
    "ts.handler_utils.timer": {"timed": "handlers.timer:timed"},
    "ts.handler_utils.utils": {
        "Context": "worker.context:Context",
        "create_predict_response": "worker.compat.otf:create_predict_response",
        "import_class": "worker.compat.functions:import_class",
        "send_intermediate_predict_response": "worker.streaming:send_intermediate_predict_response",
    },
    "ts.protocol": {},
    "ts.protocol.otf_message_handler": {
        "create_load_model_response": "worker.compat.otf:create_load_model_response",
        "create_predict_response": "worker.compat.otf:create_predict_response",
        "encode_response_headers": "worker.compat.otf:encode_response_headers",
        "send_intermediate_predict_response": (
            "worker.compat.functions:old_send_intermediate_predict_response"
        ),
    },
    "ts.metrics": {},
    "ts.metrics.caching_metric": {
        "CachingMetric": _CACHING,
        "MetricAbstract": _CACHING,
        **_METRICS,
    },
    "ts.metrics.dimension": {"Dimension": _METRICS["Dimension"]},
    "ts.metrics.metric": {
        "CachingMetric": _CACHING,
        "Metric": _METRIC,
        "MetricTypes": _METRICS["MetricTypes"],
        **_UNITS,
    },
    "ts.metrics.metric_abstract": {
        "MetricAbstract": _CACHING,
        "MetricTypes": _METRICS["MetricTypes"],
        **_UNITS,
    },
    "ts.metrics.metric_cache_abstract": {
        "MetricAbstract": _CACHING,
        "MetricCacheAbstract": "worker.metrics:Metrics",
        **_METRICS,
    },
    "ts.metrics.metric_cache_errors": {
        "GeneralMetricsCacheError": "worker.compat.metric_files:GeneralMetricsCacheError",
        "MetricsCacheIOError": "worker.compat.metric_files:MetricsCacheIOError",
        "MetricsCacheKeyError": "worker.metrics:MetricsCacheKeyError",
        "MetricsCachePyYamlError": "worker.compat.metric_files:MetricsCachePyYamlError",
        "MetricsCacheTypeError": "worker.metrics:MetricsCacheTypeError",
        "MetricsCacheValueError": "worker.metrics:MetricsCacheValueError",
    },
    "ts.metrics.metric_cache_yaml_impl": {
        "CachingMetric": _CACHING,
        "MetricCacheAbstract": "worker.metrics:Metrics",
        "MetricTypes": _METRICS["MetricTypes"],
        "MetricsCacheYamlImpl": "worker.compat.metric_files:MetricsCacheYamlImpl",
    },
    "ts.metrics.metric_encoder": {
        "Dimension": _METRICS["Dimension"],
        "Metric": _METRIC,
        "MetricEncoder": "worker.compat.metric_files:MetricEncoder",
    },
    "ts.metrics.metric_type_enum": {"MetricTypes": _METRICS["MetricTypes"]},
    "ts.metrics.metrics_store": {
        "Dimension": _METRICS["Dimension"],
        "Metric": _METRIC,
        "MetricsStore": "worker.compat.old_metrics:MetricsStore",
    },
    "ts.metrics.unit": {"Units": _UNITS["Units"]},
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
    "ts.torch_handler.image_segmenter": {
        "ImageSegmenter": "handlers.image_segmenter:ImageSegmenter",
        "VisionHandler": "handlers.vision:VisionHandler",
    },
    "ts.torch_handler.object_detector": {
        "ObjectDetector": "handlers.object_detector:ObjectDetector",
        "VisionHandler": "handlers.vision:VisionHandler",
        "map_class_to_label": "handlers.labels:map_class_to_label",
    },
    "ts.torch_handler.contractions": {"CONTRACTION_MAP": _CONTRACTIONS},
    "ts.torch_handler.text_handler": {
        "TextHandler": "handlers.text_handler:TextHandler",
        "BaseHandler": _BASE["BaseHandler"],
        "CLEANUP_REGEX": "handlers.markup:CLEANUP_REGEX",
        "CONTRACTION_MAP": _CONTRACTIONS,
        "get_tokenizer": _TOKENS["get_tokenizer"],
    },
    "ts.torch_handler.text_classifier": {
        "TextClassifier": "handlers.text_classifier:TextClassifier",
        "TextHandler": "handlers.text_handler:TextHandler",
        "map_class_to_label": "handlers.labels:map_class_to_label",
        "ngrams_iterator": _TOKENS["ngrams_iterator"],
    },
    "ts.torch_handler.densenet_handler": {
        "DenseNetHandler": "handlers.densenet_handler:DenseNetHandler",
        "list_classes_from_module": "worker.modules:list_classes_from_module",
    },
    "ts.torch_handler.distributed": {},
    "ts.torch_handler.distributed.base_deepspeed_handler": {
        "BaseDeepSpeedHandler": "handlers.deepspeed:BaseDeepSpeedHandler",
    },
    "ts.torch_handler.unit_tests": {},
    "ts.torch_handler.unit_tests.test_utils": {},
    "ts.torch_handler.unit_tests.test_utils.mock_context": {
        "MockContext": "worker.compat.rig:MockContext",
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

_HOST = (
    "the server measures its host itself (docs/metrics.md), and psutil is there for other figures."
)
_SERVER = "it is a part of TorchServe's server. "
_PIPPY = (
    "PiPPy is no longer developed. Use torch.distributed.pipelining, or tensor parallelism, in a "
    "handler of your own."
)
REFUSED: Mapping[str, str] = {
    "ts.arg_parser": f"{_SERVER}The command torchserve has its options.",
    "ts.async_service": f"{_SERVER}Put asyncCommunication: true into model-config.yaml.",
    "ts.handler_utils.distributed.pt_pippy": _PIPPY,
    "ts.handler_utils.preprocess.dali": f"{REFUSED_HANDLERS['dali_handler']}.",
    "ts.launcher": "start a server by the command 'flambeau start --background', and register "
    "models by 'flambeau models register'.",
    "ts.llm_launcher": "flambeau has no such command; serve an archive with a handler for the LLM.",
    "ts.metrics.metric_collector": _HOST,
    "ts.metrics.process_memory_metric": _HOST,
    "ts.metrics.system_metrics": _HOST,
    "ts.model_server": f"{_SERVER}Start one by the command torchserve or flambeau.",
    "ts.model_service_worker": f"{_SERVER}In tests, ts.model_loader loads and asks a handler.",
    "ts.torch_handler.distributed.base_pippy_handler": _PIPPY,
    **{f"ts.torch_handler.{name}": f"{why}." for name, why in REFUSED_HANDLERS.items()},
    "ts.utils.setup_model_venv": f"{_SERVER}It makes the environments of models.",
}
"""Modules that TorchServe has and flambeau has not, with what to do instead."""
