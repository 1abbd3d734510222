"""``metrics.yaml`` as TorchServe's own cache of metrics reads it, for test rigs that make one.

Workers have theirs from the frontend, which has read the file once for all of them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..metrics import (
    UNITS,
    Dimension,
    Metrics,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
    MetricTypes,
)
from .old_metrics import Metric

if TYPE_CHECKING:
    from ..metrics import Sample

logger = logging.getLogger(__name__)


class GeneralMetricsCacheError(Exception):
    """The file cannot be read for some other reason."""


class MetricsCacheIOError(OSError):
    """The file cannot be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """The file is not YAML."""


class Units:
    """``units``: the long names of units."""

    def __init__(self) -> None:
        self.units = dict(UNITS)


METRIC_UNIT = Units()


class MetricEncoder(json.JSONEncoder):
    """Knows how to write a Metric and a Dimension."""

    def default(self, o: Any) -> Any:
        return o.to_dict() if isinstance(o, (Metric, Dimension)) else super().default(o)


class MetricsCacheYamlImpl(Metrics):
    """Metrics made from a file. What is reported is a line of the log, as TorchServe's workers do.

    Raises, with TorchServe's words, MetricsCacheTypeError without a path, MetricsCacheIOError and
    MetricsCachePyYamlError for a file that cannot be read.
    """

    def __init__(self, config_file_path: str) -> None:
        super().__init__()
        self.config_file_path = config_file_path
        if not config_file_path:
            raise MetricsCacheTypeError("Config file not initialized")
        try:
            text = Path(config_file_path).read_text(encoding="utf-8")
            self._parsed_file = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise MetricsCachePyYamlError(
                f"Error parsing file {config_file_path}: {error}"
            ) from error
        except OSError as error:
            raise MetricsCacheIOError(f"Error reading file {config_file_path}: {error}") from error
        except Exception as error:
            raise GeneralMetricsCacheError(
                f"General error found in file {config_file_path}: {error}"
            ) from error

    def initialize_cache(self) -> None:
        """Make the metrics that ``model_metrics`` lists.

        Raises MetricsCacheKeyError and MetricsCacheValueError, with TorchServe's words.
        """
        section = self._parse_metrics_section()
        if not section:
            raise MetricsCacheValueError("Missing `model_metrics` specification")
        for kind, entries in section.items():
            try:
                metric_type = MetricTypes(kind)
            except ValueError as error:
                raise MetricsCacheKeyError(f"Invalid metric type: {error}") from error
            for entry in entries:
                try:
                    spec = entry["name"], entry["unit"], entry["dimensions"]
                except KeyError as error:
                    raise MetricsCacheKeyError(f"Key not found in cache spec: {error}") from error
                self.add_metric_to_cache(*spec, metric_type)

    def record(self, sample: Sample) -> None:
        logger.info("%s", sample.line())

    def _parse_metrics_section(self, key: str = "model_metrics") -> Any:
        try:
            return self._parsed_file[key]
        except KeyError as error:
            raise MetricsCacheKeyError(f"'{key}' key not found in yaml file: {error}") from error
